"""The table of bad input: each case is one line, exit code 2, a name in it, and nothing written.

A case is a script, its command line, and what the line has to contain. {data}, {weights},
{clusters} and {run} are finished stages, {out} is where to write, {tmp} is an empty folder in which
a `spoil` function may put copies that are damaged.
"""

import io
import json
import pickle
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LOOP, call
from helpers_data import hash_again
from PIL import Image
from test_arms import hyperparameters

from segmentation.common.runfiles import read_npz, write_npz
from segmentation.common.stages import write_torch
from segmentation.model.unet import UNet, save_model

PRE = "--data {data} --out {out} --width 4 --batch 8 --epochs 1 --device cpu"
CLU = "--data {data} --out {out} --k 4 --budget 8 --device cpu --weights {weights}/encoder.pt"
ACT = f"--data {{data}} --out {{out}} {' '.join(LOOP)}"
SAAL = f"{ACT} --cold-start saal --query saal --clusters {{clusters}}"
EVA = "--data {data} --out {out} --device cpu --weights"
PRO = "--data {data} --out {out} --features x={clusters} --encoder tf_efficientnet_lite0"

OPTIONS = [
    ("preprocess", "--demo 4 --size 100 --out {out}", "--size: 100"),
    ("preprocess", "--demo 4 --size 16 --out {out}", "--size: 16"),
    ("preprocess", "--demo 4 --size 64xx --out {out}", "64xx is not a size"),
    ("preprocess", "--demo 0 --out {out}", "--demo: 0 is not a positive number"),
    ("preprocess", "--demo four --out {out}", "--demo"),
    ("preprocess", "--demo 4", "give --out"),
    ("preprocess", "--out {out}", "there is no input"),
    ("preprocess", "--demo 4 --root {tmp} --out {out}", "cannot be combined"),
    ("preprocess", "--demo 4 --masks {tmp} --out {out}", "--masks needs"),
    ("preprocess", "--images {tmp} --test-images {tmp} --out {out}", "--test-masks"),
    ("preprocess", "--demo 4 --out {out} --test-count -1", "--test-count: -1 is negative"),
    ("preprocess", "--demo 4 --out {out} --test-count 9", "--test-count 9"),
    ("preprocess", "--demo 4 --out {out} --test-count 4", "--test-count 4"),
    ("preprocess", "--demo 4 --out {out} --pool-count 4 --test-count 4", "--pool-count 4"),
    ("preprocess", "--demo 4 --out {out} --workers 0", "--workers"),
    ("preprocess", "--demo 4 --out {out} --group folder", "--group"),
    ("preprocess", "--demo 4 --out {out} --near-copies 0.1x10", "--near-copies"),
    ("preprocess", "--root {tmp} --out {out} --near-copies 10", "10 is not SHARExTIMES"),
    ("preprocess", "--root {tmp} --out {out} --near-copies 1.1x2", "1.1x2 is not SHARExTIMES"),
    ("preprocess", "--root {tmp} --out {out} --near-copies 0.1x0", "0.1x0 is not SHARExTIMES"),
    (
        "preprocess",
        "--root {tmp} --out {out} --near-copies 0.1x2 --pool-count 4",
        "--near-copies cannot be combined with --pool-count",
    ),
    ("preprocess", "--demo 4 --out {out} --ove", "--ove"),
    ("preprocess", "--demo 4 --size 32 --out .", "--out .: is where you are"),
    ("preprocess", "--demo 4 --size 32 --out {here}/..", "/..: is where you are"),
    ("preprocess", "--demo 4 --size 32 --out ''", "--out: is empty"),
    ("pretrain", "--data {data} --out ''", "--out: is empty"),
    ("active_learning", "--data '' --out {out}", "--data: is empty"),
    ("preprocess", "--root {tmp}/none --out {out}", "{tmp}/none"),
    ("preprocess", "--root {tmp} --out {out}", "{tmp}"),
    ("preprocess", "--verify --out {out}", "{out}"),
    ("pretrain", "--out {out}", "--data"),
    ("pretrain", f"{PRE} --lr nan", "--lr"),
    ("pretrain", f"{PRE} --lr -1", "--lr"),
    ("pretrain", f"{PRE} --momentum 5", "--momentum"),
    ("pretrain", f"{PRE} --gamma -1", "--gamma"),
    ("pretrain", f"{PRE} --flip 2", "--flip"),
    ("pretrain", f"{PRE} --inpaint -0.5", "--inpaint"),
    ("pretrain", f"{PRE} --validation 0", "--validation 0"),
    ("pretrain", f"{PRE} --validation nan", "--validation nan"),
    ("pretrain", f"{PRE} --batch 0", "--batch"),
    ("pretrain", f"{PRE} --step 0", "--step"),
    ("pretrain", f"{PRE} --encoder nope", "nope"),
    ("pretrain", f"{PRE} --encoder-weights package", "--encoder-weights needs --encoder"),
    ("pretrain", f"{PRE} --device nonsense", "--device nonsense"),
    ("pretrain", f"{PRE} --device meta", "--device meta"),
    ("pretrain", f"{PRE} --seed 1.5", "--seed"),
    ("pretrain", "--data {tmp}/none --out {out}", "{tmp}/none"),
    ("cluster", f"{CLU} --k 0", "--k"),
    ("cluster", f"{CLU} --k 1000", "--k 1000"),
    ("cluster", f"{CLU} --budget 0", "--budget"),
    ("cluster", f"{CLU} --budget 1000", "--budget 1000"),
    ("cluster", f"{CLU} --pca -1", "--pca -1"),
    ("cluster", f"{CLU} --pca 500", "--pca 500"),
    ("cluster", f"{CLU} --pooling 3", "--pooling"),
    ("cluster", f"{CLU} --rule nope", "--rule"),
    ("cluster", f"{CLU} --n-init 0", "--n-init"),
    ("cluster", f"{CLU} --rule pt4al", "best.pt"),
    ("cluster", "--data {data} --out {out}", "--weights"),
    ("cluster", "--data {data} --out {out} --features timm", "--weights"),
    (
        "cluster",
        "--data {data} --out {out} --features timm --backbone nope --weights package",
        "nope",
    ),
    ("cluster", f"{CLU} --features thumbnail", "--weights"),
    ("active_learning", f"{ACT} --lr nan", "--lr"),
    ("active_learning", f"{ACT} --lr -1", "--lr"),
    ("active_learning", f"{ACT} --weight-decay -1", "--weight-decay"),
    ("active_learning", f"{ACT} --dropout 1", "--dropout"),
    ("active_learning", f"{ACT} --dropout nan", "--dropout"),
    ("active_learning", f"{ACT} --rounds -1", "--rounds"),
    ("active_learning", f"{ACT} --initial 0", "--initial 0"),
    ("active_learning", f"{ACT} --initial many", "--initial many"),
    ("active_learning", f"{ACT} --initial ²", "--initial ²"),
    ("active_learning", f"{ACT} --initial 1000", "budget of 1010"),
    ("active_learning", f"{ACT} --budgets 20 10", "--budgets 20 10"),
    ("active_learning", f"{ACT} --budgets 10 10", "--budgets 10 10"),
    ("active_learning", f"{ACT} --cold-start nope", "--cold-start"),
    ("active_learning", f"{ACT} --cold-start saal", "--clusters"),
    ("active_learning", f"{ACT} --query dsal", "--heads"),
    ("active_learning", f"{ACT} --init all", "--weights"),
    ("active_learning", f"{ACT} --weights {{weights}}/best.pt", "--init"),
    ("active_learning", f"{ACT} --frozen", "--encoder"),
    ("active_learning", f"{ACT} --folds 1", "--folds 1"),
    ("active_learning", f"{ACT} --folds 100", "--folds 100"),
    ("active_learning", f"{ACT} --folds -3", "--folds"),
    ("active_learning", f"{ACT} --holdout 48", "--holdout 48"),
    ("active_learning", f"{ACT} --holdout -1", "--holdout"),
    ("active_learning", f"{ACT} --suggest 3", "--suggest"),
    ("active_learning", f"{ACT} --labelled {{tmp}}/none.csv", "{tmp}/none.csv"),
    ("active_learning", f"{ACT} --steps -1", "--steps"),
    ("active_learning", f"{ACT} --passes 0", "--passes"),
    ("active_learning", f"{ACT} --encoder-rate -1", "--encoder-rate"),
    ("active_learning", f"{ACT} --labelled-share 1", "--labelled-share"),
    ("active_learning", f"{ACT} --labelled-share nan", "--labelled-share"),
    ("active_learning", f"{ACT} --ceal-bins 0", "--ceal-bins"),
    ("active_learning", f"{ACT} --ceal-uncertain -2", "--ceal-uncertain"),
    ("active_learning", f"{ACT} --training-masks {{tmp}}/none", "{tmp}/none"),
    ("active_learning", f"{ACT} --own-masks sure", "--own-masks"),
    ("active_learning", f"{ACT} --device tpu", "--device tpu"),
    ("active_learning", f"{ACT} --epochs 0", "--epochs"),
    ("active_learning", f"{ACT} --amp fp8", "--amp"),
    ("active_learning", f"{SAAL} --clusters {{tmp}}", "{tmp}"),
    ("evaluate", f"{EVA} {{tmp}}/none.pt", "{tmp}/none.pt"),
    ("evaluate", f"{EVA} {{weights}}/best.pt", "best.pt"),
    ("evaluate", f"{EVA} {{weights}}/encoder.pt", "encoder.pt"),
    ("evaluate", f"{EVA} {{run}}/round_02/weights.pt --batch 0", "--batch"),
    ("evaluate", f"{EVA} {{run}}/round_02/weights.pt --split none", "--split"),
    ("evaluate", f"{EVA} {{run}}/round_02/weights.pt --native {{tmp}}/none", "none"),
    ("predict", "--weights {run}/round_02/weights.pt {tmp}/none --out {out}", "{tmp}/none"),
    ("predict", "--weights {weights}/best.pt {tmp} --out {out}", "best.pt"),
    ("predict", "--weights {run}/round_02/weights.pt {tmp} --out {tmp}/in", "lies inside"),
    ("predict", "--weights {run}/round_02/weights.pt {tmp} --out {out} --drafts x", "--drafts"),
    ("export", "--weights {run}/round_02/weights.pt --out {tmp}/x.pt", "x.pt"),
    ("export", "--weights {weights}/best.pt --out {tmp}/x.onnx", "best.pt"),
    ("tables", "--runs {tmp} --out {out}", "{tmp}"),
    ("tables", "--runs {runs} --out {out} --baseline nope", "--baseline nope"),
    ("tables", "--runs {runs} --out {out} --arms nope", "nope"),
    ("tables", "--runs {runs} --out {out} --baseline random --bound nope", "--bound nope"),
    ("choices", "--runs {runs} --arms no --clusters {clusters} --data {data} --out {out}", "no"),
    (
        "choices",
        "--runs {runs} --arms random --clusters {tmp} --data {data} --out {out}",
        "clusters.npz",
    ),
    (
        "choices",
        "--runs {runs} --arms random --budget 99 --clusters {clusters} --data {data} --out {out}",
        "--budget",
    ),
    ("report", "{tmp}", "{tmp}"),
    ("report", "{tmp}/none", "{tmp}/none"),
    ("report", "{run} --arm nope --out {tmp}/x.html", "--arm nope"),
    ("report", "{run} --out {tmp}", "--out {tmp}"),
    ("annotate", "--root {tmp}/none --out {out}", "{tmp}/none"),
    ("annotate", "--root {tmp} --out {tmp}/x", "inside of --root"),
    ("annotate", "--root {tmp} --out {out} --test 0 --folds 0", "--test or --folds"),
    ("annotate", "--root {tmp} --out {out} --per-round 0", "--per-round"),
    ("probe", "--data {data} --out {out} --features x", "x is not NAME=FOLDER"),
    ("probe", f"{PRO} --budgets 10 1000", "--budgets 1000"),
    ("probe", f"{PRO} --k 1000", "--k 1000"),
    ("scores", f"{EVA} {{weights}}/best.pt", "restores images"),
    ("scores", f"{EVA} {{weights}}/encoder.pt", "encoder.pt"),
    ("schedule", "--jobs 0", "--jobs"),
    ("schedule", "--jobs x", "--jobs"),
]


