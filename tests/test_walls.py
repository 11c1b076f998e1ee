"""Imports point one way: common <- data <- model <- {selection <- rounds, analysis} <- scripts."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEES = {  # room -> the rooms that it may import from, beside itself
    "segmentation/common": set(),
    "segmentation/data": {"segmentation/common"},
    "segmentation/model": {"segmentation/common", "segmentation/data"},
    "segmentation/selection": {"segmentation/common", "segmentation/data", "segmentation/model"},
    "segmentation/analysis": {"segmentation/common", "segmentation/data", "segmentation/model"},
    "segmentation/rounds": {
        "segmentation/common",
        "segmentation/data",
        "segmentation/model",
        "segmentation/selection",
    },
    "self_supervised": {
        "segmentation/common",
        "segmentation/data",
        "segmentation/model",
        "segmentation/selection",
    },
}
FILES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "segmentation/**/*.py", "self_supervised/*.py", "results/*.py")
    for path in ROOT.glob(pattern)
)


def is_script(path):
    return 'if __name__ == "__main__":' in (ROOT / path).read_text(encoding="utf-8")


SCRIPTS = {path for path in FILES if is_script(path)}


def imported(path):
    """The files of this project that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            if file in FILES:
                found.add(file)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports(path):
    room = str(path.parent)
    for other in imported(path):
        assert other not in SCRIPTS, f"{path} imports the script {other}"
        if path not in SCRIPTS:
            assert str(other.parent) in SEES[room] | {room}, f"{path} imports {other}"


def test_rooms_hold_no_scripts_and_the_hall_nothing_else():
    rooms = {str(path.parent) for path in FILES if path not in SCRIPTS}
    assert rooms == {*SEES, "segmentation"}
    hall = [path for path in FILES if str(path.parent) == "segmentation" and path not in SCRIPTS]
    assert [path.name for path in hall] == ["__init__.py"]
    scripts = {str(path.parent) for path in SCRIPTS}
    assert scripts == {".", "segmentation", "self_supervised", "results"}


def test_there_is_something_to_see():
    """The walk finds imports: the scripts use every room."""
    seen = {str(other.parent) for path in SCRIPTS for other in imported(path)}
    assert seen >= set(SEES)


START_ALL = """
import contextlib, io, runpy, sys
root, *scripts = sys.argv[1:]
path = [place for place in sys.path if place not in ("", root)]
for script in scripts:
    name = script.removesuffix(".py").replace("/", ".")
    folder = f"{root}/{script}".rpartition("/")[0]
    for place, run, what in ((folder, runpy.run_path, script), (root, runpy.run_module, name)):
        sys.path[:], sys.argv = [place, *path], [script, "--help"]
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            run(what, run_name="__main__")
        assert text.getvalue().startswith("usage: "), what
"""


def test_scripts_start_as_files_and_as_modules():
    words = [sys.executable, "-c", START_ALL, str(ROOT), *sorted(map(str, SCRIPTS))]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
