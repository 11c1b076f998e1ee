"""Shared by all scripts: one-line errors, derived seeds, atomic files.

This module does not import PyTorch, which takes a second or two.
"""

import argparse
import contextlib
import csv
import errno
import hashlib
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import TextIO

import numpy as np

SCHEMA = 1
FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and call it again"),
    errno.EFBIG: "files may not become that large here: see ulimit -f",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that you may use"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "there is a file: give another folder"),
    errno.EISDIR: "there is a folder: give the name of a file",
    errno.ENAMETOOLONG: "give a shorter name",
}
OTHER_FIX = "mend that and call it again"


class UserError(Exception):
    """Bad input. The message names the file, says what is wrong and how to fix it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that accepts no abbreviations and reports a bad option in one line."""

    def __init__(self, description):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_argument(self, *names, **kwargs):
        if kwargs.get("type") is Path:
            kwargs["type"] = named
        if kwargs.get("default") not in (None, "", argparse.SUPPRESS) and "help" in kwargs:
            kwargs["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **kwargs)

    def print_help(self, file: TextIO | None = None):
        print(self.format_help(), end="", file=file, flush=True)  # argparse's hides a full disk

    def error(self, message):
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def named(text):
    """An argparse type: a Path. An empty text, as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a name")
    return Path(text)


def positive(text):
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number; give 1 or more")
    return value


def natural(text):
    """An argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative; give 0 or more")
    return value


def cause(error, path=None):
    """An OSError as one line: the file, what is wrong, and the fix."""
    where = "" if path is None else f"{os.fsdecode(path)}: "
    return f"{where}{error.strerror or error}; {FIXES.get(error.errno, OTHER_FIX)}"


def real(low, high=math.inf, without=()):
    """An argparse type: a finite number from `low` to `high`, but none of those in `without`."""

    def number(text):
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high) or value in without:
            ends = "" if high == math.inf else f" to {high:g}"
            more = "".join(f", but not {end:g}" for end in without)
            what = f"a number from {low:g}{ends or ' on'}{more}"
            raise argparse.ArgumentTypeError(f"{text} does not fit; give {what}")
        return value

    return number


# Seeds ------------------------------------------------------------------------------------------


def derived_seed(seed, *names):
    """A 63-bit seed for the stream called `names` under `seed`.

    Every use of randomness has its own named stream (for instance `(seed, "round", 3, "order")`).
    An interrupted run can therefore repeat any step and draw the same numbers without a saved
    generator state, and two arms with the same seed share every stream that both use.
    """
    text = json.dumps([int(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_rng(seed, *names):
    """A numpy Generator on the named stream."""
    return np.random.default_rng(derived_seed(seed, *names))


# Files ------------------------------------------------------------------------------------------


def round_name(number):
    """The name of the folder of a round: round_00, round_01, ..."""
    return f"round_{number:02d}"


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary path beside `path`: it replaces `path` on success, is deleted on failure.

    UserError names `path` if it cannot be written, as on a full disk.

    A killed process may leave the temporary file (hidden, `.NAME.partial.*`); the next process that
    writes `path` overwrites it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(path.parent)):
            raise
        raise UserError(f"cannot write {cause(error, path)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write a JSON file atomically, with the schema version in it."""
    write_text(path, json.dumps({"schema": SCHEMA, **content}, indent=1) + "\n")


def read_json(path, fix="run the stage that writes it"):
    """Read a JSON object of this schema version; UserError names the file and the `fix`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {fix}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {fix}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a file of schema {SCHEMA}; delete it, then {fix}")
    return content


def write_csv(path, rows):
    """Write a non-empty list of dicts with the same keys as CSV, atomically.

    Floats are written with repr, so that reading them gives exactly the same values.
    """
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path, fix="run the stage that writes it"):
    """Read a CSV file as a list of dicts of strings; UserError if that is not possible."""
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a BOM
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {fix}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not readable as CSV ({error}); {fix}") from None


def write_npz(path, **arrays):
    """Write arrays atomically as an uncompressed .npz; strings are stored as unicode arrays."""
    # np.savez before version 2 leaves its archive open if it fails, of which Python complains later
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in {"schema": np.int64(SCHEMA), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def read_npz(path, fix="run the stage that writes it"):
    """Read a .npz of this schema version as a dict of arrays (no pickles); UserError otherwise."""
    path = Path(path)
    try:
        # of a broken file that it has opened itself, numpy leaves the file open
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, and say how
                raise zipfile.BadZipFile("it is no archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {fix}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in reason:  # numpy's advice would run what a stranger's file says
            reason = "it holds more than arrays of plain values"
        what = f"not a readable .npz archive ({reason})"
        raise UserError(f"{path}: {what}; delete it, then {fix}") from None
    if not all(isinstance(values, np.ndarray) for values in content.values()):
        raise UserError(f"{path}: holds more than arrays; delete it, then {fix}")
    if not np.array_equal(content.pop("schema", None), SCHEMA):
        raise UserError(f"{path}: not a file of schema {SCHEMA}; delete it, then {fix}")
    return content


def sha256_file(path):
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