def edit(name, change):
    """A spoil function: `change(content)` of a JSON file in the copy of the data folder."""

    def spoil(tmp, stages):
        copy = shutil.copytree(stages["data"], tmp / "data")
        content = json.loads((copy / name).read_text())
        change(content)
        (copy / name).write_text(json.dumps(content))

    return spoil


def of_state(change):
    """The same of the state of a copy of the run, to be continued as runs/random/seed0."""

    def spoil(tmp, stages):
        copy = shutil.copytree(stages["run"], tmp / "runs" / "random" / "seed0")
        content = json.loads((copy / "state.json").read_text())
        change(content, copy)
        (copy / "state.json").write_text(json.dumps(content))

    return spoil


def arrays(name, change, right_hash=False):
    """The same of an array of the data folder; with a hash that fits, or not."""

    def spoil(tmp, stages):
        copy = shutil.copytree(stages["data"], tmp / "data")
        np.save(copy / name, change(np.load(copy / name)))
        if right_hash:
            hash_again(copy)

    return spoil


def file(name, content):
    """A spoil function that writes a file of bytes."""
    return lambda tmp, stages: (tmp / name).write_bytes(content)


def weights(change, name="best.pt"):
    """The same of a copy of the pretraining's weights: `change(content)`."""

    def spoil(tmp, stages):
        content = torch.load(stages["weights"] / name, weights_only=True)
        change(content)
        write_torch(tmp / "w.pt", content)

    return spoil


