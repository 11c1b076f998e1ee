"""Cold start: which images to label first, from features alone. Pure functions on arrays.

The rules have one signature, rule(features, labelled, budget, rng, settings):

- `features` float N x D of the whole pool, as they are: a rule scales them itself if its paper
  does. `pretext_loss` takes a loss for them, `saal` and `permuted` take clusters, `random` and
  `first` nothing.
- `labelled` boolean N: what has a label already. All False is a cold start; otherwise the rule
  goes on from there.
- `rng` numpy Generator: the only source of chance.

The result is int64: exactly `budget` positions, distinct, unlabelled, the most useful first.
ValueError if fewer than `budget` are unlabelled. Ties go to the smaller position.
"""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from segmentation.selection.geometry import (
    TINY,
    blocks,
    cluster_by_cluster,
    clustered,
    distances_from,
    filled,
    gaussian_cover,
    greedy_cover,
    nearest_members,
    neighbour_distance,
    normalise,
    proportional_quotas,
)


def unlabelled(labelled, budget):
    """Positions without a label, int64; ValueError if `budget` is negative or exceeds them."""
    places = np.flatnonzero(~labelled)
    if not 0 <= budget <= len(places):
        raise ValueError(f"a budget of {budget} out of {len(places)} unlabelled images")
    return places


def random(labelled, budget, rng):
    """Uniformly among the unlabelled, in random order."""
    return rng.permutation(unlabelled(labelled, budget))[:budget]


def first(labelled, budget):
    """The first unlabelled positions, in the order of the ids: a control without any chance."""
    return unlabelled(labelled, budget)[:budget]


def saal(cluster, distance, labelled, budget):
    """SAAL (arXiv 2205.07021): each cluster gives its members nearest to its centroid.

    `cluster` int N and `distance` float N, to the own centroid, from `kmeans`. A cold start gives
    each cluster its proportional share of the budget; an image is chosen for its own cluster only,
    so none is chosen twice. With labels it is the released code's query, the same rule with a
    larger budget: each cluster's target is its share of |labelled| + budget, and what it lacks is
    filled. Where clusters hold more than their target already (after a random cold start, say), the
    others share the budget in proportion to what they lack.
    """
    sizes = np.bincount(cluster)
    have = np.bincount(cluster[labelled], minlength=len(sizes))
    target = proportional_quotas(sizes, int(have.sum()) + budget)
    return nearest_members(
        cluster, distance, proportional_quotas(np.maximum(target - have, 0), budget), ~labelled
    )


def permuted(cluster, distance, labelled, budget, rng):
    """saal's rule on clusters and distances that belong to other images.

    The released code extracts its features from a shuffling generator, so that the row of an image
    is that of any other. `cluster` int N and `distance` float N, from `kmeans`, are shuffled
    together. Quotas are in proportion to what is unlabelled; without labels it is `saal`.
    """
    free = unlabelled(labelled, budget)
    order = rng.permutation(len(labelled))
    cluster, distance = cluster[order], distance[order]
    quotas = proportional_quotas(np.bincount(cluster[free]), budget)
    return nearest_members(cluster, distance, quotas, ~labelled)


def kmeans_nearest(features, labelled, budget, rng):
    """The image nearest to each centroid of a k-means with |L| + B clusters, on raw features.

    Clusters without a labelled image, the largest first. There are at least B of them unless
    rows repeat; then second images of the largest clusters fill up (see `cluster_by_cluster`).
    """
    unlabelled(labelled, budget)
    found = clustered(features, labelled.sum() + budget, rng)
    return cluster_by_cluster(found.cluster, found.distance, labelled, budget)


