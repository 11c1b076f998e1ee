"""What a mask costs to draw, or to correct from a draft, as shares that image size does not change.

A person draws a line around the lesion, so that the length of the outline says more about the work
than the count of images; with a draft, only what is wrong of it is drawn. Lengths are in image
sides, which are sqrt(H W) pixels (the side of a square image), areas in images.

The length of an outline is that of Crofton's formula in four directions: the contours at 0.5 of
the mask, whose steps are parallel to the axes or diagonal, times pi (1 + sqrt 2) / 8. By this
factor the steps are right on average over all directions of a straight line; a single direction
is between 5.2 % too short (along the axes) and 2.6 % too long (at 22.5 degrees). It is what
skimage.measure.perimeter_crofton gives for the whole mask, but as a sum over pieces. Holes have
outlines too, and where a mask reaches the edge of the image, so does its outline.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from segmentation.common.pictures import contours

CROFTON = np.pi * (1 + 2**0.5) / 8
TOLERANCE = 0.02  # image sides: an outline as near to the true one as this is left as it is


class Cost(NamedTuple):
    """The cost of the mask of one image."""

    outline: float  # length of the outline, in image sides
    corrected: float  # share of the pixels in which the draft differs from the mask
    redrawn: float  # length of the outline that is far from the draft's, in image sides


def cost(mask, draft):
    """The Cost of a mask, bool or uint8 H x W of {0,1}, from a draft of the same kind and shape.

    Without a draft give an empty one: the mask is then drawn from nothing, `corrected` is its area
    and `redrawn` its outline. A piece of the outline is redrawn if its middle is more than
    TOLERANCE from the draft's outline. To remove what the draft has too much, far from the lesion,
    costs area, but no length. ValueError if the shapes differ.
    """
    if mask.shape != draft.shape:
        raise ValueError(f"a mask of {mask.shape} and a draft of {draft.shape}")
    side = mask.size**0.5
    middles, lengths, _ = pieces(mask)
    far = distances(middles, draft) > TOLERANCE * side
    return Cost(
        outline=float(lengths.sum() / side),
        corrected=float(np.mean((mask > 0) != (draft > 0))),
        redrawn=float(lengths[far].sum() / side),
    )


def pieces(mask):
    """The outline of a mask H x W of {0,1} in M pieces: (middles, lengths, ends), in pixels.

    float M x 2 (x, y), float M and float M x 2: the point where each piece ends and another begins.
    """
    lines = contours(mask)
    starts = np.concatenate([np.empty((0, 2)), *(line[:-1] for line in lines)])
    ends = np.concatenate([np.empty((0, 2)), *(line[1:] for line in lines)])
    return (starts + ends) / 2, CROFTON * np.hypot(*(ends - starts).T), ends


def distances(points, mask):
    """The distance of points M x 2 to the outline of a mask, in pixels; infinity if it is empty.

    It is that to the nearest of the ends and middles of the outline's pieces.
    """
    middles, _, ends = pieces(mask)
    if not len(ends):
        return np.full(len(points), np.inf)
    return cKDTree(np.concatenate([middles, ends])).query(points)[0]
