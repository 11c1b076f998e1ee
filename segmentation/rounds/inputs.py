"""What a run of active learning reads: data, pool, budgets, answers, its own state."""

from dataclasses import dataclass

import numpy as np

from segmentation.common.runfiles import UserError, numpy_rng, read_csv, round_name
from segmentation.common.schemas import State, read_checked
from segmentation.data.datafolder import Data, open_data
from segmentation.data.splitting import take, units_of
from segmentation.model.unet import build, encoder_sha256, load_encoder
from segmentation.selection.clusterfolder import clusters_sha256


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
        fits = number.isdecimal() and int(number) in (len(rounds) - 1, len(rounds))
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


def hold_out(pool, count, linked=()):
    """(pool without `count` images, these): the same draw in each run, for choosing settings.

    Ids of one of the groups `linked` stay together; if no choice of whole groups gives the count
    exactly, fewer are held out.
    """
    if not 0 <= count < len(pool):
        raise UserError(f"--holdout {count}: the pool has {len(pool)} images; hold out fewer")
    order = [pool[place] for place in numpy_rng(0, "holdout").permutation(len(pool))]
    held = set().union(*take(units_of(order, linked), count))
    parts = [], []
    for name in pool:
        parts[name in held].append(name)
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
        given, passed, test = None, [], data.test
        if args.labelled is None:
            pool, others = labelled_pool(data)
            if args.holdout:
                pool, test = hold_out(pool, args.holdout, data.linked)
            budgets = schedule(args, len(pool))
        else:
            pool, others = data.pool, []
            given, passed = given_labels(args.labelled, data)
            budgets = np.cumsum([len(ids) for ids in given]).tolist()
            left = len(pool) - len(set(passed).union(*given))
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
        looked_at = {"pool": pool} if given is not None else {"pool": pool, "test images": test}
        for kind, ids in looked_at.items():  # a person may find no lesion in a few test images
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
        """What may change between two calls: with --labelled, what a person adds, and the steps.

        state.json has the steps of each round.
        """
        return () if self.given is None else ("data", "clusters", "labelled", "suggest", "steps")

    def state(self, args):
        """The content of the run's state.json, or what it is before the first round."""
        path = args.out / "state.json"
        if path.exists():
            state = read_checked(path, State, f"delete {args.out}")
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
        expected = {"seed": args.seed}
        if self.given is None:
            planned = len(self.budgets) - 1
            expected |= {"data": self.data.fingerprint, "rounds_planned": planned}
        for name, value in expected.items():
            if state[name] != value:
                what = f"has {name} {state[name]}, not {value}"
                raise UserError(f"{args.out}/state.json: {what}; {fix}")
        pool, named = set(self.pool), [one["id"] for one in state["labelled"]]
        named += [name for entry in state["rounds"] for name in entry.get("pseudo", ())]
        unknown = [name for name in named if name not in pool]
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
        rounds = [round_name(entry["round"]) for entry in state["rounds"]]
        needed = [f"{name}/log.csv" for name in rounds]
        needed += [f"{name}/metrics.csv" for name in rounds if self.given is None and self.test]
        needed += [f"{name}/weights.pt" for name in rounds[-1:]]
        for name in needed:
            path = args.out / name
            if not (path.is_file() and path.stat().st_size):
                what = "is empty" if path.is_file() else "is missing"
                raise UserError(f"{path}: {what}, but state.json has it done; {fix}")

    def check_given(self, args, state):
        """UserError unless --labelled, if given, goes on from the rounds of the run's `state`."""
        if self.given is None:
            return
        done = [[] for _ in state["rounds"]]
        for entry in state["labelled"]:
            done[entry["round"]].append(entry["id"])
        if done != self.given[: len(done)]:
            raise UserError(
                f"{args.labelled}: has other ids in the first {len(done)} rounds than "
                f"{args.out}/state.json; put them back, or give another --out"
            )
