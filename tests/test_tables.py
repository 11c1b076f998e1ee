"""tables.py on run folders written by hand, with numbers that can be checked by hand."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from segmentation import metrics, tables
from segmentation.runfiles import UserError, run_script, write_csv, write_json

ROOT = Path(__file__).resolve().parents[1]


def write_run(
    runs, arm, seed, dice, labels=(10, 20), planned=None, synthetic=False, ids="ab", data="1"
):
    """A run folder whose test images have a Dice of `dice[r]` -+ 0.1 in round r."""
    folder = runs / arm / f"seed{seed}"
    for number, value in enumerate(dice):
        rows = [dict.fromkeys(("id", *metrics.NAMES), 0.5) for _ in ids]
        for row, name, offset in zip(rows, ids, (-0.1, 0.1), strict=False):
            row.update(id=name, dice=value + offset, hd95=12.25)
        write_csv(folder / f"round_{number:02d}" / "metrics.csv", rows)
    state = {
        "seed": seed,
        "data": data,
        "synthetic": synthetic,
        "rounds_planned": len(labels) - 1 if planned is None else planned,
        "rounds": [
            {"round": number, "labels": count, "pseudo": []}
            for number, count in enumerate(labels[: len(dice)])
        ],
        "labelled": [],
    }
    write_json(folder / "state.json", state)
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two arms of three seeds, and full supervision with one seed and one round."""
    folder = tmp_path / "demo" / "seg"
    for seed, (base, better) in enumerate([(0.70, 0.71), (0.72, 0.75), (0.74, 0.76)]):
        write_run(folder, "random", seed, (0.6, base))
        write_run(folder, "saal", seed, (0.6, better))
    write_run(folder, "full", 0, (0.9,), labels=(100,))
    return folder


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["tables.py", *map(str, words)])
    tables.main()


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table(runs, monkeypatch, capsys):
    run_main(monkeypatch, "--runs", runs)
    out = runs.parent / "tables"
    full, random, saal = read(out / "table.csv")
    assert (full["arm"], random["arm"], saal["arm"]) == ("full", "random", "saal")
    assert (random["seeds"], random["seed_list"], random["labels"]) == ("3", "0 1 2", "20")
    assert float(random["dice_mean"]) == pytest.approx(0.72)
    assert float(random["dice_sd"]) == pytest.approx(0.02)  # of 0.70, 0.72, 0.74, n - 1
    assert full["dice_sd"] == ""
    text = (out / "table.md").read_text()
    assert "| random | 20 | 3 | 72.0 ± 2.0 | 50.0 ± 0.0 |" in text
    assert "| full | 100 | 1 | 90.0 ± – |" in text
    assert "12.2 ± 0.0 |" in text, "HD95 is in pixels, not percent"
    assert "different seeds, so their means do not compare one to one: 0 (full); 0, 1, 2" in text
    assert "Synthetic" not in text
    assert text.endswith(f"Made with `python segmentation/tables.py --runs {runs}`\n")
    assert (out / "learning_curves.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert text in printed
    assert str(out / "learning_curves.png") in printed


def test_rounds(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--arms", "saal", "full")
    out = runs.parent / "tables"
    rows = read(out / "rounds.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [
        ("saal", "10"),
        ("saal", "20"),
        ("full", "100"),
    ]
    assert "| saal | 60.0 ± 0.0 | 74.0 ± 2.6 |  |\n" in (out / "rounds.md").read_text()


def test_paired_difference(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--baseline", "random")
    full, _, saal = read(runs.parent / "tables" / "table.csv")
    # Differences 0.01, 0.03, 0.02: mean 0.02, sd 0.01; t(0.975, 2 df) = 4.3027; half 0.02484.
    assert float(saal["dice_vs_baseline_difference"]) == pytest.approx(0.02)
    assert float(saal["dice_vs_baseline_low"]) == pytest.approx(-0.00484, abs=1e-5)
    assert float(saal["dice_vs_baseline_high"]) == pytest.approx(0.04484, abs=1e-5)
    assert saal["dice_vs_baseline_n"] == "3"
    interval = ttest_rel([0.71, 0.75, 0.76], [0.70, 0.72, 0.74]).confidence_interval(0.95)
    assert float(saal["dice_vs_baseline_low"]) == pytest.approx(interval.low)
    assert (full["dice_vs_baseline_low"], full["dice_vs_baseline_n"]) == ("", "1")
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "+2.0 [-0.5, +4.5], n = 3 |" in text
    assert "+20.0 –, n = 1 |" in text
    assert "| baseline |" in text


def test_no_common_seed(tmp_path):
    write_run(tmp_path, "a", 0, (0.5, 0.6))
    write_run(tmp_path, "b", 1, (0.5, 0.7))
    groups = tables.by_arm(tables.read_runs(tmp_path)[0])
    row = tables.final_rows(groups, "a")[1]
    assert tables.difference_text(row) == "no common seed"


def test_unfinished_runs_are_named(runs, monkeypatch):
    write_run(runs, "saal", 3, (0.1,))
    (runs / "new" / "seed0").mkdir(parents=True)  # stopped before its first state.json
    run_main(monkeypatch, "--runs", runs)
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "Left out, unfinished (rounds done): new/seed0 (0), saal/seed3 (1)." in text
    assert "| saal | 20 | 3 | 74.0" in text


def test_synthetic_data_is_labelled(tmp_path, monkeypatch):
    write_run(tmp_path / "seg", "random", 0, (0.6, 0.7), synthetic=True)
    run_main(monkeypatch, "--runs", tmp_path / "seg")
    for name in ("table.md", "rounds.md"):
        assert (tmp_path / "tables" / name).read_text().startswith("**Synthetic demo data")


def test_bad_input(runs, tmp_path):
    def message(arms=None, folder=runs):
        with pytest.raises(UserError) as error:
            tables.by_arm(tables.read_runs(folder, arms)[0])
        return str(error.value)

    assert str(tmp_path / "none") in message(folder=tmp_path / "none")
    assert "holds no run ceal/seedS;" in message(arms=["ceal"])
    write_run(tmp_path / "short", "a", 0, (0.5,))
    assert "no run is finished" in message(folder=tmp_path / "short")

    write_run(runs, "other-data", 0, (0.5, 0.5), data="2")
    assert "other-data/seed0/state.json: is of other data" in message()
    shutil.rmtree(runs / "other-data")
    folder = write_run(runs, "a-other-ids", 0, (0.5, 0.5), ids="ac")
    assert "has other test images" in message()
    path = folder / "round_01" / "metrics.csv"
    path.write_text("id,dice\na,1\n")
    assert message(arms=["a-other-ids"]) == (
        f"{path}: has no row or no column jaccard; {tables.MEND}"
    )
    path.write_text(",".join(["id", *metrics.NAMES]) + "\na" + 7 * ",x" + "\n")
    assert "not a number" in message(arms=["a-other-ids"])
    path.unlink()
    assert f"{path}: not found" in message(arms=["a-other-ids"])

    write_run(runs, "uneven", 0, (0.5, 0.5))
    write_run(runs, "uneven", 1, (0.5, 0.5), labels=(10, 30))
    assert "uneven: seed 1 went from 10 to 30 labels" in message(arms=["uneven"])
    folder.rename(folder.with_name("seed7"))
    assert "is of seed 0; rename" in message()


@pytest.mark.parametrize("how", [["segmentation/tables.py"], ["-m", "segmentation.tables"]])
def test_both_ways_to_call_it(runs, tmp_path, how):
    command = [sys.executable, *how, "--runs", str(runs), "--out", str(tmp_path / "o")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| saal | 20 | 3 |" in result.stdout


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", "nowhere"])
    with pytest.raises(SystemExit) as end:
        run_script(tables.main)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: nowhere: ") and error.count("\n") == 1


def test_unknown_baseline(runs, monkeypatch):
    with pytest.raises(UserError, match="--baseline ceal"):
        run_main(monkeypatch, "--runs", runs, "--baseline", "ceal")


def test_state_of_another_schema(runs):
    path = runs / "full" / "seed0" / "state.json"
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="schema"):
        tables.read_runs(runs)
