"""ONNX files give what the network gives, and carry what is known about it."""

import sys

import numpy as np
import pytest
import torch
from conftest import command_line
from helpers_preprocess import save

from segmentation import export as script
from segmentation import predict
from segmentation.common.door import run_script
from segmentation.common.runfiles import UserError, read_csv, write_csv, write_npz
from segmentation.model import export
from segmentation.model.finish import Finish
from segmentation.model.trained import open_trained
from segmentation.model.unet import UNet, save_model

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

KINDS = {
    "paper, gray": ({"in_channels": 1, "width": 4}, (32, 48)),
    "paper, colour, square": ({"in_channels": 3, "width": 2, "scale": 255.0}, (48, 48)),
    "timm": ({"in_channels": 3, "width": 2, "encoder": "resnet10t"}, (64, 80)),
}


def weights(folder, kind, **finish):
    """A weights.pt of random weights and statistics, with what belongs beside it."""
    arguments, size = KINDS[kind]
    torch.manual_seed(0)
    model = UNet(**arguments)
    for _ in range(2):  # statistics of batch normalisation that are not 0 and 1
        model.train()(torch.rand(4, arguments["in_channels"], *size))
    with torch.no_grad():
        shape = 8, arguments["in_channels"], *size
        x = torch.rand(shape)
        model.head.weight.mul_(3 / model.eval()(x).std())
        model.head.bias.sub_(model(x).median())
    finish = {"views": False, "largest": False, **finish}
    save_model(folder / "weights.pt", model, size=list(size), finish=finish)
    rng = np.random.default_rng(0)
    rows = [{"id": i, "dice": v**2, "confidence": v} for i, v in enumerate(rng.random(20))]
    write_csv(folder / "metrics.csv", rows)
    features = rng.normal(size=(12, model.bottleneck_channels)).astype(np.float32)
    write_npz(folder / "reference.npz", features=features)
    return folder / "weights.pt"


def run(main, *words):
    with command_line("script", *words):
        run_script(main)


@pytest.mark.parametrize("kind", KINDS)
def test_parity(tmp_path, kind):
    path = weights(tmp_path, kind, largest=True)
    run(script.main, "--weights", path, "--out", tmp_path / "m.onnx")
    one, other = open_trained(path), open_trained(tmp_path / "m.onnx")
    assert other.size == one.size == KINDS[kind][1] and other.channels == one.channels
    assert other.finish == one.finish == Finish(largest=True)
    assert other.pairs == one.pairs and len(one.pairs) == 20
    np.testing.assert_array_equal(other.reference, one.reference)
    generator = torch.Generator().manual_seed(1)
    for count, views in ((1, False), (5, False), (3, True)):
        shape = count, one.channels, *one.size
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        both = (trained.predict(images, "cpu", views) for trained in (one, other))
        (p, sure, features), (q, as_sure, others) = both
        np.testing.assert_allclose(as_sure, sure, atol=1e-3)
        assert p.dtype == q.dtype == np.float32 and np.ptp(p) > 0.01
        np.testing.assert_allclose(q, p, atol=1e-5)
        np.testing.assert_allclose(others, features, rtol=1e-3, atol=1e-5)


def test_masks_are_the_same(tmp_path):
    """predict.py from the ONNX file alone, in another folder, gives what weights.pt gives."""
    path = weights(tmp_path / "run", "paper, gray", views=True)
    moved = tmp_path / "elsewhere" / "m.onnx"
    run(script.main, "--weights", path, "--out", moved)
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 60), (32, 48), (90, 33)]):
        save(tmp_path / "in" / f"{number}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    tables = []
    for place in (path, moved):
        out = tmp_path / place.suffix[1:]
        run(predict.main, "--weights", place, tmp_path / "in", "--out", out, "--device", "cpu")
        tables.append(read_csv(out / "predictions.csv"))
    for one, other in zip(*tables, strict=True):
        assert abs(int(one["area"]) - int(other["area"])) <= 2
        for name in ("expected_dice", "likeness"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=2e-4)
        assert one["needs_review"] == other["needs_review"] and one["calibrated"] == "yes"


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    trained = open_trained(weights(tmp_path, "paper, gray"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"m\.onnx: needs ONNX Runtime; pip install onnx onnxrun"):
        open_trained(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"m\.onnx: writing ONNX needs .*; pip install onnx onnxr"):
        export.export(trained, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    trained = open_trained(weights(tmp_path, "paper, gray"))
    forward = export.OnnxNetwork.forward
    monkeypatch.setattr(export.OnnxNetwork, "forward", lambda self, x: forward(self, x) + 0.1)
    with pytest.raises(UserError, match=r"m\.onnx: ONNX Runtime and PyTorch differ by 0\.1"):
        export.export(trained, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.csv",
        "reference.npz",
        "weights.pt",
    ]


def test_refusals(tmp_path, capsys):
    path = weights(tmp_path, "paper, gray")
    (tmp_path / "text.onnx").write_text("not a network")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = ([onnx.helper.make_tensor_value_info(name, 1, [1])] for name in "xy")
    graph = onnx.helper.make_graph([node], "foreign", *ends)
    opset = [onnx.helper.make_opsetid("", 17)]
    foreign = onnx.helper.make_model(graph, ir_version=8, opset_imports=opset)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for main, words, what in (
        (script.main, ("--weights", path, "--out", tmp_path / "m.pt"), "a name in .onnx"),
        (script.main, ("--weights", tmp_path / "text.onnx", "--out", tmp_path / "m.onnx"), "give"),
        (predict.main, ("--weights", tmp_path / "none.onnx"), "none.onnx: not found"),
        (predict.main, ("--weights", tmp_path / "text.onnx"), "text.onnx: not readable as ONNX"),
        (predict.main, ("--weights", tmp_path / "foreign.onnx"), "foreign.onnx: not made by"),
    ):
        more = [tmp_path, "--out", tmp_path.parent / "out"] if main is predict.main else []
        with pytest.raises(SystemExit) as stop:
            run(main, *words, *more)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and len(lines) == 1 and what in lines[0], lines