def nan(content):
    content["model"][min(content["model"])][:] = float("nan")


def shape(content):
    name = min(content["model"])
    content["model"][name] = content["model"][name][:-1]


def of_features(change):
    def spoil(tmp, stages):
        copy = shutil.copytree(stages["clusters"], tmp / "clusters")
        content = read_npz(copy / "features.npz")
        change(content)
        write_npz(copy / "features.npz", **content)

    return spoil


def append(name, entry):
    return lambda content: content[name].append(entry)


def metric(column, value):
    """A metrics.csv of the run with one value changed."""

    def spoil(tmp, stages):
        copy = shutil.copytree(stages["run"], tmp / "runs" / "random" / "seed0")
        cell(column, value)(copy / "round_01" / "metrics.csv")

    return spoil


def removed(name):
    return of_state(lambda content, copy: (copy / name).unlink())


def emptied(name):
    return of_state(lambda content, copy: (copy / name).write_bytes(b""))


def of_round(name, change):
    """The same of a file of the last round, copied with those beside it; a photograph to predict.

    `change(path)` damages it.
    """

    def spoil(tmp, stages):
        shutil.copytree(stages["run"] / "round_02", tmp / "round")
        images(tmp, "a.png")
        change(tmp / "round" / name)

    return spoil


def said(**values):
    """A `change` of weights.pt: other values of what it says besides the network."""

    def change(path):
        write_torch(path, torch.load(path, weights_only=True) | values)

    return change


