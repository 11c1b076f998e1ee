"""Many runs: all are carried out, failures are named, finished ones are not done again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segmentation.schedule import clock, time_left

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--width", 2, "--initial", 6, "--rounds", 0, "--epochs", 1, "--device", "cpu"]
SCRIPT = "segmentation/active_learning.py"


def schedule(lines, *script):
    words = [sys.executable, "segmentation/schedule.py", "--jobs", 2, "--", *script]
    return subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
    )


def test_clock_and_time_left():
    assert [clock(s) for s in (0, 61.4, 3599.6)] == ["0:00:00", "0:01:01", "1:00:00"]
    assert time_left([], 5, 2) is None
    assert time_left([10, 20], 4, 2) == 30


def test_calls_of_a_list(data, tmp_path):
    good = [f"random/0 --out {tmp_path}/a", "", f"random/1 --out {tmp_path}/b --seed 1"]
    good.append(f"wide --out {tmp_path}/c --epochs 2")
    bad = f"wrong --out {tmp_path}/d --query nonsense"
    first = schedule([*good, bad], SCRIPT, "--data", data, *TINY)
    assert first.returncode == 2
    (error,) = first.stderr.splitlines()
    assert error.startswith("error: 1 of 4 calls failed: wrong; ")
    assert "invalid choice: 'nonsense'" in error
    assert "[wrong] error: " in first.stdout and "4 of 4 calls done" in first.stdout
    assert "left" in first.stdout
    for folder, seed, epochs in (("a", 0, 1), ("b", 1, 1), ("c", 0, 2)):
        state = json.loads((tmp_path / folder / "state.json").read_text())
        assert state["seed"] == seed and len(state["rounds"]) == 1
        args = json.loads((tmp_path / folder / "args.json").read_text())["args"]
        assert args["epochs"] == epochs  # a call's own options come last
    assert not (tmp_path / "d").exists()
    second = schedule(good, SCRIPT, "--data", data, *TINY)
    assert second.returncode == 0 and second.stdout.count("finished already") == 3


def test_no_call_is_lost_where_nothing_can_be_said(tmp_path):
    """A full disk below the output: the exit code says that not all is done."""
    (tmp_path / "one.py").write_text("print('done')\n")
    for out, code in (("/dev/full", 2), ("/dev/null", 0)):
        with open(out, "w") as full:
            result = subprocess.run(
                [sys.executable, "segmentation/schedule.py", "--jobs", "2"],
                cwd=ROOT,
                input=f"a {tmp_path}/one.py\nb {tmp_path}/one.py\n",
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert result.returncode == code
        lines = result.stderr.splitlines()
        assert [line[:7] for line in lines] == ["error: "] * (code == 2), result.stderr


@pytest.mark.parametrize(
    ("words", "lines", "message"),
    [
        (["--jobs", "0"], "", "argument --jobs: 0 is not a positive number"),
        (["--jobs", "all"], "", "argument --jobs: invalid"),
        ([], "good script.py\n'open script.py\n", "call 2: No closing quotation"),
        ([], "\none\n", "call 2: one is a name alone"),
    ],
)
def test_bad_input(words, lines, message):
    result = subprocess.run(
        [sys.executable, "segmentation/schedule.py", *words],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and message in result.stderr
