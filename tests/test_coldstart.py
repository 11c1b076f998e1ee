"""Cold start: quotas by exact arithmetic, choices by brute force."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.datasets import make_blobs

from segmentation.selection import coldstart, coverage, distances, geometry


def nothing(count):
    return np.zeros(count, dtype=bool)


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
    assert geometry.proportional_quotas(sizes, budget).tolist() == quotas


def test_quotas_keep_the_budget_and_stay_within_one_of_the_share():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(0, 40, rng.integers(1, 12))
        sizes[0] += 1
        budget = int(rng.integers(0, sizes.sum() + 1))
        quotas = geometry.proportional_quotas(sizes, budget)
        assert quotas.sum() == budget
        assert ((quotas >= 0) & (quotas <= sizes)).all()
        for size, quota in zip(sizes.tolist(), quotas.tolist(), strict=True):
            assert abs(quota - Fraction(budget * size, int(sizes.sum()))) < 1


def test_a_budget_over_the_pool_is_refused():
    with pytest.raises(ValueError, match="budget of 6 out of 5"):
        geometry.proportional_quotas([2, 3], 6)


def test_kmeans_finds_blobs_and_reports_euclidean_distances():
    points, truth = make_blobs(200, centers=4, cluster_std=0.3, random_state=1)
    points = points.astype(np.float32)
    found = geometry.kmeans(points, 4, seed=0)
    for k in range(4):
        assert len(np.unique(truth[found.cluster == k])) == 1
        members = points[found.cluster == k]
        np.testing.assert_allclose(found.centroids[k], members.mean(axis=0), rtol=1e-3)
    everywhere = np.linalg.norm(points[:, None] - found.centroids[None], axis=2)
    np.testing.assert_allclose(found.distance, everywhere.min(axis=1), rtol=1e-3)
    again = geometry.kmeans(points, 4, seed=0)
    assert (again.cluster == found.cluster).all()


def random_choice(rng):
    """Random clusters, distances and budget, and what saal chooses from them."""
    count = int(rng.integers(5, 120))
    cluster, distance = rng.integers(0, rng.integers(1, 9), count), rng.random(count)
    budget = int(rng.integers(1, count + 1))
    return cluster, distance, budget, coldstart.saal(cluster, distance, nothing(count), budget)


def test_saal_properties():
    rng = np.random.default_rng(1)
    for _ in range(200):
        cluster, distance, budget, chosen = random_choice(rng)
        assert len(chosen) == len(set(chosen.tolist())) == budget
        quotas = geometry.proportional_quotas(np.bincount(cluster), budget)
        assert (np.bincount(cluster[chosen], minlength=len(quotas)) == quotas).all()
        for k, quota in enumerate(quotas):
            members = sorted(np.flatnonzero(cluster == k), key=lambda place: distance[place])
            assert [place for place in chosen if cluster[place] == k] == members[:quota]


def test_saal_continues_the_cold_start():
    rng = np.random.default_rng(0)
    cluster, distance = rng.integers(0, 5, 100), rng.random(100)
    labelled = np.zeros(100, dtype=bool)
    labelled[coldstart.saal(cluster, distance, labelled, 20)] = True
    for _ in range(8):
        asked = coldstart.saal(cluster, distance, labelled, 10)
        assert len(set(asked.tolist())) == 10 and not labelled[asked].any()
        labelled[asked] = True
        target = geometry.proportional_quotas(np.bincount(cluster), int(labelled.sum()))
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
        asked = coldstart.saal(cluster, distance, labelled, budget)
        assert len(asked) == len(set(asked.tolist())) == budget
        assert not labelled[asked].any()


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
    chosen = coldstart.saal(cluster, np.arange(30.0), nothing(30), 9)
    for start in (0, 3, 6):
        assert sorted(cluster[chosen[start : start + 3]]) == [0, 1, 2]


def test_random_draws_differ_between_seeds():
    draws = [coldstart.random(nothing(100), 10, np.random.default_rng(seed)) for seed in range(5)]
    assert all(len(set(draw.tolist())) == 10 for draw in draws)
    assert len({tuple(sorted(draw.tolist())) for draw in draws}) == 5
    assert (draws[0] == coldstart.random(nothing(100), 10, np.random.default_rng(0))).all()


def test_random_is_uniform():
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(4000):
        counts[coldstart.random(nothing(20), 5, rng)] += 1
    assert np.abs(counts / 4000 - 0.25).max() < 0.03


# The rules to compare with. Each has a case solved by hand or by brute force; all share properties.


def mark(count, places):
    mask = nothing(count)
    mask[list(places)] = True
    return mask


def directions(sizes, seed=0, spread=0.05):
    """Blobs around the axes, of these sizes, rows scaled at random: only the direction tells."""
    rng = np.random.default_rng(seed)
    blob = np.repeat(np.arange(len(sizes)), sizes)
    points = np.eye(len(sizes))[blob] + rng.normal(0, spread, (len(blob), len(sizes)))
    return points * rng.uniform(0.5, 20, (len(blob), 1)), blob


def unit(points):
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def pairwise(points):
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def cover_by_brute_force(similarity, labelled, budget, weights=None):
    """Greedy coverage from the whole objective of every candidate set; stops where it stays."""
    weights = np.ones(len(labelled)) if weights is None else weights

    def objective(chosen):
        return (similarity[chosen].max(axis=0) * weights).sum() if chosen else 0.0

    known, chosen = np.flatnonzero(labelled).tolist(), []
    while len(chosen) < budget:
        values = [
            -1.0 if place in known + chosen else objective([*known, *chosen, place])
            for place in range(len(labelled))
        ]
        if max(values) <= objective(known + chosen) + 1e-9:
            break
        chosen.append(int(np.argmax(np.array(values) > max(values) - 1e-9)))  # the first of equals
    return chosen


def gaussian(points, sigma):
    return np.exp(-((pairwise(points) / sigma) ** 2))


def permuted_rule(features, labelled, budget, rng):
    cluster = np.arange(len(features)) * 4 // len(features)
    return coldstart.permuted(cluster, features[:, 0] ** 2, labelled, budget, rng)


def weighted_herding(features, labelled, budget, rng):
    weights = np.arange(len(features)) % 3.0
    return coldstart.max_herding(features, labelled, budget, rng, sigma=0.3, weights=weights)


RULES = {
    "random": lambda features, *rest: coldstart.random(*rest),
    "first": lambda features, labelled, budget, rng: coldstart.first(labelled, budget),
    "permuted": permuted_rule,
    "kmeans_nearest": coldstart.kmeans_nearest,
    "typiclust": coldstart.typiclust,
    "probcover": coldstart.probcover,
    "max_herding": coldstart.max_herding,
    "max_herding weighted": weighted_herding,
    "k_center": coldstart.k_center,
    "usl": coldstart.usl,
    "pretext_loss": lambda features, *rest: coldstart.pretext_loss(features[:, 0], *rest),
    "typical_cover": coldstart.typical_cover,
}
POOLS = {
    "blobs": make_blobs(60, n_features=5, centers=4, random_state=3)[0],
    "float32": make_blobs(60, n_features=80, centers=9, random_state=4)[0].astype(np.float32),
    "repeated rows": np.repeat(make_blobs(10, n_features=3, random_state=5)[0], 6, axis=0),
    "constant": np.full((60, 4), 2.5),
    "zeros": np.zeros((60, 4)),
    "one image": np.ones((1, 4)),
    "one feature": np.linspace(-1, 3, 60)[:, None],
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
each_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())


@each_rule
@each_pool
def test_every_rule_chooses_the_budget_among_the_unlabelled(rule, pool):
    count, before = len(pool), pool.copy()
    for known in (0, 17):
        labelled = nothing(count)
        labelled[np.random.default_rng(known).permutation(count)[: min(known, count - 1)]] = True
        free = int((~labelled).sum())
        for budget in sorted({0, 1, min(9, free), free}):
            mask = labelled.copy()
            chosen = rule(pool, mask, budget, np.random.default_rng(8))
            assert chosen.dtype == np.int64
            assert chosen.shape == (budget,)
            assert len(set(chosen.tolist())) == budget
            assert not labelled[chosen].any()
            assert (mask == labelled).all()
            assert (pool == before).all()
            again = rule(pool, labelled, budget, np.random.default_rng(8))
            assert chosen.tolist() == again.tolist()


@each_rule
@pytest.mark.parametrize("budget", [-1, 42, 60])
def test_every_rule_refuses_a_budget_over_the_unlabelled(rule, budget):
    labelled = mark(60, range(19))
    with pytest.raises(ValueError, match=f"budget of {budget} out of 41 unlabelled"):
        rule(POOLS["blobs"], labelled, budget, np.random.default_rng(0))


@pytest.mark.parametrize(
    "rule", ["kmeans_nearest", "typiclust", "probcover", "k_center", "usl", "typical_cover"]
)
def test_rules_of_diversity_label_every_blob_first(rule):
    points, blob = directions([30, 25, 20, 15], spread=0.01)
    points, choose = unit(points), getattr(coldstart, rule)
    settings = {"clusters": 4} if rule == "probcover" else {}
    chosen = choose(points, nothing(90), 4, np.random.default_rng(0), **settings)
    assert sorted(blob[chosen]) == [0, 1, 2, 3]
    labelled = mark(90, [2, 40])  # in the blobs 0 and 1
    chosen = choose(points, labelled, 2, np.random.default_rng(0), **settings)
    assert sorted(blob[chosen]) == [2, 3]


def test_random_leaves_out_what_is_labelled():
    rng, labelled = np.random.default_rng(0), mark(20, [0, 3, 4, 19])
    counts = np.zeros(20)
    for _ in range(4000):
        counts[coldstart.random(labelled, 4, rng)] += 1
    assert (counts[labelled] == 0).all()
    assert np.abs(counts[~labelled] / 4000 - 0.25).max() < 0.03


def test_random_without_labels_draws_as_a_permutation_of_all():
    expected = np.random.default_rng(5).permutation(100)[:10]
    assert coldstart.random(nothing(100), 10, np.random.default_rng(5)).tolist() == list(expected)


def test_first_by_hand():
    assert coldstart.first(mark(7, [0, 2]), 3).tolist() == [1, 3, 4]


def test_permuted_is_saal_on_the_rows_of_other_images():
    rng = np.random.default_rng(0)
    cluster, distance = rng.integers(0, 5, 80), rng.random(80)
    order = np.random.default_rng(4).permutation(80)
    chosen = coldstart.permuted(cluster, distance, nothing(80), 25, np.random.default_rng(4))
    moved = coldstart.saal(cluster[order], distance[order], nothing(80), 25)
    assert chosen.tolist() == moved.tolist()
    assert set(chosen) != set(coldstart.saal(cluster, distance, nothing(80), 25))
    other = coldstart.permuted(cluster, distance, nothing(80), 25, np.random.default_rng(5))
    assert set(chosen) != set(other)


def test_cluster_by_cluster_by_hand():
    cluster = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    cost = np.array([3.0, 1, 2, 5, 4, 9, 7, 7, 8, 0])
    # the largest of those without a label first; labels: none
    order = geometry.cluster_by_cluster(cluster, cost, nothing(10), 10)
    assert order.tolist() == [6, 1, 4, 9, 7, 2, 3, 8, 0, 5]
    # 2 has two labels, 1 one
    order = geometry.cluster_by_cluster(cluster, cost, mark(10, [5, 6, 3]), 7)
    assert order.tolist() == [1, 9, 2, 4, 7, 0, 8]
    # clusters of less than three last
    order = geometry.cluster_by_cluster(cluster, cost, nothing(10), 10, smallest=3)
    assert order.tolist() == [6, 1, 7, 2, 8, 0, 5, 4, 9, 3]


def test_kmeans_nearest_by_brute_force():
    points, blob = make_blobs([9, 12, 3, 6], n_features=3, cluster_std=0.2, random_state=6)
    nearest = {}
    for k in range(4):
        members = np.flatnonzero(blob == k)
        away = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        nearest[k] = members[away.argmin()]
    chosen = coldstart.kmeans_nearest(points, nothing(30), 4, np.random.default_rng(0))
    assert chosen.tolist() == [nearest[k] for k in (1, 0, 3, 2)]
    labelled = mark(30, np.flatnonzero(blob == 1)[:2])  # two labels in one blob, so one too many
    chosen = coldstart.kmeans_nearest(points, labelled, 2, np.random.default_rng(0))
    assert chosen.tolist() == [nearest[0], nearest[3]]


def test_typiclust_takes_the_densest_of_each_blob():
    points, blob = directions([30, 16, 10, 4], seed=1)
    distances, densest = pairwise(unit(points)), {}
    for k in range(4):
        members = np.flatnonzero(blob == k)
        near = np.sort(distances[np.ix_(members, members)], axis=1)[:, 1:21]
        densest[k] = members[np.argsort(near.mean(axis=1))]
    chosen = coldstart.typiclust(points, nothing(60), 4, np.random.default_rng(0))
    assert chosen.tolist() == [densest[0][0], densest[1][0], densest[2][0], densest[0][1]]
    chosen = coldstart.typiclust(points, nothing(60), 4, np.random.default_rng(0), smallest=4)
    assert chosen.tolist() == [densest[k][0] for k in range(4)]
    near = coldstart.typiclust(points, nothing(60), 4, np.random.default_rng(0), neighbours=1)
    assert near[0] != densest[0][0]
    capped = coldstart.typiclust(points, nothing(60), 8, np.random.default_rng(0), most=4)
    assert capped.tolist() == [densest[k][j] for j in range(3) for k in range(3)][:8]


def test_neighbour_distance_by_brute_force():
    points = np.random.default_rng(0).normal(size=(30, 4))
    near = np.sort(pairwise(points), axis=1)
    found = distances.neighbour_distance(points, 5)
    np.testing.assert_allclose(found, near[:, 1:6].mean(axis=1), atol=1e-6)
    found = distances.neighbour_distance(points[:4], 5)
    np.testing.assert_allclose(found, pairwise(points[:4]).sum(axis=1) / 3, atol=1e-6)
    assert distances.neighbour_distance(points[:1], 5).tolist() == [0]
    identical = np.repeat(np.random.default_rng(0).normal(size=(5, 300)), 3, axis=0)
    assert distances.neighbour_distance(identical, 2).tolist() == [0] * 15


def test_distances_by_brute_force_and_identical_rows_are_at_none():
    points = np.random.default_rng(0).normal(size=(40, 300)) * 50 + 1000
    points[7] = points[3]
    found = distances.Distances(points).exact(np.array([3, 30]))
    expected = pairwise(points)[[3, 30]]
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.linalg.norm(points, axis=1).max())
    assert found[0, 7] == found[0, 3] == found[1, 30] == 0


def test_probcover_with_obvious_balls():
    angles = np.radians([0, 1, 2, 90, 91, 180, 181, 182, 183, 270])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 11)[:, None]
    for delta, expected in [
        # all of a group see each other, and the first stands for it; then halved, to 2.5 degrees:
        # 183 is not covered from 180, but from 181; to 1.25: 183 and 2 are not
        (np.radians(10), [5, 0, 3, 9, 6, 1]),
        (np.radians(1.5), [1, 6, 3, 7, 9, 0]),  # a ball reaches one degree to each side
    ]:
        chosen = coldstart.probcover(points, nothing(10), 6, None, delta=delta)
        assert chosen.tolist() == expected, delta
    labelled = mark(10, [6, 0])
    chosen = coldstart.probcover(points, labelled, 2, None, delta=np.radians(10))
    assert chosen.tolist() == [3, 9]


@pytest.mark.parametrize("known", [0, 4])
def test_probcover_by_brute_force(known):
    points = unit(np.random.default_rng(7).normal(size=(50, 3)))
    labelled, distances = mark(50, range(0, 5 * known, 5)), pairwise(points)
    expected, seen, delta = [], labelled.copy(), 0.6
    while len(expected) < 30:
        more = cover_by_brute_force(distances < delta, seen, 30 - len(expected))
        expected += more
        seen[more] = True
        delta /= 2
    chosen = coldstart.probcover(points * 9, labelled, 30, None, delta=0.6)
    assert chosen.tolist() == expected


def test_probcover_delta_by_brute_force():
    rng = np.random.default_rng(0)
    for purity in (0.95, 0.8, 0.5, 1.0):
        points = unit(rng.normal(size=(30, 3)))
        cluster = (points[:, 0] > 0.2).astype(int) + (points[:, 1] > 0)
        distances = pairwise(points)

        def is_pure(place, delta, cluster=cluster, distances=distances):
            return len(set(cluster[distances[place] < delta])) == 1

        good = [
            delta
            for delta in np.unique(distances)[1:]
            if np.mean([is_pure(place, delta - 1e-9) for place in range(30)]) >= purity
        ]
        found = coldstart.probcover_delta(points * 3, cluster, purity)
        assert found == pytest.approx(max(good), abs=1e-5)


def test_probcover_delta_of_one_cluster_is_the_diameter():
    assert coldstart.probcover_delta(np.eye(3), np.zeros(3, dtype=int)) == 2


def test_probcover_uses_the_delta_of_its_pseudo_labels():
    points, blob = directions([20, 15, 10], seed=2, spread=0.02)
    delta = coldstart.probcover_delta(points, blob)
    assert delta > 1  # nearly sqrt(2), between the axes
    chosen = coldstart.probcover(points, nothing(45), 3, np.random.default_rng(0), clusters=3)
    assert sorted(blob[chosen]) == [0, 1, 2]
    expected = coldstart.probcover(points, nothing(45), 9, None, delta=delta)
    chosen = coldstart.probcover(points, nothing(45), 9, np.random.default_rng(0), clusters=3)
    assert chosen.tolist() == expected.tolist()


def test_probcover_takes_the_purity_it_is_given():
    points = np.random.default_rng(1).normal(size=(60, 3))
    found = geometry.clustered(distances.normalise(points), 3, np.random.default_rng(0))
    outcomes = set()
    for purity in (0.9, 0.4):
        delta = coldstart.probcover_delta(points, found.cluster, purity)
        expected = coldstart.probcover(points, nothing(60), 9, None, delta=delta).tolist()
        rest = (points, nothing(60), 9, np.random.default_rng(0))
        chosen = coldstart.probcover(*rest, clusters=3, purity=purity).tolist()
        assert chosen == expected
        outcomes.add(tuple(chosen))
    assert len(outcomes) == 2


@pytest.mark.parametrize("sigma", [0.2, 1.0])
@pytest.mark.parametrize("known", [0, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_max_herding_by_brute_force(sigma, known, weighted):
    rng = np.random.default_rng(11)
    points = unit(rng.normal(size=(60, 4)))
    labelled = mark(60, rng.permutation(60)[:known])
    weights = rng.random(60) ** 3 if weighted else None
    expected = cover_by_brute_force(gaussian(points, sigma), labelled, 20, weights)
    lengths = rng.uniform(0.1, 10, (60, 1))
    chosen = coldstart.max_herding(points * lengths, labelled, 20, None, sigma, weights)
    assert chosen.tolist() == expected


@pytest.mark.parametrize("known", [0, 1, 2, 9, 30])
def test_uncertainty_herding_by_brute_force(known):
    rng = np.random.default_rng(12)
    points = unit(rng.normal(size=(60, 4)))
    points[3] = points[41]  # a copy is at a distance of 0, which is not counted
    weights = rng.random(60)
    labelled = mark(60, [41, 3, *(place for place in range(60) if place not in (3, 41))][:known])
    apart = pdist(points[labelled])
    sigma = min(apart[apart > 1e-5], default=1.0)
    expected = cover_by_brute_force(gaussian(points, sigma), labelled, 20, weights)
    chosen = coldstart.uncertainty_herding(7 * points, labelled, 20, None, weights)
    assert chosen.tolist() == expected


def test_with_many_labels_uncertainty_herding_is_uncertainty():
    """Its radius is so small that each image stands for itself alone."""
    rng = np.random.default_rng(13)
    points, weights = rng.normal(size=(300, 8)), rng.random(300)
    points[1] = points[0] + 1e-3
    points = unit(points)
    labelled = mark(300, range(100))
    chosen = coldstart.uncertainty_herding(points, labelled, 10, None, weights)
    assert chosen.tolist() == (100 + np.argsort(-weights[100:])[:10]).tolist()


def test_max_herding_goes_where_the_weight_is():
    points = unit(np.random.default_rng(0).normal(size=(30, 3)))
    weights = np.zeros(30)
    weights[[17, 4]] = 2, 1
    chosen = coldstart.max_herding(points, nothing(30), 2, None, 0.01, weights)
    assert chosen.tolist() == [17, 4]
    with pytest.raises(ValueError, match="at least 0"):
        coldstart.max_herding(points, nothing(30), 2, None, 1.0, -weights)


def test_herding_of_identical_images_takes_each_once_and_the_first():
    points = np.repeat(np.eye(4) * 3 + 1, [2, 5, 4, 3], axis=0)
    chosen = coldstart.max_herding(points, nothing(14), 6, None, sigma=0.5)
    assert chosen.tolist() == [2, 7, 11, 0, 1, 3]


@pytest.mark.parametrize("rule", ["probcover", "max_herding", "typical_cover"])
@pytest.mark.parametrize("pool", ["blobs", "repeated rows"])
def test_the_sizes_of_blocks_change_no_choice(rule, pool, monkeypatch):
    labelled, outcomes = mark(60, [3, 50]), []
    names = ("TABLE", "LEAST", "MOST", "FEW", "COLUMNS")
    sizes = [(6000, 64, 512, 8, 4096), (0, 64, 512, 8, 4096), (0, 5, 20, 3, 13), (6000, 1, 1, 1, 1)]
    for block, values in zip((64, 64, 7, 1), sizes, strict=True):
        monkeypatch.setattr(distances, "BLOCK", block)
        monkeypatch.setattr(distances, "PAIRS", block)
        for name, value in zip(names, values, strict=True):
            monkeypatch.setattr(coverage, name, value)
        outcomes.append(RULES[rule](POOLS[pool], labelled, 40, np.random.default_rng(0)).tolist())
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize(
    "rule", ["typiclust", "probcover", "max_herding", "k_center", "usl", "typical_cover"]
)
def test_no_rule_builds_all_pairs(rule, monkeypatch):
    monkeypatch.setattr(coverage, "TABLE", 0)
    points = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    tracemalloc.start()
    getattr(coldstart, rule)(points, mark(2000, [7, 8]), 2, np.random.default_rng(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 8 / 3


@pytest.mark.parametrize("known", [0, 6])
def test_k_center_by_brute_force(known):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(50, 6)) * 20 + 300
    labelled, distances = mark(50, range(known)), pairwise(points)
    chosen = coldstart.k_center(points, labelled, 20, np.random.default_rng(1)).tolist()
    centres = list(range(known)) or chosen[:1]
    expected = chosen[: 0 if known else 1]
    while len(expected) < 20:
        expected.append(int(distances[centres].min(axis=0).argmax()))
        centres.append(expected[-1])
    assert chosen == expected


def test_k_center_draws_only_the_first_of_a_cold_start():
    points, labelled = np.random.default_rng(3).normal(size=(50, 6)), mark(50, [8])
    draws = [np.random.default_rng(seed) for seed in range(30)]
    firsts = [int(coldstart.k_center(points, nothing(50), 1, rng)[0]) for rng in draws]
    assert len(set(firsts)) > 15
    goes_on = {tuple(coldstart.k_center(points, labelled, 5, rng)) for rng in draws}
    assert len(goes_on) == 1


@pytest.mark.parametrize("known", [0, 2])
def test_usl_by_brute_force(known):
    points, blob = directions([18, 14, 10, 6, 5], seed=4, spread=0.15)
    labelled = mark(53, [0, 20][:known])  # blobs 0 and 1
    distances = pairwise(unit(points))
    density = 1 / np.sort(distances, axis=1)[:, 1:8].mean(axis=1)

    def best(score):
        return [
            max(np.flatnonzero(blob == k), key=lambda place: score[place]) for k in range(known, 5)
        ]

    running, chosen = np.zeros(53), best(density)
    plain = list(chosen)
    for _ in range(3):
        sources = [*chosen, *[0, 20][:known]]
        now = [
            sum(distances[x, s] ** -0.7 for s in sources if blob[s] != blob[x]) for x in range(53)
        ]
        running = 0.6 * running + 0.4 * np.array(now)
        chosen = best(density - 8 * running)
    assert chosen != plain  # the regulariser moves some
    settings = {"neighbours": 7, "alpha": 0.7, "momentum": 0.6}
    rest = (points, labelled, 5 - known, np.random.default_rng(0))
    found = coldstart.usl(*rest, weight=8, iterations=4, **settings)
    assert found.tolist() == chosen
    found = coldstart.usl(*rest, weight=8, iterations=1, **settings)
    assert found.tolist() == plain
    found = coldstart.usl(*rest, weight=0, iterations=4, **settings)
    assert found.tolist() == plain


def test_pretext_loss_by_hand():
    order = np.random.default_rng(0).permutation(100)
    place = np.argsort(order)  # of the image with each loss
    loss = order.astype(float)

    def choose(labelled, budget, **settings):
        return loss[coldstart.pretext_loss(loss, labelled, budget, None, **settings)].tolist()

    assert choose(nothing(100), 5) == [99, 97, 95, 93, 91]
    assert choose(nothing(100), 4) == [99, 97, 94, 92]
    assert choose(nothing(100), 12) == list(range(99, 87, -1))
    assert choose(nothing(100), 3, parts=2) == [99, 83, 66]
    assert choose(mark(100, place[90:]), 4) == [89, 87, 85, 83]


def test_typical_cover_by_brute_force():
    rng = np.random.default_rng(9)
    points = rng.normal(size=(70, 8)) * [9, 5, 3, 2, 1, 1, 0.5, 0.1] + 40
    labelled = mark(70, [5, 6, 7])
    for known, budget in [(nothing(70), 7), (labelled, 11), (labelled, 32)]:
        rows, lengths, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        halved = (rows * np.sqrt(lengths))[:, :4]
        share = 70 // (int(known.sum()) + budget)
        sigma = np.median(np.sort(pairwise(halved), axis=1)[:, share])
        expected = cover_by_brute_force(gaussian(halved, sigma), known, budget)
        chosen = coldstart.typical_cover(points, known, budget, None, components=4)
        assert chosen.tolist() == expected


def test_typical_cover_knows_no_scale_and_leaves_outliers_alone():
    points, blob = make_blobs([40, 30, 20], n_features=10, cluster_std=0.5, random_state=2)
    points = np.concatenate([points, 40 * np.eye(10)[:5]])  # five far from all and each other
    chosen = coldstart.typical_cover(points, nothing(95), 3, None)
    assert blob[chosen].tolist() == [0, 1, 2]
    moved = coldstart.typical_cover(points * 1000 - 77, nothing(95), 3, None)
    assert moved.tolist() == chosen.tolist()


def test_typical_cover_takes_every_image_once_before_its_repetitions():
    points = POOLS["repeated rows"]  # six of each: the third neighbour is at no distance
    chosen = coldstart.typical_cover(points, nothing(60), 20, None)
    assert sorted(chosen[:10] // 6) == list(range(10))
