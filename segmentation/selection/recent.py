"""Cold starts of 2025 and 2026, with the signature and the promises of coldstart.py."""

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from segmentation.selection.coldstart import k_center, unlabelled
from segmentation.selection.coverage import cosine, greedy_cover
from segmentation.selection.distances import TINY, Distances, neighbour_distance, normalise
from segmentation.selection.geometry import cluster_by_cluster, clustered, proportional_quotas

LOWEST = 0.01  # rank of the last image of a cluster


def rep_div(features, labelled, budget, rng, share=0.7):
    """RepDiv (MedCAL-Bench, arXiv 2508.03441): first representative images, then diverse ones.

    floor(`share` B) images by greedy facility location, the largest sum over the pool of the cosine
    to the nearest label; the others one by one, farthest in cosine from the nearest label. The
    released code takes for the second part what is far from any one label (a maximum where the
    minimum is meant); this is the minimum.
    """
    unlabelled(labelled, budget)
    points = normalise(features).astype(np.float64)
    chosen = greedy_cover(cosine(points), labelled, int(share * budget + 1e-9))
    known = labelled.copy()
    known[chosen] = True
    return np.concatenate([chosen, k_center(points, known, budget - len(chosen), rng)]).astype(int)


def cscs(features, loss, labelled, budget, rng, neighbours=20):
    """CSCS (arXiv 2606.20765): in each cluster, an image that is typical and hard to restore.

    Features are standardised and divided by k-means into |L| + B clusters. T is the typicality, 1 /
    mean distance to the nearest `neighbours`, and U the pretext `loss`, float N; both become ranks
    in their cluster, from LOWEST to 1. From each cluster without a label, the largest first, the
    image with the largest T^(1-g) U^g is chosen. g = 0.5 + r/4 a/(1 + a), r the rank correlation of
    T and U over the pool and a = B / sqrt(N), within 0.3 to 0.7.

    Different from the paper: its U is the variance of several masked restorations; and clusters of
    fewer than 3 images come last, in place of a choice over the whole pool.
    """
    unlabelled(labelled, budget)
    points = np.asarray(features, dtype=np.float64)
    points = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), TINY)
    cluster = clustered(points, labelled.sum() + budget, rng).cluster
    spread = neighbour_distance(points, neighbours)
    typical, hard = np.empty(len(points)), np.empty(len(points))
    for k in np.unique(cluster):
        typical[cluster == k] = ranks(-spread[cluster == k])
        hard[cluster == k] = ranks(loss[cluster == k])
    weight = hardness_weight(-spread, loss, budget)
    return cluster_by_cluster(
        cluster, -(typical ** (1 - weight) * hard**weight), labelled, budget, smallest=3
    )


def ranks(values):
    """Ranks (rank - 1) / (n - 1) of float n, ties share the mean, and at least LOWEST: float n."""
    if len(values) == 1:
        return np.ones(1)
    return np.maximum((stats.rankdata(values) - 1) / (len(values) - 1), LOWEST)


def hardness_weight(typicality, loss, budget):
    """The g of `cscs`, a float; 0.5 where one of the two does not vary."""
    if np.ptp(typicality) == 0 or np.ptp(loss) == 0:
        return 0.5
    size = budget / len(loss) ** 0.5
    together = float(stats.spearmanr(typicality, loss)[0])
    return float(np.clip(0.5 + together / 4 * size / (1 + size), 0.3, 0.7))


def medoids(features, labelled, budget, rng, components=50, most=50, sample=1000):
    """After arXiv 2601.18532: the medoid of each cluster, then the farthest images inside them.

    PCA to at most `components`; k-means with that number of clusters, from 2 to min(B, `most`),
    whose mean silhouette is largest, over a random `sample` of the pool. Each cluster gets one
    image and the rest of B in proportion to its size: first its medoid, the image nearest to its
    centroid, then always the image of the cluster farthest from those chosen in it. Clusters with
    labels go on from these. With fewer images to choose than clusters, the largest clusters come
    first.

    From the abstract and a second-hand description, as there is no released code; the paper maps
    the features to two dimensions by t-SNE first, which depends on its seed.
    """
    unlabelled(labelled, budget)
    points = np.asarray(features, dtype=np.float64)
    count = min(components, len(points) - 1, points.shape[1])
    if count > 0 and np.ptp(points, axis=0).any():
        points = PCA(count, svd_solver="full").fit_transform(points)
    found = best_clusters(points, min(budget, most), sample, rng)
    quotas = one_each(found.cluster, labelled, budget)
    distances, chosen = Distances(points), []
    for k in range(len(quotas)):
        inside = np.flatnonzero(found.cluster == k)
        known = inside[labelled[inside]]
        nearest = distances.to_nearest(known)[inside] if len(known) else None
        free = ~labelled[inside]
        for turn in range(quotas[k]):
            cost = found.distance[inside] if nearest is None else -nearest
            place = np.flatnonzero(free)[np.argmin(cost[free])]
            free[place] = False
            chosen.append(((turn + 0.5) / quotas[k], -quotas[k], k, inside[place]))
            away = distances.exact(inside[place : place + 1])[0, inside]
            nearest = away if nearest is None else np.minimum(nearest, away)
    return np.array([place for *_, place in sorted(chosen)], dtype=np.int64)


def best_clusters(points, most, sample, rng):
    """k-means with the k from 2 to `most` of the largest silhouette; with 1 if there is no such."""
    most = min(most, len(np.unique(points, axis=0)) - 1)
    shown = np.sort(rng.permutation(len(points))[:sample])
    best, score = None, -np.inf
    for k in range(2, most + 1):
        found = clustered(points, k, rng)
        if len(np.unique(found.cluster[shown])) in (1, len(shown)):
            continue
        own = silhouette_score(points[shown], found.cluster[shown])
        if own > score:
            best, score = found, own
    return best or clustered(points, 1, rng)


def one_each(cluster, labelled, budget):
    """How many images each cluster gets, int64 K: one where it has no label, the rest by size.

    No more than it has. If the budget is smaller than the clusters without a label, the largest.
    """
    free = np.bincount(cluster[~labelled], minlength=cluster.max() + 1)
    none = np.bincount(cluster[labelled], minlength=len(free)) == 0
    first = np.flatnonzero(none & (free > 0))
    first = first[np.argsort(-free[first], kind="stable")][:budget]
    quotas = np.zeros(len(free), dtype=np.int64)
    quotas[first] = 1
    return quotas + proportional_quotas(free - quotas, budget - len(first))
