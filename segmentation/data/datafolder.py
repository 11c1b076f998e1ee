"""The arrays written by preprocess.py, indexed by image id.

A data folder holds `images.npy` (uint8 N x H x W x C), `masks.npy` (uint8 N x H x W in {0,1}),
`manifest.json` (row -> id, source, hashes) and `splits.json` (lists of ids). Code outside this
module refers to images by id; only this module turns ids into rows.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segmentation.common.runfiles import UserError, read_json, sha256_file

FIX = "run preprocess.py"


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
    waiting: list = field(default_factory=list)  # ids of test images without a mask yet

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

    def __post_init__(self):
        object.__setattr__(self, "_row", {name: row for row, name in enumerate(self.ids)})

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


def open_data(folder):
    """Open a data folder written by preprocess.py. UserError names a missing or damaged file.

    Only sizes and the schema are checked; `preprocess.py --verify` also checks the contents.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; {FIX} --out {folder}")
    manifest = read_json(folder / "manifest.json", fix=FIX)
    splits = read_json(folder / "splits.json", fix=FIX)
    rows = manifest["rows"]
    shape = (len(rows), *manifest["size"])
    arrays = {}
    for name, expected in (("images", (*shape, manifest["channels"])), ("masks", shape)):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: not readable ({error}); {FIX} again") from None
        if arrays[name].shape != expected or arrays[name].dtype != np.uint8:
            raise UserError(
                f"{path}: is {arrays[name].dtype} {arrays[name].shape}, but the manifest says "
                f"uint8 {expected}; delete {folder} and {FIX} again"
            )
    hashes = [sha256_file(folder / name) for name in ("manifest.json", "splits.json")]
    return Data(
        folder=folder,
        ids=[row["id"] for row in rows],
        has_mask={row["id"]: row["mask"] is not None for row in rows},
        pool=splits["pool"],
        test=splits["test"],
        waiting=splits.get("waiting", []),
        synthetic=manifest["synthetic"],
        fingerprint="-".join(value[:16] for value in hashes),
        **arrays,
    )
