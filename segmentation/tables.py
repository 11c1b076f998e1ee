"""Tables and learning curves of an experiment, from its run folders.

    python segmentation/tables.py --runs runs/demo/seg
    python segmentation/tables.py --runs runs/demo/seg --arms random saal-ceal --baseline random
    python segmentation/tables.py --runs runs/cpu/seg --baseline random --bound full

Reads `ARM/seedS/state.json` and `ARM/seedS/round_RR/metrics.csv` under --runs, and writes to --out:

- `table.md`, `table.csv`: a row per arm with every metric at its last round, averaged over the test
  images, as mean ± sample standard deviation over the seeds. With --baseline also the difference in
  Dice to that arm, over the seeds that both have, with its 95 % t-interval, where both end with
  equally many labels.
- `rounds.md`, `rounds.csv`: Dice at every number of labels.
- `learning_curves.png`: the same as a picture.
- `cost.md`, `cost.csv`: what the labels cost: the lengths of their outlines, and how much of these
  and of the area a draft by the model of the round before has wrong. `cost_curves.png`: Dice
  against each of them. Only of arms whose rounds all have a cost.csv, which older runs do not.
- `targets.md`, `targets.csv`, with --targets: the numbers of labels that reach each of these Dice.

With --baseline also, over the seeds and numbers of labels that an arm shares with that one:

- `significance.md`, `significance.csv`: the paired difference in Dice of each arm at each number of
  labels and in the area under the curve, its interval, p values and effect size.
- `summary.md`, `summary.csv`: a row per arm with the area under its learning curve; with --bound
  also the number of labels that reaches 95 % of the Dice of that arm (full supervision).
- `equal_cost.md`, `equal_cost.csv`: the paired difference in Dice of each arm at equal cost.
- `ranks.png`: the mean rank of each arm, at the numbers of labels that most arms have.

Arms NAME+draw1, NAME+draw2, ... are repeated random draws of one arm. They become two rows:
NAME+draws, their mean, and NAME+best, for each seed the draw with the best test Dice, which no
strategy can know. The .csv files hold plain values (0..1, HD95 in pixels), the .md files percent.
Only finished runs count; the others are named below the table. Runs of different code (their
env.json has a hash of it) are refused, unless with --mixed.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.analysis import grammar
from segmentation.analysis.comparisons import (
    dice_curves,
    final_rows,
    rank_curves,
    round_rows,
    significance_rows,
    summary_rows,
    target_rows,
)
from segmentation.analysis.costs import (
    DEFINED,
    EQUAL,
    cost_curves,
    cost_markdown,
    cost_rows,
    equal_markdown,
    equal_rows,
    known_costs,
)
from segmentation.analysis.markdown import (
    COMPARED,
    DEFINITIONS,
    REACHED,
    SHARE,
    SUMMARISED,
    TARGETS,
    final_markdown,
    rounds_markdown,
    seeds_note,
    significance_markdown,
    summary_markdown,
    targets_markdown,
)
from segmentation.analysis.runs import by_arm, combine_draws, read_runs
from segmentation.analysis.significance import mean_sd
from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import Parser, UserError, real, write_csv, write_text

DICE = "Dice on the test images (%)"

TABLES = ("table", "rounds", "significance", "summary", "cost", "equal_cost", "targets")
WRITTEN = [f"{name}.{kind}" for name in TABLES for kind in ("md", "csv")]
WRITTEN += ["learning_curves.png", "cost_curves.png", "ranks.png"]


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of ARM/seedS folders")
    parser.add_argument("--out", type=Path, help="folder to write to; else `tables` beside --runs")
    parser.add_argument("--arms", nargs="+", help="only these arms, in this order")
    parser.add_argument("--baseline", help="arm to which the others' Dice is compared, by seed")
    help = "arm of full supervision: the labels that reach 95 %% of its Dice (with --baseline)"
    parser.add_argument("--bound", help=help)
    help = "Dice in percent: the labels that reach each of these, in targets.md"
    parser.add_argument("--targets", type=real(0, 100), nargs="+", default=[], help=help)
    help = "leave out arms and a baseline without finished runs, and say so"
    parser.add_argument("--partial", action="store_true", help=help)
    help = "put runs into one table although different code has made them"
    parser.add_argument("--mixed", action="store_true", help=help)
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


def costing(groups, baseline=None):
    """cost and, with a baseline, equal_cost, as from `describing`; {} where no cost is known."""
    known, others = known_costs(groups)
    if not known:
        return {}
    missing = [f"Left out, as their costs are not known: {', '.join(others)}."] if others else []
    rows = cost_rows(known)
    tables = {"cost": (rows, cost_markdown(rows), [DEFINED, *missing])}
    rows, apart = equal_rows(known, baseline) if baseline in known else ([], [])
    if rows:
        notes = [EQUAL.format(baseline=baseline), DEFINED, *missing]
        if apart:
            listed = ", ".join(apart)
            notes.append(
                f"Without seeds, or costs of each kind, in common with {baseline}: {listed}."
            )
        tables["equal_cost"] = (rows, equal_markdown(rows, baseline), notes)
    return tables


def main():
    args = parse_args()
    out = args.out or args.runs.parent / "tables"
    claim(out)
    runs, notes = read_runs(args.runs, args.arms, args.partial, args.mixed)
    groups, left_out = combine_draws(by_arm(runs, args.arms))
    notes += left_out
    legend = grammar.legend(arm.split(" ")[0] for arm in groups)
    if legend:
        notes.append(f"In the names of arms: {legend}.")
    baseline = known_arm("--baseline", args.baseline, groups, args.partial)
    bound = known_arm("--bound", args.bound, groups, args.partial)
    if args.baseline and not baseline:
        notes.append(f"No finished run of {args.baseline}, so no differences to it.")
    if args.bound and not baseline:
        notes.append(f"No baseline, so no labels to reach the Dice of {args.bound}.")
    elif args.bound and not bound:
        notes.append(f"No finished run of {args.bound}, so no labels to reach its Dice.")

    tables = describing(groups, baseline)
    if baseline:
        tables |= comparing(groups, baseline, bound)
    tables |= costing(groups, baseline)
    if args.targets:
        rows = target_rows(groups, [target / 100 for target in args.targets])
        tables["targets"] = (rows, targets_markdown(rows), [TARGETS])
    for name in WRITTEN:  # by an earlier call, whose options may have been others
        (out / name).unlink(missing_ok=True)
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
    curves = dice_curves(tables["rounds"][0], "labels")
    pictures.learning_curves(out / "learning_curves.png", curves, DICE, title)
    written.append("learning_curves.png")
    if "cost" in tables:
        title = "Synthetic demo data" if synthetic else "Dice against what the labels cost"
        panels = cost_curves(tables["cost"][0])
        pictures.cost_curves(out / "cost_curves.png", panels, DICE, title)
        written.append("cost_curves.png")
    ranks = rank_curves(groups)
    if baseline and any(labels for labels, _ in ranks.values()):
        title = "Synthetic demo data" if synthetic else "Rank among the arms, mean over seeds"
        pictures.ranks(out / "ranks.png", ranks, title)
        written.append("ranks.png")
    for name in written:
        print(out / name)


if __name__ == "__main__":
    run_script(main)
