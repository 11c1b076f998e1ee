"""The cold starts of recent.py against brute force and what their papers say."""

import itertools

import numpy as np
import pytest
from scipy import stats

from segmentation.selection import recent
from segmentation.selection.distances import normalise
from segmentation.selection.geometry import clustered


def blobs(counts=(12, 8, 4), seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(len(counts), 5)
    return np.concatenate(
        [c + rng.normal(0, spread, (n, 5)) for c, n in zip(centres, counts, strict=True)]
    ).astype(np.float32)


def none(features):
    return np.zeros(len(features), dtype=bool)


# RepDiv -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_rep_div_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    features, labelled = rng.normal(size=(20, 4)), np.arange(20) == 3
    points = normalise(features).astype(float)
    cosine = np.round(points @ points.T, 6)  # two images that cover each other alone are a tie
    known, chosen = [3], []
    for turn in range(10):
        free = [i for i in range(20) if i not in known]
        if turn < 7:
            value = {i: np.maximum(cosine[known].max(0), cosine[i]).sum() for i in free}
        else:
            value = {i: (1 - cosine[known, i]).min() for i in free}
        chosen.append(max(free, key=lambda i: round(value[i], 5)))
        known.append(chosen[-1])
    assert recent.rep_div(features, labelled, 10, rng).tolist() == chosen


# CSCS -------------------------------------------------------------------------------------------


def test_ranks():
    assert recent.ranks(np.array([5.0, 1, 3])) == pytest.approx([1, 0.01, 0.5])
    assert recent.ranks(np.array([2.0, 2])) == pytest.approx([0.5, 0.5])
    assert recent.ranks(np.array([7.0])) == pytest.approx([1])


def test_the_weight_of_hardness():
    rng = np.random.default_rng(0)
    typical, loss = rng.random(100), rng.random(100)
    r = stats.spearmanr(typical, loss).statistic
    assert recent.hardness_weight(typical, loss, 10) == pytest.approx(0.5 + r / 4 / 2)
    assert recent.hardness_weight(typical, typical, 90) == pytest.approx(0.7)
    assert recent.hardness_weight(typical, -typical, 10**6) == pytest.approx(0.3)
    assert recent.hardness_weight(typical, np.ones(100), 10) == 0.5


def test_cscs_takes_what_is_typical_and_hard_in_each_cluster():
    features, rng = blobs(), np.random.default_rng(0)
    loss = rng.random(24)
    chosen = recent.cscs(features, loss, none(features), 3, np.random.default_rng(1), 5)
    cluster = np.repeat([0, 1, 2], [12, 8, 4])
    assert cluster[chosen].tolist() == [0, 1, 2]  # the largest first
    points = (features - features.mean(0)) / features.std(0)
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    spread = np.sort(distance, axis=1)[:, 1:6].mean(1)
    weight = recent.hardness_weight(-spread, loss, 3)
    for k, place in enumerate(chosen):
        inside = np.flatnonzero(cluster == k)
        typical, hard = recent.ranks(-spread[inside]), recent.ranks(loss[inside])
        assert place == inside[np.argmax(typical ** (1 - weight) * hard**weight)]


# Medoids ----------------------------------------------------------------------------------------


def test_medoids_finds_the_clusters_and_goes_outwards():
    features = blobs()
    chosen = recent.medoids(features, none(features), 6, np.random.default_rng(0))
    cluster = np.repeat([0, 1, 2], [12, 8, 4])
    assert np.bincount(cluster[chosen]).tolist() == [1 + 2, 1 + 1, 1]  # 11 : 7 : 3 of three
    for k in range(3):
        inside, mine = np.flatnonzero(cluster == k), [p for p in chosen if cluster[p] == k]
        centre = features[inside].mean(0)
        near = np.linalg.norm(features[inside] - centre, axis=1)
        assert mine[0] == inside[near.argmin()]
        for number in range(1, len(mine)):
            away = np.linalg.norm(features[inside][:, None] - features[mine[:number]], axis=2)
            assert mine[number] == inside[away.min(1).argmax()]


def test_medoids_goes_on_from_labels():
    features = blobs()
    labelled = none(features)
    labelled[:12] = True  # all of the first blob
    chosen = recent.medoids(features, labelled, 12, np.random.default_rng(0))
    assert sorted(chosen) == list(range(12, 24))


def test_the_quotas_of_medoids():
    cluster = np.repeat([0, 1, 2, 3], [10, 6, 3, 1])
    labelled = np.zeros(20, dtype=bool)
    assert recent.one_each(cluster, labelled, 2).tolist() == [1, 1, 0, 0]
    assert recent.one_each(cluster, labelled, 4).tolist() == [1, 1, 1, 1]
    assert recent.one_each(cluster, labelled, 20).tolist() == [10, 6, 3, 1]
    labelled[[0, 19]] = True
    assert recent.one_each(cluster, labelled, 2).tolist() == [0, 1, 1, 0]


def test_the_number_of_clusters_is_that_of_the_largest_silhouette():
    features = blobs((15, 15, 15))
    assert (
        len(np.unique(recent.best_clusters(features, 8, 45, np.random.default_rng(0)).cluster)) == 3
    )
    same = np.ones((6, 2))
    assert not recent.best_clusters(same, 5, 6, np.random.default_rng(0)).cluster.any()
    assert clustered(same, 1, np.random.default_rng(0)).cluster.tolist() == [0] * 6


# All --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["random", "repeated", "one dimension"])
@pytest.mark.parametrize(("known", "budget"), [*itertools.product((0, 1, 9), (1, 2, 7, 16))])
def test_exactly_the_budget(rows, known, budget):
    rng = np.random.default_rng(known + budget)
    features = rng.normal(size=(25, 1 if rows == "one dimension" else 3))
    if rows == "repeated":
        features[:] = features[:2].repeat([20, 5], axis=0)
    labelled = np.zeros(25, dtype=bool)
    labelled[rng.permutation(25)[:known]] = True
    loss = rng.random(25)
    for rule in (
        lambda: recent.rep_div(features, labelled, budget, np.random.default_rng(0)),
        lambda: recent.cscs(features, loss, labelled, budget, np.random.default_rng(0)),
        lambda: recent.medoids(features, labelled, budget, np.random.default_rng(0)),
    ):
        places = rule()
        assert places.dtype == np.int64 and len(set(places)) == len(places) == budget
        assert not labelled[places].any() and rule().tolist() == places.tolist()
