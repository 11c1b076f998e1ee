"""Pretraining by several processes against one: the same numbers, and files of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import command_line
from test_kill import no_leftovers

from segmentation.common.runfiles import derived_seed, read_csv
from segmentation.common.stages import read_torch
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model.unet import UNet, load_model
from self_supervised import pretrain
from self_supervised.processes import Processes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
# Batch normalisation, whose statistics are those of a process's own images, is switched off, so
# that what is left does not depend on the number of processes.
DRIVER = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from segmentation.common.door import run_script
from self_supervised import pretrain

if "OWN_STATISTICS" not in os.environ:
    torch.nn.BatchNorm2d.train = lambda self, mode=True: torch.nn.Module.train(self, False)
train_epoch = pretrain.train_epoch

def stop_before(forward, optimizer, scaler, images, epoch, *rest):
    if epoch == int(os.environ.get("STOP_BEFORE", -1)):
        os._exit(9)
    return train_epoch(forward, optimizer, scaler, images, epoch, *rest)

def leave_none(self):
    before = len(os.listdir("/proc/self/task"))
    leave(self)
    assert self.count == 1 or len(os.listdir("/proc/self/task")) < before, "threads are left"

leave = pretrain.Processes.leave
if os.path.isdir("/proc/self/task"):
    pretrain.Processes.leave = leave_none
pretrain.train_epoch = stop_before
run_script(pretrain.main)
"""
EPOCHS = 3
# Of the pool's 48 images, 43 train: six batches of 7, then one image, which one process has.
OPTIONS = f"--width 4 --batch 7 --epochs {EPOCHS} --lr 0.3 --device cpu".split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def run(data, folders):
    """run(name, processes, ...) -> (the stage's folder, the finished process)."""
    driver = folders / "driver.py"
    driver.write_text(DRIVER)

    def make(name, processes, *options, stop_before=-1, code=0, **more):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        command = [sys.executable, *(torchrun if processes > 1 else []), driver]
        command += ["--data", data, "--out", folders / name, *OPTIONS, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        environment["STOP_BEFORE"] = str(stop_before)
        done = subprocess.run(
            list(map(str, command)),
            env=environment,
            cwd=folders,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode == 0) == (code == 0), done.stderr
        return folders / name, done

    return make


@pytest.fixture(scope="module")
def one(run):
    return run("one", 1)


@pytest.fixture(scope="module")
def two(run):
    return run("two", 2)


def close(first, second):
    """Whether two stages trained to the same weights, by the same losses."""
    for name in ("best.pt", "last.pt"):
        states = [read_torch(folder / name)["model"] for folder in (first, second)]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
    momenta = [read_torch(folder / "last.pt")["optimizer"]["state"] for folder in (first, second)]
    for key, entry in momenta[0].items():
        torch.testing.assert_close(
            momenta[1][key]["momentum_buffer"], entry["momentum_buffer"], rtol=1e-3, atol=1e-4
        )
    logs = [read_csv(folder / "log.csv") for folder in (first, second)]
    for row, other in zip(*logs, strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"seconds"}:
            assert float(other[key]) == pytest.approx(float(row[key]), rel=1e-5), key
    return True


def test_two_processes_train_as_one(one, two):
    assert close(one[0], two[0])
    torch.manual_seed(derived_seed(0, "pretrain", "weights"))
    first, last = UNet(width=4), load_model(two[0] / "best.pt")
    pairs = zip(first.parameters(), last.parameters(), strict=True)
    # What they agree on has moved a thousand times further than they may differ.
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) > 0.01
    loss = [float(row["loss"]) for row in read_csv(two[0] / "log.csv")]
    assert loss[-1] < 0.99 * loss[0]


def test_one_of_the_processes_writes_and_speaks(one, two):
    assert no_leftovers(two[0]) == no_leftovers(one[0])
    assert not list(two[0].glob(".*"))
    rows = read_csv(two[0] / "log.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    said = two[1].stdout.splitlines()
    assert len(said) == len(one[1].stdout.splitlines()) == EPOCHS + 2
    assert said[0].endswith("on cpu (2 processes)")
    for epoch in range(EPOCHS):
        assert sum(line.startswith(f"epoch {epoch} ") for line in said) == 1


def test_a_finished_stage_is_skipped_by_all(two, run):
    before = {path.name: path.read_bytes() for path in two[0].iterdir()}
    _, done = run("two", 2)
    assert done.stdout.count("finished already") == 1
    assert {path.name: path.read_bytes() for path in two[0].iterdir()} == before


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_may_continue(one, run, before, after):
    name = f"from {before} to {after}"
    folder, _ = run(name, before, stop_before=2, code=9)
    assert len(read_csv(folder / "log.csv")) == 2 and not (folder / "encoder.pt").exists()
    _, done = run(name, after)
    assert done.stdout.count("continuing after epoch 1") == 1
    assert close(one[0], folder)


def test_all_validate_the_model_that_is_written(data, run):
    """Where each process has its own running statistics, those of the one that writes count."""
    options = ["--batch", 8]  # in the last step of 3 images, each process has some of its own
    folder, _ = run("own", 2, *options, OWN_STATISTICS="1")
    opened, saved = open_data(data), read_torch(folder / "last.pt")
    model = UNet(width=4)
    assert any((saved["model"][key] != value).any() for key, value in model.named_buffers())
    model.load_state_dict(saved["model"])
    with command_line("pretrain", "--data", data, "--out", "x", *OPTIONS, *options):
        args = pretrain.parse_args()
    _, held = pretrain.split_validation(opened.pool, opened.linked, args.validation, args.seed)
    images = Images(opened, held, "cpu")
    found = pretrain.validate(model, images, args, Processes("cpu"))
    row = saved["rows"][-1]
    assert found == pytest.approx([row["validation_loss"], row["validation_corrupted"]], rel=1e-6)


def test_other_settings_are_refused_and_nobody_waits_for_ever(two, run):
    _, done = run("two", 2, "--lr", 0.2, code=2)
    assert done.stderr.count("made with --lr 0.3, not 0.2") == 1
