"""The active learning loop: label some images, train, ask for more labels, train again.

    python segmentation/active_learning.py --data data/isic2017 --out runs/paper/seg/saal/seed0 \\
        --cold-start saal --query saal --init all --seed 0 \\
        --clusters runs/paper/cluster --weights runs/paper/pretrain/best.pt

Round 0 labels --initial images, chosen by the --cold-start strategy, and trains from the first
weights. Each later round labels --per-round more, chosen by the --query strategy, and trains as
--recipe says: from the last weights (paper) or again from the first weights (strong). --budgets
10 20 40 80 sets the total number of labels in each round instead. The masks of the data folder are
the answers of the oracle. After each round the model is evaluated on every test image; the test
images are used for nothing else. Strategies: see segmentation/selection/strategies.py.

Where a person is the oracle, --labelled names a CSV file with the columns id and round, what was
labelled in each round, and --suggest N has the strategies choose N images for the next round, which
need no masks yet. Called again with a longer file it goes on, also on a data folder that has got
more masks and images. segmentation/annotate.py does this.

Writes to --out: `state.json` (which id was labelled in which round, with what score, by which
rule), and in `round_RR/`: `scores.csv` (of every unlabelled image, if the strategy scores them:
uncertainty, or for saal minus the distance to the own centroid), `cost.csv` (of every image
labelled in this round, what its mask costs: the length of its outline, and how much of that and of
the area the model of the round before has wrong, see segmentation/data/cost.py), `log.csv`,
`metrics.csv` (every test image), with --folds `folds.csv` (every labelled image, by a model that
has not seen it) and `weights.pt` (of the last round, or of all with --keep-weights), with which
predict.py makes the masks of other images. From `confidence`, the last column of metrics.csv and
folds.csv, and `reference.npz`, the features of up to 1000 pool images, it says how far they can be
trusted. With --suggest there is `suggestion.csv` in the folder of the next round. If it is
interrupted, call it again: it goes on with the unfinished round and ends with the same results,
because every random number comes from (seed, round, purpose).
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported


from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.precision import add_options
from segmentation.common.runfiles import (
    Parser,
    UserError,
    natural,
    positive,
    real,
)
from segmentation.common.stages import (
    check_stage,
)
from segmentation.model.augment import LEVELS
from segmentation.model.encoders import PAPER, add_encoder_options, check_encoder_options
from segmentation.model.finish import add_finish_options
from segmentation.model.recipes import OPTIMIZERS, OWN_MASKS, RANGES, RECIPES, Recipe
from segmentation.rounds.inputs import Inputs
from segmentation.rounds.loop import Loop
from segmentation.selection import query
from segmentation.selection.strategies import COLD_STARTS, QUERIES

TRAINING_MASKS_HELP = "train on the masks of another data folder with the same images"
HOLDOUT_HELP = (
    "evaluate on N images of the pool, which are not labelled, instead of the test images"
)
LABELLED_HELP = (
    "CSV file (id, round) of what was labelled, in place of choosing and of budgets; "
    "images without a round are not suggested"
)
STEPS_HELP = "optimizer steps of a round; 0: by epochs; see segmentation/model/recipes.py"
SUGGEST_HELP = "then choose N images for the next round, with or without masks; for --labelled"
FROZEN_HELP = "no training: logistic regression on the features of a frozen --encoder"
FOLDS_HELP = "also cross-validate within the labelled images, with N folds; 0: do not"
SELF_TRAIN_HELP = (
    "then train from the first weights on the whole pool, with the model's own masks of the rest"
)
CHOICES = {"optimizer": OPTIMIZERS, "augment": LEVELS, "own_masks": OWN_MASKS}
RELEASED_SCALE_HELP = (
    "repeat a defect of the released code: inputs in 0..255, although 0..1 in pretraining"
)


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--cold-start", choices=COLD_STARTS, default="random", help="strategy of round 0")
    add("--query", choices=QUERIES, default="random", help="strategy of later rounds")
    add("--clusters", type=Path, help="folder written by cluster.py; for strategies that use it")
    add(
        "--init",
        choices=("none", "encoder", "all"),
        default="none",
        help="parts to start from pretrained weights",
    )
    add("--weights", type=Path, help="encoder.pt or best.pt of the pretraining; for --init")
    add("--initial", default="300", help="labels in round 0: a number, or all")
    add("--per-round", type=positive, default=35, help="labels added in each later round")
    add("--rounds", type=natural, default=9, help="rounds after round 0")
    add(
        "--budgets",
        type=positive,
        nargs="+",
        metavar="N",
        help="total labels in each round; replaces the three options above",
    )
    add("--labelled", type=Path, metavar="CSV", help=LABELLED_HELP)
    add("--suggest", type=natural, default=0, metavar="N", help=SUGGEST_HELP)
    add(
        "--recipe",
        choices=RECIPES,
        default="paper",
        help="sets those of --optimizer to --labelled-share that are not given",
    )
    for field in fields(Recipe):
        option, given = f"--{field.name.replace('_', '-')}", "see segmentation/model/recipes.py"
        if field.type is bool:
            add(option, action=argparse.BooleanOptionalAction, help=given)
        else:
            kind = positive if field.type is int else field.type
            if field.name == "steps":
                kind, given = natural, STEPS_HELP
            kind = real(*RANGES[field.name]) if field.type is float else kind
            add(option, type=kind, choices=CHOICES.get(field.name), help=given)
    add(
        "--mean-teacher",
        action="store_true",
        help="also train on the pool's images without their masks",
    )
    add("--self-train", action="store_true", help=SELF_TRAIN_HELP)
    add("--frozen", action="store_true", help=FROZEN_HELP)
    add_finish_options(parser)
    add("--heads", action="store_true", help="deep supervision; for --query dsal")
    add("--width", type=positive, default=64, help="channels at full resolution")
    add_encoder_options(parser)
    add("--dropout", type=real(0, 1, (1,)), default=0.5, help="probability, at the bottleneck")
    add("--passes", type=positive, default=20, help="Monte Carlo passes of CEAL and BALD")
    for field in fields(query.CealSettings):
        option = f"--ceal-{field.name.replace('_', '-')}"
        kind = positive if field.name == "bins" else natural
        add(option, type=kind, default=field.default, help="see segmentation/selection/query.py")
    add("--keep-weights", action="store_true", help="keep the weights of every round")
    add("--seed", type=int, default=0, help="seed of weights, training and draws")
    add(
        "--draw",
        type=int,
        default=0,
        help="another number: another draw of the strategies, all else the same",
    )
    add("--training-masks", type=Path, metavar="DATA", help=TRAINING_MASKS_HELP)
    add("--folds", type=natural, default=0, metavar="N", help=FOLDS_HELP)
    add("--holdout", type=natural, default=0, metavar="N", help=HOLDOUT_HELP)
    add("--released-scale", action="store_true", help=RELEASED_SCALE_HELP)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_options(parser)
    args = parser.parse_args()
    for field in fields(Recipe):
        if getattr(args, field.name) is None:
            setattr(args, field.name, getattr(RECIPES[args.recipe], field.name))
    check_encoder_options(args)
    if args.init != "none" and args.weights is None:
        raise UserError(f"--init {args.init} needs --weights, a file written by pretrain.py")
    if args.init == "none" and args.weights is not None:
        raise UserError("--weights needs --init, encoder or all: what to take from them")
    seeing = [name for name in (args.cold_start, args.query) if QUERIES[name].reads]
    if not seeing:
        args.clusters = None
    elif args.clusters is None:
        raise UserError(f"strategy {seeing[0]} needs --clusters, a folder written by cluster.py")
    if args.frozen:
        refuse_for_frozen(args)
    elif not args.encoder_rate and args.init == "none" and args.encoder_weights is None:
        raise UserError(
            "--encoder-rate 0 (--recipe pretrained) leaves the encoder as it is, here random; give "
            "--encoder-weights, --init or a rate"
        )
    if QUERIES[args.query].heads and not args.heads:
        raise UserError(f"--query {args.query} needs --heads: it compares the masks of the heads")
    if args.initial != "all" and not (args.initial.isdecimal() and int(args.initial)):
        raise UserError(f"--initial {args.initial}: give a number of at least 1, or all")
    if args.labelled is None and args.suggest:
        raise UserError("--suggest needs --labelled, a CSV file; without it all rounds are done")
    if args.labelled is not None and (args.budgets or args.holdout):
        raise UserError("--labelled says what was labelled; leave out --budgets and --holdout")
    if args.budgets and sorted(set(args.budgets)) != args.budgets:
        raise UserError(f"--budgets {' '.join(map(str, args.budgets))}: give increasing numbers")
    return args


def refuse_for_frozen(args):
    """UserError for options that need a network to be trained, which --frozen does not do."""
    if args.encoder == PAPER:
        raise UserError("--frozen needs --encoder, a backbone of timm")
    if QUERIES[args.query].dropout:
        raise UserError(f"--frozen has no dropout, which --query {args.query} needs; leave one out")
    for name in ("heads", "mean_teacher", "self_train", "released_scale"):
        if getattr(args, name):
            raise UserError(
                f"--frozen trains no network, so --{name.replace('_', '-')} is not for it"
            )


def main():
    args = parse_args()
    claim(args.out)
    inputs = Inputs.of(args)
    check_stage(args.out, args, inputs.hashes, inputs.free)
    state = inputs.state(args)
    if len(state["rounds"]) == len(inputs.budgets) and not args.suggest:
        print(f"{args.out}: finished already")
        return
    Loop(args, inputs, state).run()


if __name__ == "__main__":
    run_script(main)
