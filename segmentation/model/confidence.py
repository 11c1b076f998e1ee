"""How far the mask of an image can be trusted, from the network's own probabilities. Pure maths.

`confidence` is the Dice that a mask would have on average if the truth were one of the regions that
the probabilities allow. Networks are too sure of themselves, so this number ranks masks, and
`calibrate` makes it an expected Dice by images whose true masks are known. `likeness` asks instead
whether an image looks like those that the network was made with: for others the expected Dice means
little.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.isotonic import IsotonicRegression

MIN_PAIRS = 10  # images with a known Dice, from which on there is a calibration
FOLDS = 5  # of these images, to choose the kind of fit by
ENOUGH = 0.8  # expected Dice from which on a mask needs no review
MOST = 0.2  # part of the calibration images, at most, whose expected Dice needs review
NEIGHBOURS = 5
UNLIKE = 0.01  # likeness below which an image is unlike the training images
PART = 0.01  # of the mask's area, from which on a region counts as a part of it


def confidence(probability, mask):
    """The mean Dice of `mask` with the regions {probability > t}, over t from 0 to 1: in 0..1.

    `probability` float H x W in [0,1], `mask` bool or uint8 H x W of {0,1}. The mean is exact: as t
    falls, the region grows pixel by pixel in the order of the probabilities. Dice with an empty
    region counts as 0, so that an empty mask has confidence 0.

    The soft Dice 2 sum(pm) / (sum(p) + sum(m)) treats pixels as independent; in truth whole
    outlines lie farther out or farther in, as these regions do. Chosen on the unlabelled pool
    images of ISIC 2017, with four networks trained on 20 or 50 labels at 96 px: its mean rank
    correlation with the true Dice was 0.75, that of soft Dice 0.72, of the agreement between eight
    views 0.73 and between six passes with dropout 0.67, which need more predictions.
    """
    order = np.argsort(-probability, axis=None, kind="stable")
    levels = probability.ravel()[order].astype(np.float64)
    hits = np.cumsum(mask.ravel()[order], dtype=np.float64)
    sizes = np.arange(1, len(order) + 1) + np.count_nonzero(mask)
    return float(np.sum((levels - np.append(levels[1:], 0)) * 2 * hits / sizes))


# Expected Dice ----------------------------------------------------------------------------------


class Calibration(NamedTuple):
    """A function from confidence to expected Dice: linear between knots, constant beyond them."""

    kind: str  # "line", "isotonic", or "none": the confidence itself
    confidence: list  # of the knots, ascending
    dice: list  # of the knots, not descending, in 0..1
    threshold: float  # an expected Dice below this needs review
    pairs: int  # images that it was made from
    errors: dict  # kind -> root mean squared error of expected Dice, cross-validated

    def expected(self, values):
        """Expected Dice of confidences: float64, of the same shape."""
        return np.interp(values, self.confidence, self.dice)


def calibrate(confidences, dice):
    """The Calibration by images with these confidences and true Dice, two sequences in 0..1.

    The kind is the one of `FITS` with the smaller error on images that are left out, in FOLDS
    folds; each fold has every FOLDS-th image by confidence. A line has little to go wrong with few
    images, the isotonic fit follows any rising curve with many. With less than MIN_PAIRS images the
    confidence itself is taken, which is too high as a rule.
    """
    order = np.lexsort((dice, confidences))  # so that the order of the images does not matter
    x, y = (np.asarray(values, dtype=np.float64)[order] for values in (confidences, dice))
    if len(x) < MIN_PAIRS:
        return Calibration("none", [0.0, 1.0], [0.0, 1.0], ENOUGH, len(x), {})
    fold, errors = np.arange(len(x)) % FOLDS, {}
    for kind, fit in FITS.items():
        left = [
            np.interp(x[fold == held], *fit(x[fold != held], y[fold != held])) - y[fold == held]
            for held in range(FOLDS)
        ]
        errors[kind] = float(np.sqrt(np.mean(np.concatenate(left) ** 2)))
    kind = min(errors, key=lambda each: errors[each])
    at, expected = FITS[kind](x, y)
    threshold = review_threshold(np.interp(x, at, expected))
    return Calibration(kind, at.tolist(), expected.tolist(), threshold, len(x), errors)


def held_out(confidences, dice):
    """Expected Dice of each image by the calibration on the others: float64 N in 0..1.

    As in `calibrate`, each of FOLDS parts has every FOLDS-th image by confidence.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (confidences, dice))
    part = np.empty(len(x), dtype=int)
    part[np.lexsort((y, x))] = np.arange(len(x)) % FOLDS
    expected = np.empty(len(x))
    for held in np.unique(part):
        fit = calibrate(x[part != held], y[part != held])
        expected[part == held] = fit.expected(x[part == held])
    return expected


