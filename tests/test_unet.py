"""The network: size, shapes, dropout, and exactly which weights travel."""

import pytest
import torch

from segmentation.runfiles import UserError
from segmentation.unet import (
    UNet,
    encoder_sha256,
    load_encoder,
    load_model,
    save_model,
    warm_start,
)


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    return UNet(**{"width": 4, **kwargs}).eval()


def test_parameter_count_of_the_paper():
    assert sum(p.numel() for p in UNet().parameters()) == pytest.approx(17.26e6, abs=0.005e6)


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_shapes(size):
    model = make(in_channels=3, out_channels=2)
    images = torch.rand(2, 3, *size)
    bottleneck, skips = model.encode(images)
    assert bottleneck.shape == (2, 32, size[0] // 16, size[1] // 16)
    assert [tuple(s.shape[1:]) for s in skips] == [
        (4 * 2**k, size[0] >> k, size[1] >> k) for k in range(4)
    ]
    assert model(images).shape == (2, 2, *size)


def test_every_parameter_gets_a_gradient():
    model = make().train()
    model(torch.rand(2, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_dropout_acts_when_asked_and_in_training_only():
    model = make(dropout=0.5)
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        encoded = model.encode(images)
        plain = model.decode(*encoded)
        assert torch.equal(plain, model.decode(*encoded, drop=False))
        assert torch.equal(plain, model(images))
        assert not torch.equal(model.decode(*encoded, drop=True), model.decode(*encoded, drop=True))
        without = make(dropout=0.0)
        assert torch.equal(plain, without.decode(*without.encode(images), drop=True))


def test_prediction_does_not_depend_on_the_batch():
    model = make()
    images = torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        single = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), single)


def test_save_and_load_give_the_same_model(tmp_path):
    model = make(in_channels=3, dropout=0.3)
    save_model(tmp_path / "weights.pt", model)
    again = load_model(tmp_path / "weights.pt")
    assert again.dropout == 0.3 and not again.training
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


@pytest.mark.parametrize("init", ["none", "encoder", "all"])
def test_warm_start_loads_exactly_its_part(tmp_path, init):
    source, model, untouched = make(1), make(2), make(2)
    for value in source.state_dict().values():  # make the buffers differ too
        value.add_(1)
    save_model(tmp_path / "best.pt", source)
    loaded, kept = warm_start(model, tmp_path / "best.pt", init)
    names = set(model.state_dict())
    parts = {"none": (), "encoder": ("encoder.",), "all": ("encoder.", "decoder.")}[init]
    assert set(loaded) == {name for name in names if name.startswith(parts)} - (
        names if not parts else set()
    )
    assert set(kept) == names - set(loaded)
    for name, value in model.state_dict().items():
        origin = source if name in loaded else untouched
        assert torch.equal(value, origin.state_dict()[name]), name


def test_encoder_file_holds_the_encoder_alone(tmp_path):
    model = make(3)
    save_model(tmp_path / "encoder.pt", model, parts=("encoder",))
    assert encoder_sha256(load_encoder(tmp_path / "encoder.pt")) == encoder_sha256(model)
    with pytest.raises(UserError, match=r"encoder\.pt: holds no decoder.*best\.pt"):
        warm_start(make(), tmp_path / "encoder.pt", "all")
    with pytest.raises(UserError, match="not a whole model"):
        load_model(tmp_path / "encoder.pt")


def test_encoder_hash_tells_encoders_apart_and_ignores_the_rest():
    a, b = make(1), make(1)
    with torch.no_grad():
        b.head.weight.add_(1)
    assert encoder_sha256(a) == encoder_sha256(b)
    with torch.no_grad():
        b.encoder[0][0].weight[0, 0, 0, 0] += 1e-6
    assert encoder_sha256(a) != encoder_sha256(b)


@pytest.mark.parametrize(("other", "word"), [({"width": 8}, "width 8"), ({"in_channels": 3}, "3")])
def test_weights_of_another_network_are_refused(tmp_path, other, word):
    save_model(tmp_path / "best.pt", make(**other))
    with pytest.raises(UserError, match=f"best.pt: weights of .*{word}"):
        warm_start(make(), tmp_path / "best.pt", "all")


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="absent.pt: not found"):
        load_model(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="text.pt: not readable"):
        load_model(tmp_path / "text.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: not a weights file"):
        load_model(tmp_path / "other.pt")
    save_model(tmp_path / "whole.pt", make())
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:3000])
    with pytest.raises(UserError, match="half.pt: not readable"):
        load_model(tmp_path / "half.pt")
