"""Each statistic against a closed form, SciPy, brute force or its coverage in simulations."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from segmentation.analysis import significance
from segmentation.analysis.significance import (
    area_under_curve,
    bootstrap_draws,
    effect_size,
    holm,
    labels_to_reach,
    mean_ranks,
    paired_bootstrap,
    reached_interval,
    t_interval,
    wilcoxon_p,
)

VALUES = [0.01, 0.03, 0.02, -0.005, 0.04]


# Paired differences -----------------------------------------------------------------------------


@pytest.fixture
def few_draws(monkeypatch):
    """Fewer draws, for tests that make thousands of intervals."""
    monkeypatch.setattr(significance, "DRAWS", 2000)
    significance.resamples.cache_clear()
    yield
    significance.resamples.cache_clear()


def crossed(rng, seeds, images, spreads, skewed=False):
    """Differences of mean zero with the given sd of seeds, of images and of what is left."""
    draw = (lambda size: rng.exponential(size=size) - 1) if skewed else rng.normal
    of_seeds, of_images, rest = spreads
    return (
        of_seeds * rng.normal(size=(seeds, 1))
        + of_images * draw(size=(1, images))
        + rest * draw(size=(seeds, images))
    )


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("spreads", "skewed", "most"),
    [
        ((1, 0, 0), False, 0.97),  # the spread of the seeds is all there is
        ((1, 8, 12), True, 0.985),  # as of two arms at few labels, in Dice points
        ((0, 1, 0), False, 0.97),  # the images are
        ((0, 0, 1), False, 1.0),  # counted twice, so wide
    ],
)
def test_coverage(few_draws, seeds, spreads, skewed, most):
    """The 95 % interval holds the truth about as often as it says, also for few seeds.

    A plain percentile bootstrap covers 0.76 (3 seeds) and 0.83 (5 seeds) in the first case.
    """
    rng = np.random.default_rng(seeds)
    results = [paired_bootstrap(crossed(rng, seeds, 100, spreads, skewed)) for _ in range(1000)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval, _ in results])
    assert 0.93 < covered < most + 0.01
    assert np.mean([p < 0.05 for _, p in results]) == pytest.approx(1 - covered, abs=0.003)


def test_many_seeds_without_image_effects_give_the_t_interval():
    values = np.random.default_rng(0).normal(size=40)
    interval, p = paired_bootstrap(np.repeat(values[:, None], 7, axis=1))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(expected.low, abs=0.06 * width)
    assert interval.high == pytest.approx(expected.high, abs=0.06 * width)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.05)


def test_spread_of_the_draws():
    """Their variance is that of the two levels, each with the tails of Student's t."""
    differences = crossed(np.random.default_rng(1), 12, 60, (1, 5, 3))
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    expected = sum(
        part.var(ddof=1) / len(part) * (len(part) - 1) / (len(part) - 3)
        for part in (by_seed, by_image)
    )
    assert bootstrap_draws(differences).var() == pytest.approx(expected, rel=0.15)


def test_bootstrap_is_fair_and_repeatable():
    differences = crossed(np.random.default_rng(2), 5, 30, (1, 1, 1)) + 0.5
    (middle, low, high), p = paired_bootstrap(differences)
    (negated, *ends), same_p = paired_bootstrap(-differences)
    assert (negated, *ends, same_p) == pytest.approx((-middle, -high, -low, p))
    (_, *ends), same_p = paired_bootstrap(100 * differences)
    assert (*ends, same_p) == pytest.approx((100 * low, 100 * high, p))
    significance.resamples.cache_clear()
    assert paired_bootstrap(differences) == ((middle, low, high), p)


def test_bootstrap_of_little():
    assert paired_bootstrap([[0.25, 0.75]]) == ((0.5, None, None), None)  # one seed
    assert paired_bootstrap(np.zeros((4, 9))) == ((0, 0, 0), 1)
    interval, p = paired_bootstrap(np.full((4, 9), 0.25))
    assert interval == (0.25, 0.25, 0.25) and p == pytest.approx(2 / 10_001)
    one_image, p = paired_bootstrap([[0.1], [0.2], [0.3]])
    assert one_image.low < 0.1 and one_image.high > 0.3 and p > 0.02


def test_t_interval():
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert t_interval(VALUES) == pytest.approx((np.mean(VALUES), expected.low, expected.high))
    assert t_interval([0.5]) == (0.5, None, None)


def test_wilcoxon():
    assert wilcoxon_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)
    ranks = stats.rankdata(np.abs(VALUES))
    observed = abs((np.sign(VALUES) * ranks).sum())
    sums = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=5)]
    assert wilcoxon_p(VALUES) == pytest.approx(np.mean(np.array(sums) >= observed))
    assert wilcoxon_p(np.zeros(5)) == 1


