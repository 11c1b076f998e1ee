"""From the run folders of an experiment to its tables and its learning curves.

    python segmentation/tables.py --runs runs/demo/seg
    python segmentation/tables.py --runs runs/demo/seg --arms random saal-ceal --baseline random

Reads `ARM/seedS/state.json` and `ARM/seedS/round_RR/metrics.csv` under --runs, and writes to --out:

- `table.md`, `table.csv`: a row per arm, every metric at the last round as mean ± sample standard
  deviation over the seeds of the mean over the test images. With --baseline also the difference in
  Dice to that arm, over the seeds that both have, with its 95 % t-interval.
- `rounds.md`, `rounds.csv`: Dice at every number of labels.
- `learning_curves.png`: the same as a picture.

The .csv files hold the plain values (0..1, HD95 in pixels), the .md files percent. Only finished
runs count; the others are named below the table.
"""

import math
import shlex
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segmentation import metrics, pictures
from segmentation.runfiles import (
    Parser,
    UserError,
    read_csv,
    read_json,
    run_script,
    write_csv,
    write_text,
)

MEND = "delete the run's folder and run segmentation/active_learning.py again"
TITLES = dict(
    zip(
        metrics.NAMES,
        (
            "Dice %",
            "Jaccard %",
            "Thr. Jaccard %",
            "Sensitivity %",
            "Specificity %",
            "Pixel acc. %",
            "HD95 px",
        ),
        strict=True,
    )
)
DEFINITIONS = (
    "Each metric is computed per test image and averaged. Dice = 2TP/(2TP+FP+FN), "
    "Jaccard = TP/(TP+FP+FN), Thr. Jaccard = Jaccard, but 0 where below 0.65 (ISIC 2018), "
    "Sensitivity = TP/(TP+FN), Specificity = TN/(TN+FP), Pixel acc. = (TP+TN)/all, "
    "HD95 = 95th percentile of the distances between the two outlines in pixels. "
    "± is the sample standard deviation over seeds (–: one seed)."
)


@dataclass(frozen=True)
class Run:
    """A finished run: with `labels[r]` labels, round r gave the mean metrics `means[r]`."""

    arm: str
    seed: int
    synthetic: bool
    labels: list  # ints
    means: list  # dicts of floats, over the test images


# Reading ----------------------------------------------------------------------------------------


def read_runs(folder, arms=None, partial=False):
    """The finished runs under `folder`, and notes on the others.

    `arms` (names) limits what is read. Returns a list of Run and a list of texts. UserError where
    no run is finished, two runs differ in their data, or, unless `partial`, an arm of `arms` has no
    run.
    """
    states, missing = read_states(folder, arms, partial)
    done = [pair for pair in states if is_finished(pair[1])]
    if not done:
        raise UserError(f"{folder}: no run is finished; continue segmentation/active_learning.py")
    run_folder, state = done[0]
    for other, its_state in done:
        if its_state.get("data") != state.get("data"):
            raise UserError(
                f"{other}/state.json: is of other data than {run_folder}; "
                "keep runs on different data in different --runs folders"
            )
    test_ids = set(read_metrics(metrics_path(run_folder, state["rounds"][0])))
    unfinished = [
        f"{run_folder.parent.name}/{run_folder.name} ({len(state['rounds'])})"
        for run_folder, state in states
        if not is_finished(state)
    ]
    notes = [f"No run yet: {', '.join(missing)}."] if missing else []
    if unfinished:
        notes.append(f"Left out, unfinished (rounds done): {', '.join(unfinished)}.")
    return [read_run(*pair, test_ids) for pair in done], notes


def read_states(folder, arms, partial):
    """Pairs of a run's folder and its state, in name order, and the names of arms without any."""
    run_folders = sorted(
        path for path in folder.glob("*/seed*") if arms is None or path.parent.name in arms
    )
    missing = sorted(set(arms or ()) - {path.parent.name for path in run_folders})
    if not run_folders or (missing and not partial):
        raise UserError(
            f"{folder}: holds no run {missing[0] if missing else 'ARM'}/seedS; "
            "run segmentation/active_learning.py, or correct --runs and --arms"
        )
    return [(path, read_state(path / "state.json")) for path in run_folders], missing


def read_state(path):
    """A run's state; one without rounds where the run was stopped in its first round."""
    if not path.exists():
        return {"rounds": [], "rounds_planned": 0}
    state = read_json(path, mend=MEND)
    name = f"seed{state['seed']}"
    if path.parent.name != name:
        raise UserError(f"{path}: is of seed {state['seed']}; rename its folder to {name}")
    return state


