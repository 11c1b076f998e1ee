"""Scores against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch

from segmentation import uncertainty
from segmentation.dataset import to_input
from segmentation.unet import UNet


def test_binary_entropy():
    p = torch.tensor([0.0, 0.5, 0.25, 1.0], dtype=torch.float64)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert uncertainty.binary_entropy(p).tolist() == pytest.approx([0, math.log(2), quarter, 0])


def brute_distance(mask):
    zeros = np.argwhere(~mask)
    result = np.zeros(mask.shape)
    for place in np.argwhere(mask):
        result[tuple(place)] = np.sqrt(((zeros - place) ** 2).sum(1)).min()
    return result


def test_distance_map_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = rng.random((9, 7)) > 0.3
        expected = brute_distance(mask)
        np.testing.assert_allclose(uncertainty.distance_map(mask), expected / expected.max())


@pytest.mark.parametrize("value", [0, 1])
def test_distance_map_of_a_constant_mask(value):
    assert (uncertainty.distance_map(np.full((4, 4), value)) == value).all()


def test_ceal_uncertainty_by_hand():
    prediction = np.zeros((5, 5), dtype=np.uint8)
    prediction[1:4, 1:4] = 1  # the centre is 2 from the background, its eight neighbours 1
    variance = np.arange(25).reshape(5, 5) / 100
    ring = variance[1:4, 1:4].sum() - variance[2, 2]
    expected = 0.5 * ring + variance[2, 2]
    assert uncertainty.ceal_uncertainty(variance, prediction) == pytest.approx(expected)
    assert uncertainty.ceal_uncertainty(variance, np.zeros((5, 5))) == 0


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UNet(width=4, dropout=0.5).eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 1, 32, 32), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def test_monte_carlo_equals_full_passes(model, images):
    x = to_input(images)
    torch.manual_seed(5)
    shared = uncertainty.monte_carlo(model, *model.encode(x), passes=4)
    torch.manual_seed(5)
    for module in model.modules():  # full passes in training mode, but for batch normalisation
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    full = torch.stack([model(x)[:, 0].sigmoid() for _ in range(4)])
    torch.testing.assert_close(shared, full)
    assert (full.var(dim=0) > 0).any()


def test_scores(model, images):
    entropy = uncertainty.score_entropy(model, images, 3, "cpu")
    with torch.no_grad():
        p = model(to_input(images))[:, 0].sigmoid().double().numpy()
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=(1, 2))
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    assert (entropy <= math.log(2)).all()

    scores = uncertainty.score_ceal(model, images, 5, 3, 0, ("x",), "cpu")
    again = uncertainty.score_ceal(model, images, 5, 3, 0, ("x",), "cpu")
    other = uncertainty.score_ceal(model, images, 5, 3, 1, ("x",), "cpu")
    assert (scores == again).all() and not (scores == other).all()
    assert (scores >= 0).all() and not model.training


def test_no_dropout_no_ceal_uncertainty(images):
    torch.manual_seed(0)
    certain = UNet(width=4, dropout=0.0)
    scores = uncertainty.score_ceal(certain, images, 5, 3, 0, ("x",), "cpu")
    np.testing.assert_allclose(scores, 0, atol=1e-9)


def test_scoring_leaves_the_model_as_it_was(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    uncertainty.score_ceal(model, images, 3, 3, 0, ("x",), "cpu")
    uncertainty.score_entropy(model, images, 3, "cpu")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
