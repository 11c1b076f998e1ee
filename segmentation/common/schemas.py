"""What the files between the stages must hold; checked where they are read.

Fields and arrays that are not named here are let through: older and newer versions have fewer or
more.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segmentation.common.runfiles import UserError, read_json, read_npz

Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ABOUT_0, ABOUT_1 = -1e-9, 1 + 1e-9  # ends of what is from 0 to 1, but for rounding
Share = Annotated[float, Field(ge=ABOUT_0, le=ABOUT_1)]
LEAST_SIDE, SIDE_STEP = 32, 16  # pixels of images: see data/sizes.py
Side = Annotated[int, Field(ge=LEAST_SIDE, multiple_of=SIDE_STEP)]
Size = Annotated[list[Side], Field(min_length=2, max_length=2)]
ROWS = {  # arrays with a row for each image: the kind of their values, and their dimensions
    "features": ("f", 2),
    "cluster": ("i", 1),
    "distance": ("f", 1),
    "map": ("f", 2),
    "pretext_loss": ("f", 1),
    "patterns": ("f", 3),
}


def repeated(names):
    """The first name that occurs before, or None."""
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


class Content(BaseModel):
    """The content of a file: types are not converted, so that "1" is no number."""

    model_config = ConfigDict(strict=True, extra="allow")


class Row(Content):
    """An image of a data folder."""

    id: Name
    image: str
    image_sha256: str
    mask: str | None
    mask_sha256: str | None
    copy_of: Name | None = None  # the id of which it is a near copy


class Manifest(Content):
    """manifest.json of a data folder."""

    rows: Annotated[list[Row], Field(min_length=1)]
    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3]
    synthetic: bool
    options: dict[str, Any]
    duplicates: list[list[str]]
    copies: list[list[str]] = []
    arrays: dict[Literal["images.npy", "masks.npy"], str]

    @model_validator(mode="after")
    def rows_are_sorted(self):
        ids = [row.id for row in self.rows]
        if repeated(ids) is not None:
            raise ValueError(f"the id {repeated(ids)} stands there twice")
        if ids != sorted(ids):
            raise ValueError("the rows are not sorted by id")
        originals = {row.id for row in self.rows if row.copy_of is None}
        for row in self.rows:
            if row.copy_of is not None and row.copy_of not in originals:
                raise ValueError(f"{row.id} is a near copy of {row.copy_of}, which is not there")
        return self


class Splits(Content):
    """splits.json of a data folder: no id is in two lists."""

    pool: list[Name]
    test: list[Name]
    dropped: list[Name]
    waiting: list[Name] = []

    @model_validator(mode="after")
    def lists_are_disjoint(self):
        twice = repeated([*self.pool, *self.test, *self.dropped, *self.waiting])
        if twice is not None:
            raise ValueError(f"the id {twice} stands there twice")
        return self


class Label(Content):
    """An image that was labelled."""

    id: Name
    round: Count
    score: Finite | None = None
    source: str = ""


class Round(Content):
    """A round of active learning that is done."""

    round: Count
    labels: Annotated[int, Field(ge=1)]
    pseudo: list[Name] = []
    note: str = ""
    steps: Count | None = None
    sources: str | None = None  # hash of the code that made it


class State(Content):
    """state.json of a run of active learning."""

    seed: int
    data: str
    synthetic: bool
    rounds_planned: Count
    rounds: list[Round]
    labelled: list[Label]

    @model_validator(mode="after")
    def rounds_follow_each_other(self):
        twice = repeated(label.id for label in self.labelled)
        if twice is not None:
            raise ValueError(f"the id {twice} was labelled twice")
        if [entry.round for entry in self.rounds] != list(range(len(self.rounds))):
            raise ValueError("the rounds are not numbered 0, 1, 2 ...")
        if len(self.rounds) > self.rounds_planned + 1:
            raise ValueError(f"it has {len(self.rounds)} rounds, more than planned")
        for entry in self.rounds:
            own = [label.id for label in self.labelled if label.round <= entry.round]
            if len(own) != entry.labels:
                listed = f"{entry.labels} labels, listed: {len(own)}"
                raise ValueError(f"round {entry.round} has {listed}")
            twice = repeated([*own, *entry.pseudo])
            if twice is not None:
                raise ValueError(f"round {entry.round} trains on {twice} twice")
        if any(label.round >= len(self.rounds) for label in self.labelled):
            raise ValueError("it has labels of a round that is not done")
        return self


class Architecture(Content):
    """Of a weights file: the arguments to build its network; older files have fewer."""

    in_channels: Literal[1, 3]
    out_channels: Annotated[int, Field(ge=1)] = 1
    width: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    heads: bool = False
    scale: Finite = 1.0
    encoder: Name = "paper"
    frozen: bool = False


class Finished(Content):
    """finish.Finish, as a file says it. A finish that is not known here is refused."""

    model_config = ConfigDict(extra="forbid")

    views: bool = False
    largest: bool = False


class Extra(Content):
    """Of a weights file: what it says besides the network; older files say less."""

    size: Size | None = None
    finish: Finished = Finished()


class Exported(Content):
    """What an ONNX file of export.py says besides the network."""

    size: Size
    channels: Literal[1, 3]
    finish: Finished
    pairs: list[Annotated[list[Share], Field(min_length=2, max_length=2)]]
    reference: list[list[Finite]] | None

    @model_validator(mode="after")
    def rows_are_equally_long(self):
        if len({len(row) for row in self.reference or ()}) > 1:
            raise ValueError("reference has rows of different lengths")
        return self


class Record(Content):
    """args.json of a stage."""

    args: dict[str, Any]
    inputs: dict[str, str]


class Asked(Content):
    """A round of annotate.json: what was asked for, and what was then labelled."""

    asked: list[Name]
    labelled: list[Name] | None


class Annotation(Content):
    """annotate.json."""

    root: str
    seed: int
    test: list[Name]
    rounds: list[Asked]


def read_checked(path, schema, fix):
    """The content of a JSON file, a dict that fits the `schema`. UserError says what does not."""
    return checked(read_json(path, fix), path, schema, fix)


def checked(content, path, schema, fix):
    """The `content` of a file, if it fits the `schema`. UserError says what does not."""
    try:
        schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        what = f"{place}: {what[:1].lower()}{what[1:]}" if place else what
        raise UserError(f"{path}: {what}; {fix}") from None
    return content


def read_arrays(path, *needed, fix="run cluster.py"):
    """The arrays of a features.npz or clusters.npz by name, checked; `needed` are among them.

    UserError where one is missing, ids are not distinct texts, or an array of ROWS has not a finite
    row of its kind for each of them.
    """
    arrays = read_npz(path, fix)

    def check(holds, what):
        if not holds:
            raise UserError(f"{path}: {what}; delete it, then {fix}")

    for name in ("ids", *needed):
        check(name in arrays, f"has no {name}")
    ids = arrays["ids"]
    check(ids.dtype.kind == "U" and ids.ndim == 1, "ids are not a list of texts")
    check(len(set(ids.tolist())) == len(ids), "ids are not distinct")
    for name in (name for name in ROWS if name in arrays):
        (kind, dimensions), values = ROWS[name], arrays[name]
        fits = values.dtype.kind == kind and values.ndim == dimensions
        check(fits and len(values) == len(ids), f"{name} has not one row of its kind for each id")
        check(np.isfinite(values).all(), f"{name} has values that are not finite")
    return arrays
