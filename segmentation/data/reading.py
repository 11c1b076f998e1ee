"""Read an image file and its mask, if any, into one row of the arrays.

Images are resized by Pillow's bicubic filter on 8-bit values. When enlarging, this is plain cubic
interpolation, as in the paper. When shrinking, its kernel is widened by the reduction factor and
averages over all pixels. OpenCV's cubic interpolation always reads 4 x 4 pixels and skips the
others: from 4288 to 256 pixels, hairs break up and noise turns into false texture. Masks are
resized by nearest neighbour and stay exactly {0,1}.
"""

import hashlib
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segmentation.common.runfiles import UserError, sha256_file
from segmentation.data.accounting import Problem
from segmentation.data.ids import shown
from segmentation.data.photos import decode, read_photo
from segmentation.data.synthetic import draw_lesion

RESIZE = "images: Pillow BICUBIC at 8 bit, anti-aliased when shrinking; masks: Pillow NEAREST"


class Prepared(NamedTuple):
    """One row: its arrays, its record in the manifest, and hashes of the full-size pixels.

    Without an image where that is not readable; there is no row then.
    """

    image: np.ndarray | None  # uint8 H x W x C
    mask: np.ndarray  # uint8 H x W in {0,1}
    record: dict
    pixels: str | None
    mask_pixels: str | None
    notes: tuple = ()  # pairs (file, note) for files.csv
    problems: tuple = ()  # of Problem: the image or the mask cannot be used


def read_image(path):
    """Read an image as 8-bit RGB: (Pillow image, sha256 of the file). UserError: see read_photo."""
    return read_photo(path)[:2]


def binary(values):
    """Integer array in {0,1}, {0,255} or {0,65535} -> bool array; None for anything else."""
    if values is None or values.dtype.kind not in "bui":
        return None
    top = values.max()
    if top not in (0, 1, 255, 65535) or ((values != 0) & (values != top)).any():
        return None
    return values != 0


def equal_channels(picture):
    """Array h x w of the values that all colour channels share, or None if the channels differ.

    An alpha channel must be fully opaque; otherwise the result is None.
    """
    values = np.asarray(picture)
    if values.ndim == 2:
        return values
    if picture.mode in ("LA", "RGBA"):
        if (values[..., -1] != 255).any():
            return None
        values = values[..., :-1]
    return values[..., 0] if (values == values[..., :1]).all() else None


def read_mask(path, size):
    """Read a mask: (bool array of `size` = (height, width), sha256 of the file).

    Its values must be {0,255} or {0,1} (in 16-bit files also {0,65535}), in one channel or in
    several equal ones. In a file with a palette, the mask can be in the colours or in the palette
    indices: if only one of the two is a valid mask, that one is used; if both are valid but differ,
    the file is refused. UserError: damaged file, wrong size or other values.
    """
    picture, digest = decode(path)
    if (picture.height, picture.width) != size:
        raise UserError(
            f"{path}: is {picture.height}x{picture.width}, but its image is {size[0]}x{size[1]} "
            "(height x width); export the mask at the size of its image"
        )
    views = [picture.convert("RGB"), picture] if picture.mode == "P" else [picture]
    masks = [binary(equal_channels(view)) for view in views]
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        raise UserError(
            f"{path}: has values other than 0 and 255 (or 0 and 1); "
            "save the mask as PNG with 0 for skin and 255 for lesion"
        )
    if not np.array_equal(masks[0], masks[-1]):
        raise UserError(
            f"{path}: its palette colours and its palette indices give different masks; "
            "save it as a grayscale PNG with 0 for skin and 255 for lesion"
        )
    return masks[0], digest


def sha256_pixels(values):
    """Hex SHA-256 of an array's shape and bytes."""
    digest = hashlib.sha256(str(values.shape).encode())
    digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def resize_image(picture, size, gray):
    """RGB Pillow image -> uint8 H x W x C array of `size` = (H, W); C = 1 if `gray`, else 3."""
    picture = picture.convert("L") if gray else picture
    array = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
    return array[..., None] if gray else array


