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
uncertainty, or for saal minus the distance to the own centroid), `log.csv`, `metrics.csv` (every
test image), with --folds `folds.csv` (every labelled image, by a model that has not seen it) and
`weights.pt` (of the last round, or of all with --keep-weights), with which predict.py makes the
masks of other images. From `confidence`, the last column of metrics.csv and folds.csv, and
`reference.npz`, the features of up to 1000 pool images, it says how far they can be trusted. With
--suggest there is `suggestion.csv` in the folder of the next round. If it is interrupted, call it
again: it goes on with the unfinished round and ends with the same results, because every random
number comes from (seed, round, purpose).
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tqdm import tqdm

from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.pace import Pace
from segmentation.common.precision import Precision, add_options
from segmentation.common.runfiles import (
    Parser,
    UserError,
    derived_seed,
    natural,
    numpy_rng,
    positive,
    read_csv,
    read_json,
    real,
    write_csv,
    write_json,
    write_npz,
)
from segmentation.common.schemas import State, read_checked
from segmentation.common.stages import (
    begin_stage,
    check_stage,
    pick_device,
    read_torch,
    torch_rng,
    write_torch,
)
from segmentation.data.datafolder import Data, open_data
from segmentation.data.images import Images
from segmentation.data.splitting import linked
from segmentation.model import crf, engine, frozen, metrics
from segmentation.model.augment import LEVELS, MIXES
from segmentation.model.encoders import PAPER, add_encoder_options, check_encoder_options
from segmentation.model.finish import Finish, add_finish_options
from segmentation.model.inference import (
    Inference,
    image_features,
    lesion_probabilities,
    per_image,
    segment,
)
from segmentation.model.recipes import OPTIMIZERS, OWN_MASKS, RANGES, RECIPES, Recipe, steps_of
from segmentation.model.selftraining import own_masks
from segmentation.model.teacher import Teacher
from segmentation.model.unet import (
    build,
    encoder_sha256,
    load_encoder,
    load_model,
    save_model,
    warm_start,
)
from segmentation.selection import query
from segmentation.selection.clusterfolder import clusters_sha256, open_clusters, reader
from segmentation.selection.strategies import COLD_STARTS, QUERIES, View, ask

TRAINING_MASKS_HELP = "train on the masks of another data folder with the same images"
HOLDOUT_HELP = (
    "evaluate on N images of the pool, which are not labelled, instead of the test images"
)
LABELLED_HELP = (
    "CSV file (id, round) of what was labelled, in place of choosing and of budgets; "
    "images without a round are not suggested"
)
SUGGEST_HELP = "then choose N images for the next round, with or without masks; for --labelled"
FROZEN_HELP = "no training: logistic regression on the features of a frozen --encoder"
FOLDS_HELP = "also cross-validate within the labelled images, with N folds; 0: do not"
SELF_TRAIN_HELP = (
    "then train from the first weights on the whole pool, with the model's own masks of the rest"
)
REFERENCE = 1000  # images of the pool, at most, whose features are kept with the weights
CHOICES = {"optimizer": OPTIMIZERS, "augment": LEVELS, "mix": MIXES, "own_masks": OWN_MASKS}
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
    add("--constancy", action="store_true", help="images as under white light, by shades of gray")
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
    if QUERIES[args.query].heads and not args.heads:
        raise UserError(f"--query {args.query} needs --heads: it compares the masks of the heads")
    if args.initial != "all" and not (args.initial.isdigit() and int(args.initial)):
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
    for name in ("heads", "mean_teacher", "self_train", "released_scale", "constancy"):
        if getattr(args, name):
            raise UserError(
                f"--frozen trains no network, so --{name.replace('_', '-')} is not for it"
            )


def labelled_pool(data):
    """(pool images that have a mask and so can be labelled, pool images without a mask)."""
    parts = [], []
    for name in data.pool:
        parts[not data.has_mask[name]].append(name)
    pool, others = parts
    if others:
        print(f"{len(others)} pool images have no mask: they are never chosen for labelling")
    return pool, others


