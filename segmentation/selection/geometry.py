"""The parts of selection rules: k-means, quotas, distances and coverage. Pure functions.

No N x N matrix is kept for more than TABLE images, so that 33 000 images with 2048 features fit
into 1.5 GB. Ties always go to the smaller position.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

BLOCK = 64  # rows of an N x N matrix that are computed at once
TABLE = 6000  # up to this many images the whole matrix is kept: 288 MB
TINY = 1e-6  # smaller distances between unit vectors count as 0


# k-means -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    """k-means of N images: cluster int64 N, distance to the own centroid float64 N, centroids."""

    cluster: np.ndarray
    distance: np.ndarray
    centroids: np.ndarray


def kmeans(features, k, seed, n_init=10):
    """Euclidean k-means of float N x D features (scikit-learn, best of `n_init` starts)."""
    fit = KMeans(n_clusters=k, n_init=n_init, random_state=seed % 2**32).fit(features)
    centroids = fit.cluster_centers_.astype(np.float64)
    distance = np.linalg.norm(features - centroids[fit.labels_], axis=1)
    return Clusters(fit.labels_.astype(np.int64), distance.astype(np.float64), centroids)


def clustered(features, k, rng):
    """`kmeans` with k clusters (at least 1), seeded by `rng`; best of 3 starts, of 1 above k = 100.

    If rows repeat, there may be fewer distinct rows than clusters; some clusters are then empty.
    """
    k, seed = max(int(k), 1), int(rng.integers(2**32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans(np.asarray(features, dtype=np.float32), k, seed, 3 if k <= 100 else 1)


# Quotas ------------------------------------------------------------------------------------------


def largest_remainder(weights, total):
    """`total` split into whole numbers in proportion to `weights` (int K, at least 0): int64 K.

    Ties of the remainder go to the larger weight, then to the smaller index.
    """
    weights = np.asarray(weights, dtype=np.int64)
    if total == 0:
        return np.zeros_like(weights)
    shares, remainders = np.divmod(total * weights, weights.sum())
    order = np.lexsort((np.arange(len(weights)), -weights, -remainders))
    shares[order[: total - shares.sum()]] += 1
    return shares


def proportional_quotas(sizes, budget):
    """n_k = round(B size_k / N) by largest remainder: int64 K that sum to B, each n_k <= size_k.

    `sizes` int K, at least 0; ValueError if they sum to less than `budget`.
    """
    if not 0 <= budget <= np.sum(sizes):
        raise ValueError(f"a budget of {budget} out of {np.sum(sizes)} images")
    return largest_remainder(sizes, budget)


def nearest_members(cluster, distance, quotas, allowed=None):
    """Positions of the quotas[k] members nearest to the centroid, of all clusters k: int64.

    They are sorted by (j + 1/2) / quotas[k] for member j of cluster k, so that the first images are
    spread over the clusters in proportion, too. `allowed`, boolean N, limits the choice; ties of
    distance go to the smaller position.
    """
    allowed = np.ones(len(cluster), dtype=bool) if allowed is None else allowed
    places = []
    for k, quota in enumerate(quotas):
        members = np.flatnonzero((cluster == k) & allowed)
        nearest = members[np.argsort(distance[members], kind="stable")[:quota]]
        places += [((j + 0.5) / quota, -quota, k, place) for j, place in enumerate(nearest)]
    return np.array([place for *_, place in sorted(places)], dtype=np.int64)


def cluster_by_cluster(cluster, cost, labelled, budget, smallest=1):
    """Positions, int64: one by one, the image of lowest cost in the cluster that is next.

    Next is the cluster with the fewest labelled or chosen images (so those with none come first);
    among equals the largest, then the one with the smaller index. Clusters of fewer than `smallest`
    images wait until the others have no unlabelled image left. `cluster` int N, `cost` float N.
    """
    size = np.bincount(cluster)
    have = np.bincount(cluster[labelled], minlength=len(size))
    cheapest = np.argsort(cost, kind="stable")
    cheapest = cheapest[~labelled[cheapest]]
    queues = [iter(cheapest[cluster[cheapest] == k]) for k in range(len(size))]
    chosen = np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        open_ = np.flatnonzero(have < size)
        k = open_[np.lexsort((-size[open_], have[open_], size[open_] < smallest))[0]]
        chosen[turn] = next(queues[k])
        have[k] += 1
    return chosen


# Distances ---------------------------------------------------------------------------------------


def blocks(places):
    """`places` in parts of BLOCK."""
    return (places[start : start + BLOCK] for start in range(0, len(places), BLOCK))


def normalise(features):
    """Rows scaled to length 1: float32 N x D. A row of zeros stays a row of zeros."""
    features = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def distances_from(points):
    """A function from positions (int M) to their Euclidean distances to all points, float64 M x N.

    `points` float N x D. The distances are rounded to a millionth of the length of the longest row,
    so that rounding errors of the matrix product, which differ between machines, break no ties.
    """
    points = np.asarray(points, dtype=np.float64)
    squares = np.einsum("nd,nd->n", points, points)
    unit = TINY * np.sqrt(squares.max()) or 1.0

    def distances(places):
        squared = squares[places, None] + squares - 2 * (points[places] @ points.T)
        return np.round(np.sqrt(np.maximum(squared, 0)) / unit) * unit

    return distances


def neighbour_distance(points, k):
    """Mean Euclidean distance of each row of `points` (float N x D) to its k nearest others.

    float64 N, rounded to TINY for the same reason as in `distances_from`. If there are fewer than k
    others, the mean is over all of them; 0 for a single row.
    """
    k = min(k, len(points) - 1)
    if k == 0:
        return np.zeros(len(points))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute")
    near, _ = search.fit(np.asarray(points, dtype=np.float64)).kneighbors()
    return np.round(near.mean(axis=1) / TINY) * TINY


# Coverage ----------------------------------------------------------------------------------------


def greedy_cover(similarity, labelled, budget, weights=None):
    """Greedy maximum of the coverage: the sum over all images x of w_x max_c s(c, x).

    c runs over the labelled and the chosen images. `similarity` is a function from positions
    (int M) to their s with all images, M x N, boolean or float in 0..1. `weights` float N, at
    least 0 (None: all 1); ValueError if one is negative. Returns a list of positions in the order
    of choice: `budget`, or fewer if the rest would add nothing.

    What an image adds never grows when others are chosen (coverage is submodular). So in each turn
    only those images are measured again that, by their last measurement, could still be the best.
    """
    count = len(labelled)
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError("weights of a coverage must be at least 0")
    if count <= TABLE:
        similarity = np.concatenate([similarity(b) for b in blocks(np.arange(count))]).__getitem__
    covered = np.zeros(count)
    for block in blocks(np.flatnonzero(labelled)):
        covered = np.maximum(covered, similarity(block).max(axis=0))
    gain = np.where(labelled, -np.inf, np.inf)  # an upper bound until measured
    chosen = []
    while len(chosen) < budget:
        best, measured = 0.0, np.zeros(count, dtype=bool)
        while True:
            hopeful = np.flatnonzero(~measured & (gain > 0) & (gain >= best * (1 - 1e-9)))
            if len(hopeful) == 0:
                break
            block = hopeful[np.argsort(-gain[hopeful], kind="stable")[:BLOCK]]
            gain[block] = np.maximum(similarity(block) - covered, 0) @ weights
            measured[block] = True
            best = max(best, gain[block].max())
        if best == 0:
            break
        place = int(np.flatnonzero(gain >= best * (1 - 1e-9))[0])
        chosen.append(place)
        gain[place] = -np.inf
        covered = np.maximum(covered, similarity(np.array([place]))[0])
    return chosen


def filled(chosen, labelled, budget):
    """`chosen`, then the first of the other unlabelled positions: int64, `budget` in all."""
    rest = np.setdiff1d(np.flatnonzero(~labelled), chosen)
    return np.concatenate([chosen, rest]).astype(np.int64)[:budget]


def gaussian_cover(points, labelled, budget, sigma, weights=None):
    """`greedy_cover` with s = exp(-||x - c||^2 / sigma^2) of `points`, float N x D; sigma > 0.

    When no image adds anything (each is a copy of a labelled one, or has weight 0), the first
    unlabelled positions follow.
    """
    distances = distances_from(points)

    def kernel(places):
        return np.exp(-((distances(places) / sigma) ** 2))

    return filled(greedy_cover(kernel, labelled, budget, weights), labelled, budget)
