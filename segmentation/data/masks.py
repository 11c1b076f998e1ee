"""Read a mask from a picture file, as drawing programs and annotation tools save it.

What counts as lesion, in this order:

- Exact masks: values {0,255} or {0,1} (in 16-bit files also {0,65535}), in one channel or in
  several equal ones. In a file with a palette, the mask can be in the colours or in the palette
  indices: if only one of the two is a mask, that one is used; if both are but differ, the file is
  refused.
- Drawn in the alpha channel: what is at least half as opaque as the most opaque pixel, if that has
  the same colour everywhere.
- Two grays: the brighter one, if they lie at least 128 apart. Less, such as 0 and 2, may be numbers
  of classes.
- Soft edges: what is brighter than half of the top value, 255 or 65535. Refused are pictures with
  areas (not edges) of a third gray, and those in which over 20 % of the pixels lie between a tenth
  and nine tenths of the top value, as in photographs.
- One colour on black, and shades between the two: the colour, divided half-way. JPEG makes many
  more colours of them and is refused. So are other pairs of colours: of red and white, either could
  be the lesion, and a picture that is white everywhere is one of lesion everywhere by the first
  rule.

No photograph of the ISIC 2017 training set counts as a mask, in colour or in gray.

Everything but an exact mask gets a note. So does a mask that is empty, covers everything, or looks
inverted: over half of the outermost pixels are lesion, but under nine tenths of the middle third
(in height and width) are. Of the 2000 masks of the ISIC 2017 training set none is like that, but
96 % of them are when inverted.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segmentation.common.runfiles import UserError
from segmentation.data.photos import decode

FIX = "save the mask as PNG with 0 for skin and 255 for lesion"
LOSSY = {"JPEG", "MPO", "WEBP"}  # formats that change values near edges (WebP not always)
BLACK = 25  # the brightest channel of what counts as black
ROUNDED = 3  # what rounding may do to a gray, or to the line of shades between two colours
APART = 128  # between two values that are more than numbers of classes
TONES = (0.1, 0.9)  # shares of the top value between which a pixel is neither dark nor bright
MOST_BETWEEN, MOST_FLAT = 0.2, 0.001  # shares of the pixels


class Mask(NamedTuple):
    """A mask, the hash of its file, and what a person should know about how it was read."""

    values: np.ndarray  # bool H x W
    sha256: str
    notes: list  # of str


class Unclear(Exception):
    """Why a picture cannot be read as a mask."""


def read_mask(path, size):
    """Read the mask of an image of `size` = (height, width) -> Mask.

    UserError: damaged file, wrong size, or no mask by the rules above.
    """
    picture, digest = decode(path)
    if (picture.height, picture.width) != size:
        raise UserError(
            f"{path}: is {picture.height}x{picture.width}, but its image is {size[0]}x{size[1]} "
            "(height x width); export the mask at the size of its image"
        )
    try:
        values, notes = find_lesion(picture)
    except Unclear as reason:
        raise UserError(f"{path}: {reason}; {FIX}") from None
    return Mask(values, digest, notes + remarks(values))


def remarks(mask):
    """Notes on a bool mask H x W: that it is empty, covers everything, or looks inverted."""
    if not mask.any():
        return ["is empty: no lesion"]
    if mask.all():
        return ["covers the whole image"]
    height, width = mask.shape
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    middle = mask[height // 3 : height - height // 3, width // 3 : width - width // 3]
    if border.mean() > 0.5 and middle.mean() < 0.9:
        return ["looks inverted: it covers most of the border of the image, but not the middle"]
    return []


def find_lesion(picture):
    """Pillow image -> (bool H x W, notes). Raises Unclear."""
    lossy = picture.format in LOSSY
    mask = exact(picture)
    if mask is not None:
        return mask, colours_against(mask, picture)
    if picture.mode[0] in "IF":
        return divide(*deep(picture), lossy)
    if picture.mode not in ("LA", "PA", "RGBA") and "transparency" not in picture.info:
        picture = picture.convert("RGB")
    channels = np.asarray(picture.convert("RGBA"))
    colours, alpha = channels[..., :3], channels[..., 3]
    if (alpha != 255).any():
        return in_alpha(colours, alpha, lossy)
    if (colours.max(axis=2) - colours.min(axis=2)).max() <= ROUNDED:
        return divide(colours[..., 1], 255, lossy)
    return on_black(colours)


# Exact masks ------------------------------------------------------------------------------------


def exact(picture):
    """bool H x W of an exact mask, None for anything else. Raises Unclear for two in a palette."""
    views = [picture.convert("RGB"), picture] if picture.mode == "P" else [picture]
    masks = [binary(equal_channels(view)) for view in views]
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        return None
    if not np.array_equal(masks[0], masks[-1]):
        raise Unclear("its palette colours and its palette indices give different masks")
    return masks[0]


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


def colours_against(mask, picture):
    """A note if a mask by palette indices is not the one that its colours show."""
    if picture.mode == "P":
        try:
            colours = on_black(np.asarray(picture.convert("RGB")))[0]
        except Unclear:
            return []
        if not np.array_equal(colours, mask):
            return ["was read by its palette indices, 1 for lesion; its colours show the opposite"]
    return []


# Other masks ------------------------------------------------------------------------------------


def deep(picture):
    """uint16 H x W and its top value, from a picture of 16 or 32 bits. Raises Unclear."""
    values = np.asarray(picture)
    if values.dtype.kind == "f":
        raise Unclear("has fractional numbers as values")
    if getattr(picture, "tag_v2", {}).get(262) == 0:
        raise Unclear("is a TIFF of 16 bits in which 0 is white")
    if values.min() < 0 or values.max() > 65535:
        raise Unclear(f"has values from {values.min()} to {values.max()}")
    return values.astype(np.uint16), 255 if values.max() <= 255 else 65535


def divide(values, top, lossy=False, apart: float = APART):
    """Unsigned values H x W in 0..top -> (bool H x W of the bright ones, notes). Raises Unclear."""
    levels = np.unique(values).tolist()
    if len(levels) == 1:
        raise Unclear(f"has the value {levels[0]} everywhere")
    if len(levels) == 2:
        low, high = levels
        if high - low < apart:
            raise Unclear(f"has the values {low} and {high}, which may be numbers of classes")
        note = f"has the values {low} and {high}, not 0 and {top}: {high} was read as lesion"
        return values == high, [] if (low, high) == (0, top) else [note]
    dark, bright = (share * top for share in TONES)
    if levels[-1] < bright:
        raise Unclear(f"has no value near {top}; the highest is {levels[-1]}")
    between = np.mean((values > dark) & (values < bright))
    if between > MOST_BETWEEN:
        raise Unclear(
            f"has {100 * between:.0f} % of its pixels neither dark nor bright, as in a photograph"
        )
    # A picture of few values may show numbers of classes, of which no area is too dark or bright.
    low, high = (0, top) if len(levels) <= 8 and not lossy else (dark, bright)
    square = np.ones((3, 3), dtype=np.uint8)
    flat = cv2.erode(values, square) == cv2.dilate(values, square)
    flat &= (values > low) & (values < high)
    if flat.mean() > MOST_FLAT:
        value = np.bincount(values[flat]).argmax()
        raise Unclear(f"has areas of a third value, {value}, beside 0 and {top}")
    soft = ((values > 0) & (values < top)).sum()
    note = f"has soft edges ({soft} pixels): what is over half of {top} was read as lesion"
    return values > top / 2, [note]


def in_alpha(colours, alpha, lossy):
    """uint8 H x W x 3 and H x W -> (bool H x W, notes). Raises Unclear."""
    top = int(alpha.max())
    seen = colours[alpha >= top / 2]
    if np.ptp(seen, axis=0).max() > 8:
        raise Unclear("changes in colour and in transparency, and either could be the mask")
    note = "is drawn in the alpha channel: what is not transparent was read as lesion"
    if top == 0:
        return np.zeros(alpha.shape, dtype=bool), [note]
    if (alpha == top).all():
        raise Unclear("has the same colour and half transparency everywhere")
    mask, more = divide(alpha, top, lossy, apart=top / 2)
    return mask, [note, *more]


def on_black(colours):
    """uint8 H x W x 3 -> (bool H x W of the colour on black, notes). Raises Unclear."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    packed, place, counts = np.unique(
        red << 16 | green << 8 | blue, return_inverse=True, return_counts=True
    )
    levels = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    first = levels[order[0]]
    others = [i for i in order if np.abs(levels[i] - first).max() >= APART]
    if not others:
        raise Unclear(f"has no two colours that differ clearly; the most common is {name(first)}")
    black, colour = sorted([first, levels[others[0]]], key=max)
    # Shades between the two lie on the line from one to the other.
    line = colour - black
    shares = (levels - black) @ line / (line @ line)
    away = np.linalg.norm(levels - black - shares[:, None] * line, axis=1)
    third = (away > ROUNDED) * counts
    if third.any():
        raise Unclear(
            f"has more than two colours: {name(black)}, {name(colour)} and, not between them, "
            f"{name(levels[third.argmax()])}"
        )
    if max(black) > BLACK:
        raise Unclear(
            f"has the colours {name(black)} and {name(colour)}, and either could be the lesion"
        )
    tones = np.clip(np.rint(255 * shares), 0, 255).astype(np.uint8)
    mask, more = divide(tones[place].reshape(colours.shape[:2]), 255)
    note = f"has two colours: {name(colour)} on {name(black)} was read as lesion"
    return mask, [note, *more]


def name(colour):
    """A colour as text."""
    return "rgb({}, {}, {})".format(*colour)
