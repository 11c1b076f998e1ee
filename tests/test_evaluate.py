"""evaluate.py on a small data folder: its files agree with the metrics computed here."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import call
from helpers_data import write_data
from helpers_preprocess import save
from isic_challenge_scoring.confusion import create_binary_confusion_matrix
from isic_challenge_scoring.metrics import binary_jaccard
from PIL import Image

from segmentation import evaluate
from segmentation.analysis.cases import typical_cases
from segmentation.common.runfiles import UserError, sha256_file
from segmentation.data.datafolder import open_data
from segmentation.data.images import load_tensor
from segmentation.model import metrics
from segmentation.model.unet import UNet, load_model, save_model

N, SIDE = 14, 32


@pytest.fixture
def data(tmp_path):
    """14 images: 4 in the pool, without masks, and 10 for testing, of which `i13` has no mask."""
    rng = np.random.default_rng(0)
    ids = [f"i{row:02d}" for row in range(N)]
    masks = np.zeros((N, SIDE, SIDE), dtype=np.uint8)
    masks[4:13, 8:24, 4:16] = 1
    images = rng.integers(0, 256, (N, SIDE, SIDE, 1), dtype=np.uint8)
    has_mask = {name: 4 <= row < 13 for row, name in enumerate(ids)}
    return write_data(tmp_path / "data", images, masks, ids, ids[:4], ids[4:], has_mask)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "weights.pt", UNet(width=2))
    return tmp_path / "weights.pt"


def run_main(monkeypatch, weights, data, out, *more):
    words = ["evaluate.py", "--weights", weights, "--data", data, "--out", out, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), *more])
    evaluate.main()


def test_files(weights, data, tmp_path, monkeypatch, capsys, figures):
    out = tmp_path / "out"
    monkeypatch.setattr(evaluate.engine, "lesion_probabilities", grey_probabilities)
    run_main(monkeypatch, weights, data, out, "--batch", "4")
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    opened = open_data(data)
    ids = opened.test[:-1]
    expected = metrics.per_image(mid_grey(load_tensor(opened, ids)), opened.load_masks(ids))
    assert list(rows[0]) == ["id", *metrics.NAMES, "confidence"]
    assert [row.pop("id") for row in rows] == ids
    assert [float(row.pop("confidence")) for row in rows] == [1] * 9  # of probabilities 0 and 1
    assert [{name: float(value) for name, value in row.items()} for row in rows] == expected
    summary = json.loads((out / "summary.json").read_text())
    assert summary["mean"] == metrics.mean(expected)
    assert (summary["n"], summary["split"], summary["synthetic"]) == (9, "test", True)
    assert summary["weights_sha256"] == sha256_file(weights)
    assert summary["data_fingerprint"] == opened.fingerprint
    panels = [axes.get_title() for axes in figures["cases.png"].axes]
    assert [title.split(":")[0] for title in panels] == ["best"] * 3 + ["median"] * 3 + [
        "worst"
    ] * 3
    dice = {
        name: f"Dice {100 * row['dice']:.1f} %" for name, row in zip(ids, expected, strict=True)
    }
    assert all(dice[title.split()[1]] == title.splitlines()[1] for title in panels)
    printed = capsys.readouterr().out
    assert "1 of 10 test images have no mask: left out" in printed
    assert "9 test images (synthetic demo data): Dice" in printed


def mid_grey(images):
    """A stand-in for the network: pixels above the middle are lesion; uint8 N x H x W."""
    return (images[:, 0] > 127).to(torch.uint8).numpy()


def grey_probabilities(_, images, *__, views=False):
    """The same as probabilities, float32."""
    return mid_grey(images).astype(np.float32)


def test_the_finish_of_the_training_counts_as_given(weights, data, tmp_path, monkeypatch, capsys):
    other, names = tmp_path / "finished.pt", ("views", "largest")
    save_model(other, load_model(weights), finish={"views": False, "largest": True})
    outs = [tmp_path / name for name in ("plain", "recorded", "given")]
    run_main(monkeypatch, weights, data, outs[0])
    assert "as in the training" not in capsys.readouterr().out
    run_main(monkeypatch, other, data, outs[1], "--views")
    assert "--largest: as in the training of these weights" in capsys.readouterr().out
    run_main(monkeypatch, weights, data, outs[2], "--views", "--largest")
    plain, recorded, given = ((out / "metrics.csv").read_text() for out in outs)
    assert recorded == given != plain
    found = [json.loads((out / "summary.json").read_text()) for out in outs]
    assert [[one[name] for name in names] for one in found] == [[False] * 2, [True] * 2, [True] * 2]


def test_batch_does_not_matter(weights, data, tmp_path, monkeypatch):
    for batch in ("1", "16"):
        run_main(monkeypatch, weights, data, tmp_path / batch, "--batch", batch)
    assert (tmp_path / "1/metrics.csv").read_bytes() == (tmp_path / "16/metrics.csv").read_bytes()


def test_bad_input(weights, data, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="the pool split has no image with a mask"):
        run_main(monkeypatch, weights, data, tmp_path / "out", "--split", "pool")
    save_model(tmp_path / "rgb.pt", UNet(in_channels=3, width=2))
    with pytest.raises(UserError, match=r"rgb\.pt: takes 3 channel\(s\), but the images of .* 1"):
        run_main(monkeypatch, tmp_path / "rgb.pt", data, tmp_path / "out")
    with pytest.raises(UserError, match=r"none\.pt: not found"):
        run_main(monkeypatch, tmp_path / "none.pt", data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.5], "best 0"),
        ([0.5, 0.7], "best 1, worst 0"),
        ([0.5, 0.7, 0.7], "best 1, median 2, worst 0"),
        (
            [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            "best 10, best 9, best 8, median 6, median 5, median 4, worst 2, worst 1, worst 0",
        ),
    ],
)
def test_typical_cases(dice, expected):
    rows = [{"id": number, "dice": value} for number, value in enumerate(dice)]
    cases = typical_cases(rows)
    assert ", ".join(f"{kind} {row['id']}" for kind, row in cases) == expected


# At the original size ---------------------------------------------------------------------------


@pytest.fixture
def originals(tmp_path):
    """Six pairs of different sizes, and the data folder made of them: 5 pool, 1 test image."""
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 60), (64, 48), (90, 90), (33, 50), (128, 96), (70, 41)]):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = np.zeros(size, dtype=np.uint8)
        mask[size[0] // 4 : size[0] // 2, size[1] // 3 : -5] = 255
        save(tmp_path / "raw/images" / f"A{number}.png", image)
        save(tmp_path / "raw/masks" / f"A{number}_segmentation.png", mask)
    words = ["--root", tmp_path / "raw", "--out", tmp_path / "made", "--size", 32]
    call("preprocess", *words, "--test-count", 4)
    return tmp_path / "raw", tmp_path / "made"


def test_predictions_are_measured_at_the_size_of_the_originals(
    weights, originals, tmp_path, monkeypatch, capsys
):
    raw, made = originals
    run_main(monkeypatch, weights, made, tmp_path / "out", "--native", str(raw))
    with open(tmp_path / "out" / "metrics.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    opened, model = open_data(made), load_model(weights)
    assert list(rows) == opened.test and len(rows) == 4
    for name, row in rows.items():
        truth = np.asarray(Image.open(raw / "masks" / f"{name}_segmentation.png")) > 0
        with torch.no_grad():
            p = model(load_tensor(opened, [name]) / 255).sigmoid()[0, 0].numpy()
        large = cv2.resize(p, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        matrix = create_binary_confusion_matrix(truth, large > 0.5)
        assert float(row["jaccard"]) == pytest.approx(binary_jaccard(matrix), abs=0.01)
    assert "px of the original images" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["original_size"] is True


def test_originals_that_are_not_those(weights, originals, tmp_path, monkeypatch):
    raw, made = originals
    path = raw / "masks" / f"{open_data(made).test[0]}_segmentation.png"
    changed = np.array(Image.open(path))
    save(path, 255 - changed)
    words = [monkeypatch, weights, made, tmp_path / "out", "--native", str(raw)]
    with pytest.raises(UserError, match=f"{path.name}: is not the mask from which"):
        run_main(*words)
    path.unlink()
    with pytest.raises(UserError, match="raw: has no mask for 1 of 4 images of .*made, A"):
        run_main(*words)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run_main(*words[:-1], str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()