def is_finished(state):
    """Whether a run has done all its rounds; the initial one comes before the planned ones."""
    return len(state["rounds"]) > state["rounds_planned"]


def metrics_path(run_folder, entry):
    """The metrics.csv of an entry of a state's list of rounds."""
    return run_folder / f"round_{entry['round']:02d}" / "metrics.csv"


def read_run(run_folder, state, test_ids):
    """The Run of a finished state. UserError where its test images are not `test_ids`."""
    means = []
    for entry in state["rounds"]:
        path = metrics_path(run_folder, entry)
        rows = read_metrics(path)
        if set(rows) != test_ids:
            raise UserError(
                f"{path}: has other test images than the first run; "
                "keep runs on different data in different --runs folders"
            )
        means.append(metrics.mean(list(rows.values())))
    labels = [entry["labels"] for entry in state["rounds"]]
    return Run(run_folder.parent.name, state["seed"], state["synthetic"], labels, means)


def read_metrics(path):
    """A metrics.csv as a dict id -> dict of floats. UserError where it is incomplete."""
    rows = read_csv(path, mend=MEND)
    for name in ("id", *metrics.NAMES):
        if not rows or name not in rows[0]:
            raise UserError(f"{path}: has no row or no column {name}; {MEND}")
    try:
        return {row["id"]: {name: float(row[name]) for name in metrics.NAMES} for row in rows}
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds a value that is not a number; {MEND}") from None


def by_arm(runs, arms=None):
    """Runs grouped by arm, as a dict in the order of `arms` or of the alphabet.

    UserError where the runs of one arm did not label equally many images in each round.
    """
    groups = {arm: [] for arm in arms or sorted({run.arm for run in runs})}
    for run in sorted(runs, key=lambda run: run.seed):
        groups[run.arm].append(run)
    for arm, group in groups.items():
        for run in group:
            if run.labels != group[0].labels:
                raise UserError(
                    f"{arm}: seed {run.seed} went from {run.labels[0]} to {run.labels[-1]} labels, "
                    f"unlike seed {group[0].seed}; give them different names or run one again"
                )
    return {arm: group for arm, group in groups.items() if group}


# Statistics -------------------------------------------------------------------------------------


