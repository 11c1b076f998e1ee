"""Scores against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn.functional import dropout

from segmentation import uncertainty
from segmentation.dataset import to_input
from segmentation.runfiles import derived_seed
from segmentation.speed import Speed
from segmentation.unet import UNet

CPU = Speed(torch.device("cpu"))


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


def blobs():
    """Masks with holes and several parts; some touch one border, some more, some none."""
    rng = np.random.default_rng(0)
    for number in range(60):
        field = gaussian_filter(rng.normal(size=(40, 57)), 4)
        mask = field > np.quantile(field, rng.uniform(0.05, 0.98))
        if number % 2 == 0:  # keep it from all borders, or from all but one
            edges = mask[:3], mask[-7:], mask[:, :5], mask[:, -2:]
            for edge in edges[number % 3 : 4 if number % 4 else 3]:
                edge[:] = False
        yield mask


def test_distance_map_of_a_part_is_that_of_the_whole_image():
    touched = []
    for mask in blobs():
        expected = distance_transform_edt(mask)
        np.testing.assert_array_equal(uncertainty.distance_map(mask), expected / expected.max())
        touched.append(sum(map(np.any, (mask[0], mask[-1], mask[:, 0], mask[:, -1]))))
    assert {0, 1, 2, 3, 4} <= set(touched)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 4), slice(8, 9), slice(0, 8), slice(1, 9)])
def test_distance_map_of_bands_along_the_border(rows):
    mask = np.zeros((9, 5), dtype=bool)
    mask[rows] = True
    for band in (mask, mask.T):
        expected = distance_transform_edt(band)
        np.testing.assert_array_equal(uncertainty.distance_map(band), expected / expected.max())


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
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 1, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.fixture
def model(images):
    """Random weights, but running statistics of these images: dropout moves its predictions."""
    torch.manual_seed(0)
    model = UNet(width=4, dropout=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        model(to_input(images))
        model.eval()
        model.head.bias -= model(to_input(images)).median()  # half of the pixels are lesion
    return model


def dropout_in_rows(x, *args, **kwargs):
    """Dropout draws its mask in the order of the memory; here that is always the same."""
    return dropout(x.contiguous(), *args, **kwargs)


@torch.no_grad()
def test_monte_carlo_equals_full_passes(model, images, monkeypatch):
    for module in (torch.nn.functional, uncertainty):
        monkeypatch.setattr(module, "dropout", dropout_in_rows)
    x = to_input(images)
    torch.manual_seed(5)
    shared = uncertainty.monte_carlo(model, *model.encode(x), passes=4)
    torch.manual_seed(5)
    for module in model.modules():  # full passes in training mode, but for batch normalisation
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    full = torch.stack([model(x)[:, 0].sigmoid() for _ in range(4)])
    torch.testing.assert_close(shared, full, rtol=0, atol=1e-5)
    assert full.var(dim=0).mean() > 1e-5


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 8])
@torch.no_grad()
def test_passes_at_once_share_the_encoder_and_nothing_else(model, images, at_once, monkeypatch):
    """Each pass equals the whole decoder on the bottleneck that the same mask dropped out."""
    monkeypatch.setattr(uncertainty, "dropout", dropout_in_rows)
    passes = 5
    bottleneck, skips = model.encode(to_input(images))
    torch.manual_seed(5)
    shared = uncertainty.monte_carlo(model, bottleneck, skips, passes, at_once)
    torch.manual_seed(5)
    dropped = []
    while len(dropped) < passes:
        repeated = bottleneck.repeat(min(at_once, passes - len(dropped)), 1, 1, 1)
        dropped += dropout_in_rows(repeated, 0.5, training=True).split(len(images))
    full = [model.decode(one, skips, drop=False)[:, 0].sigmoid() for one in dropped]
    assert shared.shape == (passes, len(images), 32, 32)
    torch.testing.assert_close(shared, torch.stack(full), rtol=0, atol=1e-5)
    assert shared.var(dim=0).mean() > 1e-5
    assert len(shared.flatten(1).unique(dim=0)) == passes


def test_the_encoder_runs_once_for_all_passes(model, images, monkeypatch):
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x: seen.append(len(x)) or encode(x))
    done = []
    uncertainty.score_ceal(model, images, 6, (0, "x"), 3, CPU, done.append)
    assert seen == done == [3, 3, 1]


def test_scores(model, images):
    entropy = uncertainty.score_entropy(model, images, 3, CPU)
    with torch.no_grad():
        p = model(to_input(images))[:, 0].sigmoid().double().numpy()
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=(1, 2))
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    assert (entropy <= math.log(2)).all()

    scores, again, other = (
        uncertainty.score_ceal(model, images, 5, (seed, "x"), 3, CPU) for seed in (0, 0, 1)
    )
    assert (scores == again).all() and not (scores == other).all()
    assert (scores >= 0).all() and not model.training


@torch.no_grad()
def test_ceal_scores_are_variance_times_distance_of_each_batch(model, images):
    scores = uncertainty.score_ceal(model, images, 4, (7, "x"), 3, CPU)
    for start in (0, 3, 6):
        x = to_input(images[start : start + 3])
        torch.manual_seed(derived_seed(7, "x", start))
        variance = uncertainty.monte_carlo(model, *model.encode(x), 4).numpy().var(axis=0)
        predicted = (model(x)[:, 0] > 0).numpy()
        expected = [
            (v * uncertainty.distance_map(p)).sum()
            for v, p in zip(variance, predicted, strict=True)
        ]
        np.testing.assert_allclose(scores[start : start + 3], expected, rtol=1e-4)
    assert scores.any()


def test_scores_in_bfloat16_are_near_those_in_float32(model, images):
    rough = Speed(CPU.device, torch.bfloat16)
    ceal = [uncertainty.score_ceal(model, images, 5, (0, "x"), 3, how) for how in (CPU, rough)]
    entropy = [uncertainty.score_entropy(model, images, 3, how) for how in (CPU, rough)]
    for exact, near, tolerance in ((*ceal, 0.2), (*entropy, 0.01)):
        np.testing.assert_allclose(near, exact, rtol=tolerance)
        assert near.dtype == np.float64 and (near != exact).any()


def test_no_dropout_no_ceal_uncertainty(images):
    torch.manual_seed(0)
    certain = UNet(width=4, dropout=0.0)
    scores = uncertainty.score_ceal(certain, images, 5, (0, "x"), 3, CPU)
    np.testing.assert_allclose(scores, 0, atol=1e-9)


def test_scoring_leaves_the_model_as_it_was(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    uncertainty.score_ceal(model, images, 3, (0, "x"), 3, CPU)
    uncertainty.score_entropy(model, images, 3, CPU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
