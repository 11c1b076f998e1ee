"""The hash of the code that computes, and tables of runs of different code."""

import shutil

import pytest
from conftest import LOOP, call

from segmentation.common.runfiles import read_json, write_json
from segmentation.common.sources import COMPUTES, ROOT, normalised, sources_sha256

CODE = '''"""A module."""

import math  # for pi


def area(radius):
    """Of a circle."""
    # pi r^2
    return math.pi * radius**2


class Empty:
    """Nothing."""
'''


def test_comments_docstrings_and_layout_do_not_count():
    other = CODE.replace("# pi r^2", "# as Archimedes says").replace("Of a circle", "Of a disc")
    other = other.replace("math.pi * radius**2", "(math.pi  *  radius ** 2)")
    assert other != CODE and normalised(other) == normalised(CODE)
    assert normalised(CODE.replace("radius**2", "radius**3")) != normalised(CODE)
    assert normalised(CODE.replace("Empty", "Full")) != normalised(CODE)
    assert normalised(CODE.replace("math.pi", "math.tau")) != normalised(CODE)


def test_the_hash_does_not_depend_on_the_python():
    """Python 3.12 has other tokens for an f-string, and a new field of a function."""
    code = "def f(a):\n    'Say it.'\n    return f\"{a!r:>{3}} 'é'\" 'b'\n"
    assert normalised(code) == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='a')]),"
        "body=[Return(value=JoinedStr(values=[FormattedValue(value=Name(id='a',ctx=Load()),"
        "conversion=114,format_spec=JoinedStr(values=[Constant(value='>'),"
        "FormattedValue(value=Constant(value=3),conversion=-1)])),"
        "Constant(value=\" '\\xe9'b\")]))])])"
    )


def test_every_file_that_computes_counts(tmp_path):
    for pattern in COMPUTES:
        assert list(ROOT.glob(pattern)), pattern
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    first = sources_sha256(tmp_path)
    assert first == sources_sha256(ROOT)
    sources_sha256.cache_clear()
    with open(tmp_path / "segmentation" / "model" / "unet.py", "a") as file:
        file.write("\nMORE = 1\n")
    assert sources_sha256(tmp_path) != first


@pytest.fixture
def runs(data, tmp_path):
    folder = tmp_path / "runs"
    for seed in (0, 1):
        out = folder / "random" / f"seed{seed}"
        call("active_learning", "--data", data, "--out", out, *LOOP, "--rounds", 0, "--seed", seed)
    return folder


def test_runs_of_different_code_are_not_averaged(runs, tmp_path, refused, capsys):
    words = ["--runs", runs, "--out", tmp_path / "tables"]
    call("tables", *words)
    env = read_json(runs / "random" / "seed1" / "env.json")
    assert env["sources"] == sources_sha256()
    write_json(runs / "random" / "seed1" / "env.json", {**env, "sources": "f" * 64})
    line = refused("tables", *words)
    assert "different code" in line and "fffffff: 1 runs, such as random/seed1" in line
    assert f"{env['sources'][:7]}: 2 runs, such as random/seed0" in line and "--mixed" in line
    call("tables", *words, "--mixed")
    assert "Runs of different code" in (tmp_path / "tables" / "table.md").read_text()


def test_a_run_that_other_code_has_continued_is_not_averaged(runs, tmp_path, refused):
    path = runs / "random" / "seed1" / "state.json"
    state = read_json(path)
    assert [entry["sources"] for entry in state["rounds"]] == [sources_sha256()]
    state["rounds"][0]["sources"] = "f" * 64
    write_json(path, state)
    line = refused("tables", "--runs", runs, "--out", tmp_path / "tables")
    assert "fffffff: 1 runs, such as random/seed1" in line


def test_runs_from_before_the_hash_go_together(runs, tmp_path):
    for seed in (0, 1):
        path = runs / "random" / f"seed{seed}" / "env.json"
        env = read_json(path)
        del env["sources"]
        write_json(path, env)
        state = read_json(path.with_name("state.json"))
        del state["rounds"][0]["sources"]
        write_json(path.with_name("state.json"), state)
    call("tables", "--runs", runs, "--out", tmp_path / "tables")
