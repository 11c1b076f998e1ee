"""What an arm's name means, and the calls of the scripts that carry an experiment out.

    python segmentation/arms.py --list            # the parts of a name, a line of help each
    python segmentation/arms.py --calls train     # the calls of a stage, as run.sh makes them

    ARM = COLDSTART[-QUERY][+MODIFIER...]

Without QUERY the cold-start rule also chooses the later rounds; the cold start `full` labels the
whole pool. For instance `typiclust`, `random-entropy`, `typicover-uherding+selftrain`, `full`.

--calls takes the hyperparameters from the environment, where run.sh puts them. Each line is a call:
its step, its name, a script and its options, quoted as for a shell. All arms of all tables are
checked first. Exit code 2 and one line where a name is no arm, or a part of it would do nothing.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.analysis.grammar import (
    FULL,
    GRAMMAR,
    MODIFIERS,
    PRETRAINED,
    SEES_FEATURES,
    parse,
)
from segmentation.analysis.plan import CALLS, STAGES, Values, calls
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError
from segmentation.model.encoders import PACKAGED, is_backbone
from segmentation.selection.strategies import COLD_STARTS, QUERIES

# Settings of the training of a network.
TRAINS = (
    "recipe",
    "steps",
    "encoder_rate",
    "augment",
    "heads",
    "mean_teacher",
    "self_train",
    "released_scale",
)
TEACHES = ("own_masks", "labelled_share")  # of self-training
WITHOUT_MAPS = ("thumbnail", "mask", "released")  # features that come without patterns


def strategies_of(arm):
    """The strategies of an arm, for each kind of round one. UserError if there is none."""
    if arm.is_full:
        if arm.query != FULL:
            raise UserError(f"{arm.name}: full has all labels and asks for none; write full")
        return []
    if arm.cold_start not in COLD_STARTS or arm.query not in QUERIES:
        raise UserError(
            f"{arm.name} is no arm; cold starts are {', '.join(COLD_STARTS)} and {FULL}, "
            f"and queries also {', '.join(name for name in QUERIES if name not in COLD_STARTS)}"
        )
    return [COLD_STARTS[arm.cold_start], QUERIES[arm.query]]


def looks(arm):
    """Whether an arm's strategies read what cluster.py writes."""
    return any(strategy.reads for strategy in strategies_of(arm))


def check(arm):
    """UserError unless the strategies of an arm exist and all its modifiers change something."""
    strategies = strategies_of(arm)
    for part in arm.modifiers:
        why = without_effect(part, arm, strategies)
        if why:
            raise UserError(f"{arm.name}: +{part.name} would change nothing, as {why}; remove it")
    if "frozen" in arm.settings and any(rule.dropout for rule in strategies):
        raise UserError(f"{arm.name}: +frozen has no dropout, which {arm.query} needs; remove it")
    if arm.features in WITHOUT_MAPS and any("patterns" in rule.reads for rule in strategies):
        (part,) = arm.names(("features",))
        raise UserError(f"{arm.name}: +{part} has no feature maps, which patterns needs; remove it")
    if arm.features not in PRETRAINED and any("pretext_loss" in rule.reads for rule in strategies):
        (part,) = arm.names(("features",))
        what = f"+{part} restores no images, and pretext_loss is the error of that"
        raise UserError(f"{arm.name}: {what}; remove it")
    if any(rule.heads for rule in strategies) and "heads" not in arm.settings:
        raise UserError(f"{arm.name}: {arm.query} compares the heads of a model; add +heads")


def without_effect(part, arm, strategies):
    """Why a modifier changes nothing in this arm, which has these strategies; None if it does."""
    rule = arm.name.split("+")[0]
    if part.setting in TRAINS and "frozen" in arm.settings:
        return "+frozen trains no network"
    if part.setting in TEACHES and "self_train" not in arm.settings:
        return "only a student learns from a model, with +selftrain"
    changed = SEES_FEATURES.get(part.setting)
    if changed and not any(changed & strategy.reads for strategy in strategies):
        return f"{rule} does not look at {'clusters' if part.setting == 'k' else 'features'}"
    if part.setting == "pooling" and arm.settings.get("features") in ("thumbnail", "mask"):
        return "only the feature maps of networks are pooled"
    if part.setting == "draw" and not any(strategy.draws for strategy in strategies):
        return f"{rule} draws nothing at random"
    return None


def check_backbones(values):
    """UserError if an arm's network or features are of a backbone that timm has not."""
    names = {values.network(arm)[0] for arm in values.arms()} - {"paper"}
    if any(arm.settings.get("features") == "timm" for arm in values.arms()):
        names.add(values["BACKBONE"])
    for name in sorted(names):
        if not is_backbone(name):
            setting = "ENCODER" if name == values["ENCODER"] else "BACKBONE"
            raise UserError(
                f"{setting}={name}: timm has no such backbone; give one such as {PACKAGED}"
            )


def listing():
    """All parts of names, as text."""
    queries = {name: rule for name, rule in QUERIES.items() if name not in COLD_STARTS}
    parts = [
        ("Cold starts, which can be queries too:", {n: s.help for n, s in COLD_STARTS.items()}),
        ("", {FULL: "labels the whole pool at once"}),
        ("Queries:", {name: rule.help for name, rule in queries.items()}),
        ("Modifiers:", {f"+{part.name}": part.help for part in MODIFIERS}),
    ]
    lines = [GRAMMAR]
    for title, rows in parts:
        lines += ["", title] if title else []
        lines += [f"  {name:12s} {text}" for name, text in rows.items()]
    return "\n".join(lines)


def parse_args():
    parser = Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print the parts of names")
    what.add_argument("--calls", nargs="+", choices=[*STAGES, *CALLS], help="print these calls")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.list:
        print(listing())
        return
    values = Values(os.environ, looks)
    values.check()
    baselines = {table.baseline.removesuffix("+draws") for table in values.tables()} - {"none"}
    for arm in [*values.arms(), *map(parse, sorted(baselines))]:
        check(arm)
    check_backbones(values)
    steps = [step for stage in args.calls for step in STAGES.get(stage, (stage,))]
    print("\n".join(line for step in steps for line in calls(step, values)))


if __name__ == "__main__":
    run_script(main)