def not_a_number(path):
    """A `change` of weights.pt: a tensor of NaN."""
    content = torch.load(path, weights_only=True)
    nan(content)
    write_torch(path, content)


def built(**values):
    """The same of the architecture."""

    def change(path):
        content = torch.load(path, weights_only=True)
        write_torch(path, content | {"architecture": content["architecture"] | values})

    return change


def reference(**arrays):
    """A `change` of reference.npz: other arrays."""
    return lambda path: write_npz(path, **arrays)


def cell(column, value):
    """A `change` of a CSV file: another value in its first row."""

    def change(path):
        header, first, *rest = path.read_text().splitlines()
        values = first.split(",")
        values[header.split(",").index(column)] = value
        path.write_text("\n".join([header, ",".join(values), *rest, ""]))

    return change


def exported(**values):
    """An ONNX file of the last round, whose metadata has other values."""

    def spoil(tmp, stages):
        onnx = pytest.importorskip("onnx")
        images(tmp, "a.png")
        call("export", "--weights", stages["run"] / "round_02/weights.pt", "--out", tmp / "m.onnx")
        model = onnx.load(tmp / "m.onnx")
        (known,) = (prop for prop in model.metadata_props if prop.key == "saal")
        known.value = values.get("text") or json.dumps(json.loads(known.value) | values)
        onnx.save(model, tmp / "m.onnx")

    return spoil


def class_of_a_stranger(tmp, stages):
    torch.save({"schema": 1, "architecture": Stranger()}, tmp / "w.pt")


class Stranger:
    """What a foreign pickle may hold."""


def images(tmp, *names, size=(40, 40)):
    for name in names:
        (tmp / "root" / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "red").save(tmp / "root" / "images" / name)


def bad_mask(value):
    def spoil(tmp, stages):
        images(tmp, "a.png", "b.png")
        (tmp / "root" / "masks").mkdir()
        Image.fromarray(value).save(tmp / "root" / "masks" / "a.png")

    return spoil


def array_of_data(change):
    """images.npy of a copy of the data folder; `change(path)` damages it."""
    return lambda tmp, stages: change(shutil.copytree(stages["data"], tmp / "data") / "images.npy")


def with_bytes(content):
    return lambda path: path.write_bytes(content)


def with_objects(path):
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def score_nan(content, _):
    content["labelled"][0]["score"] = float("nan")


def pseudo_of_a_label(content, _):
    content["rounds"][1]["pseudo"] = [content["labelled"][0]["id"]]


