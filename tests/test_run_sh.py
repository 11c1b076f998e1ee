"""run.sh drives the whole pipeline on tiny images, skips what is done, and refuses nonsense."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from segmentation.data.datafolder import open_data
from tests.helpers_preprocess import make_set

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "DEMO_IMAGES": 40,
    "SIZE": 32,
    "WIDTH": 2,
    "PRE_EPOCHS": 2,
    "K": 3,
    "INITIAL": 8,
    "PER_ROUND": 4,
    "ROUNDS": 1,
    "EPOCHS": 2,
    "EPOCHS_ROUND": 1,
    "FULL_EPOCHS": 1,
    "PASSES": 2,
    "SEEDS": "0 1",
    "ARMS": "saal-ceal full",
    "JOBS": 2,
    "DEVICE": "cpu",
    "PYTHON": sys.executable,
}


def run(*words, **settings):
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    return subprocess.run(
        ["bash", "run.sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


FULL_STEPS = 4  # one epoch of 32 images, 8 at a time


def has_row(text, arm, labels, seeds, steps=r"\d+"):
    """Whether a table has a row of this arm, with any number of steps or with `steps`."""
    return re.search(rf"\| {arm} \| {labels} \| {steps} \| {seeds} \|", text) is not None


@pytest.mark.slow
def test_the_whole_pipeline(tmp_path):
    settings = {**TINY, "RUN": tmp_path / "run", "DATA_OUT": tmp_path / "data"}
    first = run(**settings)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    commands = [line for line in lines if "+ " in line and "schedule.py" not in line]
    for script in ("preprocess", "pretrain", "cluster", "active_learning", "tables", "evaluate"):
        times = 4 if script == "active_learning" else 1
        assert sum(f"{script}.py --" in line for line in commands) == times, script
    assert has_row(first.stdout, "saal-ceal", 12, 2)
    assert has_row(first.stdout, "full", 32, 2, steps=FULL_STEPS)
    assert "ynthetic demo data" in first.stdout
    pictures = first.stdout.split("Pictures:\n")[1].split()
    assert [Path(name).name for name in pictures] == [
        "latent.png",
        "selection.png",
        "cases.png",
        "restorations.png",
        "cost_curves.png",
        "learning_curves.png",
    ]

    kept = [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".pt", ".npz")]
    times = [path.stat().st_mtime_ns for path in kept]
    second = run(**settings)
    assert second.returncode == 0
    assert second.stdout.count("finished already") == 6
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert second.stdout.split("Pictures:")[1] == first.stdout.split("Pictures:")[1]


@pytest.mark.slow
def test_shares_make_up_the_whole(tmp_path):
    """prepare, the shares of train in any order, and tables do what one call does."""
    settings = {**TINY, "RUN": tmp_path / "run", "DATA_OUT": tmp_path / "data", "PRE_PROCESSES": 2}
    prepared = run("prepare", **settings)
    assert prepared.returncode == 0, prepared.stderr
    assert "(2 processes)" in prepared.stdout and "active_learning" not in prepared.stdout
    done = {}
    for share in ("2/3", "1/3", "3/3"):
        result = run("train", SHARD=share, **settings)
        assert result.returncode == 0, result.stderr
        assert "tables.py" not in result.stdout
        done[share] = set(re.findall(r"^\[(\S+/seed\d)\] \+", result.stdout, re.MULTILINE))
        if share == "2/3":  # tables take what there is
            early = run("tables", **{**settings, "BASELINE": "full"})
            assert early.returncode == 0, early.stderr
            assert has_row(early.stdout, "saal-ceal", 12, 1)
            assert "No run yet: full." in early.stdout
            assert "No finished run of full, so no differences to it." in early.stdout
    assert [len(runs) for runs in done.values()] == [1, 2, 1]
    arms = settings["ARMS"].split()
    assert set.union(*done.values()) == {f"{arm}/seed{seed}" for arm in arms for seed in (0, 1)}
    whole = run("tables", **settings)
    assert whole.returncode == 0, whole.stderr
    assert has_row(whole.stdout, "saal-ceal", 12, 2) and has_row(
        whole.stdout, "full", 32, 2, steps=FULL_STEPS
    )


@pytest.mark.slow
def test_every_modifier_of_an_arm(tmp_path):
    """An arm's name alone says how it differs: the options that its runs were called with."""
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    arms = {
        "typiclust": {"cold_start": "typiclust", "query": "typiclust", "init": "all"},
        "random-margin+scratch+noaugment": {"query": "margin", "init": "none", "augment": "none"},
        "random+encoder+strong+light+draw3": {"init": "encoder", "recipe": "strong", "draw": 3},
        "random-dsal+heads+teacher": {"query": "dsal", "heads": True, "mean_teacher": True},
        "random+selftrain": {"self_train": True, "mean_teacher": False},
        "saal+k4+pool1+standard": {"clusters": "cluster-k4-pool1-standard"},
        "kmeans+thumbnails+instance": {"clusters": "cluster-thumbnails-instance"},
        "kcenter+imagenet": {"clusters": "cluster-imagenet"},
        "maxherding+masks": {"clusters": "cluster-masks"},
        "saal+released1+released4": {"clusters": "cluster-released1", "released_scale": True},
        "first+released5": {"cold_start": "first", "training_masks": "data-released5"},
        "full+paper": {"initial": "all", "recipe": "paper", "epochs": 10},
    }
    settings = {
        **TINY,
        "RUN": tmp_path / "run",
        "DATA_OUT": tmp_path / "data",
        "ARMS": " ".join(arms),
        "SEEDS": "3",
        "PRE_SEED": "each",
        "BUDGETS": "6 8",
        "CHOICES": 6,
        "OTHER_BUDGETS": "nothing typi*: 6 8 12\n*+draw*: 7",
        "IMAGENET": tmp_path / "resnet18.pth",
        "BACKBONE": "resnet18",
    }
    result = run(**settings, BASELINE="none")
    assert result.returncode == 0, result.stderr
    for arm, expected in arms.items():
        folder = tmp_path / "run" / "seg" / arm / "seed3"
        args = json.loads((folder / "args.json").read_text())["args"]
        for name, value in expected.items():
            found = args[name]
            if name in ("clusters", "training_masks"):
                found = Path(found).parent.name if name == "clusters" else Path(found).name
            assert found == value, (arm, name)
        state = json.loads((folder / "state.json").read_text())
        labels = [entry["labels"] for entry in state["rounds"]]
        special = {"typiclust": [6, 8, 12], "full+paper": [32]}
        special["random+encoder+strong+light+draw3"] = [7]
        assert labels == special.get(arm, [6, 8])
    assert (tmp_path / "run" / "choices" / "typiclust.png").exists()
    known = (tmp_path / "run" / "diagnosis" / "features.csv").read_text().splitlines()[1:]
    names = ["cluster", "cluster-imagenet", "cluster-masks", "cluster-released1"]
    names.append("cluster-thumbnails-instance")
    assert [line.split(",")[0] for line in known] == names
    used = {path.name for path in (tmp_path / "run").glob("cluster*")}
    assert len(used) == 6 and (tmp_path / "run" / "pretrain" / "seed3" / "best.pt").exists()


