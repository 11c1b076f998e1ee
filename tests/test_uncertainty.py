"""Scores against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn.functional import dropout

from segmentation.common.precision import Precision
from segmentation.common.runfiles import UserError, derived_seed
from segmentation.data.images import to_input
from segmentation.model import inference
from segmentation.model.unet import UNet
from segmentation.selection import uncertainty

CPU = Precision(torch.device("cpu"))


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
    rough = Precision(CPU.device, torch.bfloat16)
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


def binary(image):
    """A uint8 image from rows of digits, 1 x 1 x H x W; 1 becomes 255."""
    return torch.tensor([[int(c) * 255 for c in row] for row in image.split()])[None, None].byte()


class Painted(torch.nn.Module):
    """Its probability of lesion is the first channel; those of its side heads, the others."""

    heads = True

    def forward_heads(self, x):
        return [torch.logit(channel)[:, None] for channel in x.unbind(1)]

    def forward(self, x):
        return self.forward_heads(x)[0]


def test_margin_by_hand():
    values = torch.tensor([[0, 51], [204, 255]], dtype=torch.uint8)  # 0, 0.2, 0.8, 1
    images = torch.stack([values, torch.full_like(values, 51), values // 255 * 255])[:, None]
    scores = uncertainty.score_margin(Painted(), images, 2, CPU)
    assert scores == pytest.approx([0.2, 0.4, 0], abs=1e-6)


def test_dsal_by_hand():
    """4 lesion pixels; the side heads share 2 and 4 of them, and have 3 and 8."""
    images = torch.cat(
        [
            binary("1100 1100 0000 0000"),
            binary("0110 0100 0000 0000"),
            binary("1111 1111 0000 0000"),
        ],
        dim=1,
    )
    dice = (2 * 2 + 1) / (4 + 3 + 1), (2 * 4 + 1) / (4 + 8 + 1)
    same, none = images[:, [0, 0, 0]], torch.zeros_like(images)
    grey = images // 3 * 2 + 40  # the same masks from less sure probabilities
    batch = torch.cat([images, same, none, grey])
    scores = uncertainty.score_dsal(Painted(), batch, 3, CPU)
    expected = 1 - sum(dice) / 2
    assert scores == pytest.approx([expected, 0, 0, expected], abs=1e-6)


def test_dsal_of_a_network(images, model):
    with pytest.raises(UserError, match="heads"):
        uncertainty.score_dsal(model, images, 3, CPU)
    torch.manual_seed(2)
    deep = UNet(width=4, heads=True)
    deep.load_state_dict({**deep.state_dict(), **model.state_dict()})
    deep.eval()
    for side in deep.side:
        torch.nn.init.normal_(side.weight)
    scores = uncertainty.score_dsal(deep, images, 3, CPU)
    with torch.no_grad():
        parts = [deep.forward_heads(to_input(part)) for part in images.split(3)]
        a, b, c = (torch.cat(head)[:, 0].numpy() > 0 for head in zip(*parts, strict=True))
    for k, score in enumerate(scores):
        dice = [(2 * (a[k] & m).sum() + 1) / (a[k].sum() + m.sum() + 1) for m in (b[k], c[k])]
        assert score == pytest.approx(1 - np.mean(dice), abs=1e-6)
    assert scores.min() > 0 and len(set(scores.tolist())) == len(scores)


@torch.no_grad()
def test_bald_against_whole_passes_with_the_same_masks(model, images, monkeypatch):
    monkeypatch.setattr(uncertainty, "dropout", dropout_in_rows)
    scores = uncertainty.score_bald(model, images, 6, (7, "x"), 3, CPU)

    def entropy(p):
        return -(p * np.log(p) + (1 - p) * np.log(1 - p))

    for start in (0, 3, 6):
        bottleneck, skips = model.encode(to_input(images[start : start + 3]))
        torch.manual_seed(derived_seed(7, "x", start))
        passes = [
            model.decode(dropout_in_rows(bottleneck, 0.5, training=True), skips, drop=False)
            for _ in range(6)
        ]
        p = torch.stack(passes)[:, :, 0].double().sigmoid().numpy()
        expected = (entropy(p.mean(axis=0)) - entropy(p).mean(axis=0)).mean(axis=(1, 2))
        np.testing.assert_allclose(scores[start : start + 3], expected, rtol=1e-3)
    assert scores.min() > 1e-5


@pytest.mark.parametrize(
    ("passes", "bald"),
    [
        ([0.0, 1.0], math.log(2)),  # sure, and of contrary opinion
        ([0.5, 0.5], 0),  # unsure alike: nothing to learn about the model
        ([1.0, 1.0], 0),
        ([0.25, 0.75], math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)),
    ],
)
def test_bald_by_hand(model, images, monkeypatch, passes, bald):
    def sample(model, bottleneck, skips, count):
        assert count == len(passes)
        return torch.tensor(passes).view(-1, 1, 1, 1).expand(-1, len(bottleneck), 32, 32)

    monkeypatch.setattr(uncertainty, "monte_carlo", sample)
    scores = uncertainty.score_bald(model, images, 2, (0, "x"), 3, CPU)
    assert scores == pytest.approx([bald] * len(images), abs=1e-6)


def test_bald_is_never_below_zero(model, images, monkeypatch):
    """Equal passes: what is left of the difference is rounding, of either sign."""

    def sample(model, bottleneck, skips, count):
        p = torch.rand(len(bottleneck), 1, 1, generator=torch.Generator().manual_seed(0))
        return p.expand(count, -1, 32, 32)

    monkeypatch.setattr(uncertainty, "monte_carlo", sample)
    scores = uncertainty.score_bald(model, images.repeat(6, 1, 1, 1), 3, (0, "x"), 42, CPU)
    assert (scores == 0).sum() > 5 and (scores > 0).sum() > 5
    assert (scores >= 0).all() and scores.max() < 1e-6


def test_no_dropout_no_bald(images):
    torch.manual_seed(0)
    scores = uncertainty.score_bald(UNet(width=4), images, 5, (0, "x"), 3, CPU)
    np.testing.assert_allclose(scores, 0, atol=1e-6)
    assert (scores >= 0).all()


@torch.no_grad()
def test_pooled_bottleneck_is_that_of_this_model_in_evaluation_mode(model, images):
    expected = torch.stack([model.encode(to_input(image[None]))[0][0] for image in images])
    model.train()
    features = uncertainty.pooled_bottleneck(model, images, 3, CPU)
    assert features.shape == (7, 32) and features.dtype == np.float32 and not model.training
    np.testing.assert_allclose(features, expected.mean(dim=(2, 3)).numpy(), atol=1e-5)
    assert (features.std(axis=0) > 0).any()


@torch.no_grad()
def test_lesion_probabilities(model, images):
    p = inference.lesion_probabilities(model, images, 3, CPU)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, model(to_input(images))[:, 0].sigmoid().numpy(), atol=1e-6)


DRAWN = (5, (0, "x"))
EVERY = {
    uncertainty.score_ceal: DRAWN,
    uncertainty.score_bald: DRAWN,
    uncertainty.score_entropy: (),
    uncertainty.score_margin: (),
    uncertainty.score_dsal: (),
    inference.lesion_probabilities: (),
    uncertainty.pooled_bottleneck: (),
}


@pytest.mark.parametrize("function", EVERY, ids=lambda function: function.__name__)
def test_what_all_have_in_common(function, model, images):
    """One row per image in order, each called for, nothing changed, much the same in bfloat16."""
    torch.manual_seed(3)
    deep = UNet(width=4, dropout=0.5, heads=True)
    deep.load_state_dict({**deep.state_dict(), **model.state_dict()})
    more = EVERY[function]
    before = {name: value.clone() for name, value in deep.state_dict().items()}
    calls = []
    values = function(deep, images, *more, 3, CPU, calls.append)
    assert calls == [3, 3, 1] and len(values) == 7 and not deep.training
    assert all(torch.equal(before[name], value) for name, value in deep.state_dict().items())
    if function.__name__.startswith("score"):
        assert values.dtype == np.float64 and values.shape == (7,) and (values >= 0).all()
    assert (function(deep, images, *more, 3, CPU) == values).all()
    if not more:  # dropout masks are drawn by batch
        one = function(deep, images, 1, CPU)
        pixel = 1e-3 if function is uncertainty.score_dsal else 0  # may change sides by rounding
        np.testing.assert_allclose(one, values, rtol=1e-4, atol=1e-5 + pixel)
    rough = function(deep, images, *more, 3, Precision(CPU.device, torch.bfloat16))
    assert rough.dtype == values.dtype and (rough != values).any()
    assert np.abs(rough - values).mean() < 0.1 * np.abs(values).mean()


@pytest.mark.parametrize("score", [uncertainty.score_entropy, uncertainty.score_margin])
def test_scores_are_larger_where_the_model_is_less_sure(score):
    levels = torch.tensor([0, 20, 60, 100, 127, 128, 170, 230, 255], dtype=torch.uint8)
    scores = score(Painted(), levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4), 4, CPU)
    unsure = np.argsort(np.abs(levels.numpy() / 255 - 0.5), kind="stable")
    assert (np.diff(scores[unsure]) <= 1e-7).all() and scores[0] == scores[-1] == 0


def test_a_stream_sets_the_masks_of_bald(model, images):
    scores = [uncertainty.score_bald(model, images, 3, (seed, "x"), 3, CPU) for seed in (0, 0, 1)]
    assert (scores[0] == scores[1]).all() and not (scores[0] == scores[2]).all()
