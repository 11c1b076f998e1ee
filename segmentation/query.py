"""Query rules: which unlabelled images to label next. Pure functions on arrays.

Every rule takes arrays over the *unlabelled* images (in id order) or over the whole pool with a
mask of the labelled, and returns positions: exactly `budget` of them, distinct, unlabelled.
"""

from dataclasses import dataclass

import numpy as np

from segmentation.coldstart import largest_remainder, nearest_members, proportional_quotas


def highest(scores, budget):
    """Positions of the `budget` largest scores, largest first; ties go to the smaller position."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:budget]


def saal(cluster, distance, labelled, budget):
    """The released code's query: the cold-start rule again, with a larger budget.

    `cluster`, `distance` over the whole pool, `labelled` boolean over the pool. Each cluster's
    target is its proportional quota of |labelled| + budget; what it lacks is filled by its
    unlabelled members nearest to the centroid. Where clusters hold more than their target already
    (after a random cold start, say), the others share the budget in proportion to what they lack.
    """
    sizes = np.bincount(cluster)
    have = np.bincount(cluster[labelled], minlength=len(sizes))
    target = proportional_quotas(sizes, int(have.sum()) + budget)
    return nearest_members(
        cluster, distance, proportional_quotas(np.maximum(target - have, 0), budget), ~labelled
    )


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
    a draw from the middle bins ("random"), each without what was chosen before; then the most
    uncertain of the rest ("fill") until there are exactly `budget`, and the note says so. Group
    sizes are scaled in proportion where they do not sum to `budget`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    groups = ("no detection", "uncertain", "random")
    wanted = np.array([settings.no_detection, settings.uncertain, settings.random])
    wanted = largest_remainder(wanted, budget)
    binned = histogram_bins(scores, settings.bins)
    peak = peak_bin(binned, settings.bins)
    middle = (binned >= peak + settings.middle_from) & (binned < settings.bins - settings.middle_to)
    shuffled = rng.permutation(len(scores))  # breaks ties, and makes the draws
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


def ceal_pseudo(scores, iteration, rng, settings, excluded):
    """Positions whose prediction serves as a label in this iteration only.

    Drawn from the peak bin of the histogram, without the `excluded` (boolean N: just sent to the
    oracle). None before iteration `pseudo_from`; all there are where the bin holds too few.
    """
    if iteration < settings.pseudo_from:
        return np.empty(0, dtype=np.int64)
    count = settings.pseudo + settings.pseudo_more * (iteration - settings.pseudo_from)
    binned = histogram_bins(scores, settings.bins)
    candidates = np.flatnonzero((binned == peak_bin(binned, settings.bins)) & ~excluded)
    return rng.permutation(candidates)[:count]
