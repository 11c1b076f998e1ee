"""Turn a folder of dermoscopy images and lesion masks into the arrays that every stage reads.

    python preprocess.py --demo 200 --size 64 --out data/demo
    python preprocess.py --download --root downloads/isic2017 --out data/isic2017
    python preprocess.py --root FOLDER --out data/mine --size 192x240 --no-gray
    python preprocess.py --images DIR --masks DIR --test-images DIR --test-masks DIR --out data/x
    python preprocess.py --verify --out data/isic2017 --root downloads/isic2017

FOLDER holds, at its top or one level further down, the folders of an official ISIC archive
(`*_Data` or `*_Input`, and `*_GroundTruth`) or `images/` and, if there are any, `masks/`.
Pictures are .jpg, .jpeg, .png and .bmp in any case; superpixels, tables and hidden files are
skipped. The id of an image is its file name without the ending; the mask of `ID.jpg` is
`ID_segmentation`, `ID_mask` or `ID` with one of these endings. An image without a mask becomes an
unlabelled row of the pool.

The output folder holds `images.npy` (uint8 N x H x W x C, C = 1 with --gray), `masks.npy` (uint8
N x H x W in {0,1}, zeros where there is none), `manifest.json`, `splits.json` and `inputs.json`
(sizes and times of the files read). It appears under its name only when it is complete. Rows are
in id order. A second call with the same files and options does nothing.

Images are resized by Pillow's bicubic filter on 8-bit values, whatever the scale: its kernel is
widened by the factor of reduction. So it is plain cubic interpolation when enlarging, as in the
paper, and averages over all pixels when shrinking. Cubic interpolation without that (OpenCV's)
reads 4 x 4 pixels however many are skipped: hairs break up and noise turns into false texture
at 4288 -> 256. Masks are resized by nearest neighbour and stay exactly {0,1}.
"""

import argparse
import functools
import hashlib
import http.client
import io
import itertools
import os
import re
import shutil
import stat
import struct
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from tqdm import tqdm

from segmentation.dataset import open_data
from segmentation.runfiles import (
    Parser,
    UserError,
    numpy_rng,
    positive,
    read_json,
    run_script,
    sha256_file,
    write_json,
)

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp"}
MASK_ENDING = re.compile(r"_(segmentation|mask)$", re.IGNORECASE)
FILES = {"images.npy", "masks.npy", "manifest.json", "splits.json", "inputs.json"}
RESIZE = "images: Pillow BICUBIC at 8 bit, anti-aliased when shrinking; masks: Pillow NEAREST"
ISIC_URL = "https://isic-challenge-data.s3.amazonaws.com/2017"
ISIC_FOLDERS = ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth")

# Finding the files ------------------------------------------------------------------------------


class Source(NamedTuple):
    """One image file, its mask file if it has one, and whether it is of the official test set."""

    id: str
    image: Path
    mask: Path | None
    is_test: bool = False


