"""What features know of the masks, and where the first labels lie, against brute force."""

import csv
import sys

import numpy as np
import pytest
from conftest import LOOP, call
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from segmentation import diagnose
from segmentation.common.door import run_script
from segmentation.common.runfiles import read_json, read_npz
from segmentation.data.datafolder import open_data
from segmentation.model import metrics


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(data, clusters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for arm in ("random", "kmeans"):
        for seed in (0, 1):
            words = ["--data", data, "--cold-start", arm, "--query", arm, "--clusters", clusters]
            words += [*LOOP, "--rounds", 0, "--epochs", 1, "--seed", seed]
            call("active_learning", *words, "--out", folder / arm / f"seed{seed}")
    return folder


@pytest.fixture
def diagnosed(data, clusters, runs, tmp_path, monkeypatch):
    def make(*words):
        files = ["--data", data, "--runs", runs, "--out", tmp_path / "out"]
        words = ["diagnose.py", *files, "--clusters", clusters, "--budget", 12, *words]
        if "--arms" not in words:
            words += ["--arms", "random", "kmeans"]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        run_script(diagnose.main)
        return tmp_path / "out"

    return make


def test_nearest_is_brute_force():
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    distances = cdist(features, features)
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :3]
    assert np.array_equal(diagnose.nearest(features, 3), expected)


def test_others_by_chance_are_all_the_others():
    found = diagnose.by_chance((6, 500), np.random.default_rng(0))
    assert [set(row) for row in found] == [set(range(6)) - {place} for place in range(6)]
    counts = np.array([np.bincount(row, minlength=6) for row in found])
    assert counts[~np.eye(6, dtype=bool)].min() > 60  # of 100


def test_mask_dice_is_that_of_the_metrics():
    rng = np.random.default_rng(1)
    masks = (rng.random((12, 8, 8)) < 0.3).astype(np.uint8)
    masks[3] = masks[4] = 0  # two empty masks agree
    others = rng.integers(12, size=(12, 2))
    others[3, 0] = 4
    expected = [
        metrics.per_image(masks[[place]], masks[[other]])[0]["dice"]
        for place, partners in enumerate(others)
        for other in partners
    ]
    found = diagnose.mask_dice(masks.reshape(12, -1), others)
    assert found == pytest.approx(np.mean(expected))


def test_distance_to_labels():
    features = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    pairs = cdist(features, features)
    expected = pairs[:, [5, 9]].min(axis=1).mean() / np.sqrt((pairs**2).mean())
    assert diagnose.distance_to_labels(features, [5, 9]) == pytest.approx(expected, rel=1e-5)
    assert diagnose.distance_to_labels(features, list(range(40))) == pytest.approx(0, abs=1e-3)


def test_area_correlation_finds_what_is_there():
    masks = np.tril(np.ones((20, 20), np.uint8))  # areas 1 to 20
    beside = np.array([[max(place - 1, 0)] for place in range(20)])
    assert diagnose.area_correlation(masks, beside) > 0.99
    assert diagnose.area_correlation(masks, beside[::-1]) < -0.99


def test_the_tables(diagnosed, data, clusters, runs):
    out = diagnosed()
    (features,) = rows_of(out / "features.csv")
    assert features["features"] == clusters.name and features["seeds"] == "2"
    assert float(features["neighbours_dice_mean"]) > float(features["random_dice_mean"])
    opened, content = open_data(data), read_npz(clusters / "features.npz")
    pool = content["ids"].tolist()
    masks = opened.load_masks(pool)
    rows = {row["arm"]: row for row in rows_of(out / "labels.csv")}
    assert list(rows) == ["random", "kmeans"]
    pairs = cdist(content["features"], content["features"])
    distances, dice = [], []
    for arm, row in rows.items():
        found = []
        for seed in (0, 1):
            folder = runs / arm / f"seed{seed}"
            state = read_json(folder / "state.json", "")
            places = [pool.index(entry["id"]) for entry in state["labelled"]]
            distance = pairs[:, places].min(axis=1).mean() / np.sqrt((pairs**2).mean())
            images = rows_of(folder / "round_00" / "metrics.csv")
            measured = np.mean([float(image["dice"]) for image in images])
            found.append((distance, masks[places].mean(), measured))
            distances.append(distance), dice.append(measured)
        for name, values in zip(
            ("distance", "area", "dice"), zip(*found, strict=True), strict=True
        ):
            assert float(row[f"{name}_mean"]) == pytest.approx(np.mean(values), rel=1e-4)
    seeds = np.array([0, 1, 0, 1])
    less = [
        np.array(values) - np.array([np.mean(np.array(values)[seeds == s]) for s in seeds])
        for values in (distances, dice)
    ]
    expected = spearmanr(*less).statistic
    text = (out / "labels.md").read_text()
    assert f"{expected:+.2f}." in text and "Synthetic" in text


def test_an_arm_without_a_run_yet(diagnosed):
    out = diagnosed("--arms", "late", "random", "--partial")
    assert [row["arm"] for row in rows_of(out / "labels.csv")] == ["random"]
    assert "No run yet: late." in (out / "labels.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", 11), "random: was not measured at 11 labels"),
        (("--arms", "entropy"), "holds no run entropy/seedS"),
        (("--clusters", "nowhere"), "nowhere/features.npz: not found"),
    ],
)
def test_bad_input(diagnosed, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        diagnosed(*words)
    assert stop.value.code == 2 and message in capsys.readouterr().err
