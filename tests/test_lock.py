"""One writer per folder."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segmentation.common import lock
from segmentation.common.runfiles import UserError
from segmentation.data.datafolder import open_data

ROOT = Path(__file__).resolve().parents[1]
HOLD = """import sys, time
sys.path.insert(0, sys.argv[1])
from segmentation.common import lock
lock.claim(sys.argv[2])
print("held", flush=True)
time.sleep(60)"""


@pytest.fixture(autouse=True)
def given_back():
    yield
    lock.release()


@pytest.fixture
def holder():
    """holder(folder) starts a process that holds it."""
    started = []

    def hold(folder):
        words = [sys.executable, "-c", HOLD, str(ROOT), str(folder)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, holder):
    folder = tmp_path / "new" / "run"
    first = holder(folder)
    with pytest.raises(UserError) as error:
        lock.claim(folder)
    assert str(error.value).startswith(f"{folder}: another process is writing there (process ")
    assert f"process {first.pid} on " in str(error.value)
    lock.claim(tmp_path / "new" / "other")  # beside it is no trouble
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "new" / ".run.lock").exists()
    lock.claim(folder)
    assert f"process {os.getpid()} " in (tmp_path / "new" / ".run.lock").read_text()


def test_it_is_the_folder_that_is_locked_not_its_name(tmp_path, holder):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    holder(tmp_path / "a")
    with pytest.raises(UserError, match="another process"):
        lock.claim(tmp_path / "b" / ".." / "b")


def test_nothing_is_left(tmp_path):
    for _ in range(2):
        lock.claim(tmp_path / "x" / "y" / "run")
        lock.claim(tmp_path / "x" / "y" / "run")  # the same process may ask again
        assert (tmp_path / "x" / "y" / ".run.lock").exists()
        lock.release()
        assert not list(tmp_path.iterdir())
    lock.claim(tmp_path / "x" / "run")
    (tmp_path / "x" / "run").mkdir()
    lock.release()
    assert os.listdir(tmp_path / "x") == ["run"]


def test_a_place_that_is_read_only_is_not_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(lock.os, "open", refuse)
    lock.claim(tmp_path / "run")


def test_two_calls_of_preprocess_at_once(tmp_path):
    out = tmp_path / "data"
    words = [sys.executable, str(ROOT / "preprocess.py"), "--demo", "300", "--size", "128"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*words, "--out", str(out)], **pipes) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes and set(codes) <= {0, 2}
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or "another process is writing there" in error
    assert len(open_data(out).ids) == 300
    assert os.listdir(tmp_path) == ["data"]