def picture_files(folder):
    """The picture files that lie in `folder`, by name; UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds the pictures")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS
        and not path.name.startswith(".")
        and not path.stem.lower().endswith("_superpixels")
        and path.is_file()
    )


def by_id(paths, id_of):
    """Dict id -> path; UserError names a file whose id another one has already."""
    found = {}
    for path in paths:
        first = found.setdefault(id_of(path), path)
        if first is not path:
            raise UserError(
                f"{path}: has the same id as {first.name} ({id_of(path)}); rename or remove one"
            )
    return found


def pair(image_folder, mask_folder=None, is_test=False):
    """Sources of a folder of images and one of masks, and the ids of masks without an image.

    UserError: no such folder, no images in it, two files with one id, no mask that fits.
    """
    images = by_id(picture_files(image_folder), lambda path: path.stem)
    if not images:
        raise UserError(f"{image_folder}: holds no .jpg, .jpeg, .png or .bmp; give another folder")
    masks = {}
    if mask_folder is not None:
        if mask_folder.resolve() == image_folder.resolve():
            raise UserError(f"{mask_folder}: holds images and masks; put the masks elsewhere")

        def owner(path):
            return path.stem if path.stem in images else MASK_ENDING.sub("", path.stem)

        masks = by_id(picture_files(mask_folder), owner)
        if not masks.keys() & images.keys():
            raise UserError(
                f"{mask_folder}: holds no mask of any image in {image_folder}; "
                "name the mask of ID.jpg ID_segmentation.png"
            )
    sources = [Source(name, path, masks.get(name), is_test) for name, path in images.items()]
    return sources, sorted(masks.keys() - images.keys())


def subfolders(folder):
    """The folders in `folder` that are not hidden, by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def find_folders(root):
    """The image folder and the mask folder (or None) at most two levels below `root`.

    UserError unless there is one image folder and at most one mask folder with pictures.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds images and masks")
    near = subfolders(root)
    below = near + [inner for folder in near for inner in subfolders(folder)]

    def search(what, name, endings):
        hits = [f for f in below if f.name.lower() == name or f.name.lower().endswith(endings)]
        hits = [folder for folder in hits if picture_files(folder)]
        if len(hits) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in hits)
            raise UserError(
                f"{root}: has {len(hits)} {what} folders ({names}); choose by --images and --masks"
            )
        return hits[0] if hits else None

    images = search("image", "images", ("_data", "_input"))
    if images is None:
        raise UserError(f"{root}: has no folder *_Data or images/ with pictures; give --images")
    return images, search("mask", "masks", ("_groundtruth",))


def find_sources(args):
    """All sources in id order, and the ids of masks without an image, as the options say."""
    images, masks = find_folders(args.root) if args.root else (args.images, args.masks)
    sources, strays = pair(images, masks)
    if args.test_images:
        tests, test_strays = pair(args.test_images, args.test_masks, is_test=True)
        seen = {source.id: source for source in sources}
        for source in tests:
            if source.mask is None:
                raise UserError(f"{source.image}: has no mask in {args.test_masks}; add it")
            if source.id in seen:
                raise UserError(
                    f"{source.image}: has the id of {seen[source.id].image}; an image is either "
                    "of the pool or of the test set, remove one"
                )
        sources, strays = sources + tests, strays + test_strays
    return sorted(sources), sorted(strays)


def list_inputs(sources, strays):
    """What tells cheaply whether files changed: name, byte size and mtime of each, by role."""
    files = []
    for source in sources:
        for role, path in (("images", source.image), ("masks", source.mask)):
            if path is not None:
                info = path.stat()
                role = f"test-{role}" if source.is_test else role
                files.append([f"{role}/{path.name}", info.st_size, info.st_mtime_ns])
    return {"files": sorted(files), "masks_without_image": strays}


# Reading and resizing ---------------------------------------------------------------------------


class Prepared(NamedTuple):
    """One row: its arrays, its record in the manifest, and hashes of the full-size pixels."""

    image: np.ndarray  # uint8 H x W x C
    mask: np.ndarray  # uint8 H x W in {0,1}
    record: dict
    pixels: str
    mask_pixels: str | None


def decode(path):
    """Read a picture: (Pillow image, turned as its EXIF orientation says; sha256 of the file).

    UserError if the file is missing, damaged, truncated or unreasonably large.
    """
    try:
        content = path.read_bytes()
        picture = Image.open(io.BytesIO(content))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except (
        OSError,
        SyntaxError,  # Pillow's for a broken PNG
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


def binary(values):
    """Integer array in {0,1}, {0,255} or {0,65535} -> bool array; None for anything else."""
    if values is None or values.dtype.kind not in "bui":
        return None
    top = values.max()
    if top not in (0, 1, 255, 65535) or ((values != 0) & (values != top)).any():
        return None
    return values != 0


def equal_channels(picture):
    """The one plane that all colour channels of a picture share, or None if they differ.

    An alpha channel must be opaque throughout; it carries no mask.
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

    Taken are the values {0,255} or {0,1} (at 16 bit also {0,65535}) in one channel or in equal
    channels. A palette picture may mean its colours or its indices: where only one of the two is
    a mask it is that one, and where they are different masks the file is refused.
    UserError: damaged file, another size, other values.
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
            f"{path}: its palette colours and its palette indices are different masks; "
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


def prepare(record, picture, mask, size, gray):
    """Full-size RGB picture and bool mask (or None) -> Prepared, as options `size`, `gray` say."""
    return Prepared(
        image=resize_image(picture, size, gray),
        mask=np.zeros(size, np.uint8) if mask is None else resize_mask(mask, size),
        record={**record, "original_size": [picture.height, picture.width]},
        pixels=sha256_pixels(np.asarray(picture)),
        mask_pixels=None if mask is None else sha256_pixels(mask),
    )


def prepare_source(source, size, gray):
    """Read the files of a Source -> Prepared. UserError as in read_image and read_mask."""
    picture, digest = read_image(source.image)
    record = {"id": source.id, "image": source.image.name, "image_sha256": digest}
    mask = mask_digest = None
    if source.mask is not None:
        mask, mask_digest = read_mask(source.mask, (picture.height, picture.width))
    record["mask"] = source.mask and source.mask.name
    record["mask_sha256"] = mask_digest
    return prepare(record, picture, mask, size, gray)


# Synthetic images -------------------------------------------------------------------------------


class Group(NamedTuple):
    """An appearance group of the synthetic images: its share, colours and what it shows."""

    name: str
    share: float
    skin: tuple  # RGB in 0..1
    radius: tuple  # of the lesion, least and most, relative to the short side
    depth: tuple  # of the pigment, least and most: low is low contrast
    hairs: float  # mean number
    vignette: float  # probability, as the next three
    ruler: float
    ink: float
    bubbles: float


GROUPS = (
    Group("fair", 0.40, (0.90, 0.72, 0.66), (0.10, 0.24), (0.30, 1.0), 3, 0.10, 0.05, 0.05, 0.1),
    Group("hairy", 0.25, (0.82, 0.66, 0.52), (0.14, 0.32), (0.35, 1.0), 22, 0.15, 0.05, 0.0, 0.1),
    Group("blue", 0.20, (0.72, 0.76, 0.84), (0.22, 0.42), (0.60, 1.3), 4, 0.75, 0.0, 0.0, 0.2),
    Group("ruler", 0.10, (0.80, 0.62, 0.57), (0.06, 0.16), (0.15, 0.6), 2, 0.35, 0.95, 0.4, 0.5),
    Group("dark", 0.05, (0.50, 0.35, 0.27), (0.10, 0.28), (0.35, 0.9), 8, 0.25, 0.1, 0.1, 0.3),
)
# What a layer of pigment lets through of red, green and blue.
LIGHT_BROWN, DARK_BROWN = (0.66, 0.46, 0.32), (0.30, 0.18, 0.13)
BLOTCHES = ((0.12, 0.09, 0.09), (0.42, 0.46, 0.54), (0.80, 0.42, 0.40), (0.85, 0.75, 0.68))


