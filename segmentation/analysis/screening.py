"""Comparisons over several splits of one set of images: pure functions on the rows of probe.csv."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy import stats

from segmentation.analysis.significance import TAILS, Interval, holm, mean_sd

TESTED = 0.25  # test images for each image of the pool


class Screened(NamedTuple):
    """A rule by some features at a number of labels: Dice over seeds, and against random."""

    rule: str
    features: str
    labels: int
    seeds: int
    mean: float
    sd: float | None
    gain: Interval | None = None  # None: is random itself
    p: float | None = None  # Holm's, over all rules, features and numbers of labels


def over_splits(differences):
    """The mean of paired differences, an array for each split, as Interval, and its p value.

    The splits are drawn from the same images, so that their means are no independent samples: the
    variance is that of the corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52,
    239), 1 / splits + test / pool in place of 1 / splits. With one split there is neither.
    """
    means = [float(np.mean(part)) for part in differences]
    middle, sd = mean_sd(means)
    if sd is None:
        return Interval(middle), None
    count = len(means)
    error = sd * (1 / count + TESTED) ** 0.5
    half = float(stats.t.ppf(TAILS[1], count - 1)) * error
    p = float(2 * stats.t.sf(abs(middle) / error, count - 1)) if error else float(middle == 0)
    return Interval(middle, middle - half, middle + half), p


def screened(rows, baseline="random"):
    """A Screened for each rule, features and number of labels in the rows; random first.

    Differences are paired by seed and labels, and averaged within each split.
    """
    dice, split = defaultdict(dict), {}
    for row in rows:
        seed, key = int(row["seed"]), (row["rule"], row["features"], int(row["labels"]))
        dice[key][seed] = float(row["dice"])
        split[seed] = int(row["split"])
    found, p = [], []
    for (rule, features, labels), own in dice.items():
        one = Screened(rule, features, labels, len(own), *mean_sd(list(own.values())))
        if rule != baseline:
            other, parts = dice[baseline, "", labels], defaultdict(list)
            for seed in own.keys() & other.keys():
                parts[split[seed]].append(own[seed] - other[seed])
            gain, its_p = over_splits(list(parts.values()))
            one = one._replace(gain=gain)
            p.append(its_p)
        found.append(one)
    if None not in p:
        corrected = iter(holm(p))
        found = [one._replace(p=next(corrected)) if one.gain else one for one in found]
    return sorted(found, key=lambda one: (one.labels, one.gain is not None, -one.mean))
