"""The CRF against sums over all pairs, and what it does to masks."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from segmentation.model import crf


def slow_mean_field(image, probability, side, iterations, appearance, smoothness, far, near, rest):
    """The same by loops over pairs of pixels, in double precision."""
    height, width = probability.shape
    edge = max(height, width)
    stride = int(np.ceil(edge / side))
    places = [(y, x) for y in range(height) for x in range(width)]
    blocks = {}
    for y, x in places:
        blocks.setdefault((y // stride, x // stride), []).append((y, x))
    block = {place: members for members in blocks.values() for place in members}

    def gaussian(a, b, deviation):
        return np.exp(-((np.subtract(a, b) / deviation) ** 2).sum() / 2)

    def near_each_other(i, j):
        return gaussian(i, j, near * edge) if i != j else 0

    def look_alike(i, j):
        members = block[j]
        centre, colour = np.mean(members, axis=0), np.mean([image[m] for m in members], axis=0)
        common = gaussian(i, centre, far * edge) * gaussian(image[i].astype(float), colour, rest)
        return common * (1 - 1 / len(members)) if i in members else common

    energy = np.zeros((len(places), len(places)))
    for weight, kernel in ((appearance, look_alike), (smoothness, near_each_other)):
        values = np.array([[kernel(i, j) for j in places] for i in places])
        energy += weight * values / np.sqrt(np.outer(values.sum(1), values.sum(1)))
    q = probability.ravel()
    p = np.clip(q, 1e-5, 1 - 1e-5)
    for _ in range(iterations):
        q = 1 / (1 + (1 - p) / p * np.exp(-energy @ (2 * q - 1)))
    return q.reshape(height, width)


@pytest.mark.parametrize("side", [64, 9, 4, 3])
@pytest.mark.parametrize(("shape", "iterations"), [((9, 7, 1), 3), ((6, 8, 3), 2), ((8, 9, 1), 1)])
def test_against_all_pairs(shape, iterations, side):
    rng = np.random.default_rng(0)
    image = rng.integers(100, 150, shape).astype(np.uint8)
    probability = rng.random(shape[:2])
    probability[0, 0], probability[1, 1] = 0, 1
    fast = crf.mean_field(
        image, probability, iterations, 2.0, 1.5, far=0.3, near=0.1, contrast=20.0, side=side
    )
    slow = slow_mean_field(image, probability, side, iterations, 2.0, 1.5, 0.3, 0.1, 20.0)
    np.testing.assert_allclose(fast, slow, atol=1e-4)
    assert fast.dtype == np.float32 and fast.shape == shape[:2]
    assert np.abs(slow - probability).mean() > 0.05


def scene(size, seed=0):
    """A dark disc on light skin, its mask, and a prediction 5 % of whose pixels are wrong."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth = (y - 0.45 * size) ** 2 + (x - 0.5 * size) ** 2 < (0.28 * size) ** 2
    image = np.where(truth, 90, 180)[..., None] + rng.normal(0, 4, (size, size, 1))
    wrong = rng.random(truth.shape) < 0.05
    return image.astype(np.uint8), truth, wrong


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(("size", "side"), [(48, 64), (96, 48), (100, 33)])
def test_isolated_errors_go_and_the_outline_moves_to_the_edge_in_the_image(size, side):
    image, truth, wrong = scene(size)
    wide = binary_dilation(truth, iterations=size // 16)  # reaches beyond the lesion
    predicted = wide ^ wrong
    probability = np.where(predicted, 0.9, 0.1)
    refined = crf.refine(image, probability, side=side)
    assert refined.dtype == np.uint8 and set(np.unique(refined)) == {0, 1}
    assert overlap(predicted, truth) < 0.85 < 0.99 < overlap(refined > 0, truth)

    alone = crf.refine(image, probability, side=side, appearance=0) > 0
    assert overlap(alone, wide) > 0.97  # nothing tells it about the image
    assert overlap(alone, truth) < overlap(refined > 0, truth) - 0.05


def test_a_wrong_pixel_goes_though_the_network_was_sure_of_it():
    image, truth, _ = scene(40)
    probability = truth.astype(float)
    probability[3, 3], probability[18, 20] = 1, 0
    assert (crf.refine(image, probability) == truth).all()


def test_without_pairs_nothing_changes():
    image, truth, wrong = scene(24)
    probability = np.where(truth ^ wrong, 0.55, 0.45)
    probability[0, 0] = 0.5  # not above one half: skin
    same = crf.mean_field(image, probability, appearance=0, smoothness=0)
    np.testing.assert_allclose(same, probability, atol=1e-6)
    expected = (truth ^ wrong) & (probability != 0.5)
    assert (crf.refine(image, probability, appearance=0, smoothness=0) == expected).all()


def test_a_pixel_like_no_other_keeps_its_own_opinion():
    image = np.full((12, 12, 3), 200, dtype=np.uint8)
    image[5, 5] = 0
    probability = np.full((12, 12), 0.1)
    probability[5, 5] = 0.8
    after = crf.mean_field(image, probability, smoothness=0)
    assert np.isfinite(after).all()
    assert after[5, 5] == pytest.approx(0.8, abs=1e-5) and after[0, 0] < 0.01
    assert crf.mean_field(image, probability)[5, 5] < 0.5  # its neighbours outvote it


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="image"):
        crf.mean_field(np.zeros((4, 5, 1), dtype=np.uint8), np.zeros((5, 4)))


def test_pseudo_masks_are_refined_where_that_changes_little():
    image, truth, wrong = scene(40)
    few = truth.copy()
    few[2, 2] = True
    for predicted, trusted in ((few, True), (truth ^ wrong, False)):
        probability = np.where(predicted, 0.9, 0.1)
        refined = crf.refine(image, probability)
        assert (refined != predicted).any()
        expected = refined if trusted else predicted
        assert (crf.pseudo_mask(image, probability) == expected).all()
        assert (crf.pseudo_mask(image, probability, least=0) == refined).all()