def smooth_noise(rng, shape, cells):
    """Float32 noise of `shape` about 0 with unit spread, smooth over 1 / `cells` of a side."""
    grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)


def tint(image, colour, strength):
    """Multiply the H x W x 3 image by colour ** strength, `strength` being H x W, in place."""
    image *= np.exp(strength[..., None] * np.log(np.float32(colour)))


def lesion_shape(rng, shape, radius):
    """An irregular blob: (bool mask without holes, in one piece; its centre (y, x) in pixels)."""
    height, width = shape
    side = min(shape)
    centre = np.array(shape) / 2 + rng.uniform(-0.13, 0.13, 2) * shape
    y, x = np.mgrid[:height, :width].astype(np.float32) - centre[:, None, None].astype(np.float32)
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.6, 1)
    along = x * np.cos(turn) + y * np.sin(turn)
    across = (y * np.cos(turn) - x * np.sin(turn)) / squeeze
    angle = np.arctan2(across, along)
    ragged = rng.uniform(0.2, 1)
    edge = np.ones(shape, np.float32)
    for wave in range(2, 10):
        edge += ragged * rng.normal(0, 0.3) / wave * np.cos(wave * angle + rng.uniform(0, 6.3))
    edge += ragged * (0.12 * smooth_noise(rng, shape, 12) + 0.06 * smooth_noise(rng, shape, 40))
    mask = np.hypot(along, across) < radius * side * np.maximum(edge, 0.3)
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return ndimage.binary_fill_holes(mask), centre


def paint_skin(rng, shape, group):
    """Float32 H x W x 3 skin in 0..1: tone, uneven redness, fine texture, uneven light."""
    image = np.ones((*shape, 3), np.float32) * np.float32(group.skin)
    image *= np.float32(rng.normal(1, 0.05, 3)) * np.float32(rng.uniform(0.9, 1.1))
    tint(image, (0.97, 0.80, 0.80), 0.25 * smooth_noise(rng, shape, 4))
    tint(image, (0.92, 0.86, 0.80), 0.25 * smooth_noise(rng, shape, 30))
    tint(image, (0.90, 0.88, 0.86), 0.25 * smooth_noise(rng, shape, 90))
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    slope = rng.uniform(-0.08, 0.08, 2)
    image *= (1 + slope[0] * y + slope[1] * x - 0.12 * (x**2 + y**2))[..., None]
    for _ in range(rng.poisson(4)):  # freckles: pigment that is not lesion
        spot = np.hypot((y - rng.uniform(-1, 1)), (x - rng.uniform(-1, 1)))
        tint(image, LIGHT_BROWN, rng.uniform(0.1, 0.5) * np.exp(-((spot / 0.04) ** 2)))
    return image


def paint_lesion(rng, image, mask, centre, depth):
    """Lay pigment on the image where `mask` is: soft border, two browns, blotches, network."""
    shape, side = mask.shape, min(mask.shape)
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    softness = side * rng.uniform(0.004, 0.03)
    cover = (1 / (1 + np.exp(-np.clip(distance / softness, -30, 30)))).astype(np.float32)
    mixture = 1 / (1 + np.exp(-2 * smooth_noise(rng, shape, 6) - rng.normal(0, 1)))
    network = 1 + 0.25 * smooth_noise(rng, shape, 60) * rng.uniform(0, 1)
    layer = depth * cover * network
    tint(image, LIGHT_BROWN, layer * (1 - 0.5 * mixture))
    tint(image, DARK_BROWN, 0.6 * layer * mixture)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    reach = np.sqrt(mask.sum() / np.pi)
    for _ in range(rng.integers(0, 4)):
        place = centre + rng.uniform(-0.6, 0.6, 2) * reach
        extent = reach * rng.uniform(0.2, 0.5)
        spot = np.hypot(y - place[0], x - place[1]) / extent + 0.3 * smooth_noise(rng, shape, 25)
        colour = BLOTCHES[rng.integers(len(BLOTCHES))]
        tint(image, colour, 0.6 * depth * cover / (1 + np.exp(np.clip(6 * (spot - 1), -30, 30))))


