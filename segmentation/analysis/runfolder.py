"""What the folder of a run holds, read so that any part of it may be missing.

`open_run` reads what run.sh, or the scripts by themselves, leave in one folder:

    RUN/pretrain*[/seedS]     args.json, env.json, log.csv, restorations.png
    RUN/cluster*[/seedS]      selection.json, clusters.npz, features.npz; also [/round_RR]
    RUN/seg/ARM/seedS         a training: args.json, env.json, state.json, round_RR/
    RUN/NAME or RUN itself    likewise, by its own name: the folder has a state.json
    RUN/to_annotate/round_RR  list.csv: images that wait for a person to outline them
    RUN/hint.json             of annotate.py: lines `measured`, a sentence of `advice`, and `masks`,
                              the command that makes the masks of all photographs
    RUN/annotate.json         its state; of it, the `command` to give again
    RUN/tables*               see tables.py

A part that is missing is None or empty. A file that is damaged counts as missing, and the message
that names it is kept in `notes`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segmentation.analysis.runs import is_finished
from segmentation.common.runfiles import (
    UserError,
    read_csv,
    read_json,
    round_name,
    sha256_file,
)
from segmentation.common.schemas import read_arrays
from segmentation.data.datafolder import Data, open_data

BELOW = ("", "/seed*", "/round_*")  # where the folder of a kind of stage has its stages
TEXTS = {"id", "fold"}  # columns that are not numbers


@dataclass(frozen=True)
class Stage:
    """A folder that one call of a script has filled."""

    name: str  # its path below the run
    folder: Path
    args: dict  # option -> value; empty if not recorded
    inputs: dict  # name of an input -> hash
    env: dict  # commit, versions, hardware
    log: dict  # columns of log.csv


@dataclass(frozen=True)
class Round:
    """A finished round of a training.

    `metrics`, `folds` and `log` are columns as from `read_columns`, empty where there is no such
    file. `chosen` are dicts with the keys id, score and reason.
    """

    number: int
    labels: int  # in all, up to this round
    steps: int | None
    note: str
    pseudo: int  # images with pseudo-labels
    chosen: list
    metrics: dict  # of the test images
    folds: dict  # of the labelled images, by cross-validation
    log: dict
    weights: Path | None


@dataclass(frozen=True)
class Training(Stage):
    """A run of the active learning loop."""

    arm: str
    seed: int
    data: str  # fingerprint of the data folder
    synthetic: bool
    planned: int  # rounds after round 0
    finished: bool
    rounds: list  # of Round

    @property
    def measured(self):
        """What `metrics` was measured on, in words."""
        return "held-out" if self.args.get("holdout") else "test"


@dataclass
class RunFolder:
    """All that was found. `notes` are texts about what could not be read."""

    path: Path
    pretrainings: list = field(default_factory=list)  # of Stage
    clusterings: list = field(default_factory=list)  # of Stage
    trainings: list = field(default_factory=list)  # of Training, by arm and seed
    waiting: dict = field(default_factory=dict)  # round_RR -> rows of list.csv
    hint: dict = field(default_factory=dict)
    command: str = ""  # that goes on with this run, of annotate.py
    tables: list = field(default_factory=list)  # paths
    data_folder: Path | None = None
    data: Data | None = None
    manifest: dict | None = None
    splits: dict | None = None
    files: list = field(default_factory=list)  # rows of the data folder's files.csv
    notes: list = field(default_factory=list)

    def stages(self):
        """All stages, in the order in which they are run."""
        return [*self.pretrainings, *self.clusterings, *self.trainings]

    def attempt(self, read, *args):
        """`read(*args)`, or None and a note where that is a UserError."""
        try:
            return read(*args)
        except UserError as error:
            self.notes.append(str(error))
            return None

    def is_synthetic(self):
        """Whether the images are drawn."""
        return any(t.synthetic for t in self.trainings) or bool(
            (self.manifest or {}).get("synthetic")
        )


def open_run(path, data=None):
    """The RunFolder of a path. `data` is the data folder, if it is not where the run says.

    UserError if the path holds nothing that a run leaves.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the folder of a run, such as runs/demo")
    run = RunFolder(path)
    run.pretrainings = stages(run, "pretrain", ("log.csv", "restorations.png", "encoder.pt"))
    run.clusterings = stages(run, "cluster", ("clusters.npz", "selection.json", "features.npz"))
    run.trainings = sorted(trainings(run), key=lambda t: (t.arm, t.seed, t.name))
    for listed in sorted(path.glob("to_annotate/*/list.csv")):
        run.waiting[listed.parent.name] = run.attempt(read_csv, listed) or []
    if not (run.stages() or run.waiting):
        raise UserError(
            f"{path}: holds no pretraining, clusters, training or list of images to outline; "
            "give the folder that run.sh or active_learning.py has written"
        )
    run.hint = optional(run, read_json, path / "hint.json") or {}
    run.command = (optional(run, read_json, path / "annotate.json") or {}).get("command", "")
    run.tables = sorted(folder for folder in path.glob("tables*") if folder.is_dir())
    find_data(run, data)
    return run


# Stages -----------------------------------------------------------------------------------------


def stages(run, kind, files):
    """The stages RUN/KIND*, those BELOW, and RUN itself, that have one of these files."""
    folders = {run.path}.union(*(run.path.glob(f"{kind}*{below}") for below in BELOW))
    found = [folder for folder in folders if any((folder / file).exists() for file in files)]
    found = [folder for folder in found if not (folder / "state.json").exists()]
    return [Stage(*recorded(run, folder)) for folder in sorted(found)]


