"""Scores that do not grow with the lesion, and draws even over lesion sizes: sizefree.py."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from segmentation.common.precision import Precision
from segmentation.model.inference import Inference
from segmentation.selection import sizefree

HOW = Inference(3, Precision(torch.device("cpu")))


class Given(nn.Module):
    """A model whose logits are what the images say: (x - 128) / 16."""

    def forward(self, x):
        return (x - 128 / 255) * 255 / 16


def discs(radii, side=64, soft=3.0):
    """uint8 images B x 1 x H x W: discs with a border of one width."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    logits = [np.clip(8 * (r - np.hypot(y, x)) / soft, -8, 7.9) for r in radii]
    return torch.from_numpy(np.round(128 + 16 * np.array(logits)).astype(np.uint8))[:, None]


def entropy(images):
    p = 1 / (1 + np.exp(-(images[:, 0].numpy().astype(float) - 128) / 16))
    return -(p * np.log(p) + (1 - p) * np.log(1 - p)), p


@pytest.fixture(autouse=True)
def probability(monkeypatch):
    monkeypatch.setattr(
        sizefree, "lesion_probability", lambda model, x: model(x.float() / 255)[:, 0].sigmoid()
    )
    monkeypatch.setattr(sizefree, "per_image", one_by_one)


def one_by_one(measure, model, images, batch, precision, advance=None):
    parts = [measure(images[start : start + batch]) for start in range(0, len(images), batch)]
    return torch.cat(parts).numpy()


def test_border_length_is_that_of_an_erosion():
    rng = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(rng.normal(size=(5, 20, 30)), (0, 2, 2)) > 0
    found = sizefree.border_length(torch.from_numpy(masks))
    square = np.ones((3, 3), bool)
    for mask, length in zip(masks, found.tolist(), strict=True):
        assert length == (mask & ~ndimage.binary_erosion(mask, square, border_value=1)).sum()


def test_scores_do_not_grow_with_the_lesion():
    images = discs([6, 12, 18, 24])
    sums = entropy(images)[0].sum(axis=(1, 2))
    assert sums[-1] / sums[0] > 3
    for score, most in ((sizefree.score_border, 1.4), (sizefree.score_threshold, 1.15)):
        found = score(Given(), images, *HOW)
        assert found.max() / found.min() < most
    sharp, blurred = sizefree.score_border(
        Given(), torch.cat([discs([12], soft=1), discs([12], soft=8)]), *HOW
    )
    assert blurred > 3 * sharp


def test_border_by_hand():
    images = discs([9, 15])
    h, p = entropy(images)
    square = np.ones((3, 3), bool)
    for image, (score, mask) in enumerate(
        zip(sizefree.score_border(Given(), images, *HOW), p > 0.5, strict=True)
    ):
        length = (mask & ~ndimage.binary_erosion(mask, square, border_value=1)).sum()
        assert score == pytest.approx(h[image].sum() / length, rel=1e-4)
    empty = torch.full((1, 1, 64, 64), 60, dtype=torch.uint8)
    empty[0, 0, 3, 4] = 120  # the pixel that is least sure
    p = 1 / (1 + np.exp(8 / 16))
    assert sizefree.score_border(Given(), empty, *HOW) == pytest.approx([1 - abs(2 * p - 1)])


def test_foreground_by_hand():
    images = discs([9, 15])
    h, p = entropy(images)
    square = np.ones((5, 5), bool)  # 64 / 32 = 2 pixels to each side
    expected = [h[k][ndimage.binary_dilation(p[k] > 0.5, square)].mean() for k in range(2)]
    assert sizefree.score_foreground(Given(), images, *HOW) == pytest.approx(expected, rel=1e-4)
    empty = torch.full((1, 1, 64, 64), 100, dtype=torch.uint8)
    assert sizefree.score_foreground(Given(), empty, *HOW) == pytest.approx(
        entropy(empty)[0].mean()
    )


