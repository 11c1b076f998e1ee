"""The training of the models of a round, and their measurement."""

import json
from dataclasses import fields

import numpy as np
import torch
from tqdm import tqdm

from segmentation.common.pace import Pace
from segmentation.common.precision import Precision
from segmentation.common.runfiles import derived_seed, numpy_rng, round_name
from segmentation.common.stages import pick_device, read_torch, torch_rng, write_torch
from segmentation.data.cost import cost
from segmentation.data.images import Images
from segmentation.model import crf, engine, frozen
from segmentation.model.finish import Finish
from segmentation.model.inference import lesion_probabilities, segment
from segmentation.model.recipes import Recipe, steps_of
from segmentation.model.selftraining import own_masks
from segmentation.model.teacher import Teacher
from segmentation.model.unet import build, warm_start


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


def partial_folder(out, number):
    """Where a round keeps those of its models that are trained, until all are."""
    return out / round_name(number) / "partial"


class Learner:
    """Trains and measures models on the images of one run, as its options say."""

    pace: Pace  # of the round, see `begin`

    def __init__(self, args, inputs):
        self.args, self.data, self.answers = args, inputs.data, inputs.answers
        self.seen = inputs.seen
        self.place = {name: place for place, name in enumerate(self.seen)}
        self.recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
        self.precision = Precision.of(args, pick_device(args.device))
        self.images = Images(self.data, self.seen, self.precision.device, args.pool_on)

    def images_of(self, ids):
        """The images of some ids of the pool, on the device."""
        return self.images[torch.tensor([self.place[name] for name in ids])]

    def begin(self, number, count, pseudo, say):
        """A round with so many labels and pseudo-labels begins: `say` how long it will take."""
        steps = self.steps_of_round(number, count, pseudo)
        self.pace = Pace(f"round {number}", steps, say)

    def first_model(self):
        """The network before round 0: the same for all arms with this seed and --init."""
        args = self.args
        torch.manual_seed(derived_seed(args.seed, "weights"))
        scale = 255.0 if args.released_scale else 1.0
        more = {"dropout": args.dropout, "heads": args.heads, "scale": scale}
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

    def drafts(self, model, ids):
        """The masks that a model gives to some images, empty without a model: uint8 N x H x W."""
        if model is None:
            return np.zeros((len(ids), *self.data.masks.shape[1:]), dtype=np.uint8)
        how = self.recipe.batch, self.precision.device, Finish.of(self.args)
        return segment(model, self.images_of(ids), *how)

    def costs(self, model, ids):
        """The rows of cost.csv: what the masks of some images cost, with drafts of the model."""
        pairs = zip(self.answers.load_masks(ids), self.drafts(model, ids), strict=True)
        return [
            {"id": name, **cost(*pair)._asdict()} for name, pair in zip(ids, pairs, strict=True)
        ]

    def train(self, number, model, ids, pseudo):
        """Train on the masks of `ids` and the model's own masks of `pseudo`: (model, log)."""
        true = self.answers.load_masks(ids)
        masks = np.concatenate([true, self.pseudo_masks(model, pseudo)]) if pseudo else true
        if number == 0 or self.recipe.from_scratch:
            model = None
        return self.learn((self.args.seed, "round", number), model, ids, true, ids + pseudo, masks)

    def learn(self, stream, model, ids, true, more_ids, masks):
        """Train `model` (None: that of `first_model`) on `masks` of `more_ids`: (model, log).

        With --self-train that model makes masks of the rest of the pool, and a new one is trained
        on these and on `true`, the masks of `ids`, and returned; the log is that of both.
        """
        rest = sorted(set(self.seen) - set(ids)) if self.args.self_train else []
        if not rest:
            return self.fit(stream, model, more_ids, masks)
        teacher, log = self.fit(stream, model, more_ids, masks, models=2)
        how = self.recipe.batch, self.precision, self.recipe.own_masks, self.args.largest
        own = own_masks(teacher, self.images_of(rest), *how)
        both = np.concatenate([true.astype(own.dtype), own])
        stream = (*stream, "student")
        student, more = self.fit(stream, None, ids + rest, both, models=2, labelled=len(ids))
        return student, [{**row, "epoch": epoch} for epoch, row in enumerate(log + more)]

    def steps_to_learn(self, count, more, is_first):
        """Optimizer steps of `learn` with `count` labels, and masks of `more` images at first."""
        rest = len(self.seen) - count if self.args.self_train else 0
        if not rest:
            return steps_of(self.recipe, more, is_first)
        teacher = steps_of(self.recipe, more, is_first, models=2)
        return teacher + steps_of(self.recipe, count + rest, True, models=2)

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
        parts = fold_parts([ids[place] for place in order], self.data.linked, args.folds)
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

    def fit(self, stream, model, ids, masks, models=1, labelled=0):
        """Train `model`, None: that of `first_model`, on masks of `ids`: (model, log).

        The round trains as many `models`; the masks of the first `labelled` are true. A model that
        is one of several of its round is kept until the round is done, for a call that goes on.
        """
        is_first = model is None
        if is_first:
            model = self.first_model()
        kept = (
            partial_folder(self.args.out, stream[2])
            / f"{'-'.join(map(str, stream[3:])) or 'first'}.pt"
        )
        steps = steps_of(self.recipe, len(ids), is_first, models)
        origin = json.dumps([self.data.fingerprint, ids, steps])
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
        return engine.evaluate(model, data, images, *how)
