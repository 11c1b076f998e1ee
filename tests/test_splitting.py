"""The split with groups: against brute force and an independent graph library."""

import itertools

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from segmentation.data.splitting import given_split, make_splits, merge, random_split


def draw_groups(rng, ids, most):
    """Random disjoint groups of ids, some ids in none."""
    keys = rng.integers(-1, most, len(ids))
    groups = [[i for i, key in zip(ids, keys, strict=True) if key == k] for k in range(most)]
    return [group for group in groups if group]


def components(ids, groups):
    """The connected components of ids, as a set of frozensets, by scipy."""
    row = {name: place for place, name in enumerate(ids)}
    edges = [(row[group[0]], row[name]) for group in groups for name in group]
    first, second = np.array(edges, dtype=int).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(first)), (first, second)), (len(ids), len(ids)))
    labels = connected_components(graph, directed=False)[1]
    return {
        frozenset(i for i, label in zip(ids, labels, strict=True) if label == one)
        for one in set(labels.tolist())
    }


def test_merge_gives_the_connected_components():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = [f"I{i:02d}" for i in rng.permutation(rng.integers(1, 25))]
        one, two = (draw_groups(rng, ids, rng.integers(1, 10)) for _ in range(2))
        merged = merge(one, two)
        wanted = {part for part in components(ids, one + two) if len(part) > 1}
        assert {frozenset(group) for group in merged} == wanted and len(merged) == len(wanted)
        assert merged == sorted(sorted(group) for group in merged)
    assert merge([], []) == [] and merge([["a"]]) == []


def most_below(sizes, limit):
    """The largest sum of a subset that is at most `limit`, by trying all subsets."""
    subsets = itertools.product((0, 1), repeat=len(sizes))
    sums = (sum(size for size, used in zip(sizes, use, strict=True) if used) for use in subsets)
    return max(total for total in sums if total <= limit)


@pytest.mark.parametrize("masks", [1.0, 0.5])
def test_groups_are_never_split_and_counts_are_exact_where_they_can_be(masks):
    rng = np.random.default_rng(1)
    inexact = 0
    for trial in range(300):
        ids = [f"I{i:02d}" for i in range(rng.integers(1, 16))]
        has_mask = {name: bool(rng.random() < masks) for name in ids}
        duplicates = [g for g in draw_groups(rng, ids, len(ids)) if len(g) > 1]
        groups = draw_groups(rng, ids, rng.integers(1, 6))
        labelled = [name for name in ids if has_mask[name]]
        wanted = int(rng.integers(0, len(labelled) + 1))
        pool, test = random_split(has_mask, duplicates, None, wanted, trial, groups)
        assert (pool, test) == random_split(has_mask, duplicates, None, wanted, trial, groups)
        assert not set(pool) & set(test) and set(test) <= set(labelled) <= set(pool + test)
        parts = components(ids, duplicates + groups)
        for part in parts:
            assert not (part & set(pool) and part & set(test))
            if not part & set(test):
                assert part <= set(pool)  # only images linked to a tested one are left out
        best = most_below([sum(has_mask[name] for name in part) for part in parts], wanted)
        assert len(test) == best
        inexact += best < wanted
    assert 20 < inexact < 280  # both cases occur


def test_pool_count_with_groups():
    rng = np.random.default_rng(2)
    for trial in range(100):
        ids = [f"I{i:02d}" for i in range(14)]
        has_mask = dict.fromkeys(ids, True)
        groups = draw_groups(rng, ids, 7)
        pool, test = random_split(has_mask, [], 5, 4, trial, groups)
        left = [part for part in components(ids, groups) if not part & set(test)]
        assert len(pool) == most_below([len(part) for part in left], 5)
        assert all(part <= set(pool) or not part & set(pool) for part in left)


def test_seeds_differ_and_every_group_is_tested_sometimes():
    has_mask = {f"P{i}/{k}": True for i in range(5) for k in range(4)}
    groups = [[f"P{i}/{k}" for k in range(4)] for i in range(5)]
    tests = [random_split(has_mask, [], None, 4, seed, groups)[1] for seed in range(60)]
    assert sorted({tuple(test) for test in tests}) == [tuple(group) for group in groups]


def test_a_tested_patient_leaves_the_pool_with_all_images():
    has_mask = {"A1": True, "A2": False, "B1": True, "B2": False, "C1": False}
    groups = [["A1", "A2"], ["B1", "B2"], ["C1"]]
    splits = [random_split(has_mask, [], None, 1, seed, groups) for seed in range(20)]
    assert {(*pool, "|", *test) for pool, test in splits} == {
        ("A1", "A2", "C1", "|", "B1"),
        ("B1", "B2", "C1", "|", "A1"),
    }
    # Without --group, images that are twins of unlabelled ones stay in the pool, as ever.
    assert random_split(has_mask, groups[:2], None, 1, 0) == (sorted(has_mask), [])


def test_groups_without_effect_leave_the_split_as_it_is():
    has_mask = {f"I{i:03d}": i % 7 > 0 for i in range(80)}
    for seed in range(20):
        alone = random_split(has_mask, [], 30, 12, seed)
        assert random_split(has_mask, [], 30, 12, seed, []) == alone
        assert random_split(has_mask, [], 30, 12, seed, [[name] for name in has_mask]) == alone


def test_given_split_against_its_definition():
    rng = np.random.default_rng(3)
    for _ in range(300):
        ids = [f"I{i:02d}" for i in range(rng.integers(1, 20))]
        is_test, has_mask = ({i: bool(rng.random() < 0.4) for i in ids} for _ in range(2))
        linked = draw_groups(rng, ids, rng.integers(1, 8))
        sides = given_split(is_test, has_mask, linked)
        assert all(side == sorted(side) for side in sides)
        assert sorted(name for side in sides for name in side) == ids
        pool, test, waiting, dropped = map(set, sides)
        assert test | waiting == {name for name in ids if is_test[name]}
        assert test == {name for name in test | waiting if has_mask[name]}
        for part in components(ids, linked):
            outside = part - test - waiting
            assert outside <= (pool if outside == part else dropped)


def test_the_content_of_splits_json_is_as_before_without_the_new_options():
    records = [{"id": f"I{i}", "mask": "m" if i else None, "group": "fair"} for i in range(6)]
    options = {"seed": 3, "pool_count": None, "test_count": 2, "official_test": False}
    splits = make_splits(records, [["I1", "I2"]], options, {})
    assert list(splits) == ["seed", "rule", "pool", "test", "dropped"] and splits["dropped"] == []
    assert len(splits["test"]) == 2 and len(splits["pool"]) == 4
