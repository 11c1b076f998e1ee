"""What becomes of predictions: the largest region without holes, the mean over views."""

import numpy as np
import pytest
import torch
from skimage import measure

from segmentation.model import inference
from segmentation.model.finish import Finish, clean, largest_region
from segmentation.model.unet import UNet


def blobs(seed, size=(40, 56), share=0.55):
    """Smooth random masks of many regions, some with holes."""
    noise = np.random.default_rng(seed).normal(size=size)
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-30 * np.fft.fftfreq(size[1]) ** 2)).real
    return smooth > np.quantile(smooth, share)


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_region_is_scikit_images(seed):
    mask = blobs(seed)
    labels = measure.label(mask, connectivity=1)
    areas = {region.label: region.area for region in measure.regionprops(labels)}
    label = max(areas, key=lambda key: (areas[key], -key))
    expected = labels == label
    around = measure.label(~expected, connectivity=1)
    edge = {*around[0], *around[-1], *around[:, 0], *around[:, -1]}
    expected |= ~np.isin(around, sorted(edge)) & (around > 0)
    np.testing.assert_array_equal(largest_region(mask), expected)
    np.testing.assert_array_equal(largest_region(mask.astype(np.uint8)), expected)


def test_regions_by_hand():
    mask = np.zeros((7, 9), dtype=np.uint8)
    assert not largest_region(mask).any()
    mask[1:6, 1:6], mask[3, 3], mask[0, 8] = 1, 0, 1
    expected = np.zeros((7, 9), dtype=bool)
    expected[1:6, 1:6] = True
    np.testing.assert_array_equal(largest_region(mask), expected)
    np.testing.assert_array_equal(largest_region(largest_region(mask)), expected)
    assert largest_region(np.ones((3, 3))).all()


def test_clean_probabilities_have_the_cleaned_mask_and_keep_the_others():
    p = np.random.default_rng(0).random((1, 12, 16)).astype(np.float32) * 0.4
    p[0, 2:9, 2:9] += 0.6
    p[0, 5, 5], p[0, 11, 15] = 0.2, 0.9  # a hole, and a region apart
    cleaned = clean(p)
    assert cleaned.dtype == np.float32
    np.testing.assert_array_equal(cleaned[0] > 0.5, largest_region(p[0] > 0.5))
    assert cleaned[0, 5, 5] == 1 and cleaned[0, 11, 15] == 0
    changed = np.argwhere(cleaned != p)
    assert sorted(map(tuple, changed[:, 1:])) == [(5, 5), (11, 15)]


def test_segment_finishes():
    torch.manual_seed(0)
    model = UNet(width=2).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 1, 32, 48), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        model.head.bias -= model(images / 255).median()
        seen = inference.mean_over_views(model, images / 255)
    plain = inference.segment(model, images, 2, "cpu")
    largest = inference.segment(model, images, 2, "cpu", Finish(largest=True))
    views = inference.segment(model, images, 2, "cpu", Finish(views=True))
    both = inference.segment(model, images, 2, "cpu", Finish(True, True))
    assert (views != (seen > 0.5).numpy()).mean() < 1e-3
    for rough, fine in ((plain, largest), (views, both)):
        assert rough.dtype == fine.dtype == np.uint8
        for one, other in zip(rough, fine, strict=True):
            np.testing.assert_array_equal(largest_region(one), other)
    assert (plain != largest).any() and (plain != views).any()
