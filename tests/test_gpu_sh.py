"""benchmarks/gpu.sh: it refuses in one line, works in pieces that resume, and writes its page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import command_line

from benchmarks import measured
from segmentation.common.door import run_script
from segmentation.common.runfiles import write_csv, write_json

ROOT = Path(__file__).resolve().parents[1]


def gpu_sh(*words, **settings):
    """A call with these settings, on the CPU unless they say otherwise."""
    given = {"PYTHON": sys.executable, "DEVICE": "cpu", **settings}
    return subprocess.run(
        ["bash", "benchmarks/gpu.sh", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in given.items()}},
        capture_output=True,
        text=True,
    )


def refused(result):
    """Its one line on stderr."""
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result
    return lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path):
    line = refused(gpu_sh(DEVICE="cuda", RUN=tmp_path / "run", OUT=tmp_path / "out"))
    assert "no CUDA device" in line and "DEVICE=cpu" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"DEVICE": "tpu"}, "DEVICE=tpu"),
        ({"DEVICE": "cuda:x"}, "DEVICE=cuda:x"),
        ({"LIMIT": "soon"}, "LIMIT=soon"),
        ({"DATA": "nowhere"}, "DATA=nowhere: no such folder"),
    ],
)
def test_settings_that_are_wrong(settings, named, tmp_path):
    assert named in refused(gpu_sh(RUN=tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_piece_that_there_is_not(tmp_path):
    assert "warm: no piece has a name" in refused(gpu_sh("ratio", "warm", RUN=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rehearsal_in_pieces(tmp_path):
    settings = {"RUN": tmp_path / "run"}
    late = gpu_sh("ratio-scoring", LIMIT=0, **settings)
    assert late.returncode == 3 and late.stderr.endswith("goes on with: ratio-scoring\n")
    first = gpu_sh("ratio-scoring", "paper-full-seed0", **settings)
    assert first.returncode == 3, first.stderr  # the run waits for its preparation
    assert first.stderr.splitlines()[-1].endswith("goes on with: paper-full-seed0")
    page = (tmp_path / "run" / "results" / "README.md").read_text()
    assert page.startswith("# A rehearsal") and "CEAL's scoring" in page
    more = gpu_sh("ratio-scoring", "paper-prepare", "paper-full", **settings)
    assert more.returncode == 0, more.stderr
    assert more.stdout.splitlines()[0] == "ratio-scoring: done already"
    runs = sorted(path.name for path in (tmp_path / "run/paper/seg").iterdir())
    assert runs == ["full"] and len(list((tmp_path / "run/paper/seg/full").iterdir())) == 2
    times = tmp_path / "run" / "pieces" / "paper-full-seed1.times"
    mark = json.loads(times.with_suffix(".json").read_text())
    assert mark["seconds"] == int(times.read_text()) and "host" not in mark


@pytest.mark.slow
def test_a_piece_that_fails_is_named_and_those_after_it_wait(tmp_path):
    (tmp_path / "images").mkdir()
    settings = {"RUN": tmp_path / "run", "DATA": tmp_path / "images"}
    result = gpu_sh("ratio-scoring", "paper", **settings)
    assert "failed: paper-prepare; see" in refused(result)
    assert "paper-full-seed0:" not in result.stdout
    assert not list((tmp_path / "run" / "pieces").glob("paper-*.json"))


@pytest.mark.slow
def test_a_time_limit_ends_a_piece(tmp_path):
    for limit in (5, 10, 20, 40):  # the first one with which this machine comes to start the piece
        result = gpu_sh("ratio-encoders", RUN=tmp_path, LIMIT=limit)
        assert result.returncode == 3 and result.stderr.endswith("ratio-encoders\n")
        if "ratio-encoders: see" in result.stdout:
            break
    assert (tmp_path / "pieces" / "ratio-encoders.log").exists()
    assert not (tmp_path / "pieces" / "ratio-encoders.json").exists()


def call(*words):
    with command_line("measured", *words):
        run_script(measured.main)


def made_up(run, tables=("paper",)):
    """A folder as of gpu.sh with two pieces, and the tables of some names."""
    (run / "pieces").mkdir(parents=True)
    for piece in ("tests", "ratio-pretraining", *(f"{name}-tables" for name in tables)):
        (run / "pieces" / f"{piece}.times").write_text("100\n20\n")
        call("mark", piece, "--run", run)
    (run / "pieces" / "tests.log").write_text("...\n===== 80 passed in 3.2s =====\n")
    content = {"ratio": 30.25, "images_per_second": {"ours": 444.4}, "corruption_share": 0.25}
    write_json(run / "ratio-pretraining" / "pretraining-cuda.json", {**content, "utilisation": 0.4})
    for name in tables:
        folder = run / name / "tables"
        folder.mkdir(parents=True)
        (folder / "rounds.md").write_text("| Dice |\n| --: |\n| 80 |\n\nSeeds: 0, 1.\n")
        (folder / "cases.png").write_bytes(b"an image of the data set")
        (folder / "learning_curves.png").write_bytes(b"a chart")
        write_csv(folder / "rounds.csv", [{"dice": 0.8}])
        settings = "SIZE=256\nSEEDS=0 1\nDATA_OUT=x\nSIZE=64\n"
        (run / "pieces" / f"{name}.settings").write_text(settings)


def test_the_page_has_all_that_is_done_and_no_image(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    made_up(run)
    for _ in range(2):  # the second replaces the first
        call("page", "--run", run, "--out", out, "--data", "some/where/private")
    page = (out / "README.md").read_text()
    for part in (
        "`DATA=path/to/isic2017 bash benchmarks/gpu.sh`",
        "`bash run.sh test -m gpu`: 80 passed in 3.2s\n",
        "| 30.2 | 25, and 400 images/s | [json](ratio-pretraining.json), 444 images/s, "
        "corruption 25 % of a step, utilisation 40 % |",
        '`SIZE=64 SEEDS="0 1" bash run.sh`',
        "| 80 |",
        "| ratio-pretraining | 120 |",
    ):
        assert part in page, part
    assert "private" not in page and "rehearsal" not in page and "\n\n\n" not in page
    names = sorted(path.name for path in out.rglob("*") if path.is_file())
    expected = ["README.md", "learning_curves.png", "pieces.csv", "ratio-pretraining.json"]
    assert names == [*expected, "rounds.csv", "rounds.md"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["mark", "--run", "{run}"], "mark needs piece"),
        (["mark", "x", "--run", "{run}"], "x.times: holds no seconds"),
        (["page", "--run", "{run}"], "page needs --out"),
        (["page", "--run", "{run}/none", "--out", "{run}/out"], "no piece is done yet"),
        (["page", "--run", "{run}", "--out", "{run}"], "is no page of benchmarks/gpu.sh"),
    ],
)
def test_a_record_that_cannot_be_made(words, named, tmp_path, capsys):
    made_up(tmp_path, tables=())
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*(word.format(run=tmp_path) for word in words))
    line = capsys.readouterr().err
    assert stop.value.code == 2 and named in line and line.count("\n") == 1
