"""Cold start: which images to label first, from features only. Pure functions on arrays.

The rules have one signature, rule(features, labelled, budget, rng, **settings):

- `features` float N x D of the whole pool, raw: a rule scales them itself if its paper does.
  In their place `pretext_loss` takes a loss, `saal` and `permuted` take clusters and distances,
  and `random` and `first` take nothing.
- `labelled` boolean N: which images have a label already. All False: a cold start. Otherwise the
  rule adds to these.
- `rng` numpy Generator: the only source of randomness. `saal` and `first` need none.

The result is int64: exactly `budget` distinct positions of unlabelled images, in the order to label
them. ValueError if fewer than `budget` are unlabelled. Ties go to the smaller position. Below, |L|
is the number of labelled images and B the budget.
"""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from segmentation.selection.coverage import filled, gaussian_cover, greedy_balls
from segmentation.selection.distances import (
    TINY,
    Distances,
    blocks,
    neighbour_distance,
    normalise,
)
from segmentation.selection.geometry import (
    cluster_by_cluster,
    clustered,
    nearest_members,
    proportional_quotas,
)


def unlabelled(labelled, budget):
    """Positions without a label, int64. ValueError if fewer than `budget`, or `budget` is < 0."""
    places = np.flatnonzero(~labelled)
    if not 0 <= budget <= len(places):
        raise ValueError(f"a budget of {budget} out of {len(places)} unlabelled images")
    return places


def random(labelled, budget, rng):
    """A uniform draw of unlabelled images, in random order."""
    return rng.permutation(unlabelled(labelled, budget))[:budget]


def first(labelled, budget):
    """The first unlabelled images, in the order of their ids: a control without randomness.

    The released code's baseline is another one: it shuffles the files once and takes the first N,
    which is one fixed random draw.
    """
    return unlabelled(labelled, budget)[:budget]


def saal(cluster, distance, labelled, budget):
    """SAAL (arXiv 2205.07021): from each cluster, the images nearest to its centroid.

    `cluster` int N and `distance` float N, to the own centroid, from `kmeans`. In a cold start each
    cluster gets a share of the budget in proportion to its size. An image is chosen only for its
    own cluster, so none is chosen twice. With labels this is the released code's query, the same
    rule with a larger budget: each cluster's target is its share of |L| + B, and what is missing is
    added. If clusters have more than their target already (for example after a random cold start),
    the others share the budget in proportion to what they are missing.
    """
    sizes = np.bincount(cluster)
    have = np.bincount(cluster[labelled], minlength=len(sizes))
    target = proportional_quotas(sizes, int(have.sum()) + budget)
    return nearest_members(
        cluster, distance, proportional_quotas(np.maximum(target - have, 0), budget), ~labelled
    )


def permuted(cluster, distance, labelled, budget, rng):
    """A control: the rule of `saal` with the clusters and distances of other images.

    The released code extracts its features from a shuffling generator, so that an image gets the
    row of another, random image. Here `cluster` int N and `distance` float N, from `kmeans`, are
    shuffled together. Quotas are in proportion to the unlabelled images of each cluster; without
    labels these are the quotas of `saal`.
    """
    free = unlabelled(labelled, budget)
    order = rng.permutation(len(labelled))
    cluster, distance = cluster[order], distance[order]
    quotas = proportional_quotas(np.bincount(cluster[free]), budget)
    return nearest_members(cluster, distance, quotas, ~labelled)


def kmeans_nearest(features, labelled, budget, rng):
    """The image nearest to each centroid of a k-means with |L| + B clusters, on raw features.

    Only clusters without a labelled image, the largest first. There are at least B of them, unless
    rows repeat; then second images of the largest clusters follow (see `cluster_by_cluster`).
    """
    unlabelled(labelled, budget)
    found = clustered(features, labelled.sum() + budget, rng)
    return cluster_by_cluster(found.cluster, found.distance, labelled, budget)


