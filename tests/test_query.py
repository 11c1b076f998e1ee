"""Every query rule: exactly the budget, distinct, unlabelled only, set by its seed."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from segmentation.selection import query

SETTINGS = query.CealSettings()


def test_highest_by_hand():
    assert query.highest([0.1, 0.9, 0.5, 0.9], 3).tolist() == [1, 3, 2]


@pytest.mark.parametrize("kind", ["uniform", "zero", "heavy", "few"])
def test_ceal_always_asks_for_the_budget(kind):
    rng = np.random.default_rng(2)
    for _ in range(60):
        count = int(rng.integers(1, 300))
        scores = {
            "uniform": rng.random(count),
            "zero": np.zeros(count),
            "heavy": rng.exponential(size=count) ** 4,
            "few": rng.integers(0, 3, count).astype(float),
        }[kind]
        budget = int(min(count, rng.integers(1, 60)))
        seed = int(rng.integers(1000))
        places, names, note = query.ceal(scores, budget, np.random.default_rng(seed), SETTINGS)
        assert len(places) == len(names) == len(set(places.tolist())) == budget
        assert ((places >= 0) & (places < count)).all()
        assert bool(note) == ("fill" in names)
        again = query.ceal(scores, budget, np.random.default_rng(seed), SETTINGS)
        assert (again[0] == places).all() and again[1:] == (names, note)


def test_ceal_groups():
    """A pool made for it: 200 in the peak, 40 in the middle bins, 20 in the last five."""
    scores = np.concatenate(
        [np.linspace(0, 0.01, 200), np.linspace(0.2, 0.5, 40), np.linspace(0.95, 1.0, 20)]
    )
    places, names, note = query.ceal(scores, 35, np.random.default_rng(0), SETTINGS)
    groups = {name: places[np.array(names) == name] for name in set(names)}
    assert note == ""
    assert {name: len(group) for name, group in groups.items()} == {
        "no detection": 10,
        "uncertain": 10,
        "random": 15,
    }
    assert sorted(groups["no detection"]) == list(range(10))
    assert (groups["uncertain"] >= 240).all()
    assert ((groups["random"] >= 200) & (groups["random"] < 240)).all()
    draws = {
        tuple(sorted(query.ceal(scores, 35, np.random.default_rng(s), SETTINGS)[0]))
        for s in range(5)
    }
    assert len(draws) == 5


def test_ceal_fills_short_groups_with_the_most_uncertain_left():
    scores = np.linspace(0, 1, 50) ** 8  # nearly all in the first bins
    places, names, note = query.ceal(scores, 35, np.random.default_rng(0), SETTINGS)
    fill = places[np.array(names) == "fill"]
    others = set(places.tolist()) - set(fill.tolist())
    left = [place for place in np.argsort(-scores) if place not in others]
    assert fill.tolist() == left[: len(fill)] and len(fill) > 0
    assert "filled by the next most uncertain" in note


def test_ceal_scales_its_groups():
    scores = np.concatenate([np.zeros(300), np.linspace(0.2, 0.5, 300), np.ones(300)])
    _, names, _ = query.ceal(scores, 70, np.random.default_rng(0), SETTINGS)
    assert [names.count(g) for g in ("no detection", "uncertain", "random")] == [20, 20, 30]


def test_histogram_is_numpys():
    rng = np.random.default_rng(3)
    for scores in (rng.random(500), rng.exponential(size=100), np.zeros(7), np.arange(81.0)):
        binned = query.histogram_bins(scores, 80)
        assert (np.bincount(binned, minlength=80) == np.histogram(scores, 80)[0]).all()


def test_pseudo_labels():
    scores = np.concatenate([np.full(500, 0.1), np.linspace(0, 1, 100)])
    excluded = np.zeros(600, dtype=bool)
    excluded[:100] = True

    def draw(iteration, seed=0):
        rng = np.random.default_rng(seed)
        return query.ceal_pseudo(scores, iteration, rng, SETTINGS, excluded)

    assert len(draw(1)) == len(draw(4)) == 0
    assert [len(draw(i)) for i in (5, 6, 9)] == [20, 40, 100]
    chosen = draw(9)
    assert len(set(chosen.tolist())) == 100 and not excluded[chosen].any()
    bins = query.histogram_bins(scores, 80)
    assert (bins[chosen] == bins[200]).all()
    assert set(draw(9, seed=1).tolist()) != set(chosen.tolist())
    assert len(query.ceal_pseudo(scores, 60, np.random.default_rng(0), SETTINGS, excluded)) < 600


def drawn(rule, count, *args):
    """`count` answers of rule(*args, rng), each with its own generator."""
    return [rule(*args, np.random.default_rng(seed)).tolist() for seed in range(count)]


def fits(observed, probability):
    """Whether the outcomes (hashable, N) may have this probability (a dict that sums to 1)."""
    assert sum(probability.values()) == pytest.approx(1)
    outcomes = [outcome for outcome, p in probability.items() if p > 0]
    counts = [observed.count(outcome) for outcome in outcomes]
    assert sum(counts) == len(observed), "an impossible outcome"
    expected = [probability[outcome] * len(observed) for outcome in outcomes]
    return chisquare(counts, expected).pvalue > 1e-3


def in_turn(weights):
    """Probability of each (first, second) of a draw without replacement by weight."""
    total = sum(weights)
    return {
        (i, j): a / total * b / (total - a)
        for i, a in enumerate(weights)
        for j, b in enumerate(weights)
        if i != j
    }


RULES = {
    "power": lambda z, scores, budget, rng: query.power(scores, budget, rng),
    "power 8": lambda z, scores, budget, rng: query.power(scores, budget, rng, beta=8),
    "batches": lambda z, scores, budget, rng: query.stochastic_batches(scores, budget, rng),
    "badge": query.badge,
    "badge labelled": lambda z, scores, budget, rng: query.badge(
        z, scores, budget, rng, z[::2].copy()
    ),
    "badge far labelled": lambda z, scores, budget, rng: query.badge(
        z, scores, budget, rng, z[:1] + 1
    ),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kind", ["uniform", "zero", "half zero", "heavy", "equal"])
def test_every_rule_keeps_to_the_budget_and_its_seed(rule, kind):
    rng = np.random.default_rng(4)
    for trial in range(25):
        count = int(rng.integers(1, 90))
        scores = {
            "uniform": rng.random(count),
            "zero": np.zeros(count),
            "half zero": rng.random(count) * rng.integers(0, 2, count),
            "heavy": rng.exponential(size=count) ** 6,
            "equal": np.full(count, 0.3),
        }[kind]
        budget = count if trial % 5 == 0 else int(rng.integers(1, count + 1))
        features = rng.normal(size=(count, 3)).astype(np.float32)
        features[rng.random(count) < 0.3] = 1  # duplicates
        places = rule(features, scores, budget, np.random.default_rng(trial))
        assert places.shape == (budget,) and places.dtype == np.int64
        assert len(set(places.tolist())) == budget
        assert places.min() >= 0 and places.max() < count
        again = rule(features, scores, budget, np.random.default_rng(trial))
        assert (again == places).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_depends_on_its_generator(rule):
    rng = np.random.default_rng(5)
    features, scores = rng.normal(size=(60, 4)), rng.random(60)
    draws = drawn(lambda *args: rule(features, scores, *args), 8, 10)
    assert len({tuple(sorted(draw)) for draw in draws}) > 4


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("budget", [0, 5])
def test_every_rule_refuses_a_budget_that_cannot_be(rule, budget):
    with pytest.raises(ValueError, match=f"budget of {budget} out of 4"):
        rule(np.ones((4, 2)), np.ones(4), budget, np.random.default_rng(0))


@pytest.mark.parametrize("beta", [0.5, 1, 3])
def test_power_draws_in_proportion_to_a_power_of_the_score(beta):
    scores = np.array([1.0, 2.0, 0.0, 3.0, 1.5])
    places = drawn(lambda rng: query.power(scores, 2, rng, beta), 6000)
    assert fits([tuple(place) for place in places], in_turn((scores**beta).tolist()))
    wrong = in_turn((scores ** (1.5 * beta)).tolist())
    assert not fits([tuple(place) for place in places], wrong)


def test_power_draws_zeros_last_and_alike():
    scores = np.array([0.0, 1e-9, 0.0, 0.0, 5.0])
    places = drawn(lambda rng: query.power(scores, 4, rng), 3000)
    assert all(set(place[:2]) == {1, 4} for place in places)
    assert fits([tuple(place[2:]) for place in places], in_turn([1, 0, 1, 1, 0]))


def test_power_lies_between_a_uniform_draw_and_the_highest():
    scores = np.array([0.2, 0.5, 0.9, 0.4])
    sure = drawn(lambda rng: query.power(scores, 4, rng, beta=1e4), 20)
    assert all(place == query.highest(scores, 4).tolist() for place in sure)
    places = drawn(lambda rng: query.power(scores, 2, rng, beta=1e-6), 3000)
    assert fits([tuple(place) for place in places], in_turn([1, 1, 1, 1]))


@pytest.mark.parametrize(("scores", "beta"), [([1, -1], 1), ([1, np.nan], 1), ([1, 1], 0)])
def test_power_refuses_what_has_no_power(scores, beta):
    with pytest.raises(ValueError, match="beta above 0 and scores of at least 0"):
        query.power(scores, 1, np.random.default_rng(0), beta)


def test_stochastic_batches_takes_the_better_half_of_each_order():
    scores = np.array([5.0, 1.0, 3.0, 2.0, 8.5, 1.0])  # no half of them is worth 10.25
    seen = set()
    for seed in range(300):
        places = query.stochastic_batches(scores, 3, np.random.default_rng(seed))
        assert scores[places].sum() > 10.25
        seen.add(tuple(sorted(places.tolist())))
    halves = [set(h) for h in combinations(range(6), 3) if scores[list(h)].sum() > 10.25]
    assert seen == {tuple(sorted(half)) for half in halves}  # any order is as likely


def test_stochastic_batches_against_a_slow_search():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        scores, budget = rng.random(23), int(rng.integers(1, 12))
        best, rng = (-1, None), np.random.default_rng(seed)
        order = rng.permutation(23).tolist()
        for batch in range(23 // budget):
            part = order[batch * budget : (batch + 1) * budget]
            best = max(best, (sum(scores[part]) / budget, part))
        chosen = query.stochastic_batches(scores, budget, np.random.default_rng(seed))
        assert sorted(chosen.tolist()) == sorted(best[1])


FEATURES = np.array([[3.0, 0], [0, 1], [1, 1], [-2, 1], [1, 1]])
SCORES = np.array([0.5, 1.0, 0.4, 0.8, 0.2])


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def test_badge_begins_with_the_largest_norm_and_goes_on_by_squared_distance():
    """Scaled: (1.5, 0), (0, 1), (.4, .4), (-1.6, .8), (.2, .2), of which the fourth is longest."""
    scaled = [(1.5, 0), (0, 1), (0.4, 0.4), (-1.6, 0.8), (0.2, 0.2)]
    first = [squared(a, scaled[3]) for a in scaled]
    assert first == pytest.approx([10.25, 2.6, 4.16, 0, 3.6])
    probability = {}
    for i in (0, 1, 2, 4):
        then = [min(d, squared(a, scaled[i])) for d, a in zip(first, scaled, strict=True)]
        for j, weight in enumerate(then):
            probability[i, j] = first[i] / sum(first) * weight / sum(then)
    draws = drawn(lambda rng: query.badge(FEATURES, SCORES, 3, rng), 4000)
    assert {draw[0] for draw in draws} == {3}
    assert fits([tuple(draw[1:]) for draw in draws], probability)


def test_badge_sees_labelled_images_at_the_scale_of_each_image():
    labelled = np.array([[3.0, 1], [-2, 1]])
    weights = [0.25 * 1, 1 * 4, 0.16 * 4, 0, 0.04 * 4]  # score^2 x distance^2 to the nearer one
    total = sum(weights)
    draws = drawn(lambda rng: query.badge(FEATURES, SCORES, 1, rng, labelled), 4000)
    probability = {i: weight / total for i, weight in enumerate(weights)}
    assert fits([draw[0] for draw in draws], probability)
    without = query.badge(FEATURES, SCORES, 3, np.random.default_rng(0))
    empty = query.badge(FEATURES, SCORES, 3, np.random.default_rng(0), labelled[:0])
    assert (without == empty).all() and without[0] == 3


def test_badge_takes_duplicates_last():
    features = np.repeat([[1.0, 0], [0, 2], [2, 2]], 4, axis=0)
    for seed in range(30):
        places = query.badge(features, np.full(12, 0.7), 5, np.random.default_rng(seed))
        assert sorted(places[:3] // 4) == [0, 1, 2]
    ends = drawn(lambda rng: query.badge(np.ones((4, 1)), np.ones(4), 3, rng), 2000)
    assert all(end[0] == 0 for end in ends)
    assert fits([tuple(end[1:]) for end in ends], in_turn([0, 1, 1, 1]))


def test_dsal_pseudo_labels_are_those_the_heads_agree_on():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    excluded = np.zeros(400, dtype=bool)
    excluded[query.highest(-scores, 5)] = True  # the oracle has just labelled the five lowest

    def draw(iteration, seed=0, excluded=excluded):
        rng = np.random.default_rng(seed)
        return query.dsal_pseudo(scores, iteration, rng, SETTINGS, excluded)

    assert [len(draw(i)) for i in (1, 4, 5, 6, 10)] == [0, 0, 20, 40, 120]
    order = np.argsort(scores)
    assert draw(6).tolist() == order[5:45].tolist()
    assert (draw(6, seed=1) == draw(6)).all()  # nothing is drawn where no two are equal
    assert sorted(draw(60)) == sorted(order[5:])
    assert len(draw(9, excluded=np.ones(400, dtype=bool))) == 0


def test_dsal_draws_between_equal_disagreements():
    scores = np.where(np.arange(100) < 60, 0.0, 1.0)
    none = np.zeros(100, dtype=bool)
    draws = {
        tuple(sorted(query.dsal_pseudo(scores, 5, np.random.default_rng(s), SETTINGS, none)))
        for s in range(5)
    }
    assert len(draws) == 5 and all(max(draw) < 60 for draw in draws)
