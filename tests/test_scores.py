"""scores.py: the correlations are those of the files; what is refused."""

import numpy as np
import pytest
import torch
from conftest import LOOP, call
from scipy.stats import spearmanr

from segmentation import scores
from segmentation.common.precision import Precision
from segmentation.common.runfiles import read_csv
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model.encoders import PACKAGED, load_backbone_weights
from segmentation.model.frozen import FrozenHead
from segmentation.model.unet import load_model, save_model
from segmentation.selection.uncertainty import score_entropy


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two short runs: their last weights."""
    out = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        words = [*LOOP, "--epochs", 30, "--epochs-round", 20, "--lr", 0.02, "--dropout", 0.1]
        call("active_learning", "--data", data, "--out", out / str(seed), "--seed", seed, *words)
    return [out / str(seed) / "round_02" / "weights.pt" for seed in (0, 1)]


def test_correlations(data, runs, tmp_path, capsys):
    call("scores", "--data", data, "--weights", *runs, "--out", tmp_path, "--passes", 3)
    rows = read_csv(tmp_path / "scores.csv")
    assert [row["score"] for row in rows] == [name for name in scores.SCORES if name != "dsal"] * 2
    opened = open_data(data)
    areas = opened.load_masks(opened.test).mean(axis=(1, 2))
    images = Images(opened, opened.test, "cpu")
    for path, row in zip(runs, (rows[0], rows[7]), strict=True):
        measured = read_csv(path.parent / "metrics.csv")
        assert [each["id"] for each in measured] == opened.test
        error = 1 - np.array([float(each["dice"]) for each in measured])
        entropy = score_entropy(load_model(path), images, 5, Precision(torch.device("cpu")))
        assert float(row["error"]) == pytest.approx(spearmanr(entropy, error).statistic)
        assert float(row["area"]) == pytest.approx(spearmanr(entropy, areas).statistic)
    text = (tmp_path / "scores.md").read_text()
    assert "| score | weights | 1 - Dice | true area | predicted area |" in text
    assert "| entropy | 2 |" in text and text in capsys.readouterr().out


def test_the_error_is_that_of_the_masks_of_the_training(data, tmp_path):
    """With --largest the metrics of a run are those of the largest region, and so is the error."""
    words = [
        *LOOP,
        "--epochs",
        30,
        "--epochs-round",
        20,
        "--lr",
        0.02,
        "--dropout",
        0.1,
        "--largest",
        "--views",
    ]
    call("active_learning", "--data", data, "--out", tmp_path / "run", "--seed", 0, *words)
    path = tmp_path / "run" / "round_02" / "weights.pt"
    call("scores", "--data", data, "--weights", path, "--out", tmp_path / "out", "--passes", 3)
    error = 1 - np.array([float(row["dice"]) for row in read_csv(path.parent / "metrics.csv")])
    images = Images(opened := open_data(data), opened.test, "cpu")
    entropy = score_entropy(load_model(path), images, 5, Precision(torch.device("cpu")))
    row = read_csv(tmp_path / "out" / "scores.csv")[0]
    assert float(row["error"]) == pytest.approx(spearmanr(entropy, error).statistic)


def test_a_score_that_is_the_error_or_the_area(data, runs, tmp_path, monkeypatch):
    def error(model, images, batch, precision):
        rows = scores.evaluate(model, images.data, images, batch, precision.device)
        return 1 - np.array([row["dice"] for row in rows])

    def area(model, images, batch, precision):
        return -images.data.load_masks(images.ids).mean(axis=(1, 2))

    def same(model, images, batch, precision):
        return np.ones(len(images.ids))

    monkeypatch.setattr(scores, "SCORES", {"error": error, "area": area, "same": same})
    call("scores", "--data", data, "--weights", runs[0], "--out", tmp_path)
    first, second, third = read_csv(tmp_path / "scores.csv")
    assert float(first["error"]) == pytest.approx(1) and float(second["area"]) == pytest.approx(-1)
    assert third["error"] == third["area"] == ""
    assert "| same | 1 | – | – | – |" in (tmp_path / "scores.md").read_text()


def test_a_network_without_dropout(data, tmp_path, capsys):
    torch.manual_seed(0)
    head, path = FrozenHead(1, PACKAGED), tmp_path / "weights.pt"
    load_backbone_weights(head.encoder.body, PACKAGED, "package")
    save_model(path, head, size=[32, 32])
    call("scores", "--data", data, "--weights", path, "--out", tmp_path / "out", "--device", "cpu")
    found = [row["score"] for row in read_csv(tmp_path / "out" / "scores.csv")]
    assert found == [name for name in scores.SCORES if name not in ("bald", "ceal", "dsal")]
    assert f"{path}: has no dropout, so bald and ceal are left out" in capsys.readouterr().out


def test_what_is_refused(data, runs, tmp_path, refused):
    call("preprocess", "--demo", 12, "--size", 32, "--test-count", 2, "--out", tmp_path / "few")
    words = ["--weights", runs[0], "--out", tmp_path / "out", "--data"]
    assert "has 2 test images, too few" in refused("scores", *words, tmp_path / "few")
    assert not (tmp_path / "out" / "scores.csv").exists()