def typiclust(features, labelled, budget, rng, neighbours=20, most=500, smallest=5):
    """TypiClust (Hacohen et al. 2022, arXiv 2202.02794): the most typical image of each cluster.

    k-means of the normalised features into min(|L| + B, `most`) clusters; from the largest without
    a label the argmax of typicality, 1 / mean distance to the nearest `neighbours`. Those
    are sought among all members of the cluster, labelled or not, and are all of them in a smaller
    cluster. (The authors' code uses half of a small cluster and squared distances.) Clusters of
    less than `smallest` images come last. When all have a label, each gets one more in turn.
    """
    unlabelled(labelled, budget)
    points = normalise(features)
    cluster = clustered(points, min(labelled.sum() + budget, most), rng).cluster
    spread = np.empty(len(points))
    for k in np.unique(cluster):
        spread[cluster == k] = neighbour_distance(points[cluster == k], neighbours)
    return cluster_by_cluster(cluster, spread, labelled, budget, smallest)


def probcover_delta(features, cluster, purity=0.95):
    """ProbCover's radius: the largest delta for which a share of `purity` of the balls is pure.

    Of raw `features` float N x D, normalised here; `cluster` int N, pseudo-labels. The ball of an
    image holds what is nearer than delta on the unit sphere, and is pure if all of that has its
    pseudo-label (arXiv 2205.11320): so delta is a quantile of the distance to the
    nearest image of another cluster. At most 2, the diameter; 2 if there is only one cluster.
    """
    count, distances = len(cluster), distances_from(normalise(features))
    stranger = np.empty(count)
    for block in blocks(np.arange(count)):
        same = cluster[block][:, None] == cluster
        stranger[block] = np.where(same, 2.0, distances(block)).min(axis=1)
    pure = int(np.ceil(purity * count - 1e-9))
    return float(np.sort(stranger)[min(count - pure, count - 1)])


def probcover(features, labelled, budget, rng, delta=None, clusters=10, purity=0.95):
    """ProbCover (Yehuda et al. 2022, arXiv 2205.11320): greedy maximum coverage by delta-balls.

    Of normalised features; the ball of an image covers what is nearer than `delta`, if None by
    `probcover_delta` with the pseudo-labels of a k-means (the paper's number of clusters is the
    number of classes; here it is `clusters`). When all is covered the paper is silent: delta is
    halved, which uncovers what is farther from a label, and the greedy choice goes on. What is
    left in the end are repetitions of labelled images, and the smaller positions are taken.
    """
    unlabelled(labelled, budget)
    if delta is None:
        found = clustered(normalise(features), min(clusters, len(features)), rng)
        delta = probcover_delta(features, found.cluster, purity)
    distances = distances_from(normalise(features))
    chosen, known = [], labelled.copy()
    while len(chosen) < budget and delta > TINY:

        def ball(places, delta=delta):
            return distances(places) < delta

        chosen += greedy_cover(ball, known, budget - len(chosen))
        known[chosen] = True
        delta /= 2
    return filled(chosen, labelled, budget)


def max_herding(features, labelled, budget, rng, sigma=1.0, weights=None):
    """MaxHerding (Bae et al. 2024, arXiv 2407.12212): greedy maximum of the generalised coverage.

    That is the mean over the pool of max_c exp(-||x - c||^2 / sigma^2), of normalised features,
    with c among the labelled and chosen. With `weights` (float N, at least 0: the uncertainty of
    each image) it is uncertainty herding (arXiv 2412.20644).
    """
    unlabelled(labelled, budget)
    return gaussian_cover(normalise(features), labelled, budget, sigma, weights)


def k_center(features, labelled, budget, rng):
    """CoreSet (Sener and Savarese 2018, arXiv 1708.00489, alg. 1): greedily the farthest image.

    Euclidean distance of raw features to the nearest labelled or chosen image. Without a label the
    first is drawn.
    """
    free = unlabelled(labelled, budget)
    features = np.asarray(features, dtype=np.float64)
    distances = distances_from(features - features.mean(axis=0))
    nearest = np.where(labelled, -np.inf, np.inf)
    for block in blocks(np.flatnonzero(labelled)):
        nearest = np.minimum(nearest, distances(block).min(axis=0))
    chosen = np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        drawn = turn == 0 and not labelled.any()
        chosen[turn] = rng.choice(free) if drawn else nearest.argmax()
        nearest = np.minimum(nearest, distances(chosen[turn : turn + 1])[0])
        nearest[chosen[turn]] = -np.inf
    return chosen