def test_threshold_is_the_quantile_of_all_pixels():
    images = discs([6, 12, 20]).float()
    images += torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 20 - 10
    h, p = entropy(images)
    least = np.quantile(h, 1 - p.mean())
    expected = [image[image >= least].mean() for image in h]
    assert sizefree.score_threshold(Given(), images, *HOW) == pytest.approx(expected, rel=0.02)
    counts = np.array([5.0, 3, 1, 1])
    assert sizefree.threshold(counts, 0.2) == pytest.approx(np.log(2) / 2)
    assert sizefree.threshold(counts, 0.05) == pytest.approx(np.log(2) * 3 / 4)
    assert sizefree.threshold(counts, 1.0) == 0


def test_predicted_shares():
    images = discs([9, 15])
    expected = entropy(images)[1].mean(axis=(1, 2))
    assert sizefree.predicted_shares(Given(), images, *HOW) == pytest.approx(expected, rel=1e-5)


# Draws ------------------------------------------------------------------------------------------


def test_strata_are_equally_large_and_in_order():
    shares = np.random.default_rng(0).random(23)
    strata = sizefree.strata_of(shares)
    assert np.bincount(strata).tolist() == [5, 5, 4, 5, 4]
    assert (np.diff(strata[np.argsort(shares)]) >= 0).all()
    assert sizefree.strata_of(shares[:3]).tolist() == [
        5 * rank // 3 for rank in np.argsort(np.argsort(shares[:3]))
    ]


def test_spread_takes_turns():
    strata = np.array([0, 0, 0, 1, 1, 2])
    assert sizefree.spread(strata, np.array([2, 1, 4, 0, 5, 3]), 6).tolist() == [2, 4, 5, 1, 3, 0]
    assert sizefree.spread(strata, np.array([2, 1, 4, 0, 5, 3]), 2).tolist() == [2, 4]
    assert sizefree.spread(np.array([0, 1, 1, 0]), np.arange(4), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("budget", [1, 5, 7, 40])
def test_a_stratified_draw_is_even_and_each_image_as_likely(budget):
    shares = np.random.default_rng(0).random(40)
    strata, hits = sizefree.strata_of(shares), np.zeros(40)
    for seed in range(300):
        chosen = sizefree.stratified(shares, budget, np.random.default_rng(seed))
        assert len(set(chosen)) == budget
        counts = np.bincount(strata[chosen], minlength=5)
        assert counts.max() - counts.min() <= 1
        hits[chosen] += 1
    assert np.abs(hits / 300 - budget / 40).max() < 0.15


def test_clasp_late_is_the_highest_of_each_stratum_then_the_highest():
    rng = np.random.default_rng(0)
    shares, scores, overall = rng.random((3, 50)) + 0.01
    strata = sizefree.strata_of(shares)
    chosen = sizefree.clasp(scores**50, overall**50, shares, 10, rng, 99)  # far apart: no noise
    best = [np.flatnonzero(strata == k)[scores[strata == k].argmax()] for k in range(5)]
    assert set(best) <= set(chosen[:6]) and len(set(chosen)) == 10
    rest = [place for place in np.argsort(-overall) if place not in set(chosen[:6])]
    assert chosen[6:].tolist() == rest[:4]
    early = {
        tuple(sizefree.clasp(scores, overall, shares, 10, np.random.default_rng(s), 1))
        for s in range(9)
    }
    assert len(early) == 9


def test_clue_takes_the_nearest_to_weighted_means():
    features = np.array([[0.0, 0], [1, 0], [2, 0], [10, 0], [11, 0], [12, 0]])
    scores = np.array([0.0, 0, 1, 3, 0, 0])  # the means are at the two that are unsure
    chosen = sizefree.clue(features, scores, 2, np.random.default_rng(0))
    assert chosen.tolist() == [3, 2]  # the heavier cluster first
    chosen = sizefree.clue(np.zeros((6, 2)), np.zeros(6), 6, np.random.default_rng(0))
    assert sorted(chosen) == list(range(6))
