"""Rows as Markdown tables in percent, and the notes that say what their columns mean."""

import math

from segmentation.model import metrics

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
    "± is the sample standard deviation over seeds (–: one seed). Steps are the optimizer steps of "
    "that round's training, all its models together (–: not recorded, or not the same)."
)
COMPARED = (
    "Differences are in Dice points and paired: same seed, same test image. Their interval and p "
    "come from a bootstrap over seeds and test images, with wider tails where seeds are few; "
    "p (Holm) is corrected for all arms and numbers of labels of this table together, and for all "
    "areas (not for summaries of draws; –: the same runs). g is Hedges' g: the mean difference "
    "over seeds, divided by its standard deviation and corrected for few seeds, with the interval "
    "of the noncentral t. The area under the curve is the mean Dice along log2 of the labels, at "
    "the numbers of labels that both arms have. The .csv file also has the t-interval over seeds "
    "and the p value of Wilcoxon's test over images (differences averaged over seeds)."
)
SUMMARISED = (
    "The area under the learning curve is the mean Dice along log2 of the labels, ± the standard "
    "deviation over seeds, at the budgets that the arm and {baseline} both have (third column). "
    "The difference is paired by seed and test image; its interval is a bootstrap's over both."
)
REACHED = (
    "Labels to reach a Dice of {target}: where the mean curve first crosses it, drawn straight "
    "between budgets over log2 of the labels (≤: reached at the smallest budget; >: not reached at "
    "the largest). In brackets: the number of seeds whose own curve reaches it."
)
TARGETS = (
    "Labels to reach a Dice: where the mean curve first crosses it, drawn straight between budgets "
    "over log2 of the labels, and the 95 % interval of a bootstrap over seeds and test images (≤: "
    "reached at the smallest budget; >: not reached at the largest)."
)
SHARE = 0.95  # of full supervision, a target


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
    return with_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), scale=scale)


def p_text(p):
    """A p value with three digits, or `< 0.001`."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def markdown(header, rows):
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def difference_text(row):
    """`+1.2 [-0.3, +2.7], n = 3` in Dice points, from a row of table.csv."""
    n = row["dice_vs_baseline_n"]
    if n == 0:
        return "other labels or seeds"
    names = ("difference", "low", "high")
    return f"{with_interval(*(row[f'dice_vs_baseline_{name}'] for name in names))}, n = {n}"


def final_markdown(rows, baseline=None):
    """The main table as Markdown."""
    header = ["arm", "labels", "steps", "seeds", *TITLES.values()]
    if baseline:
        header.append(f"Dice points over {baseline} [95 %]")
    lines = []
    for row in rows:
        line = [row["arm"], row["labels"], steps_text([row["steps"]]), row["seeds"]]
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
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        steps = steps_text([row["steps"] for row in rows if row["arm"] == arm])
        lines.append([arm, steps, *(cells.get((arm, labels), "") for labels in columns)])
    return markdown(["Dice % at labels", "steps", *columns], lines)


def steps_text(steps):
    """The steps of the rounds: `400`, or `400 to 3200`; – where one is None."""
    if None in steps:
        return "–"
    least, most = min(steps), max(steps)
    return str(least) if least == most else f"{least} to {most}"


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
    labels = math.inf if row["labels_to_reach"] is None else row["labels_to_reach"]
    text = labels_text(labels, row["labels_first"], row["labels_last"])
    return f"{text} ({row['seeds_reaching']} of {row['seeds']})"


def targets_markdown(rows):
    """The labels to reach each Dice as Markdown, one line per arm."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = {}
    for row in rows:
        first, last = row["labels_first"], row["labels_last"]
        line = lines.setdefault(
            row["arm"], [row["arm"], row["seeds"], f"{first} to {last}" if first < last else first]
        )
        value, low, high = (
            labels_text(row[f"labels_to_reach{end}"], first, last) for end in ("", "_low", "_high")
        )
        line.append(value if row["labels_to_reach_low"] is None else f"{value} [{low}, {high}]")
    header = ["arm", "seeds", "budgets", *(f"{100 * target:g} %" for target in targets)]
    return markdown(header, list(lines.values()))


def labels_text(labels, first, last):
    """A number of labels, from `first` to `last`, the ends of the curve; – for None."""
    if labels is None:
        return "–"
    return f"> {last}" if labels > last else "≤ " * (labels == first) + f"{labels:.0f}"


def seeds_note(groups):
    """What to know about the seeds: which they are, or that the arms do not share them."""
    arms = {}
    for arm, group in groups.items():
        arms.setdefault(", ".join(str(run.seed) for run in group), []).append(arm)
    if len(arms) == 1:
        return f"Seeds: {next(iter(arms))}."
    listed = "; ".join(f"{seeds} ({', '.join(names)})" for seeds, names in arms.items())
    return f"The arms have different seeds, so their means do not compare one to one: {listed}."
