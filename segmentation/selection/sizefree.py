"""Uncertainty that does not grow with the lesion, and draws that are even over lesion sizes.

A model is unsure along the border, so that sums and means over the image rank large lesions first.
The functions `score_...` are as in uncertainty.py and divide that out in three ways; the others are
pure functions on arrays, as in query.py. No paper with exactly the score of `score_border` is
known; sources of the others are named there.
"""

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch.nn.functional import max_pool2d

from segmentation.model.inference import lesion_probability, nothing, per_image
from segmentation.selection.query import check_budget, highest, power
from segmentation.selection.uncertainty import binary_entropy

BINS = 100_000  # of the histogram of a pixel's entropy
STRATA = 5
QUOTA = 0.66  # of a budget that is spread over the strata


def predicted_shares(model, images, batch, precision, advance=nothing):
    """The share of each image that is predicted as lesion, the mean of p: float64 N in (0,1)."""

    def measure(x):
        return lesion_probability(model, x).mean(dim=(1, 2)).double()

    return per_image(measure, model, images, batch, precision, advance)


def border_length(masks):
    """The number of pixels of each mask with a background pixel among their 8 neighbours: B.

    `masks` bool B x H x W; the edge of the image is no background.
    """
    background = (~masks).float()[:, None]
    return (masks & (max_pool2d(background, 3, 1, 1)[:, 0] > 0)).sum(dim=(1, 2))


def score_border(model, images, batch, precision, advance=nothing):
    """The sum of the entropy over the image, per pixel of the predicted border: nats, at least 0.

    Without a border, where nothing or everything is predicted, 1 - |2p - 1| of the pixel that is
    least sure.
    """

    def measure(x):
        p = lesion_probability(model, x)
        length = border_length(p > 0.5)
        unsure = (1 - (2 * p - 1).abs()).amax(dim=(1, 2))
        per_pixel = binary_entropy(p).sum(dim=(1, 2)) / length.clamp(min=1)
        return torch.where(length > 0, per_pixel, unsure).double()

    return per_image(measure, model, images, batch, precision, advance)


