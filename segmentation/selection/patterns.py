"""Patterns: what a few kinds of place in an image look like, and a cold start that draws by them.

After FreeSel (Xie et al. 2023, arXiv 2309.17342). A pooled feature mixes all places of an image; a
pattern is the mean of the cells of a feature map that look alike. Pure functions on arrays.
"""

import numpy as np

from segmentation.selection.coldstart import unlabelled
from segmentation.selection.distances import TINY, blocks, normalise
from segmentation.selection.geometry import clustered

COUNT = 5  # patterns of an image, at most
SHARE = 0.5  # of the sum of the norms of an image's cells, held by those that are kept


def strongest(cells, share=SHARE):
    """Positions, ascending int64, of the cells of largest norm that hold `share` of all norms.

    `cells` float M x D; the norm of a cell is its length. As few cells as together have at least
    that share; ties go to the smaller position. None if all cells are zero.
    """
    norms = np.linalg.norm(np.asarray(cells, dtype=np.float64), axis=1)
    order = np.argsort(-norms, kind="stable")
    held = np.cumsum(norms[order])
    kept = order[: np.searchsorted(held, share * held[-1]) + 1]
    return np.sort(kept[norms[kept] > 0])


def patterns_of(cells, rng, count=COUNT):
    """The patterns of an image with `cells` float M x D: float32 `count` x D.

    The centroids of k-means of its `strongest` cells, scaled to length 1. An image with fewer cells
    (or fewer that differ) has fewer patterns; the rows that are left are zero, which is no pattern.
    `rng`, a numpy Generator, seeds k-means.
    """
    cells = np.asarray(cells, dtype=np.float32)
    patterns = np.zeros((count, cells.shape[1]), dtype=np.float32)
    kept = cells[strongest(cells)]
    if len(kept):
        found = clustered(kept, min(count, len(kept)), rng)
        centroids = found.centroids[np.unique(found.cluster)]  # some are empty if cells repeat
        patterns[: len(centroids)] = normalise(centroids)
    return patterns


def by_patterns(patterns, labelled, budget, rng):
    """FreeSel: images drawn by patterns that no label shows yet; see coldstart.py for the promises.

    `patterns` float N x K x D from `patterns_of`: rows of length 1, or zero for no pattern. The
    first image is drawn uniformly. Then a pattern is drawn from those of unlabelled images, with
    probability proportional to d^2, and its image is chosen; d is the cosine distance, from 0 to 2,
    to the nearest pattern of a labelled or chosen image. Where no pattern differs from these, or
    they have none, the image is drawn uniformly.

    Different from the paper: there the patterns are of a vision transformer (DINO), of the patches
    that hold half of its attention; a convolutional network has none, and cells of large norm take
    their place. That this is as good is not known.
    """
    unlabelled(labelled, budget)
    _, each, width = patterns.shape
    points = np.asarray(patterns, dtype=np.float32).reshape(-1, width)
    exists = points.any(axis=1)
    nearest = np.full(len(points), np.inf)
    for block in blocks(np.flatnonzero(labelled)):
        nearest = np.minimum(nearest, to_nearest(points, patterns[block]))
    free, chosen = ~labelled, np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        weights = np.where(exists & free.repeat(each), nearest, 0) ** 2
        total = weights.sum()
        if 0 < total < np.inf:
            place = rng.choice(len(points), p=weights / total) // each
        else:
            place = rng.choice(np.flatnonzero(free))
        chosen[turn], free[place] = place, False
        nearest = np.minimum(nearest, to_nearest(points, patterns[place]))
    return chosen


def to_nearest(points, patterns):
    """Cosine distance of `points` (float32 P x D) to the nearest of `patterns` (float ... x D).

    Both of length 1; zero rows of `patterns` are left out, and inf is the distance to none. float64
    P, rounded to TINY, so that copies are at 0.
    """
    others = np.asarray(patterns, dtype=np.float32).reshape(-1, points.shape[1])
    others = others[others.any(axis=1)]
    if not len(others):
        return np.full(len(points), np.inf)
    cosine = (points @ others.T).max(axis=1).astype(np.float64)
    return np.round(np.maximum(1 - cosine, 0) / TINY) * TINY