@pytest.mark.slow
def test_an_official_test_set_in_folders_of_any_name(tmp_path):
    """Train on all of one folder, test on all of another; no shell reads their names."""
    train, test = tmp_path / "a b;$(touch x)", tmp_path / 'it\'s `touch x` \\ "t" *'
    for folder, first, count in ((train, 0, 14), (test, 50, 4)):
        make_set(folder, count, first=first)
    settings = {
        **TINY,
        "DATA": train,
        "TEST_DATA": test,
        "RUN": tmp_path / "my run; $(touch x)",
        "DATA_OUT": tmp_path / "my data & 'more' $HOME",
        "ARMS": "saal",
        "SEEDS": "0",
        "CHOICES": 8,
    }
    result = run(**settings, BASELINE="none")
    assert result.returncode == 0, result.stderr
    opened = open_data(settings["DATA_OUT"])
    assert len(opened.pool) == 14 and opened.test == [f"A{number:03d}" for number in range(50, 54)]
    last = settings["RUN"] / "seg" / "saal" / "seed0" / "round_01"
    rows = (last / "metrics.csv").read_text()
    assert [line.split(",")[0] for line in rows.splitlines()[1:]] == opened.test
    assert (settings["RUN"] / "choices" / "saal.png").exists()
    assert not (ROOT / "x").exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"PRESET": "huge"}, (), "PRESET=huge is not a preset"),
        ({"ARMS": "full best"}, (), "best is no arm"),
        ({"ARMS": "random-best"}, (), "random-best is no arm"),
        ({"ARMS": "ceal-random"}, (), "ceal-random is no arm"),
        ({"ARMS": "random+luck"}, (), "random+luck: +luck is not known"),
        ({"ARMS": "random+flips+light"}, (), "random+flips+light: +flips contradicts +light"),
        ({"ARMS": "random+k20"}, (), "random+k20: +k20 would change nothing"),
        ({"OTHER_BUDGETS": "x"}, (), "OTHER_BUDGETS: 'x' is not PATTERN"),
        ({"TEST_DATA": "nowhere"}, (), "nowhere: no such folder"),
        ({}, ("tests",), "run.sh tests is not known"),
        ({}, ("prepare", "tables"), "run.sh prepare tables: give one word"),
        ({"CDPATH": "/tmp"}, ("tests",), "run.sh tests is not known"),
        ({"ARMS": "saal", "BASELINE": "random"}, (), "random, the baseline of tables, is none"),
        ({"ARMS": "cscs+imagenet"}, (), "+imagenet restores no images"),
        ({"DATA": "nowhere"}, (), "nowhere: no such folder"),
        ({"SIZE": "50"}, (), "50: each side must be a multiple of 16"),
        ({"SHARD": "3/2"}, ("train",), "SHARD=3/2 is not a share"),
        ({"SHARD": "0/2"}, ("train",), "SHARD=0/2 is not a share"),
        ({"SHARD": "1/2"}, (), "SHARD=1/2 is for bash run.sh train"),
        ({"AMP": "bf17"}, (), "AMP='bf17': give auto, off, bf16 or fp16"),
    ],
)
def test_bad_input(tmp_path, settings, words, message):
    here = {"RUN": tmp_path / "run", "DATA_OUT": tmp_path / "data", "PYTHON": sys.executable}
    result = run(*words, **here, **settings)
    assert result.returncode == 2
    errors = result.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert not (tmp_path / "run").exists()