def paint_strokes(image, lines, colour, widths, blur, opacity):
    """Draw polylines (K x 2 arrays of x, y in pixels, each with its width), in place."""
    stencil = np.zeros(image.shape[:2], np.uint8)
    for line, width in zip(lines, widths, strict=True):
        points = np.round(line * 16).astype(np.int32)  # 4 bits of fraction
        cv2.polylines(stencil, [points], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    cover = cv2.GaussianBlur(stencil.astype(np.float32) * (opacity / 255), (0, 0), blur)
    image += cover[..., None] * (np.float32(colour) - image)


def paint_hairs(rng, image, number):
    """Draw curved hairs, dark or now and then light, each of its own width, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    t = np.linspace(0, 1, 20)[:, None]
    comb = rng.uniform(0, 2 * np.pi)
    colour = (0.80, 0.74, 0.66) if rng.random() < 0.1 else (0.16, 0.11, 0.09)
    lines, widths = [], []
    for _ in range(number):
        start = rng.uniform(0, 1, 2) * (width, height)
        angle = comb + rng.normal(0, 0.5)
        length = side * rng.uniform(0.2, 0.9)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        bend = (start + end) / 2 + rng.normal(0, 0.12, 2) * length
        lines.append((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end)
        widths.append(side * rng.uniform(0.002, 0.007))
    paint_strokes(image, lines, colour, widths, 0.7, 0.85)


def paint_ruler(rng, image):
    """Draw a scale with ticks near a side of the image, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    turn = rng.normal(0, 0.25)
    along, across = (np.array(v) for v in ((np.cos(turn), np.sin(turn)), (np.sin(turn), -1.0)))
    start = np.array([rng.uniform(0.1, 0.45) * width, rng.uniform(0.84, 0.93) * height])
    step = side * rng.uniform(0.03, 0.05)
    lines = [np.array([start, start + 10 * step * along])]
    for tick in range(11):
        foot = start + tick * step * along
        lines.append(np.array([foot, foot + across * side * (0.05 if tick % 5 == 0 else 0.03)]))
    paint_strokes(image, lines, (0.15, 0.15, 0.17), [side * 0.006] * len(lines), 0.6, 0.9)


def paint_ink(rng, image):
    """Draw a broad violet stroke of a surgical pen near a side of the image, in place."""
    height, width = image.shape[:2]
    ends = rng.uniform(0, 1, (3, 2)) * (0.15 * width, height)
    if rng.random() < 0.5:
        ends[:, 0] = width - ends[:, 0]
    side = min(height, width)
    paint_strokes(image, [ends], (0.33, 0.24, 0.55), [side * 0.035], side * 0.008, 0.7)


def paint_bubbles(rng, image):
    """Draw gel bubbles, each a bright rim with a highlight, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    turn = np.linspace(0, 2 * np.pi, 30)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    number = rng.integers(2, 9)
    centres = rng.uniform(0, 1, (number, 1, 2)) * (width, height)
    circles = side * rng.uniform(0.008, 0.04, (number, 1, 1)) * circle
    widths = [side * 0.006] * number
    paint_strokes(image, centres + circles, (0.25, 0.2, 0.2), widths, 1, 0.35)
    paint_strokes(image, (centres + 0.85 * circles)[:, 16:25], (1, 1, 1), widths, 1, 0.8)


def paint_vignette(rng, image):
    """Darken what lies outside the round field of the dermatoscope, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    centre = np.array([height, width]) / 2 + rng.normal(0, 0.02, 2) * side
    field = side * rng.uniform(0.50, 0.62)
    outside = (np.hypot(y - centre[0], x - centre[1]) - field) / (side * rng.uniform(0.006, 0.04))
    image *= 0.04 + 0.96 / (1 + np.exp(np.clip(outside, -30, 30)))[..., None]


def draw_lesion(index, seed, size):
    """Synthetic image `index` under `seed`: (uint8 h x w x 3, bool h x w mask, group name).

    It is drawn at twice `size` = (H, W). The mask is exact: it is the shape that was painted.
    Image `index` is the same however many others are drawn.
    """
    rng = numpy_rng(seed, "demo", index)
    shape = (2 * size[0], 2 * size[1])
    group = GROUPS[rng.choice(len(GROUPS), p=[group.share for group in GROUPS])]
    image = paint_skin(rng, shape, group)
    mask, centre = lesion_shape(rng, shape, rng.uniform(*group.radius))
    paint_lesion(rng, image, mask, centre, rng.uniform(*group.depth))
    if rng.random() < group.ink:
        paint_ink(rng, image)
    if rng.random() < group.ruler:
        paint_ruler(rng, image)
    paint_hairs(rng, image, rng.poisson(group.hairs))
    if rng.random() < group.bubbles:
        paint_bubbles(rng, image)
    if rng.random() < group.vignette:
        paint_vignette(rng, image)
    image += rng.normal(0, 0.02, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), mask, group.name


def prepare_demo(index, seed, size, gray):
    """Draw synthetic image `index` and reduce it as a real one would be -> Prepared."""
    image, mask, group = draw_lesion(index, seed, size)
    record = {
        "id": f"DEMO_{index:07d}",
        "image": "synthetic",
        "image_sha256": sha256_pixels(image),
        "mask": "synthetic",
        "mask_sha256": sha256_pixels(mask),
        "group": group,
    }
    return prepare(record, Image.fromarray(image), mask, size, gray)


# Splitting --------------------------------------------------------------------------------------


def equal_groups(ids, keys):
    """Lists of two or more ids that share a key, each sorted, in order of the first."""
    members = defaultdict(list)
    for name, key in sorted(zip(ids, keys, strict=True)):
        members[key].append(name)
    return [names for names in members.values() if len(names) > 1]


def resolve_counts(labelled, pool_count, test_count):
    """Numbers of labelled images in the pool (None: all that remain) and in the test set.

    UserError if more are asked for than the `labelled` that there are.
    """
    if test_count is None:
        test_count = min(labelled // 5, max(0, labelled - (pool_count or 0)))
    if (pool_count or 0) + test_count > labelled:
        raise UserError(
            f"--pool-count {pool_count or 0} and --test-count {test_count} are more than the "
            f"{labelled} images with masks; ask for fewer"
        )
    return pool_count, test_count


def take(groups, count):
    """The earliest groups that have `count` members together, or the most below it that can be.

    Groups are sequences, taken whole. With singles only, these are the first `count` of them.
    """
    window = (2 << count) - 1
    reach = [1]  # reach[i], in the end: bit s is set if some of groups[i:] have s members
    for group in reversed(groups):
        reach.append((reach[-1] | reach[-1] << len(group)) & window)
    reach.reverse()
    count = reach[0].bit_length() - 1
    taken = []
    for group, rest in zip(groups, reach[1:], strict=True):
        left = count - len(group)
        if left >= 0 and rest >> left & 1:
            taken.append(group)
            count = left
    return taken


def random_split(has_mask, duplicates, pool_count, test_count, seed):
    """Sorted ids of pool and test: a seeded shuffle of the sorted ids of images with masks.

    The test set is its end and the pool its beginning, or all of the rest if `pool_count` is
    None; images without a mask join the pool and do not count. The ids of a group of `duplicates`
    stay together, so a count is missed (from below) where no choice of whole groups makes it up.
    `has_mask` maps id -> bool.
    """
    group_of = {name: tuple(group) for group in duplicates for name in group}
    order = sorted(name for name in has_mask if has_mask[name])
    numpy_rng(seed, "split").shuffle(order)
    groups = list(dict.fromkeys(group_of.get(name, (name,)) for name in order))
    free = [group for group in groups if all(has_mask[name] for name in group)]
    bound = {name for name in has_mask if not has_mask[name]}
    bound.update(name for group in groups if group not in set(free) for name in group)
    test = take(free[::-1], test_count)
    chosen = set(test)
    pool = [group for group in free if group not in chosen]
    if pool_count is not None:
        pool = take(pool, max(0, pool_count - sum(has_mask[name] for name in bound)))
    return sorted(bound.union(*pool)), sorted(set().union(*test))


def official_split(is_test, duplicates):
    """Sorted ids of pool, test and of those left out: of the pool's set, yet equal to a test image.

    `is_test` maps id -> bool; `duplicates` are groups of ids with identical images.
    """
    dropped = {
        name
        for group in duplicates
        if any(is_test[other] for other in group)
        for name in group
        if not is_test[name]
    }
    pool = [name for name in sorted(is_test) if not is_test[name] and name not in dropped]
    return pool, [name for name in sorted(is_test) if is_test[name]], sorted(dropped)


# Writing ----------------------------------------------------------------------------------------


def in_order(function, items, workers):
    """Yield function(item) for each item, in order, computed by threads.

    Threads are enough: Pillow, hashlib and OpenCV release the interpreter's lock. At most three
    items per worker are under way or waiting to be taken, which bounds the memory.
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


def write_arrays(folder, prepared, count, size, channels):
    """Write images.npy and masks.npy row by row as they come; return the rows without arrays."""
    room = count * size[0] * size[1] * (channels + 1)
    if shutil.disk_usage(folder).free < room + (1 << 20):
        raise UserError(f"{folder.parent}: the arrays need {room >> 20} MiB; free some space")
    create = functools.partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    images = create(folder / "images.npy", shape=(count, *size, channels))
    masks = create(folder / "masks.npy", shape=(count, *size))
    rows = []
    for row, item in enumerate(tqdm(prepared, total=count, unit="image", disable=None)):
        images[row], masks[row] = item.image, item.mask
        rows.append(item._replace(image=None, mask=None))
    images.flush()
    masks.flush()
    return rows


def make_splits(rows, duplicates, options, is_test):
    """Content of splits.json: pool and test by id, and by which rule."""
    if options["official_test"]:
        pool, test, dropped = official_split(is_test, duplicates)
        rule = "given: the test set is --test-images; images equal to one of it leave the pool"
        return {"seed": None, "rule": rule, "pool": pool, "test": test, "dropped": dropped}
    has_mask = {row.record["id"]: row.mask_pixels is not None for row in rows}
    counts = resolve_counts(sum(has_mask.values()), options["pool_count"], options["test_count"])
    pool, test = random_split(has_mask, duplicates, *counts, options["seed"])
    rule = "shuffle of the ids of images with masks: pool first, test last; identical ones together"
    return {"seed": options["seed"], "rule": rule, "pool": pool, "test": test, "dropped": []}


def fill(folder, name, options, prepared, count, is_test, inputs):
    """Write all files of a data set into the existing, empty `folder`."""
    channels = 1 if options["gray"] else 3
    rows = write_arrays(folder, prepared, count, options["size"], channels)
    ids = [row.record["id"] for row in rows]
    duplicates = equal_groups(ids, [row.pixels for row in rows])
    mask_of = {row.record["id"]: row.mask_pixels for row in rows}
    differing = [group for group in duplicates if len({mask_of[i] for i in group} - {None}) > 1]
    manifest = {
        "name": name,
        "synthetic": options["demo"] is not None,
        "size": options["size"],
        "channels": channels,
        "resize": RESIZE,
        "options": options,
        "rows": [row.record for row in rows],
        "duplicates": duplicates,
        "duplicates_with_different_masks": differing,
        "masks_without_image": inputs["masks_without_image"],
        "arrays": {file: sha256_file(folder / file) for file in ("images.npy", "masks.npy")},
    }
    write_json(folder / "splits.json", make_splits(rows, duplicates, options, is_test))
    write_json(folder / "inputs.json", inputs)
    write_json(folder / "manifest.json", manifest)


def build(out, *content):
    """Fill a temporary folder beside `out` and rename it to `out` once complete.

    Whatever an earlier, killed call left there is removed. An `out` that exists is replaced.
    """
    temporary, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary, out.name, *content)
        if out.exists():
            out.rename(old)
        temporary.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def first_difference(old, new):
    """The name under which two dicts differ first, or None."""
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)


def source_hashes(sources):
    """Dict id -> (sha256 of the image file, of the mask file or None)."""
    return {
        source.id: (sha256_file(source.image), source.mask and sha256_file(source.mask))
        for source in sources
    }


def changed_input(out, manifest, inputs, sources):
    """Name of a file that is not as it was when `out` was made, or None.

    Sizes and times decide; where only times differ (a copy, another checkout) contents do.
    """
    old = read_json(out / "inputs.json", mend="give --overwrite")
    before, now = ({name: rest for name, *rest in files["files"]} for files in (old, inputs))
    if before == now and old["masks_without_image"] == inputs["masks_without_image"]:
        return None
    sizes_before, sizes_now = ({k: v[0] for k, v in files.items()} for files in (before, now))
    if sizes_before != sizes_now:
        return first_difference(sizes_before, sizes_now)
    if old["masks_without_image"] != inputs["masks_without_image"]:
        return "the masks without an image"
    recorded = {row["id"]: (row["image_sha256"], row["mask_sha256"]) for row in manifest["rows"]}
    changed = first_difference(recorded, source_hashes(sources))
    if changed is None:
        write_json(out / "inputs.json", inputs)
    return changed


def is_done(out, options, inputs, sources):
    """Whether `out` holds just this data set; UserError if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "manifest.json").is_file():
        raise UserError(f"{out}: exists and is no data folder; give another --out")
    manifest = read_json(out / "manifest.json", mend="give --overwrite")
    mend = "give another --out, or --overwrite to make it anew"
    option = first_difference(manifest["options"], options)
    if option:
        raise UserError(
            f"{out}: was made with another {option} "
            f"({manifest['options'].get(option)}, not {options.get(option)}); {mend}"
        )
    changed = changed_input(out, manifest, inputs, sources)
    if changed:
        raise UserError(f"{out}: was made from other files (first: {changed}); {mend}")
    open_data(out)
    return True


def check_replaceable(out):
    """UserError if --overwrite would delete something that this script did not write."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give another --out")
    foreign = {path.name for path in out.iterdir()} - FILES if out.exists() else ()
    if foreign:
        raise UserError(
            f"{out / min(foreign)}: is no file of a data set and would be lost; "
            "move it away or give another --out"
        )


# Reporting and verifying ------------------------------------------------------------------------


def few(names):
    """A count and the first few of a list, for one line of a report."""
    if not names:
        return "none"
    first = ", ".join(name if isinstance(name, str) else " = ".join(name) for name in names[:3])
    return f"{len(names)} ({first}{', ...' if len(names) > 3 else ''})"


def headline(out):
    """One line about a data folder."""
    data = open_data(out)
    kind = "SYNTHETIC images (--demo)" if data.synthetic else "images"
    height, width, channels = data.images.shape[1:]
    return (
        f"{out}: {len(data.ids)} {kind} of {height}x{width}, "
        f"{'gray' if channels == 1 else 'colour'}, {sum(data.has_mask.values())} with masks; "
        f"{len(data.pool)} pool, {len(data.test)} test"
    )


def report(out):
    """Print what was made and whatever the user should know about the inputs."""
    manifest, splits = read_json(out / "manifest.json"), read_json(out / "splits.json")
    options = manifest["options"]
    print(headline(out))
    unlabelled = [row["id"] for row in manifest["rows"] if row["mask"] is None]
    print(f"  images without a mask, unlabelled in the pool: {few(unlabelled)}")
    print(f"  masks without an image, ignored: {few(manifest['masks_without_image'])}")
    print(f"  groups of identical images: {few(manifest['duplicates'])}")
    if manifest["duplicates_with_different_masks"]:
        print(
            f"  of these with different masks: {few(manifest['duplicates_with_different_masks'])}"
        )
    if splits["dropped"]:
        print(f"  left out of the pool, equal to a test image: {few(splits['dropped'])}")
    if not options["official_test"]:
        labelled = len(manifest["rows"]) - len(unlabelled)
        pool_count, test_count = resolve_counts(
            labelled, options["pool_count"], options["test_count"]
        )
        asked = (labelled - test_count if pool_count is None else pool_count, test_count)
        got = (len(set(splits["pool"]) - set(unlabelled)), len(splits["test"]))
        if asked != got:
            print(
                f"  {got[0]} labelled images in the pool and {got[1]} in the test set, not "
                f"{asked[0]} and {asked[1]}: identical images stay together"
            )
    if manifest["synthetic"]:
        print("  synthetic: drawn by this script; results on them say nothing about real lesions")


def verify(out, sources):
    """Re-hash a data folder and, if given, its sources; UserError names the first mismatch."""
    data = open_data(out)
    manifest, splits = read_json(out / "manifest.json"), read_json(out / "splits.json")
    again = "run preprocess.py again with --overwrite"
    for name, expected in manifest["arrays"].items():
        if sha256_file(out / name) != expected:
            raise UserError(f"{out / name}: is not as it was written; {again}")
    for row, name in enumerate(data.ids):
        top = 1 if data.has_mask[name] else 0
        if data.masks[row].max() > top:
            raise UserError(f"{out / 'masks.npy'}: row {row} ({name}) is not a mask; {again}")
    if sorted(set(data.ids)) != data.ids:
        raise UserError(f"{out / 'manifest.json'}: its ids are not sorted and distinct; {again}")
    listed = splits["pool"] + splits["test"] + splits["dropped"]
    if len(set(listed)) < len(listed) or not set(listed) <= set(data.ids):
        raise UserError(f"{out / 'splits.json'}: names an id twice or an unknown one; {again}")
    if not sources:
        return
    known = {source.id: source for source in sources}
    for row in tqdm(manifest["rows"], unit="image", leave=False, disable=None):
        if row["id"] not in known:
            raise UserError(f"{row['image']}: is not in the image folder any more; put it back")
        source = known[row["id"]]
        for path, expected in (
            (source.image, row["image_sha256"]),
            (source.mask, row["mask_sha256"]),
        ):
            if (path and sha256_file(path)) != expected:
                raise UserError(f"{path or source.image}: is not the file it was; {again}")


# Downloading ------------------------------------------------------------------------------------


def fetch(url, path):
    """Download `url` to `path`, continuing `path`.part where an earlier call stopped.

    The server's ETag (or date) is kept beside the part: if the file has changed since, or if the
    server knows no ranges, it sends the whole, and the part is begun anew. UserError on any
    failure of the network; what has arrived is kept.
    """
    part, tag = (path.with_name(path.name + end) for end in (".part", ".part.tag"))
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.exists():
        headers["If-Range"] = tag.read_text()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=60
        ) as answer:
            if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                total = int(answer.headers["Content-Range"].rpartition("/")[2])
            else:
                have, total = 0, int(answer.headers.get("Content-Length", 0)) or None
                tag.unlink(missing_ok=True)
                validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                if validator:
                    tag.write_text(validator)
            receive(answer, part, have, total)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise UserError(
                f"{url}: {error.code} {error.reason}; check --url, or run again later"
            ) from None
        if error.headers.get("Content-Range") != f"bytes */{have}":  # the part is of another file
            part.unlink()
            tag.unlink(missing_ok=True)
            return fetch(url, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: {reason}; run again, it resumes") from None
    tag.unlink(missing_ok=True)
    part.rename(path)


def receive(answer, part, have, total):
    """Write the body of an HTTP answer to `part` from byte `have` on; OSError if it ends early."""
    with (
        open(part, "r+b" if have else "wb") as file,
        tqdm(
            desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        file.seek(have)
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))
        have = file.tell()
    if total and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def check_entry(archive, entry):
    """UserError if the entry of a zip archive would land outside the folder, or is a link."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", str(path)) or link:
        raise UserError(
            f"{archive}: its entry {entry.filename!r} leads outside its folder; "
            "do not use this archive, check --url"
        )