def score_foreground(model, images, batch, precision, advance=nothing):
    """The mean entropy of the predicted lesion and the pixels around it, in [0, log 2].

    After CSCS (arXiv 2606.20765): the lesion p > 1/2, widened by one pixel in 32 of the larger
    side; where it is empty, the mean over the image.
    """

    def measure(x):
        p = lesion_probability(model, x)
        reach = max(1, max(p.shape[1:]) // 32)
        around = max_pool2d((p > 0.5).float()[:, None], 2 * reach + 1, 1, reach)[:, 0]
        around = torch.where(around.sum(dim=(1, 2), keepdim=True) > 0, around, 1.0)
        return ((binary_entropy(p) * around).sum(dim=(1, 2)) / around.sum(dim=(1, 2))).double()

    return per_image(measure, model, images, batch, precision, advance)


def score_threshold(model, images, batch, precision, advance=nothing):
    """ValUES' threshold aggregation (arXiv 2401.08501): the mean entropy above a common threshold.

    The threshold is the (1 - f) quantile of the entropy of all pixels of these images, f being
    their mean predicted share of lesion. An image without such a pixel scores 0. The quantile is
    that of a histogram of BINS bins, so that no map is kept; two runs over the images.
    """
    counts = torch.zeros(BINS, dtype=torch.float64)
    shares = []

    def count(x):
        p = lesion_probability(model, x)
        filled = torch.histc(binary_entropy(p).float().cpu(), BINS, 0.0, float(np.log(2)))
        counts.add_(filled.double())
        shares.append(p.mean(dim=(1, 2)).double().cpu())
        return shares[-1]

    per_image(count, model, images, batch, precision)
    least = threshold(counts.numpy(), float(torch.cat(shares).mean()))

    def measure(x):
        entropy = binary_entropy(lesion_probability(model, x))
        above = entropy >= least
        return ((entropy * above).sum(dim=(1, 2)) / above.sum(dim=(1, 2)).clamp(min=1)).double()

    return per_image(measure, model, images, batch, precision, advance)


def threshold(counts, share):
    """The lower edge of the bin of [0, log 2] above whose start at most `share` of counts lie."""
    above = np.cumsum(counts[::-1])[::-1]  # in this bin and those after it
    first = np.flatnonzero(above <= share * counts.sum())
    return float(np.log(2)) * (first[0] if len(first) else len(counts) - 1) / len(counts)


# Draws ------------------------------------------------------------------------------------------


def strata_of(shares, count=STRATA):
    """The stratum of each image by its predicted share, equally large to within one: int64 N."""
    order = np.argsort(np.asarray(shares), kind="stable")
    strata = np.empty(len(order), dtype=np.int64)
    strata[order] = np.arange(len(order)) * count // max(len(order), 1)
    return strata


def spread(strata, ranked, budget):
    """The first `budget` of `ranked` (int M, distinct positions) evenly over the `strata`: int64.

    Turn after turn the next one of each stratum that has one left, in the order of `ranked`.
    """
    turn, seen = np.empty(len(ranked), dtype=np.int64), {}
    for place, position in enumerate(ranked):
        turn[place] = seen[strata[position]] = seen.get(strata[position], -1) + 1
    return np.asarray(ranked)[np.argsort(turn, kind="stable")][:budget].astype(np.int64)


def stratified(shares, budget, rng):
    """A random draw, evenly over STRATA strata of the predicted lesion size: a baseline."""
    check_budget(budget, len(shares))
    return spread(strata_of(shares), rng.permutation(len(shares)), budget)


def clasp(scores, overall, shares, budget, rng, number):
    """After ClaSP PE (arXiv 2601.13677): noise that fades, and quotas. Positions, int64.

    int(QUOTA B) images evenly over strata of the predicted lesion size by `scores` (float N, at
    least 0), the others by the score `overall`; each list by power acquisition, log U + Gumbel(0,
    1/beta), with beta = 1, 3.2, 10, ... to 100 from round `number` 1 on, as in the released code
    with five rounds.

    Different from it: its quotas are over foreground classes; with one class, strata of size and a
    score that does not grow with size take their place.
    """
    check_budget(budget, len(scores))
    beta = min(100.0, 10 ** ((number - 1) / 2))
    count = int(QUOTA * budget + 1e-9)
    own = spread(strata_of(shares), power(scores, len(scores), rng, beta), count)
    rest = [place for place in power(overall, len(scores), rng, beta) if place not in set(own)]
    return np.concatenate([own, rest[: budget - count]]).astype(np.int64)


def clue(features, scores, budget, rng):
    """CLUE (Prabhu et al. 2021): k-means of B clusters, each image weighted by its uncertainty.

    `features` float N x D of the current model, `scores` float N, at least 0. From each centroid in
    turn, the one of the largest weight first, the nearest image that is not chosen yet. Positions,
    int64. The released code weights by the entropy of the softmax at a temperature; here it is the
    score. Where all scores are 0, weights are equal.
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_budget(budget, len(scores))
    weights = scores if scores.any() else np.ones(len(scores))
    seed = int(rng.integers(2**32))
    with warnings.catch_warnings():  # of equal rows there are fewer clusters
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = KMeans(budget, n_init=3, random_state=seed).fit(features, sample_weight=weights)
    heavy = np.bincount(fit.labels_, weights, minlength=budget)
    free, chosen = np.ones(len(scores), dtype=bool), []
    for k in highest(heavy, budget):
        away = ((features - fit.cluster_centers_[k]) ** 2).sum(axis=1)
        chosen.append(int(np.argmin(np.where(free, away, np.inf))))
        free[chosen[-1]] = False
    return np.array(chosen, dtype=np.int64)
