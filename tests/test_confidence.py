"""Confidence, calibration and likeness against brute force and closed forms."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from skimage import measure

from segmentation.model import metrics
from segmentation.model.confidence import (
    MIN_PAIRS,
    MOST,
    calibrate,
    confidence,
    describe,
    distances,
    held_out,
    isotonic,
    likeness,
    line,
    review_threshold,
)


def random_case(seed, steps=64, size=(9, 13)):
    """Probabilities in multiples of 1 / steps, with ties, and a mask that is not their own."""
    rng = np.random.default_rng(seed)
    p = rng.integers(0, steps + 1, size) / steps
    return p.astype(np.float32), p + rng.normal(scale=0.3, size=size) > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_confidence_is_the_mean_dice_over_thresholds(seed):
    p, mask = random_case(seed)
    regions = np.stack([p > (step + 0.5) / 64 for step in range(64)])
    masks = np.broadcast_to(mask, regions.shape)
    counts = metrics.confusion(regions, masks)
    assert confidence(p, mask) == pytest.approx(metrics.dice(counts).mean(), abs=1e-7)
    assert confidence(p, mask.astype(np.uint8)) == confidence(p, mask)
    assert confidence(p[::-1], mask[::-1]) == pytest.approx(confidence(p, mask), abs=1e-12)


def test_confidence_by_hand():
    mask = np.zeros((4, 5), dtype=bool)
    assert confidence(np.full((4, 5), 0.3, np.float32), mask) == 0  # nothing found
    mask[:2] = True
    assert confidence(mask.astype(np.float32), mask) == 1
    assert confidence(0.75 * mask.astype(np.float64), mask) == 0.75
    assert confidence(1.0 - mask, mask) == 0
    # twice the area below 1/4, the area itself up to 1/2, half of it up to 1: 2/3, 1 and 2/3
    p = np.repeat([[1.0], [0.5], [0.25], [0.25]], 5, axis=1)
    assert confidence(p, mask) == pytest.approx(0.25 * 2 / 3 + 0.25 + 0.5 * 2 / 3)


def test_surer_outlines_have_more_confidence():
    distance = np.hypot(*np.mgrid[-32:32, -32:32])
    found = [
        confidence(p, p > 0.5) for p in (1 / (1 + np.exp((distance - 20) / s)) for s in range(1, 6))
    ]
    assert found == sorted(found, reverse=True) and found[0] > 0.9


# Calibration ------------------------------------------------------------------------------------


def rising(x, y):
    """Isotonic regression by its min-max formula, for x in ascending order."""
    n = range(len(y))
    return [max(min(np.mean(y[a : b + 1]) for b in n if b >= i) for a in n if a <= i) for i in n]


@pytest.mark.parametrize("seed", range(4))
def test_isotonic_knots_are_the_centres_of_the_steps(seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(25))
    y = (x + rng.normal(scale=0.3, size=25)).clip(0, 1)
    fitted = np.array(rising(x, y))
    steps = [
        list(group) for _, group in itertools.groupby(range(25), lambda i: round(fitted[i], 9))
    ]
    at, values = isotonic(x, y)
    assert 1 < len(steps) < 25
    np.testing.assert_allclose(values, [fitted[step[0]] for step in steps])
    np.testing.assert_allclose(at, [x[step].mean() for step in steps])


def test_lines():
    rng = np.random.default_rng(0)
    x = rng.random(40)
    y = (0.2 + 0.5 * x + rng.normal(scale=0.05, size=40)).clip(0, 1)
    slope, start = np.polyfit(x, y, 1)
    grid = np.linspace(0, 1, 11)
    np.testing.assert_allclose(np.interp(grid, *line(x, y)), start + slope * grid)
    falling = np.interp(grid, *line(x, 1 - y))
    np.testing.assert_allclose(falling, np.full(11, (1 - y).mean()))
    np.testing.assert_allclose(np.interp(grid, *line(np.full(40, 0.5), y)), np.full(11, y.mean()))
    steep = np.clip(3 * grid - 1.2, 0, 1)  # leaves 0..1 on both sides
    inside = (grid > 0.4) & (grid < 0.73)
    np.testing.assert_allclose(
        np.interp(grid, *line(grid[inside], steep[inside])), steep, atol=1e-9
    )


def test_the_better_kind_is_taken():
    x = np.linspace(0, 1, 200)
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.02, size=200)
    straight = calibrate(x, 0.1 + 0.7 * x + noise)
    jump = calibrate(x, np.where(x < 0.5, 0.2, 0.9) + noise)
    assert (straight.kind, jump.kind) == ("line", "isotonic")
    assert straight.errors["line"] == pytest.approx(0.02, rel=0.2)
    for fit, truth in ((straight, [0.24, 0.66]), (jump, [0.2, 0.9])):
        np.testing.assert_allclose(fit.expected([0.2, 0.8]), truth, atol=0.02)
        assert fit.kind == min(fit.errors, key=fit.errors.get) and fit.pairs == 200


@pytest.mark.parametrize("count", [MIN_PAIRS, 37, 400])
def test_a_calibration_rises_stays_in_bounds_and_ignores_order(count):
    rng = np.random.default_rng(count)
    x = rng.random(count).round(2)  # with ties
    y = np.clip(x**2 + rng.normal(scale=0.3, size=count), 0, 1)
    fit, order = calibrate(x, y), rng.permutation(count)
    assert calibrate(x[order], y[order]) == fit
    values = fit.expected(np.linspace(-0.5, 1.5, 99))
    assert (np.diff(values) >= 0).all() and values.min() >= 0 and values.max() <= 1
    assert np.mean(fit.expected(x) < fit.threshold) <= MOST


def test_too_few_images_leave_the_confidence_as_it_is():
    for count in (0, MIN_PAIRS - 1):
        fit = calibrate(np.full(count, 0.9), np.full(count, 0.1))
        assert fit.kind == "none" and fit.pairs == count and fit.threshold == 0.8
        np.testing.assert_array_equal(fit.expected([0, 0.37, 1]), [0, 0.37, 1])


def test_review_threshold():
    assert review_threshold([0.9] * 9 + [0.1]) == 0.8  # one in ten is below 0.8
    values = np.linspace(0, 0.79, 50)  # all are: the lowest fifth is marked
    assert np.count_nonzero(values < review_threshold(values)) == 10
    assert review_threshold([0.5] * 30) == 0.5  # equal ones cannot be told apart: none is marked


# Likeness ---------------------------------------------------------------------------------------


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 4)), rng.normal(size=(12, 4))
    expected = np.sort(cdist(a, b), axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(distances(a, b), expected)
    own = cdist(b, b)
    np.fill_diagonal(own, np.inf)
    np.testing.assert_allclose(distances(b, b, own=True), np.sort(own, axis=1)[:, :5].mean(axis=1))
    few = np.sort(cdist(b[:3], b[:3]), axis=1)[:, 1:].mean(axis=1)
    np.testing.assert_allclose(distances(b[:3], b[:3], own=True), few, rtol=1e-6)


def test_likeness_is_the_share_of_training_images_that_are_farther():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(400, 6)).astype(np.float32)
    images = np.concatenate([rng.normal(size=(300, 6)), rng.normal(size=(5, 6)) + 9])
    reference[:, 0], images[:, 0] = -np.abs(reference[:, 0]), -np.abs(images[:, 0])
    images[300:, 0], images[300:, 1:] = 9, 0
    unit, ways = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (reference, images))
    own = cdist(unit, unit) + np.diag([np.inf] * 400)
    known = np.sort(own, axis=1)[:, :5].mean(axis=1)
    far = np.sort(cdist(ways, unit), axis=1)[:, :5].mean(axis=1)
    found = likeness(images, reference)
    np.testing.assert_allclose(found, [(known >= value).mean() for value in far])
    np.testing.assert_array_equal(likeness(8 * images, reference), found)  # only directions count
    assert (found[300:] == 0).all() and np.isfinite(likeness(0 * images, reference)).all()
    assert np.mean(found[:300] < 0.1) == pytest.approx(0.1, abs=0.05)  # of the same kind


# Masks ------------------------------------------------------------------------------------------


def test_masks_are_described():
    mask = np.zeros((40, 60), dtype=bool)
    columns, warnings = describe(mask)
    assert (columns["area"], columns["box_left"], warnings) == (0, "", ["nothing found"])
    mask[5:20, 10:31] = True
    mask[7, 10] = False
    columns, warnings = describe(mask)
    (region,) = measure.regionprops(mask.astype(int))
    top, left, bottom, right = region.bbox
    box = {"box_left": left, "box_top": top, "box_width": right - left, "box_height": bottom - top}
    assert columns == {"area": region.area, "share": region.area / 2400, **box} and not warnings
    mask[30, 30:32] = True  # two of 314 pixels do not count as a part
    assert describe(mask)[1] == []
    mask[30:33, 30:33] = True
    assert describe(mask)[1] == ["2 parts"]


@pytest.mark.parametrize("place", [(0, 7), (19, 7), (7, 0), (7, 29)])
def test_masks_at_the_border(place):
    mask = np.zeros((20, 30), dtype=bool)
    mask[1:-1, 1:-1] = True
    assert describe(mask)[1] == []
    mask[place] = True
    assert describe(mask)[1] == ["touches the border"]


def test_held_out_does_not_know_its_own_images():
    """What is expected of an image does not change with its own Dice or that of its part."""
    rng = np.random.default_rng(0)
    confidence, dice = rng.random((2, 60))
    expected = held_out(confidence, dice)
    part = np.argsort(np.argsort(confidence)) % 5 == 2
    other = np.where(part, 1 - dice, dice)
    np.testing.assert_array_equal(held_out(confidence, other)[part], expected[part])
    fit = calibrate(confidence[~part], dice[~part])
    np.testing.assert_allclose(expected[part], fit.expected(confidence[part]))
