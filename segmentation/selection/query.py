"""Query rules: which unlabelled images to label next. Pure functions on arrays.

Every rule takes arrays over the unlabelled images, in id order, and returns distinct positions in
these arrays: exactly `budget` of them, where it takes a budget.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from segmentation.selection.distances import blocks
from segmentation.selection.geometry import largest_remainder


def check_budget(budget, count):
    """ValueError unless `budget` is at least 1 and at most `count`."""
    if not 1 <= budget <= count:
        raise ValueError(f"a budget of {budget} out of {count} images")


def highest(scores, budget):
    """Positions of the `budget` largest scores, largest first; ties go to the smaller position."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:budget]


def power(scores, budget, rng, beta=1.0):
    """The largest log U + Gumbel(0, 1/beta): a draw without replacement in proportion to U^beta.

    Power acquisition of Kirsch et al. (arXiv 2106.12059); their reason is that scores change with
    every label, so that a batch should not depend on their exact order. `scores` U at least 0;
    `beta` above 0 (near 0 a uniform draw, very large the same as `highest`). Images of score 0 are
    drawn only when no others are left, and then uniformly. Positions in the order drawn. ValueError
    for other values.
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_budget(budget, len(scores))
    if beta <= 0 or not (scores >= 0).all():
        raise ValueError("power acquisition needs beta above 0 and scores of at least 0")
    noise = rng.gumbel(size=len(scores)) / beta
    with np.errstate(divide="ignore"):
        noisy = np.log(scores) + noise
    return np.lexsort((-noise, -noisy))[:budget]


def stochastic_batches(scores, budget, rng):
    """Among several random batches, the one with the highest mean score.

    Gaillochet et al. 2023 (arXiv 2301.07670). As in their released code, the candidates are the
    N // budget disjoint batches of a random order of the images (1265 images with a budget of 35:
    36 batches). Positions in random order.
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_budget(budget, len(scores))
    used = len(scores) // budget * budget
    candidates = rng.permutation(len(scores))[:used].reshape(-1, budget)
    return candidates[scores[candidates].mean(axis=1).argmax()]


def badge(features, scores, budget, rng, labelled_features=None):
    """k-means++ seeding on features scaled by uncertainty, after BADGE: positions in draw order.

    BADGE (Ash et al. 2020, arXiv 1906.03671) uses gradients of the last layer, which for two
    classes are the features times the uncertainty of the model. Here they are replaced by
    `features` float N x D times `scores` float N, at least 0. The first image is the one with the
    largest norm. Each further one is drawn with probability in proportion to D^2, the squared
    distance of its scaled features to the nearest of those chosen. Once all D^2 are 0, the rest is
    drawn uniformly.

    With `labelled_features` (float M x D, unscaled) the labelled images are centres too, and the
    first image is drawn like the others. The uncertainty of labelled images is not known, so the
    distance from image i to labelled image j is scaled by that of i: score_i |feature_i -
    feature_j|. BADGE has no such centres.
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_budget(budget, len(scores))
    scaled = scores[:, None] * features
    nearest = np.full(len(scores), np.inf)  # D^2
    if labelled_features is not None and len(labelled_features):
        for block in blocks(labelled_features):
            nearest = np.minimum(nearest, cdist(features, block, "sqeuclidean").min(axis=1))
        nearest = scores**2 * nearest
    chosen, free = [], np.ones(len(scores), dtype=bool)
    while len(chosen) < budget:
        if np.isinf(nearest).all():
            place = np.linalg.norm(scaled, axis=1).argmax()
        else:
            weights = nearest if nearest.any() else free.astype(np.float64)
            place = rng.choice(len(scores), p=weights / weights.sum())
        chosen.append(place)
        free[place] = False
        nearest = np.minimum(nearest, cdist(scaled, scaled[[place]], "sqeuclidean")[:, 0])
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class CealSettings:
    """CEAL's numbers (Gorriz et al. 2017), all per iteration."""

    bins: int = 80  # of the histogram of the uncertainty over the unlabelled pool
    no_detection: int = 10  # least uncertain
    random: int = 15  # from the middle bins
    uncertain: int = 10  # from the last bins
    middle_from: int = 6  # the middle begins this many bins after the peak
    middle_to: int = 33  # and ends this many bins before the end
    last: int = 5  # bins that count as most uncertain
    pseudo_from: int = 5  # first iteration with pseudo-labels, counted from 1
    pseudo: int = 20  # pseudo-labels in that iteration
    pseudo_more: int = 20  # added in each further iteration


