"""Comparisons over several splits of one set of images: pure functions on rows of Dice."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy import stats

from segmentation.analysis.markdown import markdown, p_text, plus_minus, with_interval
from segmentation.analysis.significance import TAILS, Interval, holm, mean_sd

TESTED = 0.25  # test images for each image of the pool, where one of five is tested
COMPARED = (
    "Differences are in Dice points and paired by seed; their interval and p are Student's over "
    "the means of the splits, with the variance of splits of the same images (Nadeau and Bengio "
    "2003), so that they speak of splits of these images, not of other collections. "
    "p (Holm) is corrected for all lines of this table."
)
EQUAL = (
    "p (equal) is that of two one-sided t-tests (TOST, also Holm's): below 0.05 the true "
    "difference is shown to lie within ± {margin:g} Dice points."
)
NARROWER = (
    "The spread is the standard deviation over seeds within a split, pooled over the splits. "
    "p (narrower) is one-sided, that the arm has less of it than {baseline} over the same seeds: "
    "Welch's t-test of the distances to the median of the split, without the smallest one of each "
    "(after Brown and Forsythe 1974), Holm's over all lines."
)


class Screened(NamedTuple):
    """A rule by some features at a number of labels: Dice over seeds, and against the baseline."""

    rule: str
    features: str
    labels: int
    seeds: int
    splits: int
    mean: float
    sd: float | None
    gain: Interval | None = None  # None: the baseline itself, or nothing in common with it
    p: float | None = None  # Holm's, over all rules, features and numbers of labels
    p_equal: float | None = None  # the same of the test that the gain is within the margin
    distinct: float | None = None  # mean number of labelled images that are no near copies


class OverSplits(NamedTuple):
    """The mean of paired differences with its standard error; that of one split is None.

    Without an error, or with none but 0, there are no p values.
    """

    mean: float
    error: float | None
    freedom: int

    @property
    def interval(self):
        """An Interval of 95 %."""
        if self.error is None:
            return Interval(self.mean)
        half = float(stats.t.ppf(TAILS[1], self.freedom)) * self.error
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def p(self):
        """Two-sided, of no difference."""
        return min(1.0, 2 * self.beyond(abs(self.mean))) if self.error else None

    def p_equal(self, margin):
        """Of a true difference of `margin` or more, to either side: that of two one-sided tests."""
        return self.beyond(margin - abs(self.mean)) if self.error else None

    def beyond(self, distance):
        """The probability that Student's t, scaled by the error, is beyond `distance`."""
        return float(stats.t.sf(distance / self.error, self.freedom))


def over_splits(differences, tested=TESTED):
    """The OverSplits of paired differences, an array for each split.

    tested: test images for each image of the pool, above 0.

    The splits are drawn from the same images, so that their means are no independent samples: the
    variance is that of the corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52,
    239), 1 / splits + tested in place of 1 / splits.
    """
    means = [float(np.mean(part)) for part in differences]
    middle, sd = mean_sd(means)
    count = len(means)
    return OverSplits(middle, sd and sd * (1 / count + tested) ** 0.5, count - 1)


def screened(rows, baseline="random", margin=None, tested=TESTED):
    """A Screened for each rule, features and number of labels in the rows; the baseline first.

    Differences are paired by split, seed and labels, and averaged within each split. With `margin`,
    in 0..1, also whether they are shown to be smaller than that. `tested`: as in `over_splits`.
    """
    dice, distinct = defaultdict(dict), defaultdict(list)
    for row in rows:
        key = row["rule"], row["features"], int(row["labels"])
        dice[key][int(row["split"]), int(row["seed"])] = float(row["dice"])
        if "distinct" in row:
            distinct[key].append(int(row["distinct"]))
    found, compared = [], []
    for (rule, features, labels), own in dice.items():
        splits = len({split for split, _ in own})
        one = Screened(rule, features, labels, len(own), splits, *mean_sd(list(own.values())))
        counted = distinct[rule, features, labels]
        one = one._replace(distinct=float(np.mean(counted)) if counted else None)
        if rule != baseline:
            other, parts = dice.get((baseline, "", labels), {}), defaultdict(list)
            for split, seed in own.keys() & other.keys():
                parts[split].append(own[split, seed] - other[split, seed])
            if parts:
                compared.append(over_splits(list(parts.values()), tested))
                one = one._replace(gain=compared[-1].interval)
        found.append(one)
    p = corrected(each.p for each in compared)
    equal = corrected(each.p_equal(margin) for each in compared) if margin else iter(())
    found = [
        one._replace(p=next(p, None), p_equal=next(equal, None)) if one.gain else one
        for one in found
    ]
    return sorted(found, key=lambda one: (one.labels, one.rule != baseline, -one.mean))


