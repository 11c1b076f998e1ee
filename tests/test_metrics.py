"""The metrics against hand counts, plain loops, and two independent packages."""

import math
from collections import Counter

import medpy.metric.binary as medpy
import numpy as np
import pytest
from isic_challenge_scoring.confusion import create_binary_confusion_matrix
from isic_challenge_scoring.metrics import binary_jaccard, binary_threshold_jaccard

from segmentation.model import metrics


def random_masks(seed, n=40, height=13, width=17):
    """Random bool n x height x width of all densities, some empty and some full among them."""
    rng = np.random.default_rng(seed)
    density = rng.choice([0, 0.02, 0.2, 0.5, 0.9, 1], size=(n, 1, 1))
    return rng.random((n, height, width)) < density


def pairs(seed):
    return random_masks(seed), random_masks(seed + 1000)


def score(prediction, mask):
    """The metrics of one pair of nested lists or arrays."""
    return metrics.per_image(np.array([prediction]), np.array([mask]))[0]


def surface_by_loops(mask):
    """Pixels that have a 4-neighbour outside the mask or outside the image."""
    points = set(zip(*map(list, np.nonzero(mask)), strict=True))
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return [(y, x) for y, x in points if any((y + i, x + j) not in points for i, j in steps)]


def hd95_by_loops(a, b):
    a, b = surface_by_loops(a), surface_by_loops(b)
    nearest = [min(math.dist(p, q) for q in b) for p in a]
    nearest += [min(math.dist(p, q) for q in a) for p in b]
    return np.percentile(nearest, 95)


def test_hand_counted():
    prediction = np.array([[1, 1, 0], [1, 0, 0]], dtype=np.uint8)
    mask = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)  # tp 1, fp 2, fn 2, tn 1
    row = score(prediction, mask)
    assert tuple(row) == metrics.NAMES
    assert all(type(value) is float for value in row.values())
    assert row["dice"] == 2 / 6
    assert row["jaccard"] == 1 / 5
    assert row["thresholded_jaccard"] == 0
    assert row["sensitivity"] == row["specificity"] == 1 / 3
    assert row["pixel_accuracy"] == 2 / 6
    # Distances: (0,0)->1, (0,1)->0, (1,0)->sqrt 2 one way, and the mirror image the other way.
    assert row["hd95"] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("overlap", "kept"), [(12, False), (13, True)])
def test_threshold_keeps_exactly_065(overlap, kept):
    mask = np.ones((4, 5), dtype=np.uint8)
    prediction = np.zeros(20, dtype=np.uint8)
    prediction[:overlap] = 1
    row = score(prediction.reshape(4, 5), mask)
    assert row["thresholded_jaccard"] == (row["jaccard"] if kept else 0)


def test_empty_masks():
    empty, full = np.zeros((3, 4), dtype=np.uint8), np.ones((3, 4), dtype=np.uint8)
    assert list(score(empty, empty).values()) == [1, 1, 1, 1, 1, 1, 0]
    assert list(score(full, full).values()) == [1, 1, 1, 1, 1, 1, 0]
    assert list(score(full, empty).values()) == [0, 0, 0, 1, 0, 0, 5]  # 3 x 4: diagonal 5
    assert list(score(empty, full).values()) == [0, 0, 0, 0, 1, 0, 5]


