"""From the run folders of an experiment to its tables and its learning curves.

    python segmentation/tables.py --runs runs/demo/seg
    python segmentation/tables.py --runs runs/demo/seg --arms random saal-ceal --baseline random
    python segmentation/tables.py --runs runs/cpu/seg --baseline random --bound full

Reads `ARM/seedS/state.json` and `ARM/seedS/round_RR/metrics.csv` under --runs, and writes to --out:

- `table.md`, `table.csv`: a row per arm, every metric at the last round as mean ± sample standard
  deviation over the seeds of the mean over the test images. With --baseline also the difference in
  Dice to that arm, over the seeds that both have, with its 95 % t-interval.
- `rounds.md`, `rounds.csv`: Dice at every number of labels.
- `learning_curves.png`: the same as a picture, of all arms or those of --curves.

With --baseline also, over the seeds and numbers of labels that an arm shares with that one:

- `significance.md`, `significance.csv`: the paired difference in Dice of each arm at each number of
  labels and in the area under the curve, its interval, p values and effect size.
- `summary.md`, `summary.csv`: a row per arm, the area under the learning curve, and with --bound
  the labels that it takes to reach 95 % of the Dice of that arm.
- `ranks.png`: the mean rank of each arm, at the numbers of labels that most arms have.

Arms NAME+draw00, NAME+draw01, ... are random draws of one kind; they become two rows, NAME+draws,
their mean, and NAME+best, by seed the best of them by test Dice: an oracle's bound. The .csv files
hold the plain values (0..1, HD95 in pixels), the .md files percent. Only finished runs count; the
others are named below the table.
"""

import itertools
import math
import shlex
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segmentation import metrics, pictures, significance
from segmentation.runfiles import Parser, UserError, run_script, write_csv, write_text
from segmentation.runs import by_arm, combine_draws, common_budgets, pairs, read_runs
from segmentation.significance import mean_sd

TITLES = {
    "dice": "Dice %",
    "jaccard": "Jaccard %",
    "thresholded_jaccard": "Thr. Jaccard %",
    "sensitivity": "Sensitivity %",
    "specificity": "Specificity %",
    "pixel_accuracy": "Pixel acc. %",
    "hd95": "HD95 px",
}
DEFINITIONS = (
    "Each metric is computed per test image and averaged. Dice = 2TP/(2TP+FP+FN), "
    "Jaccard = TP/(TP+FP+FN), Thr. Jaccard = Jaccard, but 0 where below 0.65 (ISIC 2018), "
    "Sensitivity = TP/(TP+FN), Specificity = TN/(TN+FP), Pixel acc. = (TP+TN)/all, "
    "HD95 = 95th percentile of the distances between the two outlines in pixels. "
    "± is the sample standard deviation over seeds (–: one seed)."
)
COMPARED = (
    "Differences are paired, the same seed and the same test image, in Dice points. Their interval "
    "and p come from a bootstrap over seeds and test images with the wider tails of few seeds; "
    "p (Holm) is corrected for the number of arms at the same labels, draws apart. g is the mean "
    "difference over seeds by its standard deviation, with Hedges' correction and the interval of "
    "the noncentral t. The area under the curve is the mean Dice along log2 of the labels that "
    "both arms have. The .csv file also has the t-interval over seeds and the p value of "
    "Wilcoxon's test over images (differences averaged over seeds)."
)
SUMMARISED = (
    "The area under the learning curve is the mean Dice along log2 of the labels (column budgets: "
    "those that the arm and {baseline} both have), ± the standard deviation over seeds; the "
    "difference is paired by seed and test image, its interval a bootstrap over both."
)
REACHED = (
    "Labels to reach the Dice {target}: where the mean curve first crosses it, on a straight line "
    "over log2 of the labels (≤: from the first budget on; >: not with the most that it had); in "
    "brackets the seeds whose own curve reaches it."
)
AREA = "area under the curve"  # stands among the numbers of labels
SHARE = 0.95  # of the Dice of --bound


# Rows -------------------------------------------------------------------------------------------