def review_threshold(expected):
    """ENOUGH, or less if more than MOST of these values of expected Dice would be below it."""
    ranked = np.sort(expected)
    return float(min(ENOUGH, ranked[int(MOST * len(ranked))]))


def line(x, y):
    """Knots of the least-squares line that does not fall, cut at 0 and 1: two float64 arrays."""
    slope = 0.0
    if np.ptp(x) > 0:
        slope = max(0.0, np.cov(x, y, bias=True)[0, 1] / np.var(x))
    at = y.mean() - slope * x.mean()
    if slope == 0:
        return np.array([0.0, 1.0]), np.array([at, at])
    knots = np.unique(np.clip([0, -at / slope, (1 - at) / slope, 1], 0, 1))
    return knots, np.clip(at + slope * knots, 0, 1)


def isotonic(x, y):
    """Knots of the centred isotonic regression: two float64 arrays.

    Least squares among functions that do not fall gives steps. Each step becomes one knot, at the
    mean of its x (Oron and Flournoy 2017, Centered isotonic regression, arXiv 1701.05964), so that
    between them different confidences keep their order.
    """
    fitted = IsotonicRegression().fit(x, y).predict(x)
    values, step = np.unique(fitted, return_inverse=True)
    return np.bincount(step, weights=x) / np.bincount(step), values


FITS = {"line": line, "isotonic": isotonic}


# Unlike the training images ---------------------------------------------------------------------


def directions(features):
    """Rows float N x D divided by their lengths, float64; a row of zeros stays so."""
    rows = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def distances(features, reference, own=False):
    """Mean Euclidean distance of each row to its NEIGHBOURS nearest rows of `reference`: float64 N.

    `features` float N x D, `reference` float M x D. With `own` they are the same rows, and no row
    is its own neighbour. With fewer rows to choose from all are taken.
    """
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (features, reference))
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    if own:
        np.fill_diagonal(squares, np.inf)
    count = min(NEIGHBOURS, len(b) - own)
    nearest = np.sort(squares, axis=1)[:, :count]
    return np.sqrt(nearest.clip(min=0)).mean(axis=1)


def likeness(features, reference):
    """The share of training images that are farther from the others than an image is: float64 N.

    `features` float N x D of images, `reference` float M x D of training images, M at least 2. By
    construction one in a hundred images of the same kind is at or below 0.01. Only the directions
    of features count: by their lengths, plain pictures of noise, which excite few features, would
    lie amid the others.
    """
    training = directions(reference)
    known = np.sort(distances(training, training, own=True))
    below = np.searchsorted(known, distances(directions(features), training), side="left")
    return 1 - below / len(known)


# Masks ------------------------------------------------------------------------------------------


def describe(mask):
    """(columns of predictions.csv about a mask, warnings: a list of texts). bool H x W.

    `area` is in pixels, `share` of the image in 0..1; the box is the smallest around the mask:
    pixels left of it, above it, its width and its height, empty texts if nothing was found. A
    region, connected by the sides of its pixels, counts as a part if it has PART of the area.
    """
    area = int(np.count_nonzero(mask))
    box = dict.fromkeys(("box_left", "box_top", "box_width", "box_height"), "")
    columns = {"area": area, "share": area / mask.size, **box}
    if not area:
        return columns, ["nothing found"]
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    parts = int(np.count_nonzero(sizes >= PART * area))
    rows, across = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    columns["box_left"], columns["box_top"] = int(across[0]), int(rows[0])
    columns["box_width"] = int(across[-1] - across[0] + 1)
    columns["box_height"] = int(rows[-1] - rows[0] + 1)
    warnings = []
    height, width = mask.shape
    if 0 in (rows[0], across[0]) or rows[-1] == height - 1 or across[-1] == width - 1:
        warnings.append("touches the border")
    if parts > 1:
        warnings.append(f"{parts} parts")
    return columns, warnings