def test_one_pixel_masks():
    a, b = np.zeros((2, 9, 9), dtype=bool)
    a[1, 2], b[4, 6] = True, True
    assert score(a, b)["hd95"] == 5
    assert score(a, a)["hd95"] == 0
    assert score(a, a)["dice"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_ratios_by_loops(seed):
    predictions, masks = pairs(seed)
    for a, b, row in zip(predictions, masks, metrics.per_image(predictions, masks), strict=True):
        tally = Counter(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        tp, fp = tally[True, True], tally[True, False]
        fn, tn = tally[False, True], tally[False, False]
        expected = {
            "dice": (2 * tp, 2 * tp + fp + fn),
            "jaccard": (tp, tp + fp + fn),
            "sensitivity": (tp, tp + fn),
            "specificity": (tn, tn + fp),
            "pixel_accuracy": (tp + tn, a.size),
        }
        for name, (part, whole) in expected.items():
            assert row[name] == (part / whole if whole else 1), name


@pytest.mark.parametrize("seed", range(3))
def test_hd95_by_all_pairs_and_by_medpy(seed):
    compared = 0
    for a, b in zip(*pairs(seed), strict=True):
        if a.any() and b.any():
            assert metrics.hd95(a, b) == pytest.approx(hd95_by_loops(a, b), abs=1e-12)
            assert metrics.hd95(a, b) == pytest.approx(medpy.hd95(a, b), abs=1e-12)
            compared += 1
    assert compared > 10


def test_ratios_by_medpy():
    predictions, masks = pairs(7)
    for a, b, row in zip(predictions, masks, metrics.per_image(predictions, masks), strict=True):
        if a.any() and b.any():
            assert row["dice"] == pytest.approx(medpy.dc(a, b))
            assert row["jaccard"] == pytest.approx(medpy.jc(a, b))
            assert row["sensitivity"] == pytest.approx(medpy.sensitivity(a, b))
            if not b.all():
                assert row["specificity"] == pytest.approx(medpy.specificity(a, b))


def test_jaccard_by_the_challenge_scorer():
    masks = random_masks(11)
    noise = random_masks(12) & (np.arange(len(masks)) % 2 == 0)[:, None, None]
    predictions = masks ^ (noise & random_masks(13))
    rows = metrics.per_image(predictions, masks)
    assert 0 < sum(row["thresholded_jaccard"] == 0 for row in rows) < len(rows)
    for a, b, row in zip(predictions, masks, rows, strict=True):
        matrix = create_binary_confusion_matrix(b, a)
        assert row["jaccard"] == pytest.approx(binary_jaccard(matrix))
        expected = binary_threshold_jaccard(matrix, threshold=0.65)
        assert row["thresholded_jaccard"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_properties(seed):
    a, b = pairs(seed)
    rows, swapped = metrics.per_image(a, b), metrics.per_image(b, a)
    flipped = metrics.per_image(a[:, ::-1], b[:, ::-1])
    inverted = metrics.per_image(~a, ~b)
    diagonal = math.hypot(*a.shape[1:])
    for row, swap, flip, inverse in zip(rows, swapped, flipped, inverted, strict=True):
        assert row == flip
        for name in ("dice", "jaccard", "pixel_accuracy", "hd95"):
            assert row[name] == swap[name], f"{name} is symmetric"
        assert row["sensitivity"] == inverse["specificity"]
        assert row["dice"] == pytest.approx(2 * row["jaccard"] / (1 + row["jaccard"]))
        assert all(0 <= row[name] <= 1 for name in metrics.NAMES if name != "hd95")
        assert 0 <= row["hd95"] <= diagonal
        assert row["thresholded_jaccard"] in (0, row["jaccard"])
    assert all(row["dice"] == 1 and row["hd95"] == 0 for row in metrics.per_image(a, a))


def test_mean_is_over_images_not_pixels():
    masks = np.zeros((2, 4, 4), dtype=np.uint8)
    masks[0], masks[1, 0, 0] = 1, 1  # a large lesion found whole, a small one missed
    predictions = masks * np.array([1, 0], dtype=np.uint8)[:, None, None]
    assert metrics.mean(metrics.per_image(predictions, masks))["dice"] == 0.5


def test_bad_arrays():
    mask = np.zeros((1, 3, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="0 and 1"):
        metrics.per_image(mask + 255, mask)
    with pytest.raises(ValueError, match="do not pair up"):
        metrics.per_image(mask[:, :2], mask)
