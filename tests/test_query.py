"""Every query rule: exactly the budget, distinct, unlabelled only, set by its seed."""

import numpy as np
import pytest

from segmentation import query
from segmentation.coldstart import proportional_quotas, saal

SETTINGS = query.CealSettings()


def test_highest_by_hand():
    assert query.highest([0.1, 0.9, 0.5, 0.9], 3).tolist() == [1, 3, 2]


def test_saal_continues_the_cold_start():
    rng = np.random.default_rng(0)
    cluster, distance = rng.integers(0, 5, 100), rng.random(100)
    labelled = np.zeros(100, dtype=bool)
    labelled[saal(cluster, distance, 20)] = True
    for _ in range(8):
        asked = query.saal(cluster, distance, labelled, 10)
        assert len(set(asked.tolist())) == 10 and not labelled[asked].any()
        labelled[asked] = True
        target = proportional_quotas(np.bincount(cluster), int(labelled.sum()))
        assert np.abs(np.bincount(cluster[labelled]) - target).max() <= 1
        for k in range(5):  # in each cluster it is still the nearest ones that are labelled
            inside = cluster == k
            if (inside & ~labelled).any():
                assert distance[inside & labelled].max() <= distance[inside & ~labelled].min()
    assert labelled.all()


def test_saal_from_any_labelled_set():
    rng = np.random.default_rng(1)
    for _ in range(200):
        count = int(rng.integers(5, 80))
        cluster, distance = rng.integers(0, 6, count), rng.random(count)
        labelled = rng.random(count) < rng.random()
        left = int((~labelled).sum())
        if not left:
            continue
        budget = int(rng.integers(1, left + 1))
        asked = query.saal(cluster, distance, labelled, budget)
        assert len(asked) == len(set(asked.tolist())) == budget
        assert not labelled[asked].any()


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
