"""The parts of selection rules that know clusters: k-means, quotas. Pure functions.

Distances are in distances.py, coverage in coverage.py. Ties always go to the smaller position.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

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