def typiclust(features, labelled, budget, rng, neighbours=20, most=500, smallest=5):
    """TypiClust (Hacohen et al. 2022, arXiv 2202.02794): the most typical image of each cluster.

    k-means of the normalised features into min(|L| + B, `most`) clusters. From each cluster without
    a label, the largest first, the image with the highest typicality: 1 / mean distance to its
    nearest `neighbours` in the cluster, labelled or not, or to all others in a smaller cluster.
    (The authors' code uses half of a small cluster, and squared distances.) Clusters of fewer than
    `smallest` images come last; in the authors' code those of 5 images, too, and they are dropped.
    When all clusters have a label, each gets one more in turn; the authors' code differs there.
    """
    unlabelled(labelled, budget)
    points = normalise(features)
    cluster = clustered(points, min(labelled.sum() + budget, most), rng).cluster
    spread = np.empty(len(points))
    for k in np.unique(cluster):
        spread[cluster == k] = neighbour_distance(points[cluster == k], neighbours)
    return cluster_by_cluster(cluster, spread, labelled, budget, smallest)


def probcover_delta(features, cluster, purity=0.95):
    """ProbCover's radius: the largest delta for which a fraction `purity` of the balls is pure.

    `features` float N x D, raw, are normalised here; `cluster` int N are pseudo-labels. The ball of
    an image contains all images nearer than delta on the unit sphere. It is pure if they all have
    the pseudo-label of that image (arXiv 2205.11320). So delta is a quantile of the distance to the
    nearest image of another cluster. At most 2, the diameter; 2 if there is only one cluster.
    """
    count = len(cluster)
    stranger = np.minimum(Distances(normalise(features)).to_stranger(cluster), 2)
    pure = int(np.ceil(purity * count - 1e-9))
    return float(np.sort(stranger)[min(count - pure, count - 1)])


def probcover(features, labelled, budget, rng, delta=None, clusters=10, purity=0.95):
    """ProbCover (Yehuda et al. 2022, arXiv 2205.11320): greedy maximum coverage by delta-balls.

    Features are normalised. The ball of an image covers all images nearer than `delta`. None: delta
    is that of `probcover_delta`, with the pseudo-labels of a k-means with `clusters` clusters (in
    the paper, as many as there are classes). The paper does not say what to do when all images are
    covered. Here delta is then halved, which uncovers images farther from a label, and the greedy
    choice goes on. If only copies of labelled images are left, the smaller positions are taken.
    """
    unlabelled(labelled, budget)
    if delta is None:
        found = clustered(normalise(features), min(clusters, len(features)), rng)
        delta = probcover_delta(features, found.cluster, purity)
    distances = Distances(normalise(features))
    chosen, known = [], labelled.copy()
    while len(chosen) < budget and delta > TINY:
        chosen += greedy_balls(distances, delta, known, budget - len(chosen))
        known[chosen] = True
        delta /= 2
    return filled(chosen, labelled, budget)


def max_herding(features, labelled, budget, rng, sigma=1.0, weights=None):
    """MaxHerding (Bae et al. 2024, arXiv 2407.12212): greedy maximum of the generalised coverage.

    The coverage is the mean over the pool of max_c exp(-||x - c||^2 / sigma^2) on normalised
    features, where c runs over the labelled and chosen images; `weights` (float N, at least 0) are
    those of the images x in the mean.
    """
    unlabelled(labelled, budget)
    return gaussian_cover(normalise(features), labelled, budget, sigma, weights)


def uncertainty_herding(features, labelled, budget, rng, weights):
    """Uncertainty herding (Bae et al. 2025, arXiv 2412.20644): MaxHerding of uncertain images.

    `weights` float N, at least 0: the uncertainty of each image. sigma is the smallest distance
    above 0 between two labelled images: the more labels, the less an image stands for others, and
    the more its own uncertainty decides. With no such pair it is MaxHerding's sigma.

    Different from the paper: its uncertainty is of probabilities whose temperature is chosen on a
    part of the labelled images, by a model that is trained on the others.
    """
    apart = Distances(normalise(features[labelled])).closest()
    sigma = apart if np.isfinite(apart) else 1.0
    return max_herding(features, labelled, budget, rng, sigma, weights)


