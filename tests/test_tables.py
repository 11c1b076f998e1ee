"""tables.py on run folders written by hand, with numbers that can be checked by hand."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from segmentation import tables
from segmentation.analysis import comparisons, markdown, significance
from segmentation.analysis.runs import FIX, by_arm, combine_draws, read_runs
from segmentation.common.door import run_script
from segmentation.common.runfiles import UserError, write_csv, write_json
from segmentation.model import metrics

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
        "labelled": [
            {"round": number, "id": f"{number} {place}", "score": None, "source": "random"}
            for number, count in enumerate(labels[: len(dice)])
            for place in range(count - (labels[number - 1] if number else 0))
        ],
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


def shown(figure):
    """The axes of a figure with one panel, and the names in its legend, from top to bottom."""
    (axes,), (legend,) = figure.axes, figure.legends
    return axes, [text.get_text() for text in legend.get_texts()]


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table(runs, monkeypatch, capsys, figures):
    run_main(monkeypatch, "--runs", runs)
    out = runs.parent / "tables"
    full, random, saal = read(out / "table.csv")
    assert (full["arm"], random["arm"], saal["arm"]) == ("full", "random", "saal")
    assert (random["seeds"], random["seed_list"], random["labels"]) == ("3", "0 1 2", "20")
    assert float(random["dice_mean"]) == pytest.approx(0.72)
    assert float(random["dice_sd"]) == pytest.approx(0.02)  # of 0.70, 0.72, 0.74, n - 1
    assert full["dice_sd"] == ""
    text = (out / "table.md").read_text()
    assert "| random | 20 | – | 3 | 72.0 ± 2.0 | 50.0 ± 0.0 |" in text
    assert "| full | 100 | – | 1 | 90.0 ± – |" in text
    assert "12.2 ± 0.0 |" in text, "HD95 is in pixels, not percent"
    assert "different seeds, so their means do not compare one to one: 0 (full); 0, 1, 2" in text
    assert "Synthetic" not in text
    assert text.endswith(f"Made with `python segmentation/tables.py --runs {runs}`\n")
    axes, names = shown(figures["learning_curves.png"])
    assert names == ["full (100 labels)", "saal", "random"]
    assert axes.get_xlabel() == "labelled images"
    assert axes.get_ylabel() == "Dice on the test images (%)"
    printed = capsys.readouterr().out
    assert text in printed
    assert str(out / "learning_curves.png") in printed


def test_steps_are_shown_where_runs_agree_on_them(runs, monkeypatch):
    for arm in ("random", "saal"):
        for folder in (runs / arm).iterdir():
            state = json.loads((folder / "state.json").read_text())
            for entry, steps in zip(state["rounds"], (40, 400), strict=True):
                entry["steps"] = steps + (arm == "saal" and folder.name == "seed2")
            write_json(folder / "state.json", state)
    run_main(monkeypatch, "--runs", runs)
    out = runs.parent / "tables"
    rows = {row["arm"]: row["steps"] for row in read(out / "table.csv")}
    assert rows == {"random": "400", "saal": "", "full": ""}
    assert "| random | 20 | 400 | 3 |" in (out / "table.md").read_text()
    assert "| random | 40 to 400 | 60.0 ± 0.0 |" in (out / "rounds.md").read_text()
    assert "| saal | – | 60.0 ± 0.0 |" in (out / "rounds.md").read_text()


def test_rounds(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--arms", "saal", "full")
    out = runs.parent / "tables"
    rows = read(out / "rounds.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [
        ("saal", "10"),
        ("saal", "20"),
        ("full", "100"),
    ]
    assert "| saal | – | 60.0 ± 0.0 | 74.0 ± 2.6 |  |\n" in (out / "rounds.md").read_text()


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
    assert (full["dice_vs_baseline_difference"], full["dice_vs_baseline_n"]) == ("", "0")
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "+2.0 [-0.5, +4.5], n = 3 |" in text
    assert "12.2 ± – | other labels or seeds |" in text  # 100 labels against 20
    assert "| baseline |" in text


def test_no_common_seed(tmp_path):
    write_run(tmp_path, "a", 0, (0.5, 0.6))
    write_run(tmp_path, "b", 1, (0.5, 0.7))
    groups = by_arm(read_runs(tmp_path)[0])
    row = comparisons.final_rows(groups, "a")[1]
    assert markdown.difference_text(row) == "other labels or seeds"


def test_unfinished_runs_are_named(runs, monkeypatch):
    write_run(runs, "saal", 3, (0.1,))
    (runs / "new" / "seed0").mkdir(parents=True)  # stopped before its first state.json
    run_main(monkeypatch, "--runs", runs)
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "Left out, unfinished (rounds done): new/seed0 (0), saal/seed3 (1)." in text
    assert "| saal | 20 | – | 3 | 74.0" in text


def test_tables_of_an_earlier_call_go(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--baseline", "random", "--targets", 70)
    out = runs.parent / "tables"
    assert {"significance.md", "summary.csv", "ranks.png", "targets.md"} <= set(os.listdir(out))
    (out / "README.md").write_text("mine")
    run_main(monkeypatch, "--runs", runs, "--arms", "saal")
    assert sorted(os.listdir(out)) == [
        "README.md", "learning_curves.png", "rounds.csv", "rounds.md", "table.csv", "table.md",
    ]  # fmt: skip


def test_seeds_of_an_arm_with_other_options(runs, monkeypatch, refused):
    for seed, lr in enumerate((0.1, 0.2, 0.1)):
        args = {"seed": seed, "lr": lr, "out": f"x/{seed}", "clusters": f"c/{seed}"}
        write_json(runs / "saal" / f"seed{seed}" / "args.json", {"args": args, "inputs": {}})
    line = refused("tables", "--runs", runs)
    assert "saal: seed0 has --lr 0.1, seed1 0.2; make them again" in line and str(runs) in line
    run_main(monkeypatch, "--runs", runs, "--mixed")
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "**Seeds of an arm with different options:** saal: seed0 has --lr 0.1, seed1 0.2" in text
    args = {"seed": 1, "mix": "none"}  # of another version: nothing to compare
    write_json(runs / "saal" / "seed1" / "args.json", {"args": args, "inputs": {}})
    run_main(monkeypatch, "--runs", runs)


def test_synthetic_data_is_labelled(tmp_path, monkeypatch):
    write_run(tmp_path / "seg", "random", 0, (0.6, 0.7), synthetic=True)
    run_main(monkeypatch, "--runs", tmp_path / "seg")
    for name in ("table.md", "rounds.md"):
        assert (tmp_path / "tables" / name).read_text().startswith("**Synthetic demo data")


def test_a_byte_order_mark_of_a_spreadsheet_changes_nothing(runs):
    before, _ = read_runs(runs)
    for path in runs.rglob("metrics.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for one, other in zip(read_runs(runs)[0], before, strict=True):
        assert one.means == other.means and np.array_equal(one.dice, other.dice)


def test_bad_input(runs, tmp_path):
    def message(arms=None, folder=runs):
        with pytest.raises(UserError) as error:
            by_arm(read_runs(folder, arms)[0])
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
    assert message(arms=["a-other-ids"]) == (f"{path}: has no row or no column jaccard; {FIX}")
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
    assert "| saal | 20 | – | 3 |" in result.stdout


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
        read_runs(runs)


# Comparisons with a baseline --------------------------------------------------------------------


def numbers(row, *names):
    return [float(row[name]) for name in names]


def test_significance(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--baseline", "random")
    out = runs.parent / "tables"
    first, last, area = rows = read(out / "significance.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [
        ("saal", "10"),
        ("saal", "20"),
        ("saal", "area under the curve"),
    ]
    assert numbers(first, "difference", "wilcoxon_p") == [0, 1]  # the same runs until here
    assert (first["p"], first["p_holm"], first["effect_size"]) == ("", "", "")
    # Differences 0.01, 0.03, 0.02, and half of each in the area of one trapezoid.
    assert numbers(last, "difference", "t_low", "seeds") == pytest.approx([0.02, -0.00484, 3], 1e-3)
    assert numbers(area, "difference", "t_low") == pytest.approx([0.01, -0.00242], 1e-3)
    expected, p = significance.paired_bootstrap([[0.01] * 2, [0.03] * 2, [0.02] * 2])
    names = ("difference", "difference_low", "difference_high", "p", "p_holm")
    assert numbers(last, *names) == pytest.approx([*expected, p, p])
    expected = significance.effect_size([0.01, 0.03, 0.02])
    names = ("effect_size", "effect_size_low", "effect_size_high")
    assert numbers(last, *names) == pytest.approx(list(expected))
    text = (out / "significance.md").read_text()
    assert "| saal | 10 | +0.0 [+0.0, +0.0] | – | – | – | 3 |" in text
    assert "| saal | 20 | +2.0 [" in text
    assert "Without labels or seeds in common with random: full." in text
    assert f"Made with `python segmentation/tables.py --runs {runs} --baseline random`" in text


def test_images_are_paired_by_id(tmp_path):
    """Not by their place in the file: here `a` and `b` change places, with all their values."""
    for seed in (0, 1):
        write_run(tmp_path, "base", seed, (0.5, 0.6))
        write_run(tmp_path, "same", seed, (0.5, 0.6), ids="ba")
    groups = by_arm(read_runs(tmp_path)[0])
    assert groups["same"][0].dice == pytest.approx(groups["base"][0].dice[::-1])
    row = comparisons.significance_rows(groups, "base")[0][0]
    assert row["difference"] == pytest.approx(0) and row["difference_high"] > 0.01


def test_common_budgets_and_seeds_only(tmp_path, monkeypatch):
    runs = tmp_path / "seg"
    for seed in (0, 1, 2):
        write_run(runs, "base", seed, (0.5, 0.6, 0.7), labels=(10, 20, 40))
    for seed in (1, 2, 3):
        write_run(runs, "other", seed, (0.55, 0.7, 0.9), labels=(20, 40, 80))
    write_run(runs, "alone", 9, (0.6, 0.6))
    run_main(monkeypatch, "--runs", runs, "--baseline", "base")
    rows = read(tmp_path / "tables" / "significance.csv")
    assert [(row["labels"], row["seeds"]) for row in rows] == [
        ("20", "2"),
        ("40", "2"),
        ("area under the curve", "2"),
    ]
    found = [float(row["difference"]) for row in rows]
    assert found == pytest.approx([-0.05, 0, -0.025])
    assert "in common with base: alone." in (tmp_path / "tables" / "summary.md").read_text()
    alone, base, other = read(tmp_path / "tables" / "summary.csv")
    assert (base["budgets"], other["budgets"]) == ("10 20 40", "20 40")
    assert float(base["area_mean"]) == pytest.approx(0.6)
    assert float(other["area_mean"]) == pytest.approx(0.625)
    assert float(other["area_difference"]) == pytest.approx(-0.025)
    assert (base["area_difference"], alone["area_difference"]) == ("", "")


def test_nothing_to_compare(runs, monkeypatch):
    run_main(monkeypatch, "--runs", runs, "--arms", "random", "full", "--baseline", "full")
    assert not (runs.parent / "tables" / "significance.csv").exists()
    assert "in common with full: random." in (runs.parent / "tables" / "summary.md").read_text()


def test_holm_over_all_arms_and_numbers_of_labels(tmp_path):
    for seed in range(4):
        write_run(tmp_path, "base", seed, (0.5, 0.5))
        for arm, shift in enumerate((0.001, 0.02, 0.1)):
            noise = 0.03 * (-1) ** seed
            write_run(tmp_path, f"arm{arm}", seed, (0.5 + shift + noise, 0.5 + 2 * shift - noise))
    rows, _ = comparisons.significance_rows(by_arm(read_runs(tmp_path)[0]), "base")
    areas = [row for row in rows if row["labels"] == comparisons.AREA]
    cells = [row for row in rows if row["labels"] in (10, 20)]
    for family, size in ((areas, 3), (cells, 6)):
        assert len(family) == size
        assert [row["p_holm"] for row in family] == significance.holm([row["p"] for row in family])
    smallest = min(cells, key=lambda row: row["p"])
    assert smallest["p_holm"] == pytest.approx(6 * smallest["p"])


def test_summary(runs, monkeypatch):
    for seed, last in enumerate((0.9, 0.9, 0.84)):
        write_run(runs, "good", seed, (0.6, last))
    run_main(monkeypatch, "--runs", runs, "--baseline", "random", "--bound", "full")
    full, good, random, saal = read(runs.parent / "tables" / "summary.csv")
    # The target is 0.855; good goes from 0.6 to 0.88 in one doubling; its third seed stops at 0.84.
    assert float(good["labels_to_reach"]) == pytest.approx(10 * 2 ** (0.255 / 0.28))
    assert good["seeds_reaching"] == "2" and saal["labels_to_reach"] == ""
    assert numbers(saal, "area_mean", "area_sd") == pytest.approx([0.67, 0.0132288], 1e-4)
    assert float(saal["area_difference"]) == pytest.approx(0.01)
    assert full["area_mean"] == full["budgets"] == random["area_difference"] == ""
    text = (runs.parent / "tables" / "summary.md").read_text()
    assert "labels for 95 % of full |" in text and "a Dice of 85.5 %:" in text
    assert "| 10 to 20 (2) | 74.0 ± 1.7 | +8.0 [" in text and "| 19 (2 of 3) |" in text
    assert "| full | 1 | – | – | – | – | ≤ 100 (1 of 1) |" in text
    assert "| 66.0 ± 1.0 | baseline | – | > 20 (0 of 3) |" in text
    run_main(monkeypatch, "--runs", runs, "--baseline", "random")
    assert "labels_to_reach" not in read(runs.parent / "tables" / "summary.csv")[0]
    assert "labels for" not in (runs.parent / "tables" / "summary.md").read_text()


def test_targets(runs, monkeypatch):
    for seed in range(3):
        write_run(runs, "good", seed, (0.6, 0.8))
    arms = ["--arms", "good", "random", "full"]
    run_main(monkeypatch, "--runs", runs, *arms, "--targets", 50, 70, 99)
    rows = read(runs.parent / "tables" / "targets.csv")
    assert [row["arm"] for row in rows] == ["good"] * 3 + ["random"] * 3 + ["full"] * 3
    assert numbers(rows[1], "target", "labels_to_reach") == pytest.approx([0.7, 200**0.5])
    assert rows[2]["labels_to_reach"] == "inf" and rows[8]["labels_to_reach_low"] == ""
    text = (runs.parent / "tables" / "targets.md").read_text()
    assert "| arm | seeds | budgets | 50 % | 70 % | 99 % |" in text
    good = next(line for line in text.splitlines() if line.startswith("| good"))
    cells = [cell.split(" [")[0].strip() for cell in good.strip("|").split("|")]
    assert cells == ["good", "3", "10 to 20", "≤ 10", "14", "> 20"]
    assert "| full | 1 | 100 | ≤ 100 | ≤ 100 | > 100 |" in text


def test_draws(tmp_path, monkeypatch):
    runs = tmp_path / "seg"
    drawn = {"00": (0.5, 0.7), "01": (0.6, 0.5), "02": (0.7, 0.6)}  # seeds 0 and 1 of each
    for seed in (0, 1):
        write_run(runs, "random", seed, (0.6, 0.7))
        for name, dice in drawn.items():
            write_run(runs, f"random+draw{name}", seed, dice[seed : seed + 1], labels=(20,))
    write_run(runs, "random+draw02", 2, (0.89,), labels=(20,))
    run_main(monkeypatch, "--runs", runs, "--baseline", "random")
    mean = "random+draws (mean of 3)"
    best = "random+best (of 3 draws by test Dice: an oracle, cheating)"
    rows = read(tmp_path / "tables" / "table.csv")
    assert [row["arm"] for row in rows] == ["random", mean, best]
    assert [float(row["dice_mean"]) for row in rows] == pytest.approx([0.7, 0.6, 0.7])
    assert (
        "Seeds without all 3 draws of random, left out: 2."
        in (tmp_path / "tables" / "table.md").read_text()
    )
    rows = read(tmp_path / "tables" / "significance.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [(mean, "20"), (best, "20")]
    assert [float(row["difference"]) for row in rows] == pytest.approx([-0.1, 0], abs=1e-9)
    assert [row["p_holm"] for row in rows] == ["", ""], "draws are not part of the family"
    run_main(monkeypatch, "--runs", runs, "--baseline", "random+draws")
    rows = read(tmp_path / "tables" / "significance.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [("random", "20"), (best, "20")]
    assert float(rows[0]["difference"]) == pytest.approx(0.1)


def test_draws_by_image_and_round(tmp_path):
    write_run(tmp_path, "a+draw0+b", 0, (0.5, 0.7))
    write_run(tmp_path, "a+draw1+b", 0, (0.6, 0.6), ids="ba")
    groups, notes = combine_draws(by_arm(read_runs(tmp_path)[0]))
    (mean,), (best,) = groups.values()
    assert next(iter(groups)) == "a+b+draws (mean of 2)"
    assert mean.dice == pytest.approx(np.array([[0.55, 0.65], [0.55, 0.65]]))
    assert best.dice == pytest.approx(np.array([[0.7, 0.6], [0.5, 0.8]]))  # of draw1, of draw0
    assert [row["dice"] for row in best.means] == pytest.approx([0.6, 0.7])
    assert notes == []
    write_run(tmp_path, "a+draw2+b", 0, (0.6, 0.6), labels=(10, 30))
    with pytest.raises(UserError, match="the draws of one name need equal labels"):
        combine_draws(by_arm(read_runs(tmp_path)[0]))
    shutil.rmtree(tmp_path / "a+draw2+b")
    write_run(tmp_path, "a+draw2+b", 1, (0.6, 0.6))
    with pytest.raises(UserError, match="no seed has all draws"):
        combine_draws(by_arm(read_runs(tmp_path)[0]))


def test_rank_curves(runs):
    write_run(runs, "tied", 0, (0.6, 0.70))
    write_run(runs, "tied", 1, (0.6, 0.76))
    write_run(runs, "saal+draw0", 0, (0.89, 0.89))  # not ranked
    groups, _ = combine_draws(by_arm(read_runs(runs)[0]))
    curves = comparisons.rank_curves(groups)
    assert curves.pop("full") == ([], [])
    # At 20 labels, seed 0: saal, then random and tied alike; seed 1: tied, saal, random.
    assert curves["random"] == ([10, 20], [2, 2.75])
    assert curves["saal"] == ([10, 20], [2, 1.5])
    assert curves["tied"] == ([10, 20], [2, 1.75])
    assert curves["saal+draws (mean of 1)"] == ([], [])
    fewer = [replace(run, labels=[10, 30]) for run in groups["tied"]]
    curves = comparisons.rank_curves({**groups, "tied": fewer})
    assert curves["tied"][0] == curves["saal"][0] == [10]  # 20 and 30 have fewer arms to rank


def test_pictures(runs, monkeypatch, capsys, figures):
    out = runs.parent / "tables"
    run_main(monkeypatch, "--runs", runs)
    assert not (out / "ranks.png").exists()
    run_main(monkeypatch, "--runs", runs, "--baseline", "random")
    axes, names = shown(figures["ranks.png"])
    assert names == ["saal", "random"]
    assert [tuple(line.get_xdata()) for line in axes.lines] == [(10, 20), (10, 20)]
    assert axes.get_ylabel() == "mean rank in Dice (1 is best)"
    assert str(out / "ranks.png") in capsys.readouterr().out


def test_what_the_modifiers_mean_stands_below_the_table(runs, monkeypatch):
    write_run(runs, "random+scratch+k7", 0, (0.6, 0.70))
    write_run(runs, "by hand+luck", 0, (0.6, 0.70))  # no arm of run.sh, and no reason to refuse it
    run_main(monkeypatch, "--runs", runs)
    text = (runs.parent / "tables" / "table.md").read_text()
    scratch = "`+scratch`: start from random weights, in place of INIT"
    assert f"In the names of arms: {scratch}; `+k7`: 7 clusters, in place of K." in text
    run_main(monkeypatch, "--runs", runs, "--arms", "random", "saal")
    assert "In the names" not in (runs.parent / "tables" / "table.md").read_text()


def test_unknown_arms_of_options(runs, monkeypatch):
    words = ["--runs", runs, "--baseline", "random"]
    with pytest.raises(UserError, match="--bound ceal: no finished run of it; give one of"):
        run_main(monkeypatch, *words, "--bound", "ceal")
    run_main(monkeypatch, "--runs", runs, "--bound", "full")
    text = (runs.parent / "tables" / "table.md").read_text()
    assert "No baseline, so no labels to reach the Dice of full." in text
    run_main(monkeypatch, *words, "--bound", "ceal", "--partial")
    text = (runs.parent / "tables" / "summary.md").read_text()
    assert "No finished run of ceal, so no labels to reach its Dice." in text
    assert "labels for" not in text