def given_labels(path, data):
    """(ids that were labelled in each round, ids without a round) of the file --labelled.

    Those without a round are not suggested. UserError unless the rounds are 0, 1, 2 ... in this
    order, and each id with a round is an image of the pool that has a mask, and stands there once.
    """
    rounds, passed, seen, pool = [], [], set(), set(data.pool)
    rows = read_csv(path, fix="give a CSV file with the columns id and round")
    for line, row in enumerate(rows, start=2):
        name, number = row.get("id"), row.get("round") or ""
        if name is not None and number == "":
            passed += [name] if name in pool else []
            continue
        fits = number.isdigit() and int(number) in (len(rounds) - 1, len(rounds))
        if name is None or not fits:
            raise UserError(
                f"{path}: line {line} is not an id and a round after that of the line before; "
                "give the columns id and round, with rounds from 0 on"
            )
        if name in seen or name not in pool or not data.has_mask[name]:
            why = "stands there twice" if name in seen else "is no image of the pool with a mask"
            raise UserError(f"{path}: line {line}: {name} {why}; remove it, or add its mask")
        if int(number) == len(rounds):
            rounds.append([])
        rounds[-1].append(name)
        seen.add(name)
    return rounds, passed


def hold_out(pool, count):
    """(pool without `count` images, these): the same draw in each run, for choosing settings."""
    if not 0 <= count < len(pool):
        raise UserError(f"--holdout {count}: the pool has {len(pool)} images; hold out fewer")
    held = set(numpy_rng(0, "holdout").permutation(len(pool))[:count].tolist())
    parts = [], []
    for place, name in enumerate(pool):
        parts[place in held].append(name)
    return parts


def schedule(args, size):
    """Total labels in each round, from the options. UserError if the pool has fewer images."""
    budgets = args.budgets
    if not budgets:
        initial = size if args.initial == "all" else int(args.initial)
        budgets = [initial + number * args.per_round for number in range(args.rounds + 1)]
    if budgets[-1] > size:
        raise UserError(
            f"a budget of {budgets[-1]} labels is larger than the pool of {size} images in "
            f"{args.data}; ask for fewer"
        )
    return budgets


@dataclass(frozen=True)
class Inputs:
    """What the options name, read only as far as needed to see whether the run is finished."""

    data: Data
    pool: list  # ids that may be labelled
    seen: list  # these and the pool's images without a mask, for training without labels
    test: list  # ids to measure on
    budgets: list  # total labels in each round
    answers: Data  # whose masks are the answers of the oracle
    given: list | None  # ids of each round, if --labelled says what was labelled
    passed: list  # ids that are not suggested, by --labelled
    hashes: dict  # name of an input -> hash of its content

    @classmethod
    def of(cls, args):
        """Open what the parsed options name. UserError if something does not fit."""
        data = open_data(args.data)
        if args.constancy and data.channels == 1:
            raise UserError(f"{data.folder}: gray images have no colour; leave out --constancy")
        given, passed, test = None, [], data.test
        if args.labelled is None:
            pool, others = labelled_pool(data)
            if args.holdout:
                pool, test = hold_out(pool, args.holdout)
            budgets = schedule(args, len(pool))
        else:
            pool, others = data.pool, []
            given, passed = given_labels(args.labelled, data)
            budgets = np.cumsum([len(ids) for ids in given]).tolist()
            left = len(pool) - sum(budgets[-1:]) - len(passed)
            if args.suggest > left:
                raise UserError(
                    f"--suggest {args.suggest}: {args.data} has only {left} images of the pool "
                    "that are not labelled; ask for fewer"
                )
        if budgets and not test and not args.folds:
            raise UserError(
                f"{data.folder}: has no test images; add masks and run preprocess.py again"
            )
        if args.folds and budgets and not 2 <= args.folds <= budgets[0]:
            raise UserError(
                f"--folds {args.folds}: give 0, or 2 to {budgets[0]}, the labels of round 0"
            )
        for kind, ids in (("pool", pool), ("test images", test)):
            ids = [name for name in ids if data.has_mask[name]]
            if ids and not data.masks[data.rows(ids)].any():
                raise UserError(
                    f"{data.folder}: all masks of the {kind} are empty; check the mask folder"
                )
        answers, hashes = data, {"data": data.fingerprint}
        if args.training_masks is not None:
            answers = open_data(args.training_masks)
            answers.rows(pool)
            hashes["training_masks"] = answers.fingerprint
        if args.encoder_weights is not None:
            hashes["encoder_weights"] = encoder_sha256(build(args, data, 1)[0])
        if args.weights is not None:
            hashes["weights"] = encoder_sha256(load_encoder(args.weights))
        if args.clusters is not None:
            hashes["clusters"] = clusters_sha256(args.clusters)
        return cls(data, pool, pool + others, test, budgets, answers, given, passed, hashes)

    @property
    def free(self):
        """What may change between two calls: with --labelled, what a person adds."""
        return () if self.given is None else ("data", "clusters", "labelled", "suggest")

    def state(self, args):
        """The content of the run's state.json, or what it is before the first round."""
        path = args.out / "state.json"
        if path.exists():
            state = read_checked(path, State, f"delete {args.out}")
            if self.given is not None:
                self.check_given(args, state)
            self.check_rounds(args, state)
            return state
        return {
            "seed": args.seed,
            "data": self.data.fingerprint,
            "synthetic": self.data.synthetic,
            "rounds_planned": len(self.budgets) - 1,
            "rounds": [],
            "labelled": [],
        }

    def check_rounds(self, args, state):
        """UserError unless the state fits the pool and the budgets, and its rounds have files."""
        fix = f"put it back, or delete {args.out} to start again"
        unknown = [one["id"] for one in state["labelled"] if one["id"] not in set(self.pool)]
        if unknown:
            raise UserError(
                f"{args.out}/state.json: {unknown[0]} is no image of the pool with a mask; {fix}"
            )
        labels = [entry["labels"] for entry in state["rounds"]]
        if labels != self.budgets[: len(labels)]:
            raise UserError(
                f"{args.out}/state.json: has rounds of {labels} labels, but asked for are "
                f"{self.budgets}; {fix}"
            )
        rounds = [f"round_{entry['round']:02d}" for entry in state["rounds"]]
        needed = [f"{name}/log.csv" for name in rounds]
        needed += [f"{name}/metrics.csv" for name in rounds if self.given is None and self.test]
        needed += [f"{name}/weights.pt" for name in rounds[-1:]]
        for name in needed:
            if not (args.out / name).exists():
                raise UserError(f"{args.out / name}: is missing, but state.json has it done; {fix}")

    def check_given(self, args, state):
        """UserError unless --labelled goes on from the rounds of the run's `state`."""
        done = [[] for _ in state["rounds"]]
        for entry in state["labelled"]:
            done[entry["round"]].append(entry["id"])
        if done != self.given[: len(done)]:
            raise UserError(
                f"{args.labelled}: has other ids in the first {len(done)} rounds than "
                f"{args.out}/state.json; put them back, or give another --out"
            )


