"""Segmentation metrics per image: overlap with the true mask, distance between the outlines.

Every metric is computed for one image at a time and averaged afterwards, so that a small lesion
counts as much as a large one.

Empty masks. A ratio whose parts are all zero (0/0) is 1: there was nothing to find and nothing was
missed. So an empty prediction of an empty mask has Dice and Jaccard 1, an image without lesion has
sensitivity 1, and one that is all lesion has specificity 1. The distance between two empty masks
is 0, and between an empty and a non-empty one it is the image diagonal, which is longer than the
distance between any two pixels.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

NAMES = (
    "dice",
    "jaccard",
    "thresholded_jaccard",
    "sensitivity",
    "specificity",
    "pixel_accuracy",
    "hd95",
)

ISIC_THRESHOLD = 0.65


class Counts(NamedTuple):
    """Pixels per image: true and false positives, false and true negatives; int64 arrays of N."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray


def per_image(predictions, masks):
    """One dict per image with the keys NAMES, in this order, and Python floats.

    `predictions` and `masks` are uint8 or bool arrays N x H x W of 0 and 1. hd95 is in pixels;
    all others are in 0..1. ValueError if the shapes differ or a value is neither 0 nor 1.
    """
    predictions, masks = as_bool(predictions), as_bool(masks)
    counts = confusion(predictions, masks)
    columns = (
        dice(counts),
        jaccard(counts),
        thresholded_jaccard(counts),
        sensitivity(counts),
        specificity(counts),
        pixel_accuracy(counts),
        [hd95(a, b) for a, b in zip(predictions, masks, strict=True)],
    )
    rows = zip(*columns, strict=True)
    return [dict(zip(NAMES, map(float, row), strict=True)) for row in rows]


def mean(rows):
    """The mean of each metric over a non-empty list of `per_image` dicts; a dict of floats."""
    return {name: float(np.mean([row[name] for row in rows])) for name in NAMES}


def as_bool(array):
    """An array of 0 and 1, of any shape, as bool. ValueError if it has any other value."""
    array = np.asarray(array)
    if array.dtype != bool and not ((array == 0) | (array == 1)).all():
        raise ValueError("a mask has values other than 0 and 1")
    return array.astype(bool)


# Ratios of pixel counts -------------------------------------------------------------------------


def confusion(predictions, masks):
    """Counts of bool arrays N x H x W. ValueError if the shapes differ or are not 3-D."""
    if predictions.shape != masks.shape or predictions.ndim != 3:
        raise ValueError(f"predictions {predictions.shape} and masks {masks.shape} do not pair up")

    def pixels(agree):
        return np.count_nonzero(agree, axis=(1, 2))

    return Counts(
        tp=pixels(predictions & masks),
        fp=pixels(predictions & ~masks),
        fn=pixels(~predictions & masks),
        tn=pixels(~predictions & ~masks),
    )


def ratio(part, whole):
    """part / whole as float64, and 1 where whole is 0."""
    return np.divide(part, whole, out=np.ones(np.shape(whole)), where=np.not_equal(whole, 0))


def dice(counts):
    """2 |A and B| / (|A| + |B|), float64 N in 0..1."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def jaccard(counts):
    """|A and B| / |A or B|, float64 N in 0..1."""
    return ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def thresholded_jaccard(counts):
    """The score of the ISIC 2018 challenge: Jaccard, but 0 where it is below 0.65."""
    values = jaccard(counts)
    return np.where(values < ISIC_THRESHOLD, 0.0, values)


def sensitivity(counts):
    """The fraction of lesion pixels that were found, float64 N in 0..1."""
    return ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts):
    """The fraction of background pixels predicted as background, float64 N in 0..1."""
    return ratio(counts.tn, counts.tn + counts.fp)


def pixel_accuracy(counts):
    """The fraction of all pixels that are predicted correctly, float64 N in 0..1."""
    return ratio(counts.tp + counts.tn, sum(counts))


# Distance between outlines ----------------------------------------------------------------------


def hd95(a, b):
    """95th percentile of the distances between two outlines, a float in pixels.

    `a` and `b` are bool H x W. The distances from each outline pixel of one mask to the nearest
    outline pixel of the other, in both directions, are pooled before the percentile is taken, so
    the order of the two masks does not matter. So does medpy; others take the larger of the
    percentiles of the two directions, which is at least as much.
    """
    if not a.any() and not b.any():
        return 0.0
    if not a.any() or not b.any():
        return float(np.hypot(*a.shape))
    box = bounding_box(a | b)
    a, b = surface(a[box]), surface(b[box])
    distances = [distance_transform_edt(~b)[a], distance_transform_edt(~a)[b]]
    return float(np.percentile(np.concatenate(distances), 95))


def bounding_box(mask):
    """The slices of the smallest rectangle around the true pixels of a non-empty bool H x W.

    Both outlines lie inside the box around the union, so cropping to it changes no distance.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def surface(mask):
    """The true pixels with a false or missing neighbour above, below, left or right; bool H x W."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
