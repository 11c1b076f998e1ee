"""The patterns of images, and FreeSel's draw, against brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.cluster import KMeans

from segmentation.selection.distances import normalise
from segmentation.selection.patterns import by_patterns, patterns_of, strongest, to_nearest


def rng(seed=0):
    return np.random.default_rng(seed)


# Which cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "kept"),
    [
        ([3, 0, 4, 1, 2], [0, 2]),  # 4 are not half of 10, 4 + 3 are
        ([3, 2, 5], [2]),  # exactly half
        ([1, 1, 1, 1], [0, 1]),
        ([1, 1, 1], [0, 1]),
        ([0, 7], [1]),
        ([7], [0]),
        ([0, 0], []),
    ],
)
def test_the_strongest_cells_by_hand(norms, kept):
    cells = np.array(norms, dtype=float)[:, None] * [0.6, -0.8]
    assert strongest(cells).tolist() == kept


@pytest.mark.parametrize("seed", range(20))
def test_the_strongest_cells_are_the_fewest_that_hold_half(seed):
    cells = rng(seed).normal(size=(16, 4)) ** 3
    norms, kept = np.linalg.norm(cells, axis=1), strongest(cells)
    fewest = next(n for n in range(1, 17) if np.sort(norms)[-n:].sum() >= norms.sum() / 2)
    assert len(kept) == fewest and sorted(kept) == kept.tolist()
    assert norms[kept].min() >= np.delete(norms, kept).max()


# k-means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_patterns_are_those_of_scikit_learn(seed):
    cells = rng(seed).normal(size=(40, 7)).astype(np.float32)
    kept = cells[strongest(cells)]
    state = int(rng(seed + 1).integers(2**32))
    centres = KMeans(5, n_init=3, random_state=state).fit(kept).cluster_centers_
    expected = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    made = patterns_of(cells, rng(seed + 1))
    assert made.dtype == np.float32 and made.shape == (5, 7)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


def test_patterns_find_the_kinds_of_place():
    """Three directions of large cells, in groups of 4, and small cells that are left out."""
    directions = np.eye(6)[:3]
    large = 10 * directions.repeat(4, axis=0) + rng().normal(0, 0.1, (12, 6))
    cells = rng(1).permutation(np.concatenate([large, rng(2).normal(0, 0.3, (20, 6))]))
    made = patterns_of(cells, rng(3), count=3)
    assert np.sort((made @ directions.T).argmax(axis=1)).tolist() == [0, 1, 2]
    assert (made @ directions.T).max(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("cells", "count"),
    [
        (np.eye(4), 2),  # half of four equal norms
        (np.eye(9), 5),
        (np.eye(8), 4),
        (np.ones((30, 3)), 1),  # all alike
        (np.eye(2).repeat(10, axis=0), 1),
        (np.tile(np.eye(2), (10, 1)), 2),
        (np.zeros((16, 3)), 0),
    ],
)
def test_an_image_of_few_cells_has_few_patterns(cells, count):
    made = patterns_of(cells, rng())
    lengths = np.linalg.norm(made, axis=1)
    assert made.shape == (5, cells.shape[1]) and np.isfinite(made).all()
    assert lengths == pytest.approx([1] * count + [0] * (5 - count))
    assert len(np.unique(made[:count], axis=0)) == count


# The draw ---------------------------------------------------------------------------------------


def ragged(seed, images=9, most=3, width=3):
    """A list of the patterns of each image, and the array that `patterns_of` would make of it."""
    own = [rng((seed, i)).normal(size=(rng((seed, i)).integers(1, most + 1), width)) for i in
           range(images)]  # fmt: skip
    own = [normalise(rows).astype(np.float32) for rows in own]
    own[3] = own[1].copy()  # a copy
    array = np.zeros((images, most, width), dtype=np.float32)
    for row, rows in zip(array, own, strict=True):
        row[: len(rows)] = rows
    return own, array


def chances(own, known):
    """Probability of each image to be drawn next, by the definition; uniform where it has none."""
    free = [i for i in range(len(own)) if i not in known]
    weights = np.zeros(len(own))
    if known:
        shown = [np.asarray(row, dtype=float) for i in known for row in own[i]]
        for i in free:
            for row in own[i]:
                weights[i] += round(min(1 - row @ other for other in shown), 6) ** 2
    if not weights.any():
        weights[free] = 1
    return weights / weights.sum()


class Recorder:
    """A generator that keeps, of each draw, the probability of every image."""

    def __init__(self, seed, images, each):
        self.rng, self.images, self.each, self.seen = rng(seed), images, each, []

    def choice(self, values, p=None):
        drawn = self.rng.choice(values, p=p)
        if p is None:
            chance = np.zeros(self.images)
            chance[values] = 1 / len(values)
        else:
            chance = p.reshape(self.images, self.each).sum(axis=1)
        self.seen.append(chance)
        return drawn


@pytest.mark.parametrize("known", [(), (5,), (1, 4, 8)])
@pytest.mark.parametrize("seed", range(6))
def test_the_probability_of_every_draw(seed, known):
    """Up to the whole pool: repeated patterns and missing ones count as the paper has it."""
    own, array = ragged(seed)
    labelled = np.isin(np.arange(9), known)
    recorder, known = Recorder(seed, 9, 3), list(known)
    for place in by_patterns(array, labelled, 9 - len(known), recorder):
        np.testing.assert_allclose(recorder.seen.pop(0), chances(own, known), rtol=1e-4, atol=1e-5)
        known.append(place)
    assert sorted(known) == list(range(9)) and not recorder.seen


def test_how_often_pairs_are_drawn():
    own, array = ragged(7, images=5)
    pairs = list(itertools.permutations(range(5), 2))
    expected = [chances(own, [])[a] * chances(own, [a])[b] for a, b in pairs]
    generator, none = rng(1), np.zeros(5, dtype=bool)
    drawn = [tuple(by_patterns(array, none, 2, generator)) for _ in range(4000)]
    assert (1, 3) not in drawn and (3, 1) not in drawn  # copies of each other
    some = [(drawn.count(pair), 4000 * p) for pair, p in zip(pairs, expected, strict=True) if p]
    assert stats.chisquare(*zip(*some, strict=True)).pvalue > 0.01


def test_a_copy_comes_last():
    _, array = ragged(3)
    for seed in range(20):
        order = by_patterns(array, np.zeros(9, dtype=bool), 9, rng(seed)).tolist()
        assert order[-1] in (1, 3)


def test_distance_to_the_nearest():
    points = np.eye(3, dtype=np.float32)
    others = np.array([[0, 0, 0], [-1, 0, 0], [0.6, 0.8, 0]])
    assert to_nearest(points, others) == pytest.approx([0.4, 0.2, 1])
    assert to_nearest(-points, others[2:]) == pytest.approx([1.6, 1.8, 1])  # farther than none
    assert np.isinf(to_nearest(points, np.zeros((2, 3)))).all()


@pytest.mark.parametrize("kind", ["drawn", "alike", "none"])
@pytest.mark.parametrize(("known", "budget"), [*itertools.product((0, 1, 9, 100), (0, 1, 7, 30))])
def test_exactly_the_budget(kind, known, budget):
    array = normalise(rng().normal(size=(130 * 2, 4))).reshape(130, 2, 4)
    array = {"drawn": array, "alike": np.tile(array[:1], (130, 1, 1)), "none": 0 * array}[kind]
    labelled, before = np.zeros(130, dtype=bool), array.copy()
    labelled[rng(1).permutation(130)[:known]] = True
    places = by_patterns(array, labelled, budget, rng(2))
    assert places.dtype == np.int64 and len(set(places)) == len(places) == budget
    assert not labelled[places].any() and (array == before).all()
    assert by_patterns(array, labelled, budget, rng(2)).tolist() == places.tolist()
    with pytest.raises(ValueError, match="a budget of 131 out of"):
        by_patterns(array, labelled, 131, rng())