DATA = "--data {tmp}/data --out {out}"
AT_60 = "--demo 60 --size 32 --out {tmp}/data"
TIMM = "--data {data} --out {out} --features timm --weights package"
AGAIN = f"--data {{data}} --out {{tmp}}/runs/random/seed0 {' '.join(LOOP)}"
RUNS = "--runs {tmp}/runs --out {out}"
ROOT = "--root {tmp}/root --out {out} --size 32"
W = "{tmp}/w.pt"
PREDICT = "--weights {tmp}/round/weights.pt {tmp}/root --out {out}"
EXPORT = "--weights {tmp}/round/weights.pt --out {tmp}/m.onnx"
ONNX = "--weights {tmp}/m.onnx {tmp}/root --out {out}"
FEATURES = np.ones((9, 32), np.float32)
FILES = [
    # data folders
    ("pretrain", DATA, "manifest.json", edit("manifest.json", lambda c: c.pop("rows"))),
    ("pretrain", DATA, "rows.3.id", edit("manifest.json", lambda c: c["rows"][3].pop("id"))),
    (
        "pretrain",
        DATA,
        "stands there twice",
        edit("manifest.json", lambda c: c["rows"].append(c["rows"][0])),
    ),
    ("pretrain", DATA, "not sorted", edit("manifest.json", lambda c: c["rows"].reverse())),
    ("pretrain", DATA, "channels", edit("manifest.json", lambda c: c.update(channels=2))),
    ("pretrain", DATA, "size", edit("manifest.json", lambda c: c.update(size="32"))),
    ("pretrain", DATA, "images.npy", edit("manifest.json", lambda c: c.update(size=[16, 16]))),
    ("pretrain", DATA, "schema", edit("manifest.json", lambda c: c.update(schema=9))),
    ("pretrain", DATA, "pool", edit("splits.json", lambda c: c.pop("pool"))),
    (
        "active_learning",
        f"{DATA} {' '.join(LOOP)}",
        "stands there twice",
        edit("splits.json", lambda c: c["pool"].append(c["test"][0])),
    ),
    (
        "cluster",
        f"{DATA} --weights {{weights}}/encoder.pt",
        "nobody",
        edit("splits.json", append("pool", "nobody")),
    ),
    ("pretrain", DATA, "images.npy", arrays("images.npy", np.zeros_like)),
    ("pretrain", DATA, "masks.npy", arrays("masks.npy", lambda a: a * 255)),
    ("pretrain", DATA, "images.npy", arrays("images.npy", lambda a: a[:-1])),
    ("pretrain", DATA, "images.npy", arrays("images.npy", lambda a: a.astype(np.float32))),
    (
        "active_learning",
        f"{DATA} {' '.join(LOOP)}",
        "all masks of the pool are empty",
        arrays("masks.npy", np.zeros_like, True),
    ),
    (
        "evaluate",
        f"{DATA} --weights {{run}}/round_02/weights.pt",
        "are empty",
        arrays("masks.npy", np.zeros_like, True),
    ),
    ("preprocess", AT_60, "again with --overwrite", array_of_data(lambda path: path.unlink())),
    ("preprocess", AT_60, "again with --overwrite", array_of_data(with_bytes(b"hello"))),
    ("preprocess", AT_60, "again with --overwrite", array_of_data(with_objects)),
    # runs
    ("active_learning", AGAIN, "seed", of_state(lambda c, _: c.pop("seed"))),
    ("active_learning", AGAIN, "has seed 5, not 0", of_state(lambda c, _: c.update(seed=5))),
    ("active_learning", AGAIN, "has data zzz", of_state(lambda c, _: c.update(data="zzz"))),
    (
        "active_learning",
        AGAIN,
        "has rounds_planned 9, not 2",
        of_state(lambda c, _: c.update(rounds_planned=9)),
    ),
    (
        "active_learning",
        AGAIN,
        "nobody is no image",
        of_state(lambda c, _: c["rounds"][1].update(pseudo=["nobody"])),
    ),
    (
        "active_learning",
        AGAIN,
        "rounds.1.labels",
        of_state(lambda c, _: c["rounds"][1].pop("labels")),
    ),
    (
        "active_learning",
        AGAIN,
        "labelled twice",
        of_state(lambda c, _: c["labelled"].append(c["labelled"][0])),
    ),
    (
        "active_learning",
        AGAIN,
        "more than planned",
        of_state(lambda c, _: c["rounds"].append({**c["rounds"][2], "round": 3})),
    ),
    (
        "active_learning",
        AGAIN,
        "nobody",
        of_state(lambda c, _: c["labelled"][0].update(id="nobody")),
    ),
    ("active_learning", AGAIN, "weights.pt", removed("round_02/weights.pt")),
    ("active_learning", AGAIN, "metrics.csv", removed("round_01/metrics.csv")),
    ("active_learning", AGAIN, "weights.pt: is empty", emptied("round_02/weights.pt")),
    ("active_learning", AGAIN, "metrics.csv: is empty", emptied("round_01/metrics.csv")),
    (
        "active_learning",
        AGAIN,
        "round_01/weights.pt",
        of_state(
            lambda c, _: (
                c["rounds"].pop(),
                c.update(labelled=[one for one in c["labelled"] if one["round"] < 2]),
            )
        ),
    ),
    (
        "active_learning",
        AGAIN,
        "args.json",
        lambda tmp, stages: (
            of_state(lambda c, _: None)(tmp, stages),
            (tmp / "runs/random/seed0/args.json").write_text("{}"),
        ),
    ),
    ("active_learning", AGAIN, "labelled.0.score", of_state(score_nan)),
    ("tables", RUNS, "trains on DEMO", of_state(pseudo_of_a_label)),
    ("tables", RUNS, "metrics.csv", removed("round_01/metrics.csv")),
    ("tables", RUNS, "confidence of", metric("confidence", "nan")),
    ("tables", RUNS, "dice of", metric("dice", "5.0")),
    ("tables", RUNS, "dice of", metric("dice", "nan")),
    ("tables", RUNS, "not a number", metric("jaccard", "much")),
    ("tables", RUNS, "hd95 of", metric("hd95", "-1")),
    (
        "tables",
        RUNS,
        "seed1",
        lambda tmp, stages: shutil.copytree(stages["run"], tmp / "runs" / "random" / "seed1"),
    ),
    # weights
    ("cluster", f"--data {{data}} --out {{out}} --weights {W}", "w.pt", weights(nan)),
    ("cluster", f"--data {{data}} --out {{out}} --weights {W}", "w.pt", weights(shape)),
    (
        "cluster",
        f"--data {{data}} --out {{out}} --weights {W}",
        "w.pt",
        weights(lambda c: c.pop("model")),
    ),
    (
        "cluster",
        f"--data {{data}} --out {{out}} --weights {W}",
        "w.pt",
        weights(lambda c: c.update(architecture={"width": "x"})),
    ),
    (
        "cluster",
        f"--data {{data}} --out {{out}} --weights {W}",
        "w.pt",
        weights(lambda c: c.update(schema=2)),
    ),
    ("cluster", f"--data {{data}} --out {{out}} --weights {W}", "w.pt", class_of_a_stranger),
    (
        "cluster",
        f"--data {{data}} --out {{out}} --weights {W}",
        "w.pt",
        file("w.pt", b"\x89PNG\r\n\x1a\n"),
    ),
    (
        "cluster",
        f"--data {{data}} --out {{out}} --weights {W}",
        "w.pt",
        file("w.pt", pickle.dumps([1, 2])),
    ),
    ("cluster", f"--data {{data}} --out {{out}} --weights {W}", "w.pt", file("w.pt", b"")),
    ("active_learning", f"{ACT} --init encoder --weights {W}", "w.pt", weights(nan)),
    ("active_learning", f"{ACT} --init all --weights {W}", "w.pt", weights(shape)),
    (
        "active_learning",
        f"{ACT} --init all --weights {W}",
        "w.pt",
        lambda tmp, _: save_model(tmp / "w.pt", UNet(width=8)),
    ),
    (
        "evaluate",
        f"{EVA} {W}",
        "restores images",
        lambda tmp, _: save_model(tmp / "w.pt", UNet(width=4, out_channels=3)),
    ),
    (
        "evaluate",
        f"{EVA} {W}",
        "channel",
        lambda tmp, _: save_model(tmp / "w.pt", UNet(width=4, in_channels=3)),
    ),
    (
        "evaluate",
        f"{EVA} {W}",
        "64x64",
        lambda tmp, _: save_model(tmp / "w.pt", UNet(width=4), size=[64, 64]),
    ),
    (
        "scores",
        f"{EVA} {W}",
        "channel",
        lambda tmp, _: save_model(tmp / "w.pt", UNet(width=4, in_channels=3)),
    ),
    # what a weights file says, and what lies beside it
    ("predict", PREDICT, "size.0", of_round("weights.pt", said(size=[0, 0]))),
    ("predict", PREDICT, "size", of_round("weights.pt", said(size=[32]))),
    ("predict", PREDICT, "size", of_round("weights.pt", said(size="32"))),
    ("predict", PREDICT, "size.0", of_round("weights.pt", said(size=[-32, 32]))),
    ("predict", PREDICT, "size.0", of_round("weights.pt", said(size=[33, 47]))),
    ("predict", PREDICT, "finish", of_round("weights.pt", said(finish="all"))),
    ("predict", PREDICT, "finish.crf", of_round("weights.pt", said(finish={"crf": True}))),
    ("export", EXPORT, "size.0", of_round("weights.pt", said(size=[0, 0]))),
    ("export", EXPORT, "finish", of_round("weights.pt", said(finish="all"))),
    ("evaluate", f"{EVA} {{tmp}}/round/weights.pt", "size", of_round("weights.pt", said(size=7))),
    (
        "evaluate",
        f"{EVA} {{tmp}}/round/weights.pt",
        "not finite",
        of_round("weights.pt", not_a_number),
    ),
    ("predict", PREDICT, "scale", of_round("weights.pt", built(scale="x"))),
    ("predict", PREDICT, "in_channels", of_round("weights.pt", built(in_channels=7))),
    ("predict", PREDICT, "hf-hub:", of_round("weights.pt", built(encoder="hf-hub:a/b"))),
    ("predict", PREDICT, "local-dir:", of_round("weights.pt", built(encoder="local-dir:/tmp"))),
    ("pretrain", f"{PRE} --encoder hf-hub:a/b", "--encoder hf-hub:a/b: not a backbone", None),
    ("pretrain", f"{PRE} --encoder local-dir:/x", "--encoder local-dir:/x: not a backbone", None),
    ("cluster", f"{TIMM} --backbone local-dir:/x", "--backbone local-dir:/x: not", None),
    ("cluster", f"{TIMM} --backbone hf_hub:a/b", "--backbone hf_hub:a/b: not", None),
    ("predict", PREDICT, "no features of 32", of_round("reference.npz", reference(x=FEATURES))),
    (
        "predict",
        PREDICT,
        "no features of 32",
        of_round("reference.npz", reference(features=FEATURES[:, :5])),
    ),
    (
        "predict",
        PREDICT,
        "no features of 32",
        of_round("reference.npz", reference(features=FEATURES.astype(str))),
    ),
    (
        "predict",
        PREDICT,
        "not finite",
        of_round("reference.npz", reference(features=FEATURES * np.nan)),
    ),
    ("predict", PREDICT, "not a readable .npz", of_round("reference.npz", with_bytes(b"hello"))),
    ("predict", PREDICT, "metrics.csv", of_round("metrics.csv", cell("confidence", "nan"))),
    ("predict", PREDICT, "metrics.csv", of_round("metrics.csv", cell("dice", "1.5"))),
    ("export", EXPORT, "metrics.csv", of_round("metrics.csv", cell("confidence", "nan"))),
    ("predict", ONNX, "is no JSON", exported(text="not json")),
    ("predict", ONNX, "size", exported(text="{}")),
    ("predict", ONNX, "size.0", exported(size=["a", 1])),
    ("predict", ONNX, "says 3", exported(channels=3)),
    ("predict", ONNX, "different lengths", exported(reference=[[0.5], [0.5, 1.0]])),
    ("predict", ONNX, "no features of 32", exported(reference=[[0.5], [0.5]])),
    ("predict", ONNX, "pairs.0.1", exported(pairs=[[0.5, float("nan")]])),
    # features
    (
        "active_learning",
        SAAL.replace("{clusters}", "{tmp}/clusters"),
        "features.npz",
        of_features(lambda c: c.pop("features")),
    ),
    (
        "active_learning",
        SAAL.replace("{clusters}", "{tmp}/clusters"),
        "features.npz",
        of_features(lambda c: c["features"].fill(np.nan)),
    ),
    (
        "active_learning",
        SAAL.replace("{clusters}", "{tmp}/clusters"),
        "clusters.npz: made from other features",
        of_features(lambda c: c["features"].fill(0.5)),
    ),
    (
        "active_learning",
        SAAL.replace("{clusters}", "{tmp}/clusters"),
        "clusters.npz",
        lambda tmp, stages: (
            shutil.copytree(stages["clusters"], tmp / "clusters"),
            (tmp / "clusters" / "clusters.npz").unlink(),
        ),
    ),
    (
        "cluster",
        CLU.replace("{out}", "{tmp}/clusters").replace("8", "12"),
        "features.npz",
        lambda tmp, stages: (
            of_features(lambda c: c["features"].fill(np.nan))(tmp, stages),
            (tmp / "clusters" / "selection.json").unlink(),
        ),
    ),
    # lists of labels
    (
        "active_learning",
        f"{ACT} --labelled {{tmp}}/l.csv",
        "l.csv",
        file("l.csv", b"id,round\nnobody,0\n"),
    ),
    (
        "active_learning",
        f"{ACT} --labelled {{tmp}}/l.csv",
        "l.csv",
        file("l.csv", b"id,round\nDEMO_0000001,1\n"),
    ),
    ("active_learning", f"{ACT} --labelled {{tmp}}/l.csv", "l.csv", file("l.csv", b"\xff\xfe\x00")),
    ("active_learning", f"{ACT} --labelled {{tmp}}/l.csv", "l.csv", file("l.csv", b"name\nx\n")),
    # photographs and masks
    (
        "preprocess",
        ROOT,
        "a.png",
        bad_mask(np.full((40, 40), 77, np.uint8) + np.arange(40, dtype=np.uint8)),
    ),
    ("preprocess", ROOT, "a.png", bad_mask(np.zeros((30, 40), np.uint8))),
    (
        "preprocess",
        ROOT,
        "a.jpg",
        lambda tmp, _: (
            images(tmp, "b.png"),
            (tmp / "root/images/a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture"),
        ),
    ),
    (
        "preprocess",
        ROOT,
        "a.png",
        lambda tmp, _: (images(tmp, "b.png"), (tmp / "root/images/a.png").write_bytes(b"")),
    ),
    ("preprocess", ROOT, "a.jpg", lambda tmp, _: images(tmp, "a.jpg", "a.png")),
    (
        "preprocess",
        f"{ROOT} --group {{tmp}}/g.csv",
        "g.csv",
        lambda tmp, _: (images(tmp, "a.png", "b.png"), (tmp / "g.csv").write_text("x\n1\n")),
    ),
    (
        "preprocess",
        f"{ROOT} --test-list {{tmp}}/t.txt",
        "t.txt",
        lambda tmp, _: (images(tmp, "a.png", "b.png"), (tmp / "t.txt").write_text("nobody\n")),
    ),
    # places
    ("preprocess", "--demo 4 --size 32 --out {tmp}/f", "{tmp}/f", file("f", b"I am a file")),
    ("preprocess", "--demo 4 --size 32 --out {tmp}/f/x", "{tmp}/f", file("f", b"I am a file")),
    ("pretrain", PRE.replace("{out}", "{tmp}/f"), "{tmp}/f", file("f", b"I am a file")),
    ("cluster", CLU.replace("{out}", "{tmp}/f"), "{tmp}/f", file("f", b"I am a file")),
    ("active_learning", ACT.replace("{out}", "{tmp}/f/x"), "{tmp}/f", file("f", b"I am a file")),
    (
        "evaluate",
        "--data {data} --out {tmp}/f --weights {run}/round_02/weights.pt",
        "{tmp}/f",
        file("f", b"I am a file"),
    ),
    ("tables", "--runs {runs} --out {tmp}/f", "{tmp}/f", file("f", b"I am a file")),
    ("pretrain", PRE.replace("{out}", "{weights}") + " --lr 0.7", "made with", None),
    ("cluster", CLU.replace("{out}", "{clusters}") + " --seed 7", "made with", None),
    ("active_learning", ACT.replace("{out}", "{run}") + " --seed 7", "made with", None),
]
CASES = [(*case, None) for case in OPTIONS] + FILES


