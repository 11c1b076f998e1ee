"""The arrays written by preprocess.py, indexed by image id.

A data folder holds `images.npy` (uint8 N x H x W x C), `masks.npy` (uint8 N x H x W in {0,1}),
`manifest.json` (row -> id, source, hashes) and `splits.json` (lists of ids). Code outside this
module refers to images by id; only this module turns ids into rows.
"""

import contextlib
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segmentation.common import schemas
from segmentation.common.runfiles import UserError, read_json, sha256_file, write_json
from segmentation.common.schemas import read_checked
from segmentation.data.splitting import linked

FIX = "run preprocess.py"
AGAIN = "run preprocess.py again with --overwrite"
CHECKED = ".checked.json"  # sizes, times and hashes of arrays that were found to be right


@dataclass(frozen=True)
class Data:
    """An opened data folder. Arrays are read-only memory maps."""

    folder: Path
    ids: list  # row -> id
    images: np.ndarray  # uint8 N x H x W x C
    masks: np.ndarray  # uint8 N x H x W in {0,1}; all zeros for an image without a mask
    has_mask: dict  # id -> bool
    pool: list  # ids, sorted
    test: list  # ids, sorted
    synthetic: bool  # made by --demo
    fingerprint: str  # hash of manifest and splits
    linked: list  # groups of ids that stay together (splitting.linked)
    waiting: list = field(default_factory=list)  # ids of test images without a mask yet
    copy_of: dict = field(default_factory=dict)  # id of a near copy -> id of its source

    @property
    def channels(self):
        """1 (grayscale) or 3 (RGB)."""
        return self.images.shape[-1]

    @property
    def note(self):
        """Text to print after every result on this data set; empty for real images."""
        return " (synthetic demo data)" if self.synthetic else ""

    def rows(self, ids):
        """Row numbers of `ids`, int64. UserError names an id that the data set does not have."""
        try:
            return np.array([self._row[name] for name in ids], dtype=np.int64)
        except KeyError as error:
            raise UserError(
                f"{self.folder}: has no image {error}; "
                "the file that lists it belongs to another data folder, give that one"
            ) from None

    @functools.cached_property
    def _row(self):
        """Id -> row."""
        return {name: row for row, name in enumerate(self.ids)}

    def load_images(self, ids):
        """uint8 array len(ids) x H x W x C, copied out of the memory map, in the order of ids."""
        return self.images[self.rows(ids)]

    def need_masks(self, ids):
        """UserError if one of the images has no mask."""
        missing = [name for name in ids if not self.has_mask[name]]
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of {len(ids)} images asked for have no mask, "
                f"{missing[0]} first; add their masks to the mask folder and {FIX} again"
            )

    def load_masks(self, ids):
        """uint8 array len(ids) x H x W in {0,1}. UserError if an image has no mask."""
        self.need_masks(ids)
        return self.masks[self.rows(ids)]


def check_arrays(folder, hashes):
    """UserError if an array is not the one that the manifest has the hash of.

    What was found to be right is kept in CHECKED, by size and time of the file, so that each is
    read once. Where nothing can be written it is read each time.
    """
    path, before = folder / CHECKED, {}
    with contextlib.suppress(UserError):
        before = read_json(path)
    found = {}
    for name, expected in hashes.items():
        stat = (folder / name).stat()
        found[name] = [stat.st_size, stat.st_mtime_ns, expected]
        if before.get(name) != found[name] and sha256_file(folder / name) != expected:
            raise UserError(f"{folder / name}: has changed since it was written; {AGAIN}")
    if any(before.get(name) != entry for name, entry in found.items()):
        with contextlib.suppress(UserError, OSError):
            write_json(path, found)


def open_data(folder):
    """Open a data folder written by preprocess.py. UserError names a missing or damaged file.

    The content of the arrays is compared with the hashes in the manifest at the first use, and
    again when a file has another size or time. `preprocess.py --verify` always compares.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; {FIX} --out {folder}")
    manifest = read_checked(folder / "manifest.json", schemas.Manifest, AGAIN)
    splits = read_checked(folder / "splits.json", schemas.Splits, AGAIN)
    rows = manifest["rows"]
    known = {row["id"] for row in rows}
    for name in ("pool", "test", "waiting", "dropped"):
        unknown = sorted(set(splits.get(name, ())) - known)
        if unknown:
            raise UserError(
                f"{folder / 'splits.json'}: {name} has {unknown[0]}, of which there is no image; "
                f"{AGAIN}"
            )
    shape = (len(rows), *manifest["size"])
    arrays = {}
    for name, expected in (("images", (*shape, manifest["channels"])), ("masks", shape)):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: not readable ({error}); {AGAIN}") from None
        if arrays[name].shape != expected or arrays[name].dtype != np.uint8:
            raise UserError(
                f"{path}: is {arrays[name].dtype} {arrays[name].shape}, but the manifest says "
                f"uint8 {expected}; delete {folder} and {FIX} again"
            )
    check_arrays(folder, manifest["arrays"])
    hashes = [sha256_file(folder / name) for name in ("manifest.json", "splits.json")]
    return Data(
        folder=folder,
        ids=[row["id"] for row in rows],
        has_mask={row["id"]: row["mask"] is not None for row in rows},
        pool=splits["pool"],
        test=splits["test"],
        waiting=splits.get("waiting", []),
        synthetic=manifest["synthetic"],
        linked=linked(manifest),
        copy_of={row["id"]: row["copy_of"] for row in rows if "copy_of" in row},
        fingerprint="-".join(value[:16] for value in hashes),
        **arrays,
    )
