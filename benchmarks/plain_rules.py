"""The rules of coverage as they are defined: all pairs in float64, all sums anew in each turn."""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from segmentation.selection.distances import TINY, normalise
from segmentation.selection.geometry import clustered


def distances(points):
    """Between all rows, rounded to a millionth of the longest row: float64 N x N."""
    points = np.asarray(points, dtype=np.float64)
    squares = (points**2).sum(axis=1)
    unit = 1e-6 * np.sqrt(squares.max()) or 1.0
    squared = squares[:, None] + squares - 2 * (points @ points.T)
    return np.round(np.sqrt(np.maximum(squared, 0)) / unit) * unit


def cover(similarity, labelled, budget, weights=None):
    """In each turn the first image whose gain is the largest, up to a billionth; none of 0."""
    weights = np.ones(len(labelled)) if weights is None else weights
    covered, free, chosen = np.zeros(len(labelled)), ~labelled, []
    if labelled.any():
        covered = similarity[labelled].max(axis=0)
    while len(chosen) < budget:
        gain = np.where(free, np.maximum(similarity - covered, 0) @ weights, 0)
        if gain.max() == 0:
            break
        chosen.append(int(np.argmax(gain >= gain.max() * (1 - 1e-9))))
        free[chosen[-1]] = False
        covered = np.maximum(covered, similarity[chosen[-1]])
    return chosen


def then_the_first(chosen, labelled, budget):
    rest = [place for place in np.flatnonzero(~labelled) if place not in chosen]
    return [*chosen, *rest][:budget]


def herding(features, labelled, budget, sigma=1.0, weights=None):
    similarity = np.exp(-((distances(normalise(features)) / sigma) ** 2))
    return then_the_first(cover(similarity, labelled, budget, weights), labelled, budget)


def strangers(features, cluster):
    """The distance to the nearest image of another cluster, 2 if there is none."""
    apart = cluster[:, None] != cluster
    return np.where(apart, distances(normalise(features)), 2.0).min(axis=1)


def delta_of(features, cluster, purity=0.95):
    count = len(cluster)
    pure = int(np.ceil(purity * count - 1e-9))
    return np.sort(strangers(features, cluster))[min(count - pure, count - 1)]


def probcover(features, labelled, budget, rng, delta=None):
    if delta is None:
        found = clustered(normalise(features), min(10, len(features)), rng)
        delta = delta_of(features, found.cluster)
    apart, known, chosen = distances(normalise(features)), labelled.copy(), []
    while len(chosen) < budget and delta > TINY:
        chosen += cover((apart < delta).astype(float), known, budget - len(chosen))
        known[chosen] = True
        delta /= 2
    return then_the_first(chosen, labelled, budget)


def half_whitened(features, components=32):
    centred = np.asarray(features, dtype=np.float32)
    centred = centred - centred.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, lengths, _ = randomized_svd(centred, min(components, *centred.shape), random_state=0)
    return rows * np.sqrt(lengths)


def typical_cover(features, labelled, budget):
    apart = distances(half_whitened(features))
    count = len(apart)
    share = min(max(count // max(labelled.sum() + budget, 1), 1), count - 1)
    sigma = np.median(np.sort(apart, axis=1)[:, share]) or 1.0
    similarity = np.exp(-((apart / sigma) ** 2))
    return then_the_first(cover(similarity, labelled, budget), labelled, budget)


def represented(features, labelled, budget):
    """The first part of RepDiv."""
    points = normalise(features).astype(np.float64)
    return cover((1 + np.round(points @ points.T / TINY) * TINY) / 2, labelled, budget)