@pytest.mark.parametrize("shift", [-0.4, -0.02, 0, 0.03, 1])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_effect_size(n, shift):
    values = np.resize(VALUES, n) * np.linspace(1, 2, n) + shift
    d, f = values.mean() / values.std(ddof=1), n - 1
    unbiased = {2: 0.5642, 4: 0.7979, 9: 0.9139}[f]  # J of Hedges 1981, table 1 (f = 2, 4), and 9
    g, low, high = effect_size(values.tolist())
    assert g == pytest.approx(unbiased * d, rel=1e-3)
    t = d * n**0.5
    assert stats.nct.cdf(t, f, low * n**0.5) == pytest.approx(0.975, abs=1e-4)
    assert stats.nct.cdf(t, f, high * n**0.5) == pytest.approx(0.025, abs=1e-4)


def test_effect_size_is_unbiased():
    rng = np.random.default_rng(0)
    samples = rng.normal(1, 1, size=(4000, 5)).tolist()
    assert np.mean([effect_size(values).value for values in samples]) == pytest.approx(1, abs=0.04)


def test_effect_size_of_little():
    for values in ([0.1], [0.1, 0.2], [0.1, 0.1, 0.1], [0.0] * 5):
        assert effect_size(values) == (None, None, None)


def test_holm():
    # R's p.adjust and statsmodels' multipletests, method "holm".
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni():
    """An adjusted p is the largest Bonferroni p of all families that its hypothesis belongs to."""
    p = np.random.default_rng(3).random(6) ** 3
    families = [
        list(members) for size in range(1, 7) for members in itertools.combinations(range(6), size)
    ]
    for place, adjusted in enumerate(holm(p)):
        largest = max(len(own) * p[own].min() for own in families if place in own)
        assert adjusted == pytest.approx(min(1, largest))


# Learning curves --------------------------------------------------------------------------------


def test_area():
    assert area_under_curve([10, 20], [0.6, 0.8]) == pytest.approx(0.7)
    # 0.5 to 0.7 over one doubling, 0.7 to 0.8 over two: (0.6 + 2 * 0.75) / 3.
    assert area_under_curve([10, 20, 80], [0.5, 0.7, 0.8]) == pytest.approx(0.7)
    labels = [10, 20, 40, 80, 160, 300]
    assert area_under_curve(labels, np.full(6, 0.81)) == pytest.approx(0.81)
    dice = np.random.default_rng(0).random((5, 9, 6))
    areas = area_under_curve(labels, dice)
    assert areas.shape == (5, 9)
    expected = trapezoid(dice[2, 3], np.log(labels)) / np.log(30)
    assert areas[2, 3] == pytest.approx(expected)


def test_the_interval_of_labels_to_reach():
    """Curves that differ by a shift per seed reach a Dice where the shifted line says."""
    rng = np.random.default_rng(0)
    labels, shifts = [10, 20, 40, 80, 160], rng.normal(0, 0.01, 8)
    line = 0.6 + 0.05 * np.arange(5)
    dice = line + shifts[:, None, None] + np.zeros((8, 30, 1))
    found = reached_interval(labels, dice, 0.7)
    low, high = stats.t.interval(0.95, 7, shifts.mean(), stats.sem(shifts))
    expected = [10 * 2 ** ((0.1 - shift) / 0.05) for shift in (shifts.mean(), high, low)]
    assert found.value == pytest.approx(expected[0])
    assert found[1:] == pytest.approx(expected[1:], rel=0.03)
    assert reached_interval(labels, dice, 0.1) == (10, 10, 10)
    assert reached_interval(labels, dice, 0.99) == (np.inf, np.inf, np.inf)
    near = reached_interval(labels, dice, 0.8 + shifts.mean() - 1e-6)  # about as high as it gets
    assert near.low < near.value < near.high == np.inf
    assert reached_interval(labels, dice[:1], 0.7)[1:] == (None, None)


def test_labels_to_reach():
    assert labels_to_reach([10, 40], [0.6, 0.8], 0.7) == pytest.approx(20)
    assert labels_to_reach([10, 40], [0.6, 0.8], 0.8) == pytest.approx(40)
    assert labels_to_reach([10, 40], [0.6, 0.8], 0.5) == 10
    assert labels_to_reach([10, 40], [0.6, 0.8], 0.81) is None
    # Up, down, up: the first time counts.
    assert labels_to_reach([10, 20, 40, 80], [0.6, 0.8, 0.5, 0.9], 0.7) == pytest.approx(200**0.5)
    assert labels_to_reach([10, 20, 40], [0.6, 0.5, 0.7], 0.6) == 10
    assert labels_to_reach([1600], [0.8], 0.7) == 1600


def test_ranks():
    dice = np.array([[0.8, 0.7, 0.5], [0.8, 0.9, 0.6], [0.6, 0.8, 0.6], [0.1, 0.1, 0.7]])
    better = (dice[None] > dice[:, None]).sum(axis=1)
    ties = (dice[None] == dice[:, None]).sum(axis=1)  # with itself
    assert mean_ranks(dice) == pytest.approx((better + (ties + 1) / 2).mean(axis=1))
    assert mean_ranks([[0.7], [0.7], [0.9]]) == [2.5, 2.5, 1]
