"""One tiny synthetic data set with its pretraining and clusters, shared by the whole session.

`call` runs a script in this process as the shell would: the same arguments, the same exit code
and one-line errors, but without the seconds that importing torch takes.
"""

import contextlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only get in the way

import pytest
import torch

import cluster
import preprocess
from segmentation import (
    active_learning,
    annotate,
    arms,
    choices,
    diagnose,
    evaluate,
    export,
    predict,
    probe,
    report,
    schedule,
    scores,
    splits,
    tables,
)
from segmentation.common import pictures
from segmentation.common.door import run_script
from self_supervised import pretrain

SCRIPTS = {
    "preprocess": preprocess.main,
    "pretrain": pretrain.main,
    "cluster": cluster.main,
    "active_learning": active_learning.main,
    "annotate": annotate.main,
    "arms": arms.main,
    "choices": choices.main,
    "diagnose": diagnose.main,
    "evaluate": evaluate.main,
    "export": export.main,
    "predict": predict.main,
    "probe": probe.main,
    "report": report.main,
    "schedule": schedule.main,
    "scores": scores.main,
    "splits": splits.main,
    "tables": tables.main,
}
DEVICE = "cpu"
PRETRAIN = f"--width 4 --batch 8 --epochs 4 --optimizer adam --lr 0.003 --device {DEVICE}".split()
CLUSTER = f"--k 4 --budget 12 --device {DEVICE}".split()
LOOP = "--width 4 --initial 12 --per-round 5 --rounds 2 --epochs 3 --epochs-round 2 --batch 4"
LOOP = f"{LOOP} --lr 0.003 --passes 3 --device {DEVICE}".split()


def needs_cuda(test):
    """Marks a test that needs a CUDA device: all of these are `-m gpu`, and skipped without one."""
    absent = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(absent, reason="needs a CUDA device")(test))


CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


@contextlib.contextmanager
def command_line(script, *words):
    """Within it, sys.argv is what the shell would make of these words."""
    before = sys.argv
    sys.argv = [f"{script}.py", *map(str, words)]
    try:
        yield
    finally:
        sys.argv = before


def call(script, *words):
    """Run a script's command line; SystemExit carries its exit code where it is not 0."""
    torch.set_num_threads(1)
    with command_line(script, *words):
        run_script(SCRIPTS[script])


@pytest.fixture
def refused(capsys):
    """refused(script, *words) checks exit code 2 and returns the one line on stderr."""

    def check(script, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(script, *words)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return check


@pytest.fixture
def figures(monkeypatch):
    """A dict that fills with the figures drawn in this process: name of the file -> Figure."""
    drawn, save = {}, pictures.save

    def watched(figure, path, *more, **options):
        drawn[Path(path).name] = figure
        save(figure, path, *more, **options)

    monkeypatch.setattr(pictures, "save", watched)
    return drawn


@pytest.fixture
def torch_settings(monkeypatch):
    """Put back what `Precision.of` sets for the whole process."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before, benchmark = [place.allow_tf32 for place in places], torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    for place, allowed in zip(places, before, strict=True):
        place.allow_tf32 = allowed


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """60 synthetic images at 32 x 32: 48 pool, 12 test."""
    out = tmp_path_factory.mktemp("data") / "demo"
    call("preprocess", "--demo", 60, "--size", 32, "--out", out)
    return out


@pytest.fixture(scope="session")
def weights(data, tmp_path_factory):
    """The folder of a short pretraining on `data`."""
    out = tmp_path_factory.mktemp("pretrain") / "run"
    call("pretrain", "--data", data, "--out", out, *PRETRAIN)
    return out


@pytest.fixture(scope="session")
def clusters(data, weights, tmp_path_factory):
    """The folder of cluster.py on `data` with `weights`."""
    out = tmp_path_factory.mktemp("cluster") / "run"
    call("cluster", "--data", data, "--weights", weights / "encoder.pt", "--out", out, *CLUSTER)
    return out