def usl(
    features,
    labelled,
    budget,
    rng,
    neighbours=20,
    weight=0.5,
    alpha=0.5,
    momentum=0.9,
    iterations=10,
):
    """USL (Wang et al. 2022, arXiv 2110.03006): dense images that keep off one another.

    k-means of the normalised features into |L| + B clusters; from each without a label the argmax
    of U - weight R. U is 1 / mean distance to the nearest `neighbours` of
    the pool. R(x) sums ||x - s||^-alpha over the choices s of other clusters in the iteration
    before, as a running mean with `momentum`, 0 at first. The largest clusters come first.

    Ours: the labelled count among the s; distances count as at least TINY; there is no horizon
    (the authors' for small budgets reaches everything). `neighbours` is the authors' value for
    ImageNet, 20, for pools of thousands (CIFAR: 400 of 50 000); the other settings are those for
    CIFAR-10.
    """
    unlabelled(labelled, budget)
    points = normalise(features)
    cluster = clustered(points, labelled.sum() + budget, rng).cluster
    density = 1 / np.maximum(neighbour_distance(points, neighbours), TINY)
    distances, penalty = distances_from(points), np.zeros(len(points))
    chosen = cluster_by_cluster(cluster, -density, labelled, budget)
    for _ in range(iterations - 1):
        push = np.zeros(len(points))
        for block in blocks(np.concatenate([np.flatnonzero(labelled), chosen])):
            other = cluster[block][:, None] != cluster
            push += (other * np.maximum(distances(block), TINY) ** -alpha).sum(axis=0)
        penalty = momentum * penalty + (1 - momentum) * push
        chosen = cluster_by_cluster(cluster, weight * penalty - density, labelled, budget)
    return chosen


def pretext_loss(loss, labelled, budget, rng, parts=10):
    """PT4AL's first batch (Yi et al. 2022, arXiv 2201.07459) by the pretext loss, float N.

    The paper sorts by falling loss, cuts that into one batch per cycle, and labels every so-many-th
    image of the first, hardest batch; later batches need a trained network. Here: of the
    unlabelled images the hardest 1 / `parts` (or `budget` of them, if that is more), and of those
    `budget` evenly spaced from the hardest downwards: rank floor(j size / budget), j from 0.
    """
    free = unlabelled(labelled, budget)
    hardest = free[np.argsort(-loss[free], kind="stable")]
    size = max(budget, -(-len(hardest) // parts))
    return hardest[np.arange(budget) * size // max(budget, 1)]


def typical_cover(features, labelled, budget, rng, components=32):
    """Our own: MaxHerding's coverage in coordinates and with a bandwidth that the data set.

    Features of one network are nearly parallel: on the unit sphere they lie within a fraction of
    sigma = 1, where the Gaussian is close to 1 - d^2, which far images dominate; and a few
    directions, such as brightness, make up most of d. So here:

    - centred features, in their leading principal `components`, each divided by the square root
      of its standard deviation ("half whitened"): no direction decides alone, and weak ones, which
      are mostly noise, stay weak.
    - sigma is the median distance to the N / (|L| + B)-th nearest neighbour: each label has to
      stand for so many images. With 10 labels it is wide, and the choices are the modes of a
      smooth density; with 300 it is narrow and they follow the details. Beyond sigma the kernel
      is flat, so outliers attract nothing: an outlier can only cover itself.

    No weights by density: the mean over the pool counts a dense region in proportion already.
    Deterministic; rng is not used.
    """
    unlabelled(labelled, budget)
    centred = np.asarray(features, dtype=np.float32)
    centred = centred - centred.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, lengths, _ = randomized_svd(centred, min(components, *centred.shape), random_state=0)
    points = rows * np.sqrt(lengths)
    share = max(len(points) // max(labelled.sum() + budget, 1), 1)
    share = min(share, len(points) - 1)
    distances, radius = distances_from(points), np.empty(len(points))
    for block in blocks(np.arange(len(points))):
        radius[block] = np.partition(distances(block), share)[:, share]
    sigma = np.median(radius) or 1.0  # 0 if most rows repeat
    return gaussian_cover(points, labelled, budget, sigma)