class Spread(NamedTuple):
    """How far the Dice of a rule at a number of labels lies apart over the seeds of a split."""

    rule: str
    labels: int
    sd: float | None  # within splits, pooled; None: no split has two seeds
    p: float | None = None  # Holm's, that it is smaller than the baseline's; None: the baseline


def spreads(rows, baseline):
    """A Spread for each rule and number of labels in the rows, in the order of the rows.

    The test is that of Brown and Forsythe (1974, JASA 69, 364) for two groups, one-sided, with the
    median of each split in place of one median, and with Welch's variance. Both rules have the same
    seeds in it. The smallest distance of a split says nothing of its own: of two seeds both are the
    same, of three one is 0. It is left out, as otherwise p is below 0.05 in 13 of 100 tables of
    equal rules with two seeds a split, and in one with three.
    """
    dice = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        of_split = dice[row["rule"], int(row["labels"])][row["split"]]
        of_split[row["seed"]] = float(row["dice"])
    found, p = [], []
    for (rule, labels), own in dice.items():
        parts = [np.array(list(part.values())) for part in own.values() if len(part) > 1]
        freedom = sum(len(part) - 1 for part in parts)
        squares = sum(float(np.sum((part - part.mean()) ** 2)) for part in parts)
        found.append(Spread(rule, labels, (squares / freedom) ** 0.5 if freedom else None))
        if rule != baseline:
            p.append(narrower(own, dice.get((baseline, labels), {})))
    p = corrected(p)
    return [one if one.rule == baseline else one._replace(p=next(p)) for one in found]


def narrower(own, other):
    """The p value of `spreads` for the Dice of two rules, split -> seed -> Dice, or None.

    None where there is nothing to compare, or the runs of one are those of the other.
    """
    groups = [], []
    for split in (split for split in own if split in other):
        seeds = [seed for seed in own[split] if seed in other[split]]
        for group, side in zip(groups, (own, other), strict=True):
            group.extend(distances([side[split][seed] for seed in seeds]))
    if min(map(len, groups)) < 2 or groups[0] == groups[1]:
        return None
    return float(stats.ttest_ind(*groups, equal_var=False, alternative="less").pvalue)


def distances(values):
    """The distances of values to their median, without the smallest one: a sorted list."""
    return sorted(abs(np.array(values) - np.median(values)))[1:] if values else []


def spreads_markdown(found):
    """The Markdown table of `spreads`."""
    header = ["rule", "labels", "spread over seeds, Dice points", "p (narrower)"]
    lines = [
        [one.rule, one.labels, "–" if one.sd is None else f"{100 * one.sd:.1f}", p_text(one.p)]
        for one in found
    ]
    return markdown(header, lines)


def corrected(p):
    """An iterator of Holm's p values of those that are not None; None for the others."""
    p = list(p)
    tested = iter(holm([each for each in p if each is not None]))
    return iter([None if each is None else next(tested) for each in p])


def gain_text(one, baseline):
    """The cell of a Screened that compares it with the baseline."""
    if one.rule == baseline:
        return "baseline"
    return "nothing in common" if one.gain is None else with_interval(*one.gain)


def screened_markdown(found, baseline="random", margin=None):
    """The Markdown table of `screened`; columns that are empty in all lines are left out."""
    header = ["rule", "features", "labels", "distinct", "seeds", "splits", "Dice %"]
    header += [f"points over {baseline} [95 %]", "p (Holm)", "p (equal)"]
    lines = [
        [
            one.rule,
            one.features or "–",
            one.labels,
            "–" if one.distinct is None else f"{one.distinct:.1f}",
            one.seeds,
            one.splits,
            plus_minus(one.mean, one.sd),
            gain_text(one, baseline),
            p_text(one.p),
            p_text(one.p_equal),
        ]
        for one in found
    ]
    empty = {
        "features": not any(one.features for one in found),
        "distinct": all(one.distinct is None for one in found),
        "p (equal)": not margin,
    }
    shown = [n for n, name in enumerate(header) if not empty.get(name)]
    return markdown([header[n] for n in shown], [[line[n] for n in shown] for line in lines])