def k_center(features, labelled, budget, rng):
    """CoreSet (Sener and Savarese 2018, arXiv 1708.00489, alg. 1): greedily, the farthest image.

    That is the image with the largest Euclidean distance, between raw features, to the nearest
    labelled or chosen image. If there is no label, the first image is drawn at random.
    """
    free = unlabelled(labelled, budget)
    features = np.asarray(features, dtype=np.float64)
    distances = Distances(features - features.mean(axis=0))
    nearest = np.where(labelled, -np.inf, distances.to_nearest(np.flatnonzero(labelled)))
    chosen = np.empty(budget, dtype=np.int64)
    for turn in range(budget):
        drawn = turn == 0 and not labelled.any()
        chosen[turn] = rng.choice(free) if drawn else nearest.argmax()
        nearest = np.minimum(nearest, distances.exact(chosen[turn : turn + 1])[0])
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
    """USL (Wang et al. 2022, arXiv 2110.03006): images in dense regions, away from each other.

    k-means of the normalised features into |L| + B clusters. From each cluster without a label, the
    largest first, the image with the largest U - weight R. U is 1 / mean distance to the nearest
    `neighbours` in the pool. R(x) is the sum of ||x - s||^-alpha over the choices s from other
    clusters in the previous iteration, as a running mean with `momentum` that starts at 0.

    Different from the paper: the labelled images are among the s; distances count as at least TINY;
    alpha is the power of distances, not of squared ones as in the authors' code;
    there is no horizon (the authors' horizon for small budgets includes everything). `neighbours`,
    20, is the authors' value for ImageNet, used here for pools of thousands of images (theirs for
    CIFAR: 400 of 50 000); the other settings are theirs for CIFAR-10.
    """
    unlabelled(labelled, budget)
    points = normalise(features)
    cluster = clustered(points, labelled.sum() + budget, rng).cluster
    density = 1 / np.maximum(neighbour_distance(points, neighbours), TINY)
    distances, penalty = Distances(points), np.zeros(len(points))
    chosen = cluster_by_cluster(cluster, -density, labelled, budget)
    for _ in range(iterations - 1):
        push = np.zeros(len(points))
        for block in blocks(np.concatenate([np.flatnonzero(labelled), chosen])):
            other = cluster[block][:, None] != cluster
            push += (other * np.maximum(distances.exact(block), TINY) ** -alpha).sum(axis=0)
        penalty = momentum * penalty + (1 - momentum) * push
        chosen = cluster_by_cluster(cluster, weight * penalty - density, labelled, budget)
    return chosen


def pretext_loss(loss, labelled, budget, rng, parts=10):
    """PT4AL's first batch (Yi et al. 2022, arXiv 2201.07459), by the pretext `loss`, float N.

    The paper sorts the images by decreasing loss, splits them into one batch per cycle, and labels
    images at equal steps through the first, hardest batch; later batches need a trained network.
    Here: the hardest 1 / `parts` of the unlabelled images (or `budget` images, if that is more),
    and of these, `budget` images at equal steps from the hardest on: rank floor(j size / budget),
    j from 0.
    """
    free = unlabelled(labelled, budget)
    hardest = free[np.argsort(-loss[free], kind="stable")]
    size = max(budget, -(-len(hardest) // parts))
    return hardest[np.arange(budget) * size // max(budget, 1)]


def typical_cover(features, labelled, budget, rng, components=32):
    """Our own: MaxHerding's coverage, in coordinates and with a bandwidth that depend on the data.

    The features of one network are nearly parallel. On the unit sphere their distances d are small
    against sigma = 1, so that the Gaussian is close to 1 - d^2 and far images dominate the sum. A
    few directions, such as brightness, make up most of d. Therefore:

    - The features are centred and projected on their leading principal `components`, each divided
      by the square root of its standard deviation ("half-whitened"). This reduces the differences
      between strong and weak directions, but does not make them equal.
    - sigma is the median distance to the N / (|L| + B)-th nearest neighbour, because each label
      stands for that many images. With few labels sigma is wide and the density is smooth; with
      many labels it is narrow and the choices follow details. Far beyond sigma the kernel is almost
      0: an outlier covers only itself.

    There are no density weights: in the mean over the pool, a dense region already counts by its
    number of images. Deterministic; `rng` is not used.
    """
    unlabelled(labelled, budget)
    centred = np.asarray(features, dtype=np.float32)
    centred = centred - centred.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, lengths, _ = randomized_svd(centred, min(components, *centred.shape), random_state=0)
    points = rows * np.sqrt(lengths)
    share = max(len(points) // max(labelled.sum() + budget, 1), 1)
    share = min(share, len(points) - 1)
    sigma = Distances(points).median_neighbour(share) or 1.0  # 0 if most rows repeat
    return gaussian_cover(points, labelled, budget, sigma)