def histogram_bins(scores, bins):
    """Bin of each score in numpy's equal-width histogram: int N in 0..bins-1."""
    edges = np.histogram_bin_edges(scores, bins)
    return np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)


def peak_bin(binned, bins):
    """The fullest bin (the first of equals)."""
    return int(np.bincount(binned, minlength=bins).argmax())


def ceal(scores, budget, rng, settings):
    """CEAL's three oracle groups. Returns (positions, group name of each, a note or "").

    In this order: the least uncertain ("no detection"), a draw from the last bins ("uncertain"),
    a draw from the middle bins ("random"). No image is chosen twice. If there are fewer than
    `budget`, the most uncertain of the rest ("fill") follow, and the note says so. Group sizes are
    scaled in proportion if they do not sum to `budget`. (The authors' code does not draw evenly
    from the last bins: it takes those of the least populated one first.)
    """
    scores = np.asarray(scores, dtype=np.float64)
    groups = ("no detection", "uncertain", "random")
    wanted = np.array([settings.no_detection, settings.uncertain, settings.random])
    wanted = largest_remainder(wanted, budget)
    binned = histogram_bins(scores, settings.bins)
    peak = peak_bin(binned, settings.bins)
    middle = (binned >= peak + settings.middle_from) & (binned < settings.bins - settings.middle_to)
    shuffled = rng.permutation(len(scores))  # breaks ties at random, and makes the draws
    by_group = {
        "no detection": shuffled[np.argsort(scores[shuffled], kind="stable")],
        "uncertain": shuffled[binned[shuffled] >= settings.bins - settings.last],
        "random": shuffled[middle[shuffled]],
    }
    chosen, names, free = [], [], np.ones(len(scores), dtype=bool)

    def take(candidates, count, name):
        taken = [place for place in candidates if free[place]][:count]
        free[taken] = False
        chosen.extend(int(place) for place in taken)
        names.extend([name] * len(taken))
        return len(taken)

    short = []
    for name, count in zip(groups, wanted, strict=True):
        got = take(by_group[name], count, name)
        if got < count:
            short.append(f"{name} {got} of {count}")
    missing = budget - len(chosen)
    take(highest(scores, len(scores)), missing, "fill")
    note = f"{', '.join(short)}; filled by the next most uncertain" if missing else ""
    return np.array(chosen, dtype=np.int64), names, note


def pseudo_count(iteration, settings):
    """Number of pseudo-labels in `iteration`, counted from 1: none before `pseudo_from`."""
    if iteration < settings.pseudo_from:
        return 0
    return settings.pseudo + settings.pseudo_more * (iteration - settings.pseudo_from)


def ceal_pseudo(scores, iteration, rng, settings, excluded):
    """Positions of the images whose predictions are used as labels in this iteration only.

    They are drawn from the peak bin of the histogram, except those `excluded` (boolean N: just sent
    to the oracle). None before iteration `pseudo_from`; if the bin has too few, all of it.
    """
    binned = histogram_bins(scores, settings.bins)
    candidates = np.flatnonzero((binned == peak_bin(binned, settings.bins)) & ~excluded)
    return rng.permutation(candidates)[: pseudo_count(iteration, settings)]


def dsal_pseudo(scores, iteration, rng, settings, excluded):
    """The same for DSAL (Zhao et al. 2021, arXiv 2101.09057): where the heads agree most.

    The positions of the smallest `scores` (uncertainty.score_dsal) that are not `excluded`; `rng`
    decides between equals. Their number grows as in CEAL, and as in DSAL's released code: none for
    four iterations, then 20, 40, 60 and so on. That code also prefers images whose mean |p - 1/2|
    is in the top tenth of its range; this rule does not.
    """
    shuffled = rng.permutation(np.flatnonzero(~excluded))
    order = np.argsort(np.asarray(scores, dtype=np.float64)[shuffled], kind="stable")
    return shuffled[order][: pseudo_count(iteration, settings)]
