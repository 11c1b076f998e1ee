"""Statistics of comparisons between arms: pure functions on arrays, each in this one place.

Two arms are compared by their paired differences d[s, i]: the Dice of one minus the Dice of the
other at seed s (where both have the same first weights) on test image i. What the data cannot tell,
such as the spread over seeds of a single seed, is None.
"""

import functools
import statistics
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from segmentation.common.runfiles import numpy_rng

DRAWS = 10_000
TAILS = (0.025, 0.975)  # every interval is of 95 %


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


def mean_sd(values):
    """Mean and sample standard deviation (n - 1) of floats; the sd of one value is None."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


# Paired differences -----------------------------------------------------------------------------


def paired_bootstrap(differences):
    """The mean of paired differences (seeds x images) as Interval, and its two-sided p value.

    The interval is that between percentiles of `bootstrap_draws`; p is twice the share of draws
    beyond 0, counted as (1 + those) / (1 + all) and so never below 0.0002. One seed has neither.
    """
    middle = float(np.mean(differences))
    if len(differences) < 2:
        return Interval(middle), None
    draws = bootstrap_draws(differences)
    beyond = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p = min(1.0, 2 * (1 + beyond) / (1 + DRAWS))
    return Interval(middle, *map(float, np.quantile(draws, TAILS))), p


def bootstrap_draws(differences):
    """DRAWS means of paired differences (seeds x images), both resampled; from two seeds on.

    Seeds and images are crossed (every seed is tested on the same images) and both are samples: of
    the runs and of the lesions there could have been. So both are resampled, which is the
    pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1, 386). Write d[s, i] = m + a[s]
    + b[i] + e[s, i], where a, b and e are zero on average over s and over i. A draw that gives seed
    s the share w[s] and image i the share v[i] has the mean m + w·a + v·b + w·e·v. Two corrections:

    - w·e·v is left out. The spreads of a and of b hold the share of e once each, so that without
      this term e counts twice in the variance of the draws, with it three times (Owen), and in that
      of the mean once. The interval stays a little too wide, not too narrow.
    - w·a spreads too little, by sqrt((S-1) / S), and takes the spread of S seeds for that of all
      seeds: for a few values percentile intervals are much too narrow (Hesterberg 2015, American
      Statistician 69, 371, who expands them by quantiles of t). Here w·a is multiplied by
      sqrt(S / X) with X drawn from chi-squared with S-1 degrees of freedom. It then spreads as
      Student's t of S-1 degrees times sd / sqrt(S), as in the t-interval, and does so at every
      level, so that interval and p value agree. Images get the same, where it hardly matters.

    In simulations (tests/test_significance.py) from three seeds on the interval covers the truth in
    94 % (a or b alone) to 99 % of cases (e alone); with two, and so three resamples, in 93 to 99 %.

    All comparisons of equally many seeds and images share their resamples, so none depends on which
    others are made.
    """
    differences = np.asarray(differences, dtype=float)
    middle = differences.mean()
    a, b = differences.mean(axis=1) - middle, differences.mean(axis=0) - middle
    return middle + resamples("seeds", len(a)) @ a + resamples("images", len(b)) @ b


@functools.cache
def resamples(name, count):
    """The shares of `count` units in DRAWS resamples, times sqrt(count / X); DRAWS x count."""
    if count == 1:
        return np.ones((DRAWS, 1))
    rng = numpy_rng(0, "bootstrap", name, count)
    shares = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    return shares * np.sqrt(count / rng.chisquare(count - 1, size=(DRAWS, 1)))


def t_interval(values):
    """The mean of paired differences, one per seed, with Student's t-interval.

    It speaks of these test images alone: as for other images it is too narrow.
    """
    middle, sd = mean_sd(values)
    if sd is None:
        return Interval(middle)
    half = float(stats.t.ppf(TAILS[1], len(values) - 1)) * sd / len(values) ** 0.5
    return Interval(middle, middle - half, middle + half)


def wilcoxon_p(values):
    """The two-sided p value of Wilcoxon's signed-rank test of paired differences, 1 if all are 0.

    Over seeds it says little: five of them never give less than 2 / 2^5 = 0.0625.
    """
    return float(stats.wilcoxon(values).pvalue) if np.any(values) else 1.0


def effect_size(values):
    """Hedges' g of paired differences, one per seed, as Interval; None for fewer than 3 or sd 0.

    g = J mean / sd estimates without bias the mean difference in units of its standard deviation
    over seeds, with J = Gamma(f/2) / (sqrt(f/2) Gamma((f-1)/2)) and f = n - 1 (Hedges 1981, Journal
    of Educational Statistics 6, 107). The interval is exact for normal differences: sqrt(n) mean /
    sd follows the noncentral t, and the ends are those true sizes at which what was found, or more,
    or less, has probability 0.025 (Steiger and Fouladi 1997).
    """
    n = len(values)
    middle, sd = mean_sd(values)
    if n < 3 or sd is None or sd < 1e-12:
        return Interval(None)
    f, t = n - 1, n**0.5 * middle / sd
    correction = np.exp(special.gammaln(f / 2) - special.gammaln((f - 1) / 2)) / (f / 2) ** 0.5
    low, high = special.nctdtrinc(f, TAILS[::-1], t) / n**0.5
    return Interval(float(correction * middle / sd), float(low), float(high))


def holm(p):
    """p values of one family corrected by Holm's step-down rule (1979, Scand. J. Stat. 6, 65).

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than the
    one before it, or larger than 1.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