def unpack(archive, folder):
    """Extract a zip archive into `folder`, checking the CRC of each entry on the way.

    UserError if an entry leads outside. A damaged archive is deleted, so that it is fetched anew.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            for entry in entries:
                check_entry(archive, entry)
            for entry in tqdm(entries, desc=archive.name, unit="file", disable=None):
                file.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink()
        raise UserError(f"{archive}: damaged ({error}) and deleted; run again") from None


def download(url, root, expect):
    """Put the official ISIC 2017 training folders into `root`: `expect` images and masks each.

    Both archives are fetched, unpacked aside and counted before anything is put in place; then
    the archives are deleted. UserError: network, damaged or malicious archive, another count.
    """
    places = [root / name for name in ISIC_FOLDERS]
    if all(place.is_dir() and len(picture_files(place)) == expect for place in places):
        print(f"{root}: {expect} images and masks are there already")
        return
    root.mkdir(parents=True, exist_ok=True)
    asides = [root / f".{name}.partial" for name in ISIC_FOLDERS]
    archives = [root / f"{name}.zip" for name in ISIC_FOLDERS]
    try:
        unpacked = []
        for aside, archive, place in zip(asides, archives, places, strict=True):
            shutil.rmtree(aside, ignore_errors=True)
            if not archive.exists():
                fetch(f"{url.rstrip('/')}/{archive.name}", archive)
            aside.mkdir()
            unpack(archive, aside)
            inner = aside / place.name
            unpacked.append(inner if inner.is_dir() else aside)
            count = len(picture_files(unpacked[-1]))
            if count != expect:
                raise UserError(
                    f"{archive}: holds {count} pictures, not {expect}; "
                    "delete it and run again, or give --expect if that is right"
                )
        for source, place in zip(unpacked, places, strict=True):
            shutil.rmtree(place, ignore_errors=True)
            source.rename(place)
    finally:
        for aside in asides:
            shutil.rmtree(aside, ignore_errors=True)
    for archive in archives:
        archive.unlink()


# The command line -------------------------------------------------------------------------------


def image_size(text):
    """An argparse type: `256` or `192x240` (height x width) -> [height, width].

    The U-Net halves its input four times, so each side must be a multiple of 16; at 16 nothing
    but one cell would be left at the bottleneck, so 32 is the least.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a size; give 256 or 192x240")
    size = [int(match[1]), int(match[2] or match[1])]
    if any(side % 16 or side < 32 for side in size):
        raise argparse.ArgumentTypeError(
            f"{text}: each side must be a multiple of 16 and at least 32, "
            "as the U-Net halves its input four times"
        )
    return size