def mean_sd(values):
    """Mean and sample standard deviation (n - 1) of floats; the sd of one value is None."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(group, baseline):
    """Mean Dice of `group` minus `baseline` at the last round, over the seeds both have.

    Returns a dict with `difference`, `low` and `high` (95 % t-interval; None below two seeds) and
    `n`, the number of common seeds; `difference` is None where n is 0.
    """
    from scipy.stats import t

    base = {run.seed: run.means[-1]["dice"] for run in baseline}
    values = [run.means[-1]["dice"] - base[run.seed] for run in group if run.seed in base]
    if not values:
        return {"difference": None, "low": None, "high": None, "n": 0}
    middle, sd = mean_sd(values)
    low = high = None
    if sd is not None:
        half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
        low, high = middle - half, middle + half
    return {"difference": middle, "low": low, "high": high, "n": len(values)}


def final_rows(groups, baseline=None):
    """The rows of table.csv: one per arm, at its last round."""
    rows = []
    for arm, group in groups.items():
        row = {"arm": arm, "seeds": len(group), "labels": group[0].labels[-1]}
        row["seed_list"] = " ".join(str(run.seed) for run in group)
        for name in metrics.NAMES:
            row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd([run.means[-1][name] for run in group])
        if baseline:
            paired = paired_difference(group, groups[baseline])
            row.update({f"dice_vs_baseline_{key}": value for key, value in paired.items()})
        rows.append(row)
    return rows


def round_rows(groups):
    """The rows of rounds.csv: one per arm and round."""
    rows = []
    for arm, group in groups.items():
        for number, labels in enumerate(group[0].labels):
            middle, sd = mean_sd([run.means[number]["dice"] for run in group])
            rows.append(
                {
                    "arm": arm,
                    "round": number,
                    "labels": labels,
                    "seeds": len(group),
                    "dice_mean": middle,
                    "dice_sd": sd,
                }
            )
    return rows


# Writing ----------------------------------------------------------------------------------------


def plus_minus(middle, sd, scale=100):
    """`81.3 ± 0.4`, in percent unless `scale` is 1."""
    return f"{scale * middle:.1f} ± " + ("–" if sd is None else f"{scale * sd:.1f}")


def difference_text(row):
    """`+1.2 [-0.3, +2.7], n = 3` in Dice points, from a row of table.csv."""
    value, low, high, n = (
        row[f"dice_vs_baseline_{key}"] for key in ("difference", "low", "high", "n")
    )
    if n == 0:
        return "no common seed"
    interval = "–" if low is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * value:+.1f} {interval}, n = {n}"


def markdown(header, rows):
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def final_markdown(rows, baseline=None):
    """The main table as Markdown."""
    header = ["arm", "labels", "seeds", *TITLES.values()]
    if baseline:
        header.append(f"Dice points over {baseline} [95 %]")
    lines = []
    for row in rows:
        line = [row["arm"], row["labels"], row["seeds"]]
        for name in metrics.NAMES:
            scale = 1 if name == "hd95" else 100
            line.append(plus_minus(row[f"{name}_mean"], row[f"{name}_sd"], scale))
        if baseline:
            line.append("baseline" if row["arm"] == baseline else difference_text(row))
        lines.append(line)
    return markdown(header, lines)


def rounds_markdown(rows):
    """Dice in percent as Markdown: a row per arm, a column per number of labels."""
    cells = {
        (row["arm"], row["labels"]): plus_minus(row["dice_mean"], row["dice_sd"]) for row in rows
    }
    columns = sorted({row["labels"] for row in rows})
    lines = [
        [arm, *(cells.get((arm, labels), "") for labels in columns)]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    return markdown(["Dice % at labels", *columns], lines)


def seeds_note(groups):
    """What to know about the seeds: which they are, or that the arms do not share them."""
    arms = {}
    for arm, group in groups.items():
        arms.setdefault(", ".join(str(run.seed) for run in group), []).append(arm)
    if len(arms) == 1:
        return f"Seeds: {next(iter(arms))}."
    listed = "; ".join(f"{seeds} ({', '.join(names)})" for seeds, names in arms.items())
    return f"The arms have different seeds, so their means do not compare one to one: {listed}."


def draw_curves(path, rows, title):
    """The learning curves of the rows of rounds.csv, in percent."""
    curves = {}
    for row in rows:
        labels, middle, sd = curves.setdefault(row["arm"], ([], [], []))
        labels.append(row["labels"])
        middle.append(100 * row["dice_mean"])
        sd.append(None if row["dice_sd"] is None else 100 * row["dice_sd"])
    pictures.learning_curves(path, curves, "Dice on the test images (%)", title)


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of ARM/seedS folders")
    parser.add_argument("--out", type=Path, help="folder to write to; else `tables` beside --runs")
    parser.add_argument("--arms", nargs="+", help="only these arms, in this order")
    parser.add_argument("--baseline", help="arm to which the others' Dice is compared, by seed")
    help = "note arms and a baseline without finished runs, in place of refusing them"
    parser.add_argument("--partial", action="store_true", help=help)
    return parser.parse_args()


def main():
    args = parse_args()
    out = args.out or args.runs.parent / "tables"
    runs, notes = read_runs(args.runs, args.arms, args.partial)
    groups = by_arm(runs, args.arms)
    baseline = args.baseline
    if baseline and baseline not in groups:
        if not args.partial:
            raise UserError(
                f"--baseline {baseline}: no finished run of it; give one of {', '.join(groups)}"
            )
        notes.append(f"No finished run of {baseline}, so no differences to it.")
        baseline = None
    final, rounds = final_rows(groups, baseline), round_rows(groups)
    synthetic = any(run.synthetic for run in runs)
    title = "Synthetic demo data" if synthetic else "Dice against labels"
    warning = "**Synthetic demo data: these numbers say nothing about skin.**\n\n"
    command = shlex.join(["python", "segmentation/tables.py", *sys.argv[1:]])
    notes = "".join(f"{note}\n\n" for note in [seeds_note(groups), *notes, DEFINITIONS])
    ending = f"\n{notes}Made with `{command}`\n"
    heading = warning if synthetic else ""
    table = heading + final_markdown(final, baseline) + ending
    write_csv(out / "table.csv", final)
    write_text(out / "table.md", table)
    write_csv(out / "rounds.csv", rounds)
    write_text(out / "rounds.md", heading + rounds_markdown(rounds) + ending)
    draw_curves(out / "learning_curves.png", rounds, title)
    print(table)
    for name in ("table.md", "table.csv", "rounds.md", "rounds.csv", "learning_curves.png"):
        print(out / name)


if __name__ == "__main__":
    run_script(main)