def fold_parts(ids, units, folds):
    """`ids` in at most `folds` sorted parts, in turn; linked ones, of a unit, are in one part."""
    unit_of = {name: unit[0] for unit in units for name in unit}
    part_of = {}
    for place, name in enumerate(ids):
        part_of.setdefault(unit_of.get(name, name), place % folds)
    parts = [[] for _ in range(folds)]
    for name in sorted(ids):
        parts[part_of[unit_of.get(name, name)]].append(name)
    return [part for part in parts if part]


class Loop:
    """One run: what its rounds share. `run` does the rounds."""

    def __init__(self, args, inputs, state):
        self.args, self.state = args, state
        self.data, self.answers, self.budgets = inputs.data, inputs.answers, inputs.budgets
        self.pool, self.seen = inputs.pool, inputs.seen
        self.given, self.passed = inputs.given, inputs.passed
        self.place = {name: place for place, name in enumerate(self.seen)}
        self.recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
        self.precision = Precision.of(args, pick_device(args.device))
        arrays = {}
        if args.clusters is not None:
            encoder = inputs.hashes.get("weights")
            arrays = open_clusters(args.clusters, self.pool, encoder, args.weights)
        self.read = reader(args.clusters, arrays)
        self.first_model()  # refuses weights that do not fit, before anything is written
        chooses = self.given is None and not state["rounds"]
        self.cold_start = self.answer(0, None, set()) if chooses else None  # likewise
        begin_stage(args.out, args, inputs.hashes, inputs.free)
        self.images = Images(self.data, self.seen, self.precision.device, args.pool_on)
        self.pool_images = self.images.subset(slice(len(self.pool)))
        self.test_images = Images(self.data, inputs.test, self.precision.device, args.pool_on)

    def folder(self, number):
        return self.args.out / f"round_{number:02d}"

    def images_of(self, ids):
        """The images of some ids of the pool, on the device."""
        return self.images[torch.tensor([self.place[name] for name in ids])]

    # Which images ------------------------------------------------------------------------------

    def answer(self, number, model, known):
        """The strategies.Answer of this round's strategy; `known`: the ids labelled already."""
        args = self.args
        mask = np.zeros(len(self.pool), dtype=bool)
        mask[[self.place[name] for name in known]] = True
        budget = args.suggest if self.given is not None else self.budgets[number] - len(known)
        names = ("round", number, "query") if number else ("cold start",)
        names += ("draw", args.draw) if args.draw else ()
        view = View(mask, numpy_rng(args.seed, *names), self.read)
        if number == 0:
            return ask(COLD_STARTS[args.cold_start], view, budget)
        settings = {f.name: getattr(args, f"ceal_{f.name}") for f in fields(query.CealSettings)}
        with tqdm(desc=f"scoring for round {number}", leave=False, disable=None) as bar:
            view = replace(
                view,
                number=number,
                images=self.pool_images,
                model=model,
                passes=args.passes,
                stream=(args.seed, "round", number, "dropout"),
                inference=Inference(args.batch, self.precision, bar.update),
                ceal=query.CealSettings(**settings),
            )
            return ask(QUERIES[args.query], view, budget)

    def entries(self, number, answer, known):
        """Entries of state.json for the chosen images; writes scores.csv if there are scores."""
        scores = {}
        if answer.scores is not None:
            unlabelled = [name for name in self.pool if name not in known]
            scores = dict(zip(unlabelled, map(float, answer.scores), strict=True))
            rows = [{"id": name, "score": score} for name, score in scores.items()]
            write_csv(self.folder(number) / "scores.csv", rows)
        chosen = [self.pool[place] for place in answer.places]
        default = self.args.query if number else self.args.cold_start
        sources = answer.sources or [default] * len(chosen)
        return [
            {"round": number, "id": name, "score": scores.get(name), "source": source}
            for name, source in zip(chosen, sources, strict=True)
        ]

    # Training ----------------------------------------------------------------------------------

    def first_model(self, *names):
        """The network before round 0: the same for all arms with this seed and --init.

        `names` give a teacher other random weights.
        """
        args = self.args
        torch.manual_seed(derived_seed(args.seed, "weights", *names))
        scale = 255.0 if args.released_scale else 1.0
        more = {"dropout": args.dropout, "heads": args.heads, "scale": scale}
        more["constancy"] = args.constancy
        model, _ = build(args, self.data, 1, args.frozen, **more)
        warm_start(model, args.weights, args.init)
        return model

    def pseudo_masks(self, model, ids):
        """The model's own masks of some images, with dsal cleaned by a CRF: uint8 N x H x W."""
        images, batch = self.images_of(ids), self.recipe.batch
        if self.args.query != "dsal":
            return segment(model, images, batch, self.precision.device)
        probabilities = lesion_probabilities(model, images, batch, self.precision)
        pairs = zip(self.data.load_images(ids), probabilities, strict=True)
        return np.stack([crf.pseudo_mask(*pair) for pair in pairs])

    def train(self, number, model, ids, pseudo):
        """Train on the masks of `ids` and the model's own masks of `pseudo`: (model, log)."""
        true = self.answers.load_masks(ids)
        masks = np.concatenate([true, self.pseudo_masks(model, pseudo)]) if pseudo else true
        if number == 0 or self.recipe.from_scratch:
            model = None
        return self.learn((self.args.seed, "round", number), model, ids, true, ids + pseudo, masks)

    def learn(self, stream, model, ids, true, more_ids, masks):
        """Train `model` (None: that of `first_model`) on `masks` of `more_ids`: (model, log).

        With --self-train such models make masks of the rest of the pool, and a new one is trained
        on these and on `true`, the masks of `ids`, and returned; the log is that of all.
        """
        recipe = self.recipe
        rest = sorted(set(self.seen) - set(ids)) if self.args.self_train else []
        if not rest:
            return self.fit(stream, model, more_ids, masks)
        share, models, logs = recipe.teachers + recipe.students, [], []
        for number in range(recipe.teachers):
            names = ("teacher", number) if number else ()
            fitted, log = self.fit((*stream, *names), model, more_ids, masks, share, names)
            models.append(fitted)
            logs += log
        images, how = self.images_of(rest), (recipe.own_masks, self.args.largest)
        for number in range(recipe.students):
            own = own_masks(models, images, recipe.batch, self.precision, *how)
            both = np.concatenate([true.astype(own.dtype), own])
            names = ("student", number) if number else ("student",)
            fitted, log = self.fit(
                (*stream, *names), None, ids + rest, both, share, labelled=len(ids)
            )
            models = [fitted]
            logs += log
        return models[0], [{**row, "epoch": epoch} for epoch, row in enumerate(logs)]

    def steps_to_learn(self, count, more, is_first):
        """Optimizer steps of `learn` with `count` labels, and masks of `more` images at first."""
        rest = len(self.seen) - count if self.args.self_train else 0
        if not rest:
            return steps_of(self.recipe, more, is_first)
        teachers, students = self.recipe.teachers, self.recipe.students
        models = teachers + students
        first = teachers * steps_of(self.recipe, more, is_first, models)
        return first + students * steps_of(self.recipe, count + rest, True, models)

    def steps_of_round(self, number, count, pseudo):
        """Optimizer steps of a round, cross-validation included (folds taken as equal)."""
        is_first, folds = number == 0 or self.recipe.from_scratch, self.args.folds
        steps = self.steps_to_learn(count, count + pseudo, is_first)
        if not folds:
            return steps
        rest = count - count // folds
        return steps + folds * self.steps_to_learn(rest, rest, True)

    def cross_validate(self, number, ids):
        """Dice within the labelled images: metrics.csv of each fold by a model without it.

        Each of --folds models is trained from the first weights on the other folds, as the round
        is, and measured on its own fold, whose masks it has not seen. Returns the rows of
        folds.csv, in the order of the folds.
        """
        args, rows = self.args, []
        order = numpy_rng(args.seed, "round", number, "folds").permutation(len(ids))
        units = linked(read_json(self.data.folder / "manifest.json"))
        parts = fold_parts([ids[place] for place in order], units, args.folds)
        if len(parts) < 2:
            print(f"round {number}: no cross-validation, as all labelled images are of one group")
            return rows
        for fold, held in enumerate(parts):
            rest = [name for name in ids if name not in held]
            stream, masks = (
                (args.seed, "round", number, "fold", fold),
                self.answers.load_masks(rest),
            )
            model, _ = self.learn(stream, None, rest, masks, rest, masks)
            images = self.images.subset(torch.tensor([self.place[name] for name in held]))
            scores = self.measure(model, self.answers, images)
            rows += [{"fold": fold, **row} for row in scores]
        return rows

    def fit(self, stream, model, ids, masks, models=1, names=(), labelled=0):
        """Train `model`, None: that of `first_model(*names)`, on masks of `ids`: (model, log).

        The round trains as many `models`; the masks of the first `labelled` are true. A model that
        is one of several of its round is kept until the round is done, for a call that goes on.
        """
        is_first = model is None
        if is_first:
            model = self.first_model(*names)
        kept = (
            self.folder(stream[2]) / "partial" / f"{'-'.join(map(str, stream[3:])) or 'first'}.pt"
        )
        origin = json.dumps([self.data.fingerprint, ids])
        if kept.exists() and (content := read_torch(kept))["origin"] == origin:
            self.pace.skip(sum(row["steps"] for row in content["log"]))
            model.load_state_dict(content["model"])
            return model.to(self.precision.device), content["log"]
        if self.args.frozen:
            rng, images = numpy_rng(*stream, "strength"), self.images_of(ids)
            masks, batch = torch.from_numpy(masks), self.args.batch
            return model, frozen.fit(model, images, masks, batch, self.precision, rng)
        teacher = None
        if self.args.mean_teacher:
            teacher = Teacher(model, self.images, torch_rng(*stream, "teacher"))
        steps = steps_of(self.recipe, len(ids), is_first, models)
        desc = " ".join(map(str, stream[1:]))
        with tqdm(total=steps, desc=desc, unit="step", leave=False, disable=None) as bar:

            def progress(row):
                bar.update(row["steps"])
                self.pace.step(row["steps"], row["seconds"])

            log = engine.train(
                model,
                self.images_of(ids),
                torch.from_numpy(masks),
                recipe=self.recipe,
                steps=steps,
                stream=stream,
                precision=self.precision,
                progress=progress,
                teacher=teacher,
                labelled=labelled,
            )
        model = teacher.model if teacher else model
        if models > 1 or self.args.folds:
            write_torch(kept, {"origin": origin, "model": model.state_dict(), "log": log})
        return model, log

    def measure(self, model, data, images):
        """The rows of metrics.csv of some images of `data`."""
        how = self.args.batch, self.precision.device, Finish.of(self.args)
        return engine.evaluate_with_confidence(model, data, images, *how)

    def save(self, number, model):
        """Write weights.pt and, beside weights that stay, features of pool images for predict.py.

        Of REFERENCE images, if there are more.
        """
        folder, last = self.folder(number), number == len(self.budgets) - 1
        if last or self.args.keep_weights:
            order = numpy_rng(self.args.seed, "reference").permutation(len(self.seen))
            images = self.images.subset(torch.from_numpy(np.sort(order[:REFERENCE])))
            how = images, self.args.batch, Precision(self.precision.device)
            features = per_image(partial(image_features, model), model, *how)
            write_npz(folder / "reference.npz", features=features)
        size, finish = list(self.data.images.shape[1:3]), Finish.of(self.args)._asdict()
        save_model(folder / "weights.pt", model, size=size, finish=finish)

    # Rounds ------------------------------------------------------------------------------------

    def round(self, number):
        """Choose, train, evaluate, save. The state is written last: only whole rounds count."""
        args, folder = self.args, self.folder(number)
        labelled, pseudo, note = self.state["labelled"], [], ""
        chooses = number and self.given is None
        goes_on = number and not self.recipe.from_scratch
        before = self.folder(number - 1) / "weights.pt"
        model = load_model(before) if chooses or goes_on else None
        if self.given is None:
            known = {entry["id"] for entry in labelled}
            answer = self.answer(number, model, known) if number else self.cold_start
            labelled = labelled + self.entries(number, answer, known)
            pseudo, note = [self.pool[place] for place in answer.pseudo], answer.note
        else:
            row = {"round": number, "score": None, "source": "given"}
            labelled = labelled + [{**row, "id": name} for name in self.given[number]]
        ids = [entry["id"] for entry in labelled]
        assert len(set(ids)) == len(ids) == self.budgets[number]
        self.pace = Pace(
            f"round {number}", self.steps_of_round(number, len(ids), len(pseudo)), self.tell
        )
        model, log = self.train(number, model, ids, pseudo)
        rows = self.measure(model, self.data, self.test_images) if len(self.test_images) else []
        if args.folds:
            folds = self.cross_validate(number, ids)
            if folds:
                write_csv(folder / "folds.csv", folds)
                dice = 100 * metrics.mean(folds)["dice"]
                print(f"round {number}: Dice of {args.folds}-fold cross-validation {dice:.2f} %")
        write_csv(folder / "log.csv", log)
        if rows:
            write_csv(folder / "metrics.csv", rows)
        self.save(number, model)
        self.state["labelled"] = labelled
        self.state["rounds_planned"] = len(self.budgets) - 1
        entry = {"round": number, "labels": len(ids), "pseudo": pseudo, "note": note}
        entry |= {} if self.given is None else {"data": self.data.fingerprint}
        self.state["rounds"].append({**entry, "steps": sum(row["steps"] for row in log)})
        shutil.rmtree(folder / "partial", ignore_errors=True)
        write_json(args.out / "state.json", self.state)
        if number and not args.keep_weights:
            (self.folder(number - 1) / "weights.pt").unlink(missing_ok=True)
        self.report(rows, log)

    def tell(self, line):
        """Print a line now, above a progress bar."""
        tqdm.write(line)
        sys.stdout.flush()

    def report(self, rows, log):
        """Print a line about the last round."""
        entry, planned = self.state["rounds"][-1], len(self.budgets) - 1
        extra = f" + {len(entry['pseudo'])} pseudo-labels" if entry["pseudo"] else ""
        measured = "held-out" if self.args.holdout else "test"
        note = f"; {entry['note']}" if entry["note"] else ""
        dice = f", {measured} Dice {100 * metrics.mean(rows)['dice']:.2f} %" if rows else ""
        print(
            f"round {entry['round']}/{planned}: {entry['labels']} labels{extra}{dice}"
            f"{self.data.note}, {sum(row['seconds'] for row in log):.1f} s of training{note}",
            flush=True,
        )

    def suggest(self):
        """Choose --suggest images for the round after the last: suggestion.csv in its folder."""
        number, known = len(self.budgets), {entry["id"] for entry in self.state["labelled"]}
        model = load_model(self.folder(number - 1) / "weights.pt") if number else None
        known |= set(self.passed)
        rows = self.entries(number, self.answer(number, model, known), known)
        write_csv(self.folder(number) / "suggestion.csv", rows)
        print(f"suggests {len(rows)} images: {self.folder(number)}/suggestion.csv")

    def run(self):
        for number in range(len(self.state["rounds"]), len(self.budgets)):
            self.round(number)
        if self.args.suggest:
            self.suggest()


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
