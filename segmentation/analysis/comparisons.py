"""The rows of the tables: each arm summarised over its seeds, and compared with a baseline.

A row is a dict; fractions are in 0..1, HD95 in pixels. `groups` maps the name of an arm to its
runs (runs.by_arm, runs.combine_draws).
"""

import math

import numpy as np

from segmentation.analysis import significance
from segmentation.analysis.runs import common_budgets, pairs
from segmentation.analysis.significance import mean_sd
from segmentation.model import metrics

AREA = "area under the curve"  # in the column of numbers of labels


def final_rows(groups, baseline=None):
    """The rows of table.csv: one per arm, at its last round.

    The difference to the baseline is left empty where that ends with another number of labels.
    """
    rows = []
    for arm, group in groups.items():
        row = {"arm": arm, "seeds": len(group), "labels": group[0].labels[-1]}
        row["steps"] = steps_at(group, -1)
        row["seed_list"] = " ".join(str(run.seed) for run in group)
        for name in metrics.NAMES:
            row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd([run.means[-1][name] for run in group])
        if baseline:
            values = [
                run.means[-1]["dice"] - other.means[-1]["dice"]
                for run, other in pairs(group, groups[baseline])
                if run.labels[-1] == other.labels[-1]
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
                    "steps": steps_at(group, number),
                    "dice_mean": middle,
                    "dice_sd": sd,
                }
            )
    return rows


def dice_curves(rows, column):
    """Curves for pictures.py: arm -> (its values of a column, Dice in percent, its sd or None).

    The rows have `dice_mean` and `dice_sd`, and those of an arm are in the order of its rounds.
    """
    curves = {}
    for row in rows:
        values, middle, sd = curves.setdefault(row["arm"], ([], [], []))
        values.append(row[column])
        middle.append(100 * row["dice_mean"])
        sd.append(None if row["dice_sd"] is None else 100 * row["dice_sd"])
    return curves


def steps_at(group, number):
    """The optimizer steps of a round, the same in all runs of an arm; None if they differ."""
    steps = {run.steps[number] for run in group}
    return steps.pop() if len(steps) == 1 else None


def columns(name, interval):
    """An Interval as three columns: NAME, NAME_low and NAME_high."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def significance_rows(groups, baseline):
    """The rows of significance.csv, and the arms without a seed or budget that `baseline` has.

    A row per arm and number of labels, and one per arm for the area under the curve. Holm's
    correction is over all arms and numbers of labels together, and over all areas.
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
    correct([row for row in rows if row["labels"] != AREA], groups)
    correct([row for row in rows if row["labels"] == AREA], groups)
    return rows, apart


def correct(rows, groups):
    """Fill in `p_holm` of the rows of ordinary arms that have a p: Holm's, over all of them."""
    tested = [row for row in rows if row["p"] is not None and row["arm"] in ordinary(groups)]
    for row, p in zip(tested, significance.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p


def comparison(differences):
    """The columns of significance.csv from the paired differences of an arm, seeds x images.

    Where all are 0, as before two arms part, there is nothing to test, and p is None.
    """
    interval, p = significance.paired_bootstrap(differences)
    by_seed = differences.mean(axis=1).tolist()
    student = significance.t_interval(by_seed)
    return {
        **columns("difference", interval),
        "p": p if differences.any() else None,
        "p_holm": None,
        **columns("effect_size", significance.effect_size(by_seed)),
        "seeds": len(differences),
        "t_low": student.low,
        "t_high": student.high,
        "wilcoxon_p": significance.wilcoxon_p(differences.mean(axis=0)),
    }


def target_rows(groups, targets):
    """The rows of targets.csv: the labels with which an arm reaches each of `targets`, in 0..1."""
    return [
        {
            "arm": arm,
            "seeds": len(group),
            "labels_first": group[0].labels[0],
            "labels_last": group[0].labels[-1],
            "target": target,
            **columns(
                "labels_to_reach",
                significance.reached_interval(group[0].labels, [run.dice for run in group], target),
            ),
        }
        for arm, group in groups.items()
        for target in targets
    ]


def summary_rows(groups, baseline, compared, target=None):
    """The rows of summary.csv, one per arm; `compared` are the rows of significance.csv.

    With `target`, a Dice in 0..1, also the number of labels that reaches it.
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
    """The arms that are runs of their own, not summaries of draws: only these are ranked."""
    return {arm: group for arm, group in groups.items() if not group[0].combined}


def rank_curves(groups):
    """Each arm's mean rank in Dice: a dict arm -> (labels, ranks), two empty lists if not ranked.

    Third of twelve arms is not third of four. So ranks are given only at those numbers of labels
    that the most arms have, among these arms, averaged over the seeds that all of them have.
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
