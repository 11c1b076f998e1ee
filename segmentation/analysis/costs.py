"""What the labels of each arm cost: sums, comparisons at equal cost, curves, and their Markdown.

A measure of cost is the count of images or a field of data/cost.py's Cost, summed over the images
labelled up to a round. `groups` maps the name of an arm to its runs, of which all have costs.
"""

from typing import NamedTuple

import numpy as np

from segmentation.analysis.comparisons import comparison, correct, dice_curves
from segmentation.analysis.markdown import interval_text, markdown, p_text, plus_minus
from segmentation.analysis.runs import have_costs, pairs
from segmentation.analysis.significance import area_between, mean_sd
from segmentation.data.cost import TOLERANCE


class Measure(NamedTuple):
    """How a measure is shown."""

    title: str  # of a column
    axis: str  # of a picture


MEASURES = {
    "images": Measure("images", "labelled images"),
    "outline": Measure("outline, sides", "length of their outlines (image sides)"),
    "redrawn": Measure("redrawn, sides", "length of outline to redraw in drafts (image sides)"),
    "corrected": Measure("corrected, images", "area to correct in drafts (images)"),
}
DEFINED = (
    "Costs are sums over all labelled images, ± the standard deviation over seeds, and in brackets "
    "the mean of one label. Outline: the length of the true outline, in image sides (the square "
    "root of the number of pixels). Redrawn: the length of those parts of it that are more than "
    f"{100 * TOLERANCE:g} % of a side from the outline of the draft, which is the mask by the "
    "model of the round before. Corrected: the area in which that draft is wrong, in images. "
    "In round 0 there is no draft, so that all is drawn."
)
EQUAL = (
    "Differences are the mean Dice over {baseline}'s at equal cost, in points: that of the curves "
    "along log2 of a cost, straight between rounds, from the largest cost at which a run of the "
    "two arms begins to the smallest at which one ends (third column). They are paired by seed and "
    "test image; the interval and p are a bootstrap's over both, p (Holm) is corrected for all "
    "arms and measures (not for summaries of draws)."
)


def known_costs(groups):
    """The arms whose runs all have costs, and the names of the others."""
    known = {arm: group for arm, group in groups.items() if have_costs(group)}
    return known, [arm.split(" ")[0] for arm in groups if arm not in known]


def of_run(run, measure):
    """What the labels of a run have cost up to each round: a list of numbers, ascending."""
    return run.labels if measure == "images" else run.costs[measure]


def cost_rows(groups):
    """The rows of cost.csv: one per arm and round."""
    rows = []
    for arm, group in groups.items():
        for number, labels in enumerate(group[0].labels):
            row = {"arm": arm, "round": number, "labels": labels, "seeds": len(group)}
            row["dice_mean"], row["dice_sd"] = mean_sd([run.means[number]["dice"] for run in group])
            for name in list(MEASURES)[1:]:
                sums = [of_run(run, name)[number] for run in group]
                row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd(sums)
            rows.append(row)
    return rows


def cost_markdown(rows):
    """The costs of all labels as Markdown: the last round of each arm."""
    last = {row["arm"]: row for row in rows}
    names = list(MEASURES)[1:]
    lines = [
        [
            arm,
            row["seeds"],
            row["labels"],
            *(sum_text(row, name) for name in names),
            plus_minus(row["dice_mean"], row["dice_sd"]),
        ]
        for arm, row in last.items()
    ]
    titles = [MEASURES[name].title for name in names]
    return markdown(["arm", "seeds", "labels", *titles, "Dice %"], lines)


def sum_text(row, name):
    """`38.2 ± 1.3 (0.910)`: the sum of a cost, and its mean for one label."""
    total = plus_minus(row[f"{name}_mean"], row[f"{name}_sd"], scale=1)
    return f"{total} ({row[f'{name}_mean'] / row['labels']:.3f})"


def equal_rows(groups, baseline):
    """The rows of equal_cost.csv, one per measure and arm, and the arms for which some are missing.

    These have no seed, or no costs by one of the measures, in common with the `baseline`.
    """
    rows, apart = [], []
    for measure in MEASURES:
        for arm, group in groups.items():
            paired = [] if arm == baseline else pairs(group, groups[baseline])
            costs = [of_run(run, measure) for pair in paired for run in pair]
            low = max((cost[0] for cost in costs), default=0)
            high = min((cost[-1] for cost in costs), default=0)
            if not 0 < low < high or min(cost[0] for cost in costs) <= 0:
                apart += [] if arm in (baseline, *apart) else [arm]
                continue
            areas = [
                [area_between(of_run(run, measure), run.dice, low, high) for run in pair]
                for pair in paired
            ]
            differences = np.array([one - other for one, other in areas])
            place = {"measure": measure, "arm": arm, "low": low, "high": high}
            rows.append({**place, **comparison(differences)})
    correct(rows, groups)
    return rows, apart


def equal_markdown(rows, baseline):
    """The comparisons at equal cost as Markdown."""
    header = ["arm", "cost", "range", f"Dice points over {baseline} [95 %]", "p", "p (Holm)"]
    lines = [
        [
            row["arm"],
            MEASURES[row["measure"]].title,
            " to ".join(short(row[end]) for end in ("low", "high")),
            interval_text(row, "difference"),
            p_text(row["p"]),
            p_text(row["p_holm"]),
            row["seeds"],
        ]
        for row in rows
    ]
    return markdown([*header, "seeds"], lines)


def short(number):
    """A positive number with three digits, or as a whole number from 1000 on."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def cost_curves(rows):
    """Curves for pictures.cost_curves from the rows of cost.csv: one panel per measure."""
    return [
        (measure.axis, dice_curves(rows, "labels" if name == "images" else f"{name}_mean"))
        for name, measure in MEASURES.items()
    ]