def final_rows(groups, baseline=None):
    """The rows of table.csv: one per arm, at its last round."""
    rows = []
    for arm, group in groups.items():
        row = {"arm": arm, "seeds": len(group), "labels": group[0].labels[-1]}
        row["seed_list"] = " ".join(str(run.seed) for run in group)
        for name in metrics.NAMES:
            row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd([run.means[-1][name] for run in group])
        if baseline:
            values = [
                run.means[-1]["dice"] - other.means[-1]["dice"]
                for run, other in pairs(group, groups[baseline])
            ]
            paired = significance.t_interval(values) if values else significance.Interval(None)
            for name, value in zip(("difference", "low", "high"), paired, strict=True):
                row[f"dice_vs_baseline_{name}"] = value
            row["dice_vs_baseline_n"] = len(values)
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


def columns(name, interval):
    """An Interval as three columns: NAME, NAME_low and NAME_high."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def significance_rows(groups, baseline):
    """The rows of significance.csv and the names of the arms that share nothing with `baseline`.

    A row per arm and number of labels, and one per arm for the area under the curve.
    """
    rows, apart = [], []
    for arm, group in groups.items():
        if arm == baseline:
            continue
        paired = pairs(group, groups[baseline])
        budgets = common_budgets(group, groups[baseline])
        if not paired or not budgets:
            apart.append(arm)
            continue
        cube = np.array([run.dice_at(budgets) - base.dice_at(budgets) for run, base in paired])
        cells = dict(zip(budgets, np.moveaxis(cube, -1, 0), strict=True))
        if len(budgets) > 1:
            cells[AREA] = significance.area_under_curve(budgets, cube)
        for labels, differences in cells.items():
            rows.append({"arm": arm, "labels": labels, **comparison(differences)})
    rows.sort(key=lambda row: math.inf if row["labels"] == AREA else row["labels"])
    for _, family in itertools.groupby(rows, key=lambda row: row["labels"]):
        tested = [row for row in family if row["p"] is not None and row["arm"] in ordinary(groups)]
        for row, p in zip(tested, significance.holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
    return rows, apart


def comparison(differences):
    """The columns of significance.csv from the paired differences of an arm, seeds x images."""
    interval, p = significance.paired_bootstrap(differences)
    by_seed = differences.mean(axis=1).tolist()
    student = significance.t_interval(by_seed)
    return {
        **columns("difference", interval),
        "p": p,
        "p_holm": None,
        **columns("effect_size", significance.effect_size(by_seed)),
        "seeds": len(differences),
        "t_low": student.low,
        "t_high": student.high,
        "wilcoxon_p": significance.wilcoxon_p(differences.mean(axis=0)),
    }


def summary_rows(groups, baseline, compared, target=None):
    """The rows of summary.csv, one per arm; `compared` are the rows of significance.csv.

    With `target`, a Dice, also the labels that it takes to reach it.
    """
    differences = {row["arm"]: row for row in compared if row["labels"] == AREA}
    rows = []
    for arm, group in groups.items():
        budgets = common_budgets(group, groups[baseline])
        middle = sd = None
        if len(budgets) > 1:
            curves = [run.dice_at(budgets).mean(axis=0) for run in group]
            middle, sd = mean_sd(significance.area_under_curve(budgets, curves).tolist())
        row = {
            "arm": arm,
            "seeds": len(group),
            "budgets": " ".join(map(str, budgets)),
            "area_mean": middle,
            "area_sd": sd,
        }
        for name in ("difference", "difference_low", "difference_high", "p", "p_holm"):
            row[f"area_{name}"] = differences.get(arm, {}).get(name)
        if target is not None:
            curves = [run.dice.mean(axis=0) for run in group]
            labels = group[0].labels
            reached = [significance.labels_to_reach(labels, curve, target) for curve in curves]
            row["labels_first"], row["labels_last"] = labels[0], labels[-1]
            row["labels_to_reach"] = significance.labels_to_reach(
                labels, np.mean(curves, axis=0), target
            )
            row["seeds_reaching"] = sum(labels is not None for labels in reached)
        rows.append(row)
    return rows


def ordinary(groups):
    """The arms that are not made of draws, which alone are ranked and tested as a family."""
    return {arm: group for arm, group in groups.items() if not group[0].combined}


def rank_curves(groups):
    """Each arm's mean rank in Dice, as a dict arm -> (labels, ranks), empty for those not ranked.

    A rank among twelve arms says something else than one among four, so ranks are at the numbers of
    labels that most arms have, among these, over the seeds that all of them have.
    """
    curves = {arm: ([], []) for arm in groups}
    arms = {}
    for arm, group in ordinary(groups).items():
        for labels in group[0].labels:
            arms.setdefault(labels, {})[arm] = group
    most = max(map(len, arms.values()), default=0)
    for labels in sorted(labels for labels in arms if len(arms[labels]) == most):
        there = arms[labels]
        seeds = [{run.seed for run in group} for group in there.values()]
        shared = set.intersection(*seeds) if len(there) > 1 else set()
        if not shared:
            continue
        dice = [
            [run.means[run.labels.index(labels)]["dice"] for run in group if run.seed in shared]
            for group in there.values()
        ]
        for arm, rank in zip(there, significance.mean_ranks(dice), strict=True):
            curves[arm][0].append(labels)
            curves[arm][1].append(rank)
    return curves


# Writing ----------------------------------------------------------------------------------------


def plus_minus(middle, sd, scale=100):
    """`81.3 ± 0.4`, in percent unless `scale` is 1."""
    return f"{scale * middle:.1f} ± " + ("–" if sd is None else f"{scale * sd:.1f}")


def with_interval(value, low, high, scale=100):
    """`+1.2 [-0.3, +2.7]`, in Dice points unless `scale` is 1; – for what is None."""
    if value is None:
        return "–"
    ends = "–" if low is None else f"[{scale * low:+.1f}, {scale * high:+.1f}]"
    return f"{scale * value:+.1f} {ends}"


def interval_text(row, name, scale=100):
    """The same from the three `columns` of an Interval in a row."""
    return with_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), scale)


def p_text(p):
    """A p value with three digits."""
    return "–" if p is None else f"{p:.3f}"


def markdown(header, rows):
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def difference_text(row):
    """`+1.2 [-0.3, +2.7], n = 3` in Dice points, from a row of table.csv."""
    n = row["dice_vs_baseline_n"]
    if n == 0:
        return "no common seed"
    names = ("difference", "low", "high")
    return f"{with_interval(*(row[f'dice_vs_baseline_{name}'] for name in names))}, n = {n}"


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


def significance_markdown(rows, baseline):
    """The comparisons with the baseline as Markdown."""
    header = ["arm", "labels", f"Dice points over {baseline} [95 %]", "p", "p (Holm)", "g [95 %]"]
    lines = [
        [
            row["arm"],
            row["labels"],
            interval_text(row, "difference"),
            p_text(row["p"]),
            p_text(row["p_holm"]),
            interval_text(row, "effect_size", scale=1),
            row["seeds"],
        ]
        for row in rows
    ]
    return markdown([*header, "seeds"], lines)


def summary_markdown(rows, baseline, bound=None):
    """The summary as Markdown."""
    header = ["arm", "seeds", "budgets", "area, Dice %", f"points over {baseline} [95 %]"]
    header.append("p (Holm)")
    if bound:
        header.append(f"labels for {100 * SHARE:.0f} % of {bound}")
    lines = []
    for row in rows:
        line = [
            row["arm"],
            row["seeds"],
            budgets_text(row["budgets"].split()),
            "–" if row["area_mean"] is None else plus_minus(row["area_mean"], row["area_sd"]),
            "baseline" if row["arm"] == baseline else interval_text(row, "area_difference"),
            p_text(row["area_p_holm"]),
        ]
        lines.append([*line, reached_text(row)] if bound else line)
    return markdown(header, lines)


def budgets_text(budgets):
    """`10 to 300 (6)`: the first and the last of these numbers of labels, and how many they are."""
    return f"{budgets[0]} to {budgets[-1]} ({len(budgets)})" if len(budgets) > 1 else "–"


def reached_text(row):
    """`123 (4 of 5)`: labels to reach the target, seeds that do; ≤ and > beyond the budgets."""
    labels = row["labels_to_reach"]
    if labels is None:
        text = f"> {row['labels_last']}"
    else:
        text = "≤ " * (labels == row["labels_first"]) + f"{labels:.0f}"
    return f"{text} ({row['seeds_reaching']} of {row['seeds']})"


def seeds_note(groups):
    """What to know about the seeds: which they are, or that the arms do not share them."""
    arms = {}
    for arm, group in groups.items():
        arms.setdefault(", ".join(str(run.seed) for run in group), []).append(arm)
    if len(arms) == 1:
        return f"Seeds: {next(iter(arms))}."
    listed = "; ".join(f"{seeds} ({', '.join(names)})" for seeds, names in arms.items())
    return f"The arms have different seeds, so their means do not compare one to one: {listed}."


def draw_curves(path, rows, arms, title):
    """The learning curves of these arms from the rows of rounds.csv, in percent."""
    curves = {arm: ([], [], []) for arm in arms}
    for row in rows:
        if row["arm"] in curves:
            labels, middle, sd = curves[row["arm"]]
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
    help = "arm of full supervision, 95 %% of whose Dice is a target (with --baseline)"
    parser.add_argument("--bound", help=help)
    parser.add_argument("--curves", nargs="+", metavar="ARM", help="draw only these; else all")
    help = "note arms and a baseline without finished runs, in place of refusing them"
    parser.add_argument("--partial", action="store_true", help=help)
    return parser.parse_args()


def known_arm(option, arm, groups, partial):
    """The arm that an option names; None where it has no run, an error unless `partial`."""
    for known in groups:
        if arm == known.split(" ")[0]:
            return known
    if arm is not None and not partial:
        raise UserError(f"{option} {arm}: no finished run of it; give one of {', '.join(groups)}")
    return None


def describing(groups, baseline=None):
    """table and rounds: a dict from the name of each to its rows, its Markdown and its notes."""
    final, rounds = final_rows(groups, baseline), round_rows(groups)
    return {
        "table": (final, final_markdown(final, baseline), [DEFINITIONS]),
        "rounds": (rounds, rounds_markdown(rounds), [DEFINITIONS]),
    }


def comparing(groups, baseline, bound=None):
    """significance (where there is anything to compare) and summary, as from `describing`."""
    tables, notes, target = {}, [SUMMARISED.format(baseline=baseline)], None
    compared, apart = significance_rows(groups, baseline)
    listed = f"Without labels or seeds in common with {baseline}: {', '.join(apart)}."
    left_out = [listed] if apart else []
    if compared:
        text = significance_markdown(compared, baseline)
        tables["significance"] = (compared, text, [COMPARED, *left_out])
    if bound:
        target = SHARE * mean_sd([run.means[-1]["dice"] for run in groups[bound]])[0]
        notes.append(REACHED.format(target=f"{100 * target:.1f} %"))
    rows = summary_rows(groups, baseline, compared, target)
    text = summary_markdown(rows, baseline, bound)
    tables["summary"] = (rows, text, notes + left_out)
    return tables


def main():
    args = parse_args()
    out = args.out or args.runs.parent / "tables"
    runs, notes = read_runs(args.runs, args.arms, args.partial)
    groups, left_out = combine_draws(by_arm(runs, args.arms))
    notes += left_out
    baseline = known_arm("--baseline", args.baseline, groups, args.partial)
    bound = known_arm("--bound", args.bound, groups, args.partial)
    drawn = [known_arm("--curves", arm, groups, args.partial) for arm in args.curves or ()]
    drawn = [arm for arm in drawn if arm] or list(groups)
    if args.baseline and not baseline:
        notes.append(f"No finished run of {args.baseline}, so no differences to it.")
    if args.bound and not baseline:
        notes.append(f"No baseline, so no labels to reach the Dice of {args.bound}.")
    elif args.bound and not bound:
        notes.append(f"No finished run of {args.bound}, so no labels to reach its Dice.")

    tables = describing(groups, baseline)
    if baseline:
        tables |= comparing(groups, baseline, bound)
    synthetic = any(run.synthetic for run in runs)
    heading = "**Synthetic demo data: these numbers say nothing about skin.**\n\n" * synthetic
    command = shlex.join(["python", "segmentation/tables.py", *sys.argv[1:]])
    for name, (rows, table, its_notes) in tables.items():
        ending = "".join(f"{note}\n\n" for note in [seeds_note(groups), *notes, *its_notes])
        text = f"{heading}{table}\n{ending}Made with `{command}`\n"
        write_csv(out / f"{name}.csv", rows)
        write_text(out / f"{name}.md", text)
        if name == "table":
            print(text)

    written = [f"{name}.{kind}" for name in tables for kind in ("md", "csv")]
    title = "Synthetic demo data" if synthetic else "Dice against labels"
    draw_curves(out / "learning_curves.png", tables["rounds"][0], drawn, title)
    written.append("learning_curves.png")
    ranks = rank_curves(groups)
    if baseline and any(ranks[arm][0] for arm in drawn):
        title = "Synthetic demo data" if synthetic else "Rank among the arms, mean over seeds"
        pictures.ranks(out / "ranks.png", {arm: ranks[arm] for arm in drawn}, title)
        written.append("ranks.png")
    for name in written:
        print(out / name)


if __name__ == "__main__":
    run_script(main)
