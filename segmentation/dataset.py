"""The arrays that preprocess.py wrote, addressed by image id, and the one place of input scaling.

A data folder holds `images.npy` (uint8 N x H x W x C), `masks.npy` (uint8 N x H x W in {0,1}),
`manifest.json` (row -> id, source, hashes) and `splits.json` (lists of ids). Everything outside
this module names images by id; rows are looked up here and nowhere else.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segmentation.runfiles import UserError, read_json, sha256_file

MEND = "run preprocess.py"
SHARE = 0.5  # of a CUDA device's free memory that images may take


@dataclass(frozen=True)
class Data:
    """An opened data folder. Arrays are read-only memory maps."""

    folder: Path
    ids: list  # row -> id
    images: np.ndarray  # uint8 N x H x W x C
    masks: np.ndarray  # uint8 N x H x W in {0,1}; zeros where there is none
    has_mask: dict  # id -> bool
    pool: list  # ids, sorted
    test: list  # ids, sorted
    synthetic: bool  # made by --demo
    fingerprint: str  # hash of manifest and splits

    @property
    def channels(self):
        """1 (grayscale) or 3 (RGB)."""
        return self.images.shape[-1]

    @property
    def note(self):
        """What to print beside every number that was measured here: empty for real images."""
        return " (synthetic demo data)" if self.synthetic else ""

    def rows(self, ids):
        """Rows of `ids`, int64. UserError names an id that the data set does not have."""
        try:
            return np.array([self._row[name] for name in ids], dtype=np.int64)
        except KeyError as error:
            raise UserError(
                f"{self.folder}: has no image {error}; "
                "the file that names it was made from another data set"
            ) from None

    def __post_init__(self):
        object.__setattr__(self, "_row", {name: row for row, name in enumerate(self.ids)})

    def load_images(self, ids):
        """uint8 tensor len(ids) x C x H x W, copied out of the memory map, in the order of ids."""
        return torch.from_numpy(self.images[self.rows(ids)]).permute(0, 3, 1, 2).contiguous()

    def load_masks(self, ids):
        """uint8 tensor len(ids) x H x W in {0,1}. UserError if an image has no mask."""
        missing = [name for name in ids if not self.has_mask[name]]
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of {len(ids)} images asked for have no mask, "
                f"{missing[0]} first; add their masks to the mask folder and {MEND} again"
            )
        return torch.from_numpy(self.masks[self.rows(ids)])


def open_data(folder):
    """Open a data folder written by preprocess.py. UserError names a file that is not as it was.

    Sizes and the schema are checked here; `preprocess.py --verify` re-hashes the contents.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; {MEND} --out {folder}")
    manifest = read_json(folder / "manifest.json", mend=MEND)
    splits = read_json(folder / "splits.json", mend=MEND)
    rows = manifest["rows"]
    shape = (len(rows), *manifest["size"])
    arrays = {}
    for name, expected in (("images", (*shape, manifest["channels"])), ("masks", shape)):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: not readable ({error}); {MEND} again") from None
        if arrays[name].shape != expected or arrays[name].dtype != np.uint8:
            raise UserError(
                f"{path}: is {arrays[name].dtype} {arrays[name].shape}, but the manifest says "
                f"uint8 {expected}; delete {folder} and {MEND} again"
            )
    hashes = [sha256_file(folder / name) for name in ("manifest.json", "splits.json")]
    return Data(
        folder=folder,
        ids=[row["id"] for row in rows],
        has_mask={row["id"]: row["mask"] is not None for row in rows},
        pool=splits["pool"],
        test=splits["test"],
        synthetic=manifest["synthetic"],
        fingerprint="-".join(value[:16] for value in hashes),
        **arrays,
    )


class Images:
    """Images of a data set, in the order of `ids`, to be taken on `device` by position.

    `hold`: "device" copies them all to the device's memory at once, as uint8; "host" reads each
    batch from the memory map, where the system's page cache keeps what fits; "auto" is "device" on
    a CUDA card that has room for them, else "host". What is taken is the same.
    """

    def __init__(self, data, ids, device, hold="auto"):
        self.data, self.ids, self.device = data, list(ids), torch.device(device)
        self.rows = torch.arange(len(self.ids))  # of `held`
        self.held = None
        size = len(self.ids) * data.images[0].nbytes
        if hold == "auto":
            on_cuda = self.device.type == "cuda"
            fits = on_cuda and size < SHARE * torch.cuda.mem_get_info(self.device)[0]
            hold = "device" if fits else "host"
        if hold == "device":
            shape = (len(self.ids), data.channels, *data.images.shape[1:3])
            self.held = torch.empty(shape, dtype=torch.uint8, device=self.device)
            for start in range(0, len(self.ids), 256):
                part = slice(start, start + 256)
                self.held[part] = data.load_images(self.ids[part]).to(self.device)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, places):
        """uint8 B x C x H x W on the device; `places` is a slice or an int64 CPU tensor."""
        if self.held is not None:
            rows = self.rows[places].to(self.device, non_blocking=True)
            return self.held.index_select(0, rows)
        images = self.data.load_images(self.subset(places).ids)
        if self.device.type == "cuda":
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True)

    def subset(self, places):
        """The images at `places`, a slice or an int64 CPU tensor, in that order; shares memory."""
        part = copy.copy(self)
        part.rows = self.rows[places]
        part.ids = [self.ids[i] for i in torch.arange(len(self))[places].tolist()]
        return part


def to_input(images):
    """uint8 images in 0..255 -> float32 in [0,1]: what every network of this project is fed.

    Pretraining, feature extraction, training and prediction all scale here, so that transferred
    weights never see another scale than the one they were trained on.
    """
    return images.to(torch.float32).div_(255)
