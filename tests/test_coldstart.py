"""Cold start: quotas by exact arithmetic, choices by brute force."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from segmentation import coldstart


@pytest.mark.parametrize(
    ("sizes", "budget", "quotas"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([7, 2, 1], 3, [2, 1, 0]),  # 2.1 0.6 0.3
        ([5, 0, 5], 4, [2, 0, 2]),
        ([3, 4], 7, [3, 4]),
        ([3, 4], 0, [0, 0]),
    ],
)
def test_quotas_by_hand(sizes, budget, quotas):
    assert coldstart.proportional_quotas(sizes, budget).tolist() == quotas


def test_quotas_keep_the_budget_and_stay_within_one_of_the_share():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(0, 40, rng.integers(1, 12))
        sizes[0] += 1
        budget = int(rng.integers(0, sizes.sum() + 1))
        quotas = coldstart.proportional_quotas(sizes, budget)
        assert quotas.sum() == budget
        assert ((quotas >= 0) & (quotas <= sizes)).all()
        for size, quota in zip(sizes.tolist(), quotas.tolist(), strict=True):
            assert abs(quota - Fraction(budget * size, int(sizes.sum()))) < 1


def test_a_budget_over_the_pool_is_refused():
    with pytest.raises(ValueError, match="budget of 6 out of 5"):
        coldstart.proportional_quotas([2, 3], 6)


def test_kmeans_finds_blobs_and_reports_euclidean_distances():
    points, truth = make_blobs(200, centers=4, cluster_std=0.3, random_state=1)
    points = points.astype(np.float32)
    found = coldstart.kmeans(points, 4, seed=0)
    for k in range(4):
        assert len(np.unique(truth[found.cluster == k])) == 1
        members = points[found.cluster == k]
        np.testing.assert_allclose(found.centroids[k], members.mean(axis=0), rtol=1e-3)
    everywhere = np.linalg.norm(points[:, None] - found.centroids[None], axis=2)
    np.testing.assert_allclose(found.distance, everywhere.min(axis=1), rtol=1e-3)
    again = coldstart.kmeans(points, 4, seed=0)
    assert (again.cluster == found.cluster).all()


def random_choice(rng):
    """Random clusters, distances and budget, and what saal chooses from them."""
    count = int(rng.integers(5, 120))
    cluster, distance = rng.integers(0, rng.integers(1, 9), count), rng.random(count)
    budget = int(rng.integers(1, count + 1))
    return cluster, distance, budget, coldstart.saal(cluster, distance, budget)


def test_saal_properties():
    rng = np.random.default_rng(1)
    for _ in range(200):
        cluster, distance, budget, chosen = random_choice(rng)
        assert len(chosen) == len(set(chosen.tolist())) == budget
        quotas = coldstart.proportional_quotas(np.bincount(cluster), budget)
        assert (np.bincount(cluster[chosen], minlength=len(quotas)) == quotas).all()
        for k, quota in enumerate(quotas):
            members = sorted(np.flatnonzero(cluster == k), key=lambda place: distance[place])
            assert [place for place in chosen if cluster[place] == k] == members[:quota]


def test_a_prefix_is_itself_proportional():
    rng = np.random.default_rng(2)
    for _ in range(50):
        cluster, _, budget, chosen = random_choice(rng)
        quotas = np.bincount(cluster[chosen])
        for length in range(1, budget):
            have = np.bincount(cluster[chosen[:length]], minlength=len(quotas))
            share = length * quotas / budget
            assert np.abs(have - share).max() <= 0.5 + 0.5 * np.count_nonzero(quotas)


def test_a_prefix_alternates_between_equal_clusters():
    cluster = np.repeat([0, 1, 2], 10)
    chosen = coldstart.saal(cluster, np.arange(30.0), 9)
    for start in (0, 3, 6):
        assert sorted(cluster[chosen[start : start + 3]]) == [0, 1, 2]


def test_random_draws_differ_between_seeds():
    draws = [coldstart.random(100, 10, np.random.default_rng(seed)) for seed in range(5)]
    assert all(len(set(draw.tolist())) == 10 for draw in draws)
    assert len({tuple(sorted(draw.tolist())) for draw in draws}) == 5
    assert (draws[0] == coldstart.random(100, 10, np.random.default_rng(0))).all()


def test_random_is_uniform():
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(4000):
        counts[coldstart.random(20, 5, rng)] += 1
    assert np.abs(counts / 4000 - 0.25).max() < 0.03