def recorded(run, folder):
    """name, folder, args, inputs, env and log of a stage."""
    name = str(folder.relative_to(run.path)) if folder != run.path else folder.resolve().name
    record = optional(run, read_json, folder / "args.json") or {}
    env = optional(run, read_json, folder / "env.json") or {}
    log = optional(run, read_columns, folder / "log.csv") or {}
    env.pop("schema", None)
    return name, folder, record.get("args", {}), record.get("inputs", {}), env, log


def optional(run, read, path):
    """`read(path)`; None if there is no such file, and a note if it cannot be read."""
    return run.attempt(read, path) if path.exists() else None


def read_columns(path):
    """A CSV file as columns: name -> float64 array, but a list of texts for id and fold.

    Without rows it is an empty dict; an empty value is NaN. UserError if a value is no number.
    """
    rows = read_csv(path)
    names = list(rows[0]) if rows else []
    columns = {name: [row[name] for row in rows] for name in names}
    for name in set(names) - TEXTS:
        columns[name] = [value or "nan" for value in columns[name]]
    try:
        return {n: v if n in TEXTS else np.array(v, dtype=float) for n, v in columns.items()}
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds a value that is not a number; make it again") from None


def trainings(run):
    """The trainings: folders with a state.json, or RUN/seg/ARM/seedS that have not got that far."""
    folders = {path.parent for path in run.path.glob("seg/*/seed*/args.json")}
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        folders |= {path.parent for path in run.path.glob(f"{depth}state.json")}
    return [t for folder in sorted(folders) if (t := training(run, folder)) is not None]


def training(run, folder):
    """The Training in a folder; None if its state is that of something else."""
    name, _, args, *rest = recorded(run, folder)
    path = folder / "state.json"
    state: dict | None = optional(run, read_json, path)
    if state is None:
        state = {"rounds": [], "labelled": []}
    if not isinstance(state.get("rounds"), list) or not isinstance(state.get("labelled"), list):
        return None
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    latest = state["rounds"][-1] if state["rounds"] else {}  # with a person, data grow by the round
    return Training(
        name,
        folder,
        args,
        *rest,
        arm=folder.resolve().parent.name if seed else name,
        seed=state.get("seed", int(seed[1]) if seed else args.get("seed", 0)),
        data=latest.get("data", state.get("data", "")),
        synthetic=bool(state.get("synthetic")),
        planned=state.get("rounds_planned", 0),
        finished=path.exists() and is_finished({"rounds_planned": 0, **state}),
        rounds=[read_round(run, folder, entry, state["labelled"]) for entry in state["rounds"]],
    )


def read_round(run, folder, entry, labelled):
    """The Round of an entry of a state's rounds."""
    number = entry["round"]
    place = folder / round_name(number)
    columns = {}
    for name in ("log", "metrics", "folds"):
        path = place / f"{name}.csv"
        columns[name] = optional(run, read_columns, path)
        if name == "metrics" and not path.exists():
            run.notes.append(f"{path}: not found")
        if name != "log" and columns[name] and not {"id", "dice"} <= columns[name].keys():
            run.notes.append(f"{path}: has no column id or no column dice; it is left out")
            columns[name] = None
    weights = place / "weights.pt"
    return Round(
        number=number,
        labels=entry["labels"],
        steps=entry.get("steps"),
        note=entry.get("note") or "",
        pseudo=len(entry.get("pseudo") or []),
        chosen=[
            {"id": one["id"], "score": one.get("score"), "reason": one.get("source") or ""}
            for one in labelled
            if one.get("round") == number
        ],
        metrics=columns["metrics"] or {},
        folds=columns["folds"] or {},
        log=columns["log"] or {},
        weights=weights if weights.exists() else None,
    )


def clustering_of(run, training):
    """The clustering that a training has used, by its hash; else the first of the run, or None."""
    wanted = training.inputs.get("clusters") if training else None
    for stage in run.clusterings if wanted else ():
        path = stage.folder / "clusters.npz"
        if path.exists() and sha256_file(path) == wanted:
            return stage
    return run.clusterings[0] if run.clusterings else None


def read_map(run, stage):
    """Ids and coordinates of the map of the pool: (list, float N x 2); None if there is none.

    They are those of latent.png.
    """
    arrays = optional(run, read_arrays, stage.folder / "clusters.npz")
    if arrays is None or "map" not in arrays:
        return None
    return arrays["ids"].tolist(), arrays["map"]


# Data -------------------------------------------------------------------------------------------


def find_data(run, given):
    """Fill in the data folder: the `given` one, the one that the run names, or one inside it."""
    named = [stage.args["data"] for stage in reversed(run.stages()) if stage.args.get("data")]
    named = list(dict.fromkeys(named))
    if len(named) > 1:
        run.notes.append(
            f"stages have different data folders: {', '.join(named)}; shown: {named[0]}"
        )
    places = [Path(given)] if given else [Path(name) for name in named[:1]]
    if not given:
        inside = [run.path / Path(named[0]).name] if named else []
        places += [*inside, run.path / "data"]
    folder = next((place for place in places if (place / "manifest.json").is_file()), None)
    if folder is None and given:
        raise UserError(f"{given}: is no data folder; give one that preprocess.py has written")
    if folder is None:
        where = named[0] if named else "not recorded"
        run.notes.append(f"the data folder ({where}) is not there; give it with --data")
        return
    run.data_folder = folder
    run.manifest = run.attempt(read_json, folder / "manifest.json")
    run.splits = optional(run, read_json, folder / "splits.json")
    run.files = optional(run, read_csv, folder / "files.csv") or []
    if run.manifest is None:
        return
    run.data = run.attempt(open_data, folder)
    changed = {
        t.name for t in run.trainings if run.data and t.data and t.data != run.data.fingerprint
    }
    if changed:
        run.notes.append(
            f"{folder}: is not as it was when {min(changed)} was trained; "
            "pictures and lesion areas are of the folder as it is now"
        )
