"""The benchmarks run, print a ratio and record where it was measured; it is not judged."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command_line
from helpers_preprocess import make_set
from scipy import stats

from benchmarks import growth, plain, recipes, rules
from benchmarks.measure import in_turn
from segmentation.common.runfiles import write_json
from segmentation.model import augment
from segmentation.model.unet import UNet
from segmentation.selection.strategies import COLD_STARTS
from segmentation.selection.uncertainty import ceal_uncertainty

ROOT = Path(__file__).resolve().parents[1]


def run(name, *words):
    return subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "made"),
    [
        ("corruptions", "--size 48 --batch 3 --repeats 1 --samples 40", "corruptions-cpu"),
        ("scoring", "--size 32 --width 2 --images 4 --passes 2 --repeats 1", "scoring-cpu"),
        ("pretraining", "--size 32 --width 2 --batch 2 --steps 1 --repeats 1", "pretraining-cpu"),
    ],
)
def test_a_ratio_is_printed_and_recorded(name, words, made, tmp_path):
    result = run(name, *words.split(), "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    ratio = float(re.search(r"^ratio ([\d.]+)", result.stdout, re.MULTILINE)[1])
    content = json.loads((tmp_path / f"{made}.json").read_text())
    assert content["ratio"] == pytest.approx(ratio, abs=0.06)
    assert content["command"].startswith(f"python benchmarks/{name}.py ")
    assert content["environment"]["torch"] == torch.__version__
    assert "host" not in content["environment"]


@pytest.mark.slow
def test_encoders_have_a_ratio_of_training_and_of_prediction(tmp_path):
    words = "--size 32 --width 1 --batch 2 --steps 1 --repeats 1"
    result = run("encoders", *words.split(), "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "encoders-cpu.json").read_text())
    ratios = [float(found) for found in re.findall(r"^ratio ([\d.]+)", result.stdout, re.MULTILINE)]
    for ratio, part in zip(ratios, ("training", "prediction"), strict=True):
        assert content[part]["ratio"] == pytest.approx(ratio, abs=0.006)


def test_the_plain_network_learns():
    torch.manual_seed(0)
    model = plain.PlainUNet("tf_efficientnet_lite0")
    images = torch.randint(0, 100, (4, 3, 32, 32), dtype=torch.uint8)
    masks = torch.zeros(4, 32, 32, dtype=torch.uint8)
    masks[:, 8:24, 8:24], images[:, :, 8:24, 8:24] = 1, 220
    generator = torch.Generator().manual_seed(0)
    plain.fit(model, images, masks, 12, 4, lambda shape: augment.draw(shape, "none", generator))
    logits = model(images / 255)  # by the statistics of this batch
    assert logits.shape == (4, 32, 32)
    assert logits[masks > 0].mean() > logits[masks == 0].mean() + 0.5


@pytest.mark.slow
def test_preprocessing_reads_every_image(tmp_path):
    make_set(tmp_path / "set", 4)
    words = ["--root", tmp_path / "set", "--copies", 2, "--repeats", 1, "--out", tmp_path]
    result = run("preprocessing", *words)
    assert result.returncode == 0, result.stderr
    assert "for 8 pairs" in result.stdout and re.search(r"^ratio [\d.]+ on", result.stdout, re.M)


@pytest.mark.slow
def test_growth_measures_every_size(tmp_path, figures):
    result = run("growth", "--sizes", 310, 400, "--width", 2, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert [row["images"] for row in rows] == [310, 400]
    assert all(row["peak_bytes"] > 50 << 20 for row in rows)
    assert set(rows[0]["seconds"]) == {"features", "k-means", "cold start", "scoring", "query"}
    growth.draw(tmp_path / "growth.png", rows)
    time, memory = figures["growth.png"].axes
    names = [text.get_text() for text in time.get_legend().get_texts()]
    assert names == [*rows[0]["seconds"], "1 ms per image"]
    assert memory.lines[0].get_xdata().tolist() == [310, 400]
    assert "memory" in memory.get_ylabel() and time.get_ylabel() == "seconds"


@pytest.mark.slow
def test_every_rule_on_features_is_measured_and_chooses_as_defined(tmp_path):
    words = "--count 90 --width 8 --budget 6 --ratio-count 80"
    result = run("rules", *words.split(), "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "rules.json").read_text())
    assert [row["rule"] for row in content["rows"]] == rules.RULES
    named = set(COLD_STARTS) | {"coreset", "badge", "clue", "uherding"}
    others = {"random", "saal", "permuted", "first", "pt4al", "patterns"}
    assert named - set(rules.RULES) == others
    assert all(row["seconds"] > 0 and row["peak_bytes"] >= 0 for row in content["rows"])
    assert len(content["ratios"]) == len(rules.PLAIN)
    assert all(row["same_choices"] and row["ratio"] > 0 for row in content["ratios"])
    lines = (tmp_path / "rules.md").read_text().splitlines()
    assert lines[0] == "# 90 images, 8 features, 6 to choose"
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {name}" for name in rules.RULES]


@pytest.mark.slow
def test_recipes_are_compared_by_time(tmp_path, data, monkeypatch, figures):
    monkeypatch.setattr(recipes, "OTHERS", recipes.OTHERS[-1:])
    words = ["--data", data, "--seconds", 2, "--out", tmp_path, "--", "--width", 2]
    with command_line("recipes", *words):
        recipes.main()
    rows = json.loads((tmp_path / "recipes.json").read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["batch 1, sgd 0.01", "batch 128, adam 0.01"]
    for row in rows:
        spent, best = zip(*row["curve"], strict=True)
        assert list(spent) == sorted(spent) and spent[-1] <= 2
        assert list(best) == sorted(best, reverse=True)
        assert row["best_validation_loss"] == best[-1]
    assert rows[0]["seconds_to_the_paper_recipes_best"] <= 2
    (axes,) = figures["recipes.png"].axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [row["recipe"] for row in rows]
    assert axes.get_xlabel() == "seconds of training" and "loss" in axes.get_ylabel()


def test_the_plain_scoring_is_ceals():
    """One image at a time: the variance over the passes, weighted by the distance map."""
    torch.manual_seed(0)
    model = UNet(1, 1, 2, dropout=0.5)
    with torch.no_grad():
        model.head.bias += 0.3
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    scores = plain.score_ceal(model, images, 4, 1, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for image, score in zip(images, scores, strict=True):
            x = image[None] / 255
            passes = [model.decode(*model.encode(x), drop=True)[0, 0].sigmoid() for _ in range(4)]
            variance = np.var(torch.stack(passes).numpy(), axis=0)
            prediction = model(x)[0, 0].numpy() > 0
            assert score == pytest.approx(ceal_uncertainty(variance, prediction), rel=1e-4)


def test_in_turn_calls_each_as_often():
    calls = []
    times = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert "".join(calls) == "ab" + "ab" * 3
    assert set(times) == {"a", "b"} and all(value >= 0 for value in times.values())


def write_journeys(folder, dice):
    """A journey.json of two rounds for each pair in `dice` (set -> Dice after 20 and 40)."""
    for name, pair in dice.items():
        rounds = [
            {"outlines": 20 * (number + 1), "dice": {"value": value}}
            for number, value in enumerate(pair)
        ]
        (folder / name).mkdir(parents=True)
        write_json(folder / name / "journey.json", {"rounds": rounds})


def test_journeys_are_compared_set_by_set(tmp_path):
    one = {"0": (0.80, 0.90), "1": (0.70, 0.84), "2": (0.84, 0.88)}
    two = {"0": (0.82, 0.90), "1": (0.75, 0.80), "2": (0.87, 0.91)}
    write_journeys(tmp_path / "one", one)
    write_journeys(tmp_path / "two", two)
    result = run("journeys", tmp_path / "one", tmp_path / "two")
    assert result.returncode == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in result.stdout.splitlines()[2:]]
    assert [row[1:4] for row in rows] == [
        [outlines, way, "3"] for outlines in ("20", "40") for way in ("one", "two")
    ]
    found = stats.ttest_rel([82, 75, 87], [80, 70, 84])
    low, high = found.confidence_interval()
    p_40 = stats.ttest_rel([90, 80, 91], [90, 84, 88]).pvalue
    assert rows[0][4:] == ["78.0 [60.1, 95.9]", "70.0", "", "", "", ""]
    assert rows[1][5:7] == ["75.0", f"3.3 [{low:.1f}, {high:.1f}]"]
    assert rows[1][7:9] == [f"{found.pvalue:.3f}", f"{2 * found.pvalue:.3f}"]  # Holm, of two
    assert rows[3][7:9] == [f"{p_40:.3f}", f"{p_40:.3f}"]


def test_journeys_on_other_sets_are_refused(tmp_path):
    write_journeys(tmp_path / "one", {"0": (0.8, 0.9), "1": (0.7, 0.8)})
    write_journeys(tmp_path / "two", {"0": (0.8, 0.9), "2": (0.7, 0.8)})
    result = run("journeys", tmp_path / "one", tmp_path / "two")
    assert result.returncode == 2
    assert "two and one are of different sets of photographs" in result.stderr


@pytest.mark.parametrize(
    ("other", "dice", "said"),
    [
        ("two", {"0": (0.8,), "1": (0.7,)}, "two and one are of different sets of photographs or"),
        ("more/one", {"0": (0.8, 0.9), "1": (0.7, 0.8)}, "two folders have the same name"),
    ],
)
def test_journeys_that_do_not_fit_are_refused(other, dice, said, tmp_path):
    write_journeys(tmp_path / "one", {"0": (0.8, 0.9), "1": (0.7, 0.8)})
    write_journeys(tmp_path / other, dice)
    result = run("journeys", tmp_path / "one", tmp_path / other)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and said in result.stderr
