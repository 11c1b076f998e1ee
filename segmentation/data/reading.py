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

from segmentation.common.runfiles import UserError, numpy_rng, sha256_file
from segmentation.data.accounting import Problem, reason_of
from segmentation.data.ids import shown
from segmentation.data.masks import Mask, read_mask, remarks
from segmentation.data.nearcopies import near_copy
from segmentation.data.photos import read_photo
from segmentation.data.synthetic import draw_lesion

RESIZE = "images: Pillow BICUBIC at 8 bit, anti-aliased when shrinking; masks: Pillow NEAREST"


class Prepared(NamedTuple):
    """One row: its arrays, its record in the manifest, and hashes of the full-size pixels.

    Without an image where that is not readable; there is no row then.
    """

    image: np.ndarray | None  # uint8 H x W x C
    mask: np.ndarray | None  # uint8 H x W in {0,1}
    record: dict
    pixels: str | None
    mask_pixels: str | None
    notes: tuple = ()  # pairs (file, note) for files.csv
    problems: tuple = ()  # of Problem: the image or the mask cannot be used


def sha256_pixels(values):
    """Hex SHA-256 of an array's shape and bytes."""
    digest = hashlib.sha256(str(values.shape).encode())
    digest.update(np.ascontiguousarray(values).data)
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
    """The mask of a Source whose image has `size` = (height, width) -> masks.Mask."""
    if source.drawing is None:
        return read_mask(source.mask, size)
    values, notes = source.drawing.mask(size), list(source.drawing.notes)
    return Mask(values, sha256_file(source.mask), notes + remarks(values))


def problem(file, path, source, error):
    """The Problem that a UserError about the file `path` of a Source tells of."""
    try:
        digest = sha256_file(path)
    except OSError:
        digest = None
    return Problem(file, shown(str(path)), source.id, reason_of(error, path), digest)


def prepare_source(source, size, gray, resize_mask=resize_mask, seed=0):
    """Read the files of a Source -> Prepared.

    What read_photo and read_mask raise becomes its `problems`: there is no image then, or no mask.
    A near copy is drawn with `seed`; what there is to say of its files is said of its source alone.
    """
    try:
        photo = read_photo(source.image)
    except UserError as error:
        bad = problem(source.image_file, source.image, source, error)
        bad = () if source.copy_of else (bad,)
        return Prepared(None, None, {}, None, None, problems=bad)
    picture = photo.picture
    notes, problems = [(source.image_file, note) for note in photo.notes], []
    record = {"id": source.id, "image": source.image_name, "image_sha256": photo.sha256}
    record |= {"mask": None, "mask_sha256": None}
    mask = None
    if source.mask is not None:
        try:
            found = mask_of(source, (picture.height, picture.width))
            mask = found.values
            record |= {"mask": source.mask_name, "mask_sha256": found.sha256}
            notes += [(source.mask_file, note) for note in found.notes]
        except UserError as error:
            problems.append(problem(source.mask_file, source.mask, source, error))
            notes.append((source.image_file, "no mask, as its mask cannot be used"))
    if source.group is not None:
        record["group"] = source.group
    if source.copy_of is not None:
        record["copy_of"], notes, problems = source.copy_of, (), ()
        values, mask = near_copy(np.asarray(picture), mask, numpy_rng(seed, "copy", source.id))
        picture = Image.fromarray(values)
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
