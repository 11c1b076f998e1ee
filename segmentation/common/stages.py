"""Shared by scripts that use PyTorch: generators, weights files, devices, the record of a stage.

A stage is a folder that one script call fills. It contains `args.json` (the resolved arguments and
the hashes of the inputs) and `env.json` (commit, library versions, hardware). Running the script
again with the same arguments continues the stage, or does nothing if it is finished. Other
arguments are refused, so that no folder mixes two settings.
"""

import hashlib
import io
import os
import platform
import subprocess
import warnings
from pathlib import Path

import numpy as np
import torch

from segmentation.common.runfiles import (
    SCHEMA,
    UserError,
    atomic,
    derived_seed,
    write_json,
)
from segmentation.common.schemas import Record, read_checked
from segmentation.common.sources import sources_sha256


def torch_rng(seed, *names, device="cpu"):
    """A torch Generator on `device`, on the named stream."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, *names))


def write_torch(path, content):
    """Write a dict with torch.save, atomically, with the schema version in it."""
    serialised = io.BytesIO()  # given a path, torch would store its name; on a full disk, crash
    torch.save({"schema": SCHEMA, **content}, serialised)
    with atomic(path) as temporary:
        temporary.write_bytes(serialised.getvalue())


def load_weights(path, fix, device="cpu"):
    """Load tensors and plain values from a torch.save file (`weights_only=True`), or UserError."""
    try:
        with warnings.catch_warnings():  # about pickles of other kinds, which it then refuses
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {fix}") from None
    except Exception as error:  # torch.load can raise anything for a file of another kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch's advice would run what a stranger's file says
            reason = "it holds more than tensors and plain values"
        raise UserError(f"{path}: not readable as weights ({reason}); {fix}") from None


def read_torch(path, fix="run the stage that writes it", device="cpu"):
    """Read a dict of tensors and plain values of this schema version; UserError if not possible."""
    path = Path(path)
    content = load_weights(path, fix, device)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a weights file of schema {SCHEMA}; {fix}")
    return content


def sha256_tensors(tensors):
    """Hex SHA-256 of a dict of tensors: names, dtypes, shapes and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def pick_device(name):
    """`auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N` as a torch.device.

    With a number that GPU is also made the current one, so that nothing is put on another, and
    that `environment` names it. UserError for another kind of device, or one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: not a device; give auto, cpu or cuda") from None
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: PyTorch finds no CUDA device; give --device cpu")
    if device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise UserError(f"--device {name}: not there; give cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(device)
    return device


def _git(*words):
    try:
        root = Path(__file__).resolve().parents[2]
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
    """What a result depends on besides its arguments: code, libraries and hardware."""
    status = _git("status", "--porcelain")
    cuda = torch.cuda.is_available()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "sources": sources_sha256(),
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


# Options that a stage has not recorded, as they came or went later: what it did.
UNRECORDED = {
    "constancy": False,
    "deterministic": False,
    "encoder": "paper",
    "encoder_rate": 1.0,
    "folds": 0,
    "frozen": False,
    "frozen_norm": False,
    "labelled": None,
    "labelled_share": 0.0,
    "largest": False,
    "mix": "none",
    "own_masks": "hard",
    "steps": 0,
    "students": 1,
    "suggest": 0,
    "teachers": 1,
    "views": False,
}


def check_stage(folder, args, inputs, free=()):
    """UserError if the stage `folder` was started with other settings. Returns the settings.

    `args` is the parsed namespace. All of it is recorded, but some of it may change between calls:
    paths (`out` and those in `inputs`), the `device`, and where images are kept (`pool_on`).
    `inputs` maps the name of each input to the hash of its content. What is named in `free`, an
    argument or an input, may change too. UserError names the first difference.
    """
    free_args = {"out", "device", "pool_on", *inputs, *free}
    settings = {
        "args": {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items())},
        "inputs": dict(sorted(inputs.items())),
    }
    path = Path(folder) / "args.json"
    old = read_checked(path, Record, "delete the whole folder") if path.exists() else settings
    for part in ("args", "inputs"):
        for name in sorted({*old.get(part, {}), *settings[part]}):
            usual = UNRECORDED.get(name)
            before, now = (record.get(part, {}).get(name, usual) for record in (old, settings))
            if before != now and name not in (free_args if part == "args" else free):
                what = f"--{name.replace('_', '-')} {before}, not {now}"
                if part == "inputs":
                    what = f"another {name} (hash {str(before)[:12]}, now {str(now)[:12]})"
                raise UserError(
                    f"{path}: this folder was made with {what}; "
                    "give another --out, or delete the folder to make it again"
                )
    return settings


def begin_stage(folder, args, inputs, free=()):
    """Start or continue a stage: `check_stage`, then write args.json and env.json if missing."""
    settings = check_stage(folder, args, inputs, free)
    if not (Path(folder) / "args.json").exists():
        write_json(Path(folder) / "args.json", settings)
    if not (Path(folder) / "env.json").exists():  # from the first call; a later one may do nothing
        write_json(Path(folder) / "env.json", environment())