def natural(text):
    """An argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def parse(argv):
    """Parse and check the options; UserError says which do not go together."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, help="data folder to write, such as data/NAME")
    add("--root", type=Path, help="folder that holds the image and the mask folder")
    add("--images", type=Path, help="folder of images, instead of --root")
    add("--masks", type=Path, help="folder of masks, beside --images")
    add("--test-images", type=Path, help="folder of an official test set: no random split")
    add("--test-masks", type=Path, help="its masks")
    add("--demo", type=positive, metavar="N", help="draw N synthetic images instead")
    add("--size", type=image_size, default="256", help="256 or 192x240 (height x width)")
    add("--gray", action=argparse.BooleanOptionalAction, default=True, help="grayscale or RGB")
    add("--seed", type=int, default=0, help="of the split and of --demo")
    add("--pool-count", type=positive, help="labelled images in the pool (default: the rest)")
    add("--test-count", type=natural, help="images in the test set (default: one in five)")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="threads")
    add("--overwrite", action="store_true", help="replace a data folder made otherwise")
    add("--verify", action="store_true", help="check the data folder --out, change nothing")
    add("--download", action="store_true", help="fetch the ISIC 2017 training set into --root")
    add("--url", default=ISIC_URL, help="where its archives lie")
    add("--expect", type=positive, default=2000, help="how many images they must hold")
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    inputs = given & {"root", "images", "demo"}
    wrong = None
    if len(inputs) > 1:
        wrong = f"--{' and --'.join(sorted(inputs))} exclude each other"
    elif not inputs and not args.verify:
        wrong = "nothing to read: give --root, --images or --demo"
    elif args.masks and not args.images:
        wrong = "--masks goes with --images"
    elif (args.test_images is None) != (args.test_masks is None):
        wrong = "--test-images and --test-masks go together"
    elif args.test_images and ("demo" in given or not inputs):
        wrong = "--test-images goes with --root or --images"
    elif args.test_images and given & {"pool_count", "test_count"}:
        wrong = "--test-images gives the split: no --pool-count or --test-count"
    elif args.verify and args.demo:
        wrong = "--verify does not go with --demo"
    elif args.download and (args.root is None or args.verify):
        wrong = "--download goes with --root and not with --verify"
    elif args.out is None and not args.download:
        wrong = "give --out"
    if wrong:
        parser.error(wrong)
    return args


