"""The network: size, shapes, dropout, and exactly which weights travel."""

import pytest
import torch

from segmentation.common.runfiles import UserError
from segmentation.common.stages import write_torch
from segmentation.model.encoders import PACKAGED
from segmentation.model.frozen import FrozenHead
from segmentation.model.losses import deep_supervision_loss, segmentation_loss
from segmentation.model.unet import (
    UNet,
    architecture,
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
    with pytest.raises(UserError, match=r"encoder\.pt: has no decoder.*best\.pt"):
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


def test_weights_of_a_frozen_run_have_no_decoder(tmp_path):
    save_model(tmp_path / "weights.pt", FrozenHead(1, PACKAGED))
    with pytest.raises(UserError, match=r"weights\.pt: has no decoder.* --init all needs; give"):
        warm_start(make(encoder=PACKAGED), tmp_path / "weights.pt", "all")


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


def with_heads(seed=0, **kwargs):
    return make(seed, heads=True, **kwargs)


def test_heads_change_nothing_else():
    plain, deep = make(4, dropout=0.5), with_heads(4, dropout=0.5)
    own, more = plain.state_dict(), deep.state_dict()
    assert set(more) - set(own) == {
        f"side.{k}.{name}" for k in (0, 1) for name in ("weight", "bias")
    }
    assert all(torch.equal(value, more[name]) for name, value in own.items())
    assert not plain.heads and deep.heads and encoder_sha256(plain) == encoder_sha256(deep)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain(images), deep(images))
        (only,) = plain.forward_heads(images)
        assert torch.equal(only, plain(images)) and torch.equal(only, deep.forward_heads(images)[0])


@torch.no_grad()
def test_heads_are_outputs_of_the_decoder_at_a_quarter_and_half_of_the_resolution():
    model = with_heads(in_channels=3, out_channels=2)
    images = torch.rand(2, 3, 48, 80)
    logits = model.forward_heads(images)
    assert [head.shape for head in logits] == [(2, 2, 48, 80)] * 3
    seen = {}
    for k, block in enumerate(model.decoder):
        block.register_forward_hook(lambda module, x, y, k=k: seen.update({k: y}))
    model(images)
    for head, k, level, scale in ((logits[1], 0, 1, 4), (logits[2], 1, 2, 2)):
        assert seen[level].shape[2:] == (48 // scale, 80 // scale)
        coarse = model.side[k](seen[level])
        # the corners of a bilinear map with aligned corners are the map's own
        for y in (0, -1):
            for x in (0, -1):
                torch.testing.assert_close(head[..., y, x], coarse[..., y, x])
        assert head.amax() <= coarse.amax() + 1e-6 and head.amin() >= coarse.amin() - 1e-6
        low, high = coarse[0, 0, 0, 0], coarse[0, 0, 0, 1]
        step = (coarse.shape[3] - 1) / (80 - 1)  # coarse pixels from one pixel to the next
        torch.testing.assert_close(head[0, 0, 0, 1], low + step * (high - low))


def test_dropout_acts_on_all_heads_in_training_only():
    model = with_heads(dropout=0.5)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        once, again = model.forward_heads(images), model.forward_heads(images)
        assert all(map(torch.equal, once, again))
        model.train()
        once, again = model.forward_heads(images), model.forward_heads(images)
        assert not any(map(torch.equal, once, again))


def test_deep_supervision_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 8, 8, generator=generator) for _ in range(3)]
    masks = (torch.rand(2, 8, 8, generator=generator) > 0.5).to(torch.uint8)
    a, b, c = (segmentation_loss(head, masks) for head in heads)
    assert torch.equal(deep_supervision_loss(heads[:1], masks), a)
    expected = (0.6 * a + 0.3 * b + 0.1 * c) / 0.6
    torch.testing.assert_close(deep_supervision_loss(heads, masks), expected)


def test_deep_supervision_reaches_every_weight():
    images, masks = torch.rand(2, 1, 32, 32), torch.zeros(2, 32, 32)
    masks[:, 8:20, 8:20] = 1
    model = with_heads().train()
    deep_supervision_loss([head[:, 0] for head in model.forward_heads(images)], masks).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    shared = model.decoder[2][0].weight.grad.clone()
    model.zero_grad()
    segmentation_loss(model(images)[:, 0], masks).backward()
    assert all(p.grad is None for p in model.side.parameters())
    assert not torch.allclose(shared, model.decoder[2][0].weight.grad)


def test_training_the_heads_teaches_all_of_them():
    torch.manual_seed(0)
    model = with_heads().train()
    images = torch.rand(4, 1, 32, 32) * 0.2
    masks = torch.zeros(4, 32, 32)
    for k in range(4):
        masks[k, 4 + k : 20 + k, 8:24] = 1
    images[:, 0] += 0.6 * masks
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def losses():
        return [segmentation_loss(head[:, 0], masks) for head in model.forward_heads(images)]

    with torch.no_grad():
        before = torch.stack(losses())
    for _ in range(30):
        logits = [head[:, 0] for head in model.forward_heads(images)]
        optimizer.zero_grad()
        deep_supervision_loss(logits, masks).backward()
        optimizer.step()
    with torch.no_grad():
        assert (torch.stack(losses()) < 0.5 * before).all()


def test_heads_are_saved_and_loaded(tmp_path):
    model = with_heads(1, dropout=0.2)
    save_model(tmp_path / "weights.pt", model)
    again = load_model(tmp_path / "weights.pt")
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert all(map(torch.equal, model.forward_heads(images), again.forward_heads(images)))


def test_files_from_before_there_were_heads_load(tmp_path):
    model = make(1, dropout=0.2)
    old = architecture(model)
    assert old.pop("heads") is False
    write_torch(tmp_path / "old.pt", {"architecture": old, "model": model.state_dict()})
    again = load_model(tmp_path / "old.pt")
    assert again.heads is False and encoder_sha256(again) == encoder_sha256(model)
    assert load_encoder(tmp_path / "old.pt").heads is False


@pytest.mark.parametrize("init", ["encoder", "all"])
@pytest.mark.parametrize(("theirs", "ours"), [(False, True), (True, False), (True, True)])
def test_heads_stay_as_they_are_in_a_warm_start(tmp_path, init, theirs, ours):
    source, model, untouched = make(1, heads=theirs), make(2, heads=ours), make(2, heads=ours)
    save_model(tmp_path / "best.pt", source)
    loaded, kept = warm_start(model, tmp_path / "best.pt", init)
    assert not any(name.startswith(("side.", "head.")) for name in loaded)
    assert sorted(loaded + kept) == sorted(model.state_dict())
    assert ("side.0.weight" in kept) == ours
    for name, value in model.state_dict().items():
        origin = source if name in loaded else untouched
        assert torch.equal(value, origin.state_dict()[name]), name