@pytest.fixture(scope="session")
def stages(data, weights, clusters, tmp_path_factory):
    """Finished stages by name; they must stay as they are."""
    runs = tmp_path_factory.mktemp("bad") / "runs"
    call("active_learning", "--data", data, "--out", runs / "random" / "seed0", *LOOP)
    run = runs / "random" / "seed0"
    return {"data": data, "weights": weights, "clusters": clusters, "run": run, "runs": runs}


def listing(*folders):
    """Every file below some folders, with its time."""
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".checked.json"
    }


def test_there_are_many():
    assert len(CASES) >= 120
    assert len({case[:2] for case in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_one_line_and_nothing_written(number, stages, refused, tmp_path, monkeypatch):
    script, words, named, spoil = CASES[number]
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    tmp.mkdir()
    if spoil is not None:
        spoil(tmp, stages)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    places = {**stages, "tmp": tmp, "out": out, "here": Path.cwd()}
    before = listing(tmp, *stages.values())
    line = refused(script, *shlex.split(words.format(**places)))
    assert named.format(**places) in line, line
    assert "weights_only" not in line
    assert not out.exists()
    assert listing(tmp, *stages.values()) == before


SETTINGS = [
    ("GRAY", "yes"),
    ("DETERMINISTIC", "yes"),
    ("LINK_COPIES", "yes"),
    ("JOBS", "0"),
    ("JOBS", "x"),
    ("SEEDS", ""),
    ("SEEDS", "one"),
    ("ARMS", ""),
    ("ARMS", "nope"),
    ("BASELINE", "nope"),
    ("OTHER_BUDGETS", "x"),
    ("BUDGETS", "ten"),
    ("BUDGETS", "20 10"),
    ("SHARD", "5/4"),
    ("SIZE", "large"),
    ("INIT", "some"),
    ("PRE_SEED", "often"),
    ("PRE_LR", "fast"),
    ("FINISH", "well"),
    ("TABLES", "one"),
    ("TABLES", ""),
    ("TABLES", " \n"),
    ("TABLES", "../up random random"),
    ("TABLES", "one random random\none random saal"),
    ("MIXED", "yes"),
    ("SEEDS", "0 1 0"),
    ("SEEDS", "0 00"),
    ("BUDGETS", "²"),
    ("PASSES", "0"),
    ("ROUNDS", "x"),
    ("EPOCHS", "x"),
    ("EPOCHS_ROUND", "0"),
    ("FULL_EPOCHS", "-1"),
    ("STEPS", "many"),
    ("K", "x"),
    ("K", "0"),
    ("WIDTH", "0"),
    ("BATCH", "0"),
    ("DROPOUT", "2"),
    ("DROPOUT", "1"),
    ("DEVICE", "tpu"),
    ("AMP", "bf17"),
    ("COMPILE", "yes"),
    ("PRE_PROCESSES", "x"),
    ("PRE_EPOCHS", "0"),
    ("PRE_BATCH", ""),
    ("PRE_OPTIMIZER", "best"),
    ("POOLING", "3"),
    ("PCA", "-1"),
    ("INITIAL", "some"),
    ("PER_ROUND", "0"),
    ("RECIPE", "weak"),
    ("CHOICES", "x"),
    ("POOL_COUNT", "0"),
    ("TEST_COUNT", "-1"),
    ("SPLIT_SEED", "x"),
    ("DEMO_IMAGES", "0"),
    ("ENCODER_WEIGHTS", "/nowhere.pth"),
    ("IMAGENET", "/nowhere.pth"),
    ("ENCODER", "nope"),
    ("BACKBONE", "nope"),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_settings_of_run_sh(name, value, refused, monkeypatch):
    for key, text in {**hyperparameters(), name: value}.items():
        monkeypatch.setenv(key, text)
    if name == "BASELINE":
        monkeypatch.setenv("TABLES", "tables nope random saal")
    if name == "BACKBONE":
        monkeypatch.setenv("TABLES", "tables random random typicover+imagenet")
    if name == "ARMS":
        monkeypatch.setenv("TABLES", f"tables random {value}")
    line = refused("arms", "--calls", "prepare", "train", "tables")
    assert {"ARMS": "TABLES", "BASELINE": "TABLES"}.get(name, name) in line or value in line, line