def preprocess(args):
    """Make the data folder `args.out`, or find it made."""
    options = {
        "size": args.size,
        "gray": args.gray,
        "seed": args.seed,
        "pool_count": args.pool_count,
        "test_count": args.test_count,
        "official_test": args.test_images is not None,
        "demo": args.demo,
    }
    sources, strays = ([], []) if args.demo else find_sources(args)
    labelled = args.demo or sum(source.mask is not None for source in sources)
    if not args.test_images:
        resolve_counts(labelled, args.pool_count, args.test_count)
    inputs = list_inputs(sources, strays)
    if args.overwrite:
        check_replaceable(args.out)
    elif is_done(args.out, options, inputs, sources):
        print(f"already done: {headline(args.out)}")
        return
    size = tuple(args.size)
    if args.demo:
        items = range(args.demo)
        function = functools.partial(prepare_demo, seed=args.seed, size=size, gray=args.gray)
    else:
        items = sources
        function = functools.partial(prepare_source, size=size, gray=args.gray)
    is_test = {source.id: source.is_test for source in sources}
    prepared = in_order(function, items, args.workers)
    build(args.out, options, prepared, len(items), is_test, inputs)
    report(args.out)


def run(args):
    """Verify, download or preprocess, as the parsed options say."""
    if args.verify:
        sources = find_sources(args)[0] if args.root or args.images else []
        verify(args.out, sources)
        print(f"OK {headline(args.out)}" + ("" if sources else " (sources not checked)"))
        return
    if args.download:
        download(args.url, args.root, args.expect)
    if args.out is not None:
        preprocess(args)


def main(argv=None):
    """Do what the command line (or `argv`) says; UserError for anything wrong with its inputs."""
    args = parse(argv)
    warnings.filterwarnings("ignore", module="PIL")  # remarks on odd metadata; errors still raise
    try:
        run(args)
    except OSError as error:
        place = error.filename or args.out or args.root
        reason = error.strerror or error
        raise UserError(f"{place}: {reason}; mend that and run again") from None


if __name__ == "__main__":
    run_script(main)
