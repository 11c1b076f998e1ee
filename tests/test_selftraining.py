"""Self-training: predictions averaged over views."""

import numpy as np
import pytest
import torch

from segmentation.common.precision import Precision
from segmentation.model import inference, selftraining
from segmentation.model.unet import UNet

CPU = Precision(torch.device("cpu"))


def network():
    torch.manual_seed(0)
    return UNet(width=2).eval()


def images(count, height, width):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, height, width), generator=generator, dtype=torch.uint8)


def turned(array, turns, flip):
    """numpy H x W after quarter turns, then from left to right."""
    array = np.rot90(array, turns)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@torch.no_grad()
def test_mean_over_views(size):
    model, given = network(), images(3, *size).float() / 255
    expected = np.zeros((3, *size))
    for row, image in enumerate(given[:, 0].numpy()):
        for turns in range(4):
            for flip in (False, True):
                view = torch.from_numpy(turned(image, turns, flip))
                seen = model(view[None, None])[0, 0].sigmoid().numpy()
                back = seen[:, ::-1] if flip else seen
                expected[row] += np.rot90(back, -turns) / 8
    np.testing.assert_allclose(inference.mean_over_views(model, given), expected, atol=1e-6)


@pytest.mark.parametrize("turns, flip", [(1, False), (2, True), (3, True)])
@torch.no_grad()
def test_turned_images_have_turned_means(turns, flip):
    model, given = network(), images(2, 32, 32).float() / 255
    moved = torch.from_numpy(np.stack([turned(x, turns, flip) for x in given[:, 0].numpy()]))
    one = inference.mean_over_views(model, given).numpy()
    other = inference.mean_over_views(model, moved[:, None]).numpy()
    np.testing.assert_allclose(other, np.stack([turned(x, turns, flip) for x in one]), atol=1e-6)


def test_own_masks():
    model, given = network(), images(5, 32, 48)
    with torch.no_grad():
        model.head.bias -= model(given.float() / 255).median()  # lesion and skin both
        expected = inference.mean_over_views(model, given.float() / 255) > 0.5
    for batch in (2, 16):
        masks = selftraining.own_masks(model, given, batch, CPU)
        assert masks.dtype == np.uint8 and set(np.unique(masks)) == {0, 1}
        assert (masks != expected.numpy()).mean() < 1e-3  # rounding


def test_soft_masks_are_the_mean_over_views():
    model, given = network().eval(), images(5, 32, 48)
    with torch.no_grad():
        x = given.float() / 255
        model.head.bias -= model(x).median()
        mean = inference.mean_over_views(model, x).numpy()
    hard, soft = (selftraining.own_masks(model, given, 2, CPU, kind) for kind in ("hard", "soft"))
    assert (hard.dtype, soft.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(soft, mean, atol=1e-5)
    np.testing.assert_array_equal(hard, soft > 0.5)
