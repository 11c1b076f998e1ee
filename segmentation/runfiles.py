"""What every script shares: one-line errors, derived seeds, atomic files, the record of a stage.

Nothing here knows about images or networks. A stage is a folder that one script call fills. It
holds `args.json` (the resolved arguments and the hashes of the inputs) and `env.json` (commit,
library versions, hardware). Calling the script again with the same arguments continues the stage
or finds it finished; with other arguments it is refused, so that no folder mixes two settings.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

SCHEMA = 1


class UserError(Exception):
    """Bad input. The message names the file, says what is wrong and how to mend it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that takes no abbreviations and reports a bad option in one line."""

    def __init__(self, description):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_argument(self, *names, **kwargs):
        if kwargs.get("default") not in (None, "", argparse.SUPPRESS) and "help" in kwargs:
            kwargs["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **kwargs)

    def error(self, message):
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def positive(text):
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def run_script(main):
    """Call `main()`; a UserError becomes one line on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


# Seeds ------------------------------------------------------------------------------------------


def derived_seed(seed, *names):
    """A 63-bit seed for the stream called `names` under `seed`.

    Every use of randomness has its own named stream (for instance `(seed, "round", 3, "order")`).
    A run that is killed can therefore repeat any step and draw the same numbers, without a saved
    generator state, and two arms with one seed share every stream that they both use.
    """
    text = json.dumps([int(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_rng(seed, *names):
    """A numpy Generator on the named stream."""
    return np.random.default_rng(derived_seed(seed, *names))


def torch_rng(seed, *names, device="cpu"):
    """A torch Generator on `device`, on the named stream."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, *names))


# Files ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it goes.

    A killed process may leave the temporary file (hidden, `.NAME.partial.*`); the next one that
    writes `path` takes it over.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write a JSON file atomically, stamped with the schema version."""
    write_text(path, json.dumps({"schema": SCHEMA, **content}, indent=1) + "\n")


def read_json(path, mend="run the stage that writes it"):
    """Read a JSON object of this schema version; UserError names the file and the `mend`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {mend}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {mend}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a file of schema {SCHEMA}; delete it, then {mend}")
    return content


def write_csv(path, rows):
    """Write a non-empty list of dicts with the same keys as CSV, atomically.

    Floats are written with repr, so that they read back to the same bits.
    """
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path, mend="run the stage that writes it"):
    """Read a CSV file as a list of dicts of strings; UserError if there is none."""
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {mend}") from None


def write_npz(path, **arrays):
    """Write arrays atomically as an uncompressed .npz; strings are stored as unicode arrays."""
    with atomic(path) as temporary:
        np.savez(temporary, schema=np.int64(SCHEMA), **arrays)


def read_npz(path, mend="run the stage that writes it"):
    """Read a .npz of this schema version as a dict of arrays (no pickles)."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {mend}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable ({error}); delete it, then {mend}") from None
    if content.pop("schema", None) != SCHEMA:
        raise UserError(f"{path}: not a file of schema {SCHEMA}; delete it, then {mend}")
    return content


def write_torch(path, content):
    """Write a dict with torch.save, atomically, stamped with the schema version."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        torch.save({"schema": SCHEMA, **content}, file)  # given a path, it would store the name


def read_torch(path, mend="run the stage that writes it", device="cpu"):
    """Read a dict of tensors and plain values (`weights_only=True`) of this schema version."""
    path = Path(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {mend}") from None
    except Exception as error:  # on bytes that are not its own, torch.load raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not readable as weights ({reason}); {mend}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a weights file of schema {SCHEMA}; {mend}")
    return content


def sha256_file(path):
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tensors(tensors):
    """Hex SHA-256 of a dict of tensors: names, dtypes, shapes and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


# Stages -----------------------------------------------------------------------------------------


def pick_device(name):
    """`auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N` as a torch.device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; give auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no CUDA device; give --device cpu")
    return device


def _git(*words):
    try:
        root = Path(__file__).resolve().parents[1]
        result = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _cpu_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment():
    """What a result depends on beside its arguments: code, libraries and hardware."""
    status = _git("status", "--porcelain")
    cuda = torch.cuda.is_available()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if status is None else bool(status),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "numpy": np.__version__,
    }


def begin_stage(folder, args, inputs):
    """Open the stage `folder` for these settings, or refuse if it was begun with others.

    `args` is the parsed namespace: all of it is recorded, but where things are (`out`, paths in
    `inputs`), what they run on (`device`) and where images wait (`pool_on`) may change between
    calls. `inputs` maps a name to the hash of what is read under it. Raises UserError naming the
    first difference.
    """
    folder = Path(folder)
    free = {"out", "device", "pool_on", *inputs}
    settings = {
        "args": {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items())},
        "inputs": dict(sorted(inputs.items())),
    }
    path = folder / "args.json"
    if path.exists():
        old = read_json(path, mend="delete the folder")
        for part in ("args", "inputs"):
            for name in sorted({*old.get(part, {}), *settings[part]}):
                before, now = old.get(part, {}).get(name), settings[part].get(name)
                if before != now and not (part == "args" and name in free):
                    what = f"--{name.replace('_', '-')} {before}, not {now}"
                    if part == "inputs":
                        what = f"another {name} (hash {str(before)[:12]}, now {str(now)[:12]})"
                    raise UserError(
                        f"{path}: this folder was made with {what}; "
                        "give another --out, or delete the folder to make it anew"
                    )
    else:
        write_json(path, settings)
    if not (folder / "env.json").exists():  # of the first call: a later one may find it finished
        write_json(folder / "env.json", environment())