# Learning curves --------------------------------------------------------------------------------


def area_under_curve(labels, dice):
    """The area under learning curves: the mean Dice along an axis of log2 of the labels.

    `labels` are at least two ascending numbers; the last axis of `dice` follows them, any others
    stay. Trapezoids, divided by the width of the axis, so in units of Dice.
    """
    x, dice = np.log2(labels), np.asarray(dice, dtype=float)
    return (dice[..., 1:] + dice[..., :-1]) @ np.diff(x) / (2 * (x[-1] - x[0]))


def area_between(costs, dice, low, high):
    """`area_under_curve` from `low` to `high`, which lie within the ascending `costs`.

    There the curve is cut, on its straight lines over log2. ValueError for other ends.
    """
    if not 0 < costs[0] <= low < high <= costs[-1]:
        raise ValueError(f"{low} to {high} is no part of a curve from {costs[0]} to {costs[-1]}")
    dice = np.asarray(dice, dtype=float)
    inside = [place for place, cost in enumerate(costs) if low < cost < high]
    ends = [
        [np.interp(np.log2(end), np.log2(costs), unit) for unit in np.eye(len(costs))]
        for end in (low, high)
    ]
    first, last = (dice @ np.array(end)[:, None] for end in ends)
    cut = np.concatenate([first, dice[..., inside], last], axis=-1)
    return area_under_curve([low, *(costs[place] for place in inside), high], cut)


def labels_to_reach(labels, dice, target):
    """The number of labels at which a learning curve first reaches a Dice; None if it never does.

    Between two budgets the curve is a straight line over log2 of the labels. If it falls again
    below the target later, that does not count; at or above it from the first budget on, the answer
    is that budget, an upper bound.
    """
    above = np.flatnonzero(np.asarray(dice) >= target)
    if not len(above):
        return None
    first = above[0]
    if first == 0:
        return float(labels[0])
    step = slice(first - 1, first + 1)
    return float(2 ** np.interp(target, dice[step], np.log2(labels[step])))


def reached_interval(labels, dice, target):
    """`labels_to_reach` of the mean curve as Interval; infinity where it is never reached.

    `dice` is seeds x images x budgets. The interval is that between percentiles of the same for
    the curves of `bootstrap_draws`, over seeds and images; one seed has none.
    """
    dice = np.asarray(dice, dtype=float)

    def labels_of(curve):
        found = labels_to_reach(labels, curve, target)
        return np.inf if found is None else found

    middle = labels_of(dice.mean(axis=(0, 1)))
    if len(dice) < 2:
        return Interval(middle)
    draws = np.stack([bootstrap_draws(at) for at in np.moveaxis(dice, -1, 0)], axis=1)
    found = [labels_of(curve) for curve in draws]
    return Interval(middle, *map(float, np.quantile(found, TAILS, method="inverted_cdf")))


def mean_ranks(dice):
    """The rank of each arm (1 is best, ties share the mean) averaged over seeds; arms x seeds."""
    return stats.rankdata(-np.asarray(dice, dtype=float), axis=0).mean(axis=1).tolist()
