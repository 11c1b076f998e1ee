"""Draw synthetic dermoscopy-like images with exact masks, for `preprocess.py --demo`.

With them, everything runs without a download. Results on them say nothing about real lesions.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from segmentation.common.runfiles import numpy_rng


class Group(NamedTuple):
    """An appearance group of the synthetic images: its share, colours and artefacts."""

    name: str
    share: float
    skin: tuple  # RGB in 0..1
    radius: tuple  # of the lesion, minimum and maximum, relative to the short side
    depth: tuple  # of the pigment, minimum and maximum: low means low contrast
    hairs: float  # mean number
    vignette: float  # probability, like the next three
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
# The parts of red, green and blue light that a layer of pigment lets through.
LIGHT_BROWN, DARK_BROWN = (0.66, 0.46, 0.32), (0.30, 0.18, 0.13)
BLOTCHES = ((0.12, 0.09, 0.09), (0.42, 0.46, 0.54), (0.80, 0.42, 0.40), (0.85, 0.75, 0.68))


def smooth_noise(rng, shape, cells):
    """Float32 noise of `shape`, mean 0 and sd about 1, smooth over 1 / `cells` of a side."""
    grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)


def tint(image, colour, strength):
    """Multiply the H x W x 3 image by colour ** strength, `strength` being H x W, in place."""
    image *= np.exp(strength[..., None] * np.log(np.float32(colour)))


def lesion_shape(rng, shape, radius):
    """An irregular blob: (bool mask in one piece, without holes; its centre (y, x) in pixels)."""
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
    """Paint pigment inside `mask`, in place: soft border, two browns, blotches, pigment network."""
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
        points = np.round(line * 16).astype(np.int32)  # fixed point with 4 fractional bits
        cv2.polylines(stencil, [points], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    cover = cv2.GaussianBlur(stencil.astype(np.float32) * (opacity / 255), (0, 0), blur)
    image += cover[..., None] * (np.float32(colour) - image)


def paint_hairs(rng, image, number):
    """Draw curved hairs of different widths, usually dark and sometimes light, in place."""
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
    """Draw a ruler with ticks near the lower edge of the image, in place."""
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
    """Draw a broad violet stroke of a surgical pen near the left or right edge, in place."""
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
    """Darken everything outside the round field of view of the dermatoscope, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    centre = np.array([height, width]) / 2 + rng.normal(0, 0.02, 2) * side
    field = side * rng.uniform(0.50, 0.62)
    outside = (np.hypot(y - centre[0], x - centre[1]) - field) / (side * rng.uniform(0.006, 0.04))
    image *= 0.04 + 0.96 / (1 + np.exp(np.clip(outside, -30, 30)))[..., None]


def draw_lesion(index, seed, size):
    """Synthetic image `index` of `seed`: (uint8 h x w x 3, bool h x w mask, group name).

    It is drawn at twice `size` = (H, W). The mask is exact: it is the shape that was painted.
    Image `index` does not depend on how many others are drawn.
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
