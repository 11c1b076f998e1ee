"""Read an image file and its mask, if any, into one row of the arrays.

Images are resized by Pillow's bicubic filter on 8-bit values. When enlarging, this is plain cubic
interpolation, as in the paper. When shrinking, its kernel is widened by the reduction factor and
averages over all pixels. OpenCV's cubic interpolation always reads 4 x 4 pixels and skips the
others: from 4288 to 256 pixels, hairs break up and noise turns into false texture. Masks are
resized by nearest neighbour and stay exactly {0,1}.
"""

import hashlib
import io
import itertools
import struct
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from segmentation.common.runfiles import UserError
from segmentation.data.masks import read_mask
from segmentation.data.synthetic import draw_lesion

RESIZE = "images: Pillow BICUBIC at 8 bit, anti-aliased when shrinking; masks: Pillow NEAREST"


class Prepared(NamedTuple):
    """One row: its arrays, its record in the manifest, and hashes of the full-size pixels."""

    image: np.ndarray  # uint8 H x W x C
    mask: np.ndarray  # uint8 H x W in {0,1}
    record: dict
    pixels: str
    mask_pixels: str | None


def decode(path):
    """Read a picture: (Pillow image, rotated by its EXIF orientation; sha256 of the file).

    UserError if the file is missing, damaged, truncated or unreasonably large.
    """
    try:
        content = path.read_bytes()
        picture = Image.open(io.BytesIO(content))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except (
        OSError,
        SyntaxError,  # raised by Pillow for a broken PNG
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).split("\n")[0]
        if isinstance(error, Image.UnidentifiedImageError) or not reason:
            reason = "not a picture"
        raise UserError(f"{path}: not readable ({reason}); replace or remove it") from None
    return picture, hashlib.sha256(content).hexdigest()


def read_image(path):
    """Read an image as 8-bit RGB: (Pillow image, sha256 of the file). UserError as in decode."""
    picture, digest = decode(path)
    if picture.mode[0] in "IF":
        raise UserError(f"{path}: has more than 8 bits per channel; convert it to 8 bits")
    return picture if picture.mode == "RGB" else picture.convert("RGB"), digest


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


def prepare_source(source, size, gray, resize_mask=resize_mask):
    """Read the files of a Source -> Prepared. UserError as in read_image and read_mask."""
    picture, digest = read_image(source.image)
    record = {"id": source.id, "image": source.image.name, "image_sha256": digest}
    mask = mask_digest = None
    if source.mask is not None:
        mask, mask_digest, notes = read_mask(source.mask, (picture.height, picture.width))
        if notes:
            record["mask_notes"] = notes
    record["mask"] = source.mask and source.mask.name
    record["mask_sha256"] = mask_digest
    return prepare(record, picture, mask, size, gray, resize_mask)


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
