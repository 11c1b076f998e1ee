"""Cold start: which images to label first, from features alone. Pure functions on arrays.

The paper's rule: k-means on the latent features; each cluster gets its proportional share of the
budget; inside a cluster the members nearest to its centroid are taken. An image is only ever
chosen for its own cluster, so nothing is chosen twice.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans


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
    """Positions of the quotas[k] members of each cluster k nearest to its centroid, in order.

    The order is such that a prefix is itself spread over the clusters in proportion: member j of
    cluster k stands at (j + 1/2) / quotas[k], and all are sorted by that. `allowed` is a boolean
    N that limits the choice; ties of distance go to the smaller position.
    """
    allowed = np.ones(len(cluster), dtype=bool) if allowed is None else allowed
    places = []
    for k, quota in enumerate(quotas):
        members = np.flatnonzero((cluster == k) & allowed)
        nearest = members[np.argsort(distance[members], kind="stable")[:quota]]
        places += [((j + 0.5) / quota, -quota, k, place) for j, place in enumerate(nearest)]
    return np.array([place for *_, place in sorted(places)], dtype=np.int64)


def saal(cluster, distance, budget):
    """The paper's cold start: positions of `budget` distinct images, in order of usefulness."""
    sizes = np.bincount(cluster)
    return nearest_members(cluster, distance, proportional_quotas(sizes, budget))


def random(count, budget, rng):
    """`budget` distinct positions out of range(count), uniformly, in random order."""
    return rng.permutation(count)[:budget]
