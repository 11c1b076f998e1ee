"""The rounds of active learning: choose, train, measure, save."""

import shutil
import sys
from dataclasses import fields, replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from segmentation.common.precision import Precision
from segmentation.common.runfiles import numpy_rng, round_name, write_csv, write_json, write_npz
from segmentation.common.sources import sources_sha256
from segmentation.common.stages import begin_stage
from segmentation.data.images import Images
from segmentation.model import metrics
from segmentation.model.finish import Finish
from segmentation.model.inference import Inference, image_features, per_image
from segmentation.model.unet import load_model, save_model
from segmentation.rounds.learner import Learner, partial_folder
from segmentation.selection import query
from segmentation.selection.clusterfolder import open_clusters, reader
from segmentation.selection.strategies import COLD_STARTS, QUERIES, View, ask

REFERENCE = 1000  # images of the pool, at most, whose features are kept with the weights


class Loop:
    """One run: what its rounds share. `run` does the rounds."""

    def __init__(self, args, inputs, state):
        self.args, self.state = args, state
        self.data, self.budgets = inputs.data, inputs.budgets
        self.pool, self.seen = inputs.pool, inputs.seen
        self.given, self.passed = inputs.given, inputs.passed
        self.learner, self.sources = Learner(args, inputs), sources_sha256()
        arrays = {}
        if args.clusters is not None:
            encoder = inputs.hashes.get("weights")
            arrays = open_clusters(args.clusters, self.pool, encoder, args.weights)
        self.read = reader(args.clusters, arrays)
        self.learner.first_model()  # refuses weights that do not fit, before anything is written
        chooses = self.given is None and not state["rounds"]
        self.cold_start = self.answer(0, None, set()) if chooses else None  # likewise
        begin_stage(args.out, args, inputs.hashes, inputs.free)
        self.pool_images = self.learner.images.subset(slice(len(self.pool)))
        device = self.learner.precision.device
        self.test_images = Images(self.data, inputs.test, device, args.pool_on)

    def folder(self, number):
        return self.args.out / round_name(number)

    # Which images ------------------------------------------------------------------------------

    def answer(self, number, model, known):
        """The strategies.Answer of this round's strategy; `known`: the ids labelled already."""
        args = self.args
        mask = np.zeros(len(self.pool), dtype=bool)
        mask[[self.learner.place[name] for name in known]] = True
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
                inference=Inference(args.batch, self.learner.precision, bar.update),
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

    def save(self, number, model):
        """Write weights.pt and, beside weights that stay, features of pool images for predict.py.

        Of REFERENCE images, if there are more.
        """
        folder, last = self.folder(number), number == len(self.budgets) - 1
        if last or self.args.keep_weights:
            order = numpy_rng(self.args.seed, "reference").permutation(len(self.seen))
            images = self.learner.images.subset(torch.from_numpy(np.sort(order[:REFERENCE])))
            how = images, self.args.batch, Precision(self.learner.precision.device)
            features = per_image(partial(image_features, model), model, *how)
            write_npz(folder / "reference.npz", features=features)
        size, finish = list(self.data.images.shape[1:3]), Finish.of(self.args)._asdict()
        save_model(folder / "weights.pt", model, size=size, finish=finish)

    # Rounds ------------------------------------------------------------------------------------

    def round(self, number):
        """Choose, train, evaluate, save. The state is written last: only whole rounds count."""
        args, folder = self.args, self.folder(number)
        labelled, pseudo, note = self.state["labelled"], [], ""
        model = load_model(self.folder(number - 1) / "weights.pt") if number else None
        if self.given is None:
            known = {entry["id"] for entry in labelled}
            answer = self.answer(number, model, known) if number else self.cold_start
            assert answer is not None  # without rounds in its state, a run has a cold start
            labelled = labelled + self.entries(number, answer, known)
            pseudo, note = [self.pool[place] for place in answer.pseudo], answer.note
        else:
            row = {"round": number, "score": None, "source": "given"}
            labelled = labelled + [{**row, "id": name} for name in self.given[number]]
        ids = [entry["id"] for entry in labelled]
        assert len(set(ids)) == len(ids) == self.budgets[number]
        costs = self.learner.costs(model, ids[len(self.state["labelled"]) :])
        write_csv(folder / "cost.csv", costs)
        self.learner.begin(number, len(ids), len(pseudo), self.tell)
        model, log = self.learner.train(number, model, ids, pseudo)
        rows = []
        if len(self.test_images):
            rows = self.learner.measure(model, self.data, self.test_images)
        if args.folds:
            folds = self.learner.cross_validate(number, ids)
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
        entry |= {"steps": sum(row["steps"] for row in log), "sources": self.sources}
        self.state["rounds"].append(entry)
        shutil.rmtree(partial_folder(args.out, number), ignore_errors=True)
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
