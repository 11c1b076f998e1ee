"""SIGKILL at the worst moments: a run that is started again ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_harness
import pytest
from conftest import LOOP, PRETRAIN

from segmentation.model.unet import encoder_sha256, load_encoder

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds until a moment that never comes fails the test


def start(script, *words):
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)


def finish(script, *words):
    assert start(script, *words).wait(timeout=PATIENCE) == 0


def kill_when(moment, script, *words):
    """Start, wait for moment() to hold, SIGKILL."""
    process = start(script, *words)
    deadline = time.monotonic() + PATIENCE
    while not moment():
        assert process.poll() is None, "it ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def without_seconds(path):
    """Lines of a log without its last column, the one thing that no two runs share."""
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def no_leftovers(folder):
    """Temporary files of a killed process may stay, but never under a real name."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


@pytest.mark.slow
def test_pretraining(data, tmp_path):
    words = ["--data", data, *PRETRAIN, "--epochs", 8]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish("self_supervised/pretrain.py", *words, "--out", whole)

    def in_epoch(number):
        def moment():
            log = killed / "log.csv"
            return log.exists() and len(log.read_text().splitlines()) > number

        return moment

    for epochs_done in (2, 5):
        kill_when(in_epoch(epochs_done), "self_supervised/pretrain.py", *words, "--out", killed)
        assert not (killed / "encoder.pt").exists()
    finish("self_supervised/pretrain.py", *words, "--out", killed)
    hashes = [encoder_sha256(load_encoder(folder / "encoder.pt")) for folder in (whole, killed)]
    assert hashes[0] == hashes[1]
    assert without_seconds(whole / "log.csv") == without_seconds(killed / "log.csv")
    for name in ("best.pt", "encoder.pt", "restorations.png"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert no_leftovers(whole) == no_leftovers(killed)


@pytest.fixture
def loop_words(data, weights, clusters):
    return [
        *("--data", data, "--weights", weights / "best.pt", "--clusters", clusters, *LOOP),
        *("--cold-start", "saal", "--query", "ceal", "--init", "all"),
        *("--ceal-pseudo-from", 1, "--ceal-pseudo", 6),
        *("--passes", 100, "--epochs-round", 40),  # slow enough to be caught in the act
    ]


@pytest.mark.slow
def test_active_learning(loop_words, tmp_path):
    script = "segmentation/active_learning.py"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(script, *loop_words, "--out", whole)

    def rounds():
        path = killed / "state.json"
        return len(json.loads(path.read_text())["rounds"]) if path.exists() else 0

    def round_0_trains():
        return (killed / "env.json").exists()

    def round_1_is_scored():
        return rounds() == 1 and not (killed / "round_01" / "scores.csv").exists()

    def round_1_trains():
        return (killed / "round_01" / "scores.csv").exists()

    def round_2_trains():
        return (killed / "round_02" / "scores.csv").exists()

    for moment, rounds_done in (
        (round_0_trains, 0),
        (round_1_is_scored, 1),
        (round_1_trains, 1),
        (round_2_trains, 2),
    ):
        kill_when(moment, script, *loop_words, "--out", killed)
        assert rounds() == rounds_done  # it was caught inside a round, not between two
    finish(script, *loop_words, "--out", killed)

    assert (whole / "state.json").read_bytes() == (killed / "state.json").read_bytes()
    for number in range(3):
        for name in ("metrics.csv", "scores.csv", "weights.pt"):
            path = f"round_{number:02d}/{name}"
            assert (whole / path).exists() == (killed / path).exists(), path
            if (whole / path).exists():
                assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
        log = f"round_{number:02d}/log.csv"
        assert without_seconds(whole / log) == without_seconds(killed / log)
    assert no_leftovers(whole) == no_leftovers(killed)


@pytest.mark.slow
def test_a_few_random_moments(tmp_path):
    """python tests/kill_harness.py --moments 100 is the same with more of them."""
    told = []
    assert kill_harness.run(6, 3, tmp_path, told.append) == 0, told


def test_a_process_that_stays_fails_its_moment(tmp_path, monkeypatch):
    """It is told as a failure, and ended; the harness goes on."""
    monkeypatch.setattr(kill_harness, "LIMIT", 0.1)
    script = tmp_path / "deaf.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "time.sleep(600)\n"
    )
    out = tmp_path / "ready"

    class WhenReady:
        """Draws SIGTERM, soon after the script has become deaf to it."""

        def choice(self, _):
            return signal.SIGTERM

        def uniform(self, *_):
            return 0.1

    started = []
    start = kill_harness.start

    def start_and_wait(words, folder):
        process = start(words, folder)
        deadline = time.monotonic() + PATIENCE
        while not out.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.append(process)
        return process

    monkeypatch.setattr(kill_harness, "start", start_and_wait)
    wrong, done, _ = kill_harness.interrupt([script], out, WhenReady(), 0)
    assert wrong == "had not left after 0.6 s" and not done
    assert started[0].returncode == -signal.SIGKILL
