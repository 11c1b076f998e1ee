"""Greedy coverage: which images stand best for the pool. Pure functions; see distances.py.

Ties always go to the smaller position.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segmentation.selection.distances import ROUNDING, TINY, Distances, blocks

TABLE = 6000  # up to this many images all bounds are kept: 144 MB
LEAST = 64  # rows that are estimated at once, at first
MOST = 512  # the same, at last
FEW = 8  # rows that are measured exactly at once
COLUMNS = 4096  # of these, that are estimated at once: they fit into a processor's cache
SURE = 1 + 1e-5  # times a sum of float32 is no less than the exact sum
SAME = 1 - 1e-9  # two gains with at least this ratio are a tie


# Similarities ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Similarity:
    """s(c, x) in 0..1 between any two images: the definition, and a bound that is faster."""

    exact: Callable  # positions, int M -> s with all images, float64 M x N
    above: Callable  # (positions, a slice of the images, K of them) -> at least s, float32 M x K


def gaussian(points, sigma):
    """exp(-||x - c||^2 / sigma^2) of `points`, float N x D; sigma > 0."""
    found = Distances(points)
    lengths, left, right = found.centred
    left = left / np.float32(sigma**2)
    # At a distance t sigma, s differs by e^-t^2 times the error of t^2, and
    # e^-t^2 (2L/sigma + t)^2 < (2L/sigma + 1)^2; rounding to `unit` changes s by less than 1 unit.
    slack = 1.1 * found.error * (2 * lengths / sigma + 1) ** 2 + found.unit / sigma
    slack = np.minimum(slack + 8 * ROUNDING, 1).astype(np.float32)[:, None]

    def above(places, columns):
        s = left[places] @ right[columns].T
        np.exp(np.minimum(s, 0, out=s), out=s)
        s += slack[places]
        return s

    return Similarity(lambda places: np.exp(-((found.exact(places) / sigma) ** 2)), above)


def cosine(points):
    """(1 + cos) / 2 of `points`, float64 N x D of length 1 or 0; cos is rounded to TINY."""
    found = Distances(points)
    lengths, left, right = found.centred
    left, right = left / np.float32(4), right.copy()  # cos = (|x|^2 + |c|^2 - |x - c|^2) / 2
    left[:, -1] += 0.5 + found.squares / 4
    right[:, -2] -= found.squares
    slack = np.float32((found.error * (lengths.max() * 2) ** 2 + TINY) / 4 + 8 * ROUNDING)

    def exact(places):
        return (1 + np.round(points[places] @ points.T / TINY) * TINY) / 2

    return Similarity(exact, lambda places, columns: left[places] @ right[columns].T + slack)


# Greedy choice -----------------------------------------------------------------------------------


def greedy_cover(similarity, labelled, budget, weights=None):
    """Greedy maximum of the coverage: the sum over all images x of w_x max_c s(c, x).

    c runs over the labelled and the chosen images; s is a Similarity. `weights` float N, at least 0
    (None: all 1); ValueError if one is negative. Returns a list of positions in the order of
    choice: `budget`, or fewer if the rest would add nothing.

    What an image adds never grows when others are chosen (coverage is submodular). So in each turn
    only those images are estimated again that, by their last bound, could still be the best
    (Minoux 1978), and only those measured exactly that could be by the estimate.
    """
    count = len(labelled)
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError("weights of a coverage must be at least 0")
    if not weights.any():
        return []
    largest = weights.max()  # in float32 even the smallest weight has to stay above 0
    light = np.where(weights > 0, np.maximum(weights / largest, 1e-30), 0).astype(np.float32)
    covered = np.zeros(count)
    for block in blocks(np.flatnonzero(labelled)):
        covered = np.maximum(covered, similarity.exact(block).max(axis=0))
    bound = np.where(labelled, -np.inf, np.inf)  # of what each image adds
    chosen, above = [], similarity.above
    if count <= TABLE:
        table = above(np.arange(count), slice(None))

        def above(places, columns):
            return table[places, columns]

    def estimate(places):
        total, seen = np.zeros(len(places)), covered.astype(np.float32)
        for start in range(0, count, COLUMNS):
            part = slice(start, start + COLUMNS)
            more = above(places, part)
            more -= seen[part]
            np.maximum(more, 0, out=more)
            total += more @ light[part]
        return total * largest * SURE

    while len(chosen) < budget:
        best, size = 0.0, LEAST
        fresh, exact = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        while True:
            hopeful = np.flatnonzero(~exact & (bound > 0) & (bound >= best * SAME))
            if len(hopeful) == 0:
                break
            hopeful = hopeful[np.argsort(-bound[hopeful], kind="stable")]
            first, block = hopeful[:FEW], hopeful[:size]
            if fresh[first].all():
                gain = np.maximum(similarity.exact(first) - covered, 0) @ weights
                bound[first], exact[first] = gain, True
                best = max(best, gain.max())
            else:
                block = block[~fresh[block]]
                bound[block] = np.minimum(bound[block], estimate(block))
                fresh[block] = True
                size = min(2 * size, MOST)
        if best == 0:
            break
        place = int(np.flatnonzero(exact & (bound >= best * SAME))[0])
        chosen.append(place)
        bound[place] = -np.inf
        covered = np.maximum(covered, similarity.exact(np.array([place]))[0])
    return chosen


def greedy_balls(distances, delta, labelled, budget):
    """The same where s is 1 below a distance `delta` and 0 from there on; all weights are 1.

    `distances` is a Distances. What every image adds is a number of images, and is kept up to date:
    when images become covered, each image loses those of them that are in its ball. So every ball
    is looked at twice in all. They are kept with a bit for each pair of images.
    """
    count, open_ = len(labelled), np.ones(len(labelled), dtype=bool)
    for block in blocks(np.flatnonzero(labelled)):
        open_ &= ~distances.nearer(block, delta).any(axis=0)
    rows = np.flatnonzero(open_)  # images to cover
    balls = np.empty((len(rows), -(-count // 8)), dtype=np.uint8)
    gain = np.zeros(count, dtype=np.int64)
    for block in blocks(np.arange(len(rows))):
        near = distances.nearer(rows[block], delta)
        gain += np.count_nonzero(near, axis=0)
        balls[block] = np.packbits(near, axis=1)
    gain[labelled] = -1
    left, chosen = np.ones(len(rows), dtype=bool), []
    while len(chosen) < budget and gain.max(initial=0) > 0:
        place = int(gain.argmax())
        chosen.append(place)
        inside = balls[:, place // 8] & (128 >> place % 8) > 0
        for block in blocks(np.flatnonzero(inside & left)):
            near = np.unpackbits(balls[block], axis=1, count=count)
            gain -= near.sum(axis=0, dtype=np.int64)
        left &= ~inside
        gain[place] = -1
    return chosen


def filled(chosen, labelled, budget):
    """`chosen`, then the first of the other unlabelled positions: int64, `budget` in all."""
    rest = np.setdiff1d(np.flatnonzero(~labelled), chosen)
    return np.concatenate([chosen, rest]).astype(np.int64)[:budget]


def gaussian_cover(points, labelled, budget, sigma, weights=None):
    """`greedy_cover` with the `gaussian` of `points`, float N x D.

    When no image adds anything (each is a copy of a labelled one, or has weight 0), the first
    unlabelled positions follow.
    """
    chosen = greedy_cover(gaussian(points, sigma), labelled, budget, weights)
    return filled(chosen, labelled, budget)
