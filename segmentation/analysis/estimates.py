"""Estimates of a single arm, each with an interval: pure functions on arrays.

Comparisons between arms are in significance.py.
"""

import numpy as np
from scipy import stats

from segmentation.analysis.significance import TAILS, Interval, bootstrap_draws, t_interval


def within(interval, low=0.0, high=1.0):
    """An Interval whose ends are cut off at the smallest and the largest possible value."""
    if interval.low is None:
        return interval
    return Interval(interval.value, max(low, interval.low), min(high, interval.high))


def over_images(values):
    """The mean of one value in 0..1 per image, as Interval; one image has no interval.

    The interval is a bootstrap's over images (significance.bootstrap_draws with a single seed): how
    much the mean would differ on other images. It says nothing of other seeds.
    """
    values = np.asarray(values, dtype=float)
    middle = float(values.mean())
    if len(values) < 2:
        return Interval(middle)
    ends = np.quantile(bootstrap_draws(values[None]), TAILS)
    return within(Interval(middle, *map(float, ends)))


def over_seeds(means):
    """The mean of one value in 0..1 per seed, with Student's t-interval; None ends for one seed."""
    return within(t_interval(list(map(float, means))))


def spearman(x, y):
    """Spearman's rank correlation as Interval; None where it is not defined.

    It is not where a side has a single value. The interval is that of Bonett and Wright (2000,
    Psychometrika 65, 23): Fisher's z with the variance (1 + r^2 / 2) / (n - 3), from four pairs on.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    r = float(stats.spearmanr(x, y).statistic)
    if len(x) < 4 or abs(r) > 1 - 1e-9:
        return Interval(r)
    half = stats.norm.ppf(TAILS[1]) * ((1 + r**2 / 2) / (len(x) - 3)) ** 0.5
    return Interval(r, *(float(np.tanh(np.arctanh(r) + sign * half)) for sign in (-1, 1)))


def equal_parts(values, least=4):
    """Positions of the values in quarters or thirds by size, ascending: a list of int64 arrays.

    Quarters if each has ten or more values, thirds if each has `least`, else a single part. Equal
    values stay in the order given; parts differ by at most one in number.
    """
    count = len(values)
    parts = 4 if count >= 40 else 3 if count >= 3 * least else 1
    return np.array_split(np.argsort(values, kind="stable"), parts)
