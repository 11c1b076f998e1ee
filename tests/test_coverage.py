"""Fast coverage and distances against their plain definitions, on pools with ties and copies."""

import numpy as np
import pytest

from benchmarks import plain_rules as plain
from segmentation.selection import coldstart, coverage, recent
from segmentation.selection.distances import Distances, normalise


def normal(rng, count):
    return rng.normal(size=(count, int(rng.integers(1, 40))))


def blobs(rng, count):
    centres = rng.normal(size=(6, 16))
    return 3 * centres[rng.integers(6, size=count)] + rng.normal(size=(count, 16))


def parallel(rng, count):
    """As the features of a network are: all in nearly one direction."""
    return 30 + rng.normal(size=(count, 64))


def lattice(rng, count):
    """Whole numbers: many distances are equal, and many rows."""
    return rng.integers(0, 3, (count, 4)).astype(float)


def signs(rng, count):
    """Corners of a cube, all of one length: ties stay ties when rows are scaled."""
    return rng.choice([-1.0, 1.0], (count, 6))


def copies(rng, count):
    return blobs(rng, count)[rng.integers(max(count // 5, 1), size=count)]


def near_copies(rng, count):
    return copies(rng, count) * (1 + rng.normal(size=(count, 16)) * 1e-6)


def outliers(rng, count):
    points = blobs(rng, count)
    points[rng.random(count) < 0.1] *= 1000
    points[rng.random(count) < 0.1] = 0
    return points


def constant(rng, count):
    return np.full((count, 3), 2.5)


MAKERS = (normal, blobs, parallel, lattice, signs, copies, near_copies, outliers, constant)
each_maker = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)


def draw(maker, seed):
    """Features float32, which are labelled, and a budget."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 140))
    features = maker(rng, count).astype(np.float32)
    labelled = rng.random(count) < rng.choice([0, 0.1, 0.6])
    labelled[rng.integers(count)] = False
    return features, labelled, int(rng.integers(1, (~labelled).sum() + 1)), rng


@each_maker
@pytest.mark.parametrize("seed", range(15))
def test_the_choices_are_those_of_the_plain_definition(maker, seed, monkeypatch):
    monkeypatch.setattr(coverage, "TABLE", seed % 3 * 60)  # with and without a table
    features, labelled, budget, rng = draw(maker, seed)
    sigma = float(rng.choice([0.03, 0.3, 1.0]))
    weights = rng.choice([0.0, 1.0, 1e-3, 1e-40], len(features)) if seed % 2 else None
    found = coldstart.max_herding(features, labelled, budget, None, sigma, weights)
    assert found.tolist() == plain.herding(features, labelled, budget, sigma, weights)

    found = coldstart.probcover(features, labelled, budget, np.random.default_rng(seed))
    again = np.random.default_rng(seed)
    assert found.tolist() == plain.probcover(features, labelled, budget, again)

    found = coldstart.typical_cover(features, labelled, budget, None)
    assert found.tolist() == plain.typical_cover(features, labelled, budget)

    first = plain.represented(features, labelled, int(0.7 * budget + 1e-9))
    found = recent.rep_div(features, labelled, budget, np.random.default_rng(seed))
    assert found[: len(first)].tolist() == first


@each_maker
@pytest.mark.parametrize("seed", range(5))
def test_thresholds_that_are_distances_are_decided_as_by_all_pairs(maker, seed):
    features, labelled, _, rng = draw(maker, seed)
    points = normalise(features)
    distances = Distances(points)
    expected = distances.exact(np.arange(len(points)))
    assert expected == pytest.approx(plain.distances(points), abs=1e-15)
    places = rng.permutation(len(points))[:50]
    for delta in [*rng.choice(expected.ravel(), 6), expected.max(), 1e-6, 0.1]:
        # not rounded, in between or exactly one of them
        for limit in (delta, delta + 1e-9, delta + distances.unit / 3):
            assert (distances.nearer(places, limit) == (expected[places] < limit)).all()
    cluster = rng.integers(0, 4, len(points))
    assert np.minimum(distances.to_stranger(cluster), 2) == pytest.approx(
        plain.strangers(features, cluster), abs=1e-15
    )
    for rank in {1, len(points) // 3, len(points) - 1}:
        median = np.median(np.sort(expected, axis=1)[:, rank])
        assert distances.median_neighbour(rank) == pytest.approx(median, rel=1e-12, abs=1e-15)
    row, column = rng.integers(len(points), size=(2, 99))
    assert distances.pairs(row, column) == pytest.approx(expected[row, column], abs=1e-15)
    nearest = expected[labelled].min(axis=0, initial=np.inf)
    assert distances.to_nearest(np.flatnonzero(labelled)) == pytest.approx(nearest, abs=1e-15)


@each_maker
def test_bounds_are_bounds_and_are_close(maker):
    features, _, _, _ = draw(maker, 3)
    unit = normalise(features)
    cases = [(coverage.gaussian(unit, sigma), 2e-5 / sigma**2) for sigma in (0.1, 0.3, 1.0)]
    cases.append((coverage.cosine(unit.astype(float)), 2e-5))
    for similarity, close in cases:
        places = np.arange(len(unit))
        above, exact = similarity.above(places, slice(None)), similarity.exact(places)
        assert (above >= exact).all() and (above <= exact + close).all()
        part = similarity.above(places[:3], slice(1, 9))
        assert part == pytest.approx(above[:3, 1:9], abs=close)


def test_few_images_are_measured_exactly(monkeypatch):
    """Otherwise nothing would be gained."""
    rng, asked = np.random.default_rng(0), []
    points = normalise(blobs(rng, 3000) + 3)

    def watched(similarity):
        def exact(places):
            asked.append(len(places))
            return similarity.exact(places)

        return coverage.Similarity(exact, similarity.above)

    none = np.zeros(3000, dtype=bool)
    for similarity in (coverage.gaussian(points, 1.0), coverage.gaussian(points, 0.2)):
        asked.clear()
        coverage.greedy_cover(watched(similarity), none, 40)
        assert sum(asked) < 40 * 25  # one is chosen, eight are measured at a time