def resize_mask(mask, size):
    """bool h x w array -> uint8 array of `size` in {0,1}, by nearest neighbour."""
    picture = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.NEAREST))


def resize_mask_as_released(mask, size):
    """The same with the released code's defect: the values 0 and 255 are resized by cubic
    interpolation, divided by 255 and truncated, so that only pixels of exactly 255 stay lesion.
    """
    values = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_CUBIC)
    return values // 255


def prepare(record, picture, mask, size, gray, resize_mask=resize_mask):
    """Full-size RGB picture and bool mask (or None) -> Prepared, of `size`, in grayscale or RGB."""
    return Prepared(
        image=resize_image(picture, size, gray),
        mask=np.zeros(size, np.uint8) if mask is None else resize_mask(mask, size),
        record={**record, "original_size": [picture.height, picture.width]},
        pixels=sha256_pixels(np.asarray(picture)),
        mask_pixels=None if mask is None else sha256_pixels(mask),
    )


def mask_of(source, size):
    """The mask of a Source: (bool array of `size` = (height, width), sha256 of its file, notes)."""
    found = read_mask(source.mask, size)
    return found[0], found[1], getattr(found, "notes", ())


def problem(file, path, source, error):
    """The Problem that a UserError about the file `path` of a Source tells of."""
    reason = shown(str(error)).removeprefix(f"{shown(str(path))}: ")
    try:
        digest = sha256_file(path)
    except OSError:
        digest = None
    return Problem(file, shown(str(path)), source.id, reason, digest)


def prepare_source(source, size, gray, resize_mask=resize_mask):
    """Read the files of a Source -> Prepared.

    What read_photo and read_mask raise becomes its `problems`: there is no image then, or no mask.
    """
    try:
        photo = read_photo(source.image)
    except UserError as error:
        bad = problem(source.image_file, source.image, source, error)
        return Prepared(None, None, {}, None, None, problems=(bad,))
    picture = photo.picture
    notes, problems = [(source.image_file, note) for note in photo.notes], []
    record = {"id": source.id, "image": source.image_name, "image_sha256": photo.sha256}
    record |= {"mask": None, "mask_sha256": None}
    mask = None
    if source.mask is not None:
        try:
            mask, digest, more = mask_of(source, (picture.height, picture.width))
            record |= {"mask": source.mask_name, "mask_sha256": digest}
            notes += [(source.mask_file, note) for note in more]
        except UserError as error:
            problems.append(problem(source.mask_file, source.mask, source, error))
            notes.append((source.image_file, "no mask, as its mask cannot be used"))
    if source.group is not None:
        record["group"] = source.group
    made = prepare(record, picture, mask, size, gray, resize_mask)
    return made._replace(notes=tuple(notes), problems=tuple(problems))


def prepare_demo(index, seed, size, gray, resize_mask=resize_mask):
    """Draw synthetic image `index` and resize it like a real one -> Prepared."""
    image, mask, group = draw_lesion(index, seed, size)
    record = {
        "id": f"DEMO_{index:07d}",
        "image": "synthetic",
        "image_sha256": sha256_pixels(image),
        "mask": "synthetic",
        "mask_sha256": sha256_pixels(mask),
        "group": group,
    }
    return prepare(record, Image.fromarray(image), mask, size, gray, resize_mask)


def in_order(function, items, workers):
    """Yield function(item) for each item, in order, computed by threads.

    Threads are enough, because Pillow, hashlib and OpenCV release the interpreter's lock. To limit
    memory, at most three items per worker are in progress or waiting to be used.
    """
    items = iter(items)
    with ThreadPoolExecutor(workers) as executor:
        window = deque(executor.submit(function, item) for item in itertools.islice(items, workers))
        try:
            while window:
                for item in itertools.islice(items, 3 * workers - len(window)):
                    window.append(executor.submit(function, item))
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()
