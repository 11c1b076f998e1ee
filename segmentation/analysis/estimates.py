"""Estimates of a single arm, each with an interval: pure functions on arrays.

Comparisons between arms are in significance.py.
"""

import numpy as np
from scipy import stats

from segmentation.analysis.significance import TAILS, Interval, t_interval


def mean_dice(values):
    """The mean of values in 0..1, such as Dice, with Student's interval cut to 0..1, as Interval.

    One value per image: the interval says how much the mean would differ on other images, and
    nothing of other seeds. One per seed: the other way round. A single value has no interval.
    """
    found = t_interval(list(map(float, values)))
    if found.low is None or found.high is None:
        return found
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high))


def dice_text(interval):
    """`71.2 [65.0, 77.1]` in percent; a single value has no interval and says so."""
    if interval.low is None:
        return f"{100 * interval.value:.1f} [no interval]"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


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
