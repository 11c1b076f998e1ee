"""What the README shows is what results/ holds."""

import re
import sys
from pathlib import Path

import pytest

from results import update_readme
from segmentation.common.runfiles import run_script

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_tables_are_the_measured_ones():
    assert "<!-- from results/" in README
    assert update_readme.filled(README, ROOT) == README


def test_blocks_are_filled_from_their_files(tmp_path, monkeypatch, capsys):
    readme, table = tmp_path / "README.md", tmp_path / "results" / "t.md"
    table.parent.mkdir()
    table.write_text("Title\n\n| a |\n| :-- |\n| 1 |\n\nNotes\n")
    readme.write_text("Before\n\n<!-- from results/t.md -->\nold\n<!-- end -->\n\nafter | this\n")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["update_readme.py", "--readme", str(readme), *words])
        run_script(update_readme.main)

    with pytest.raises(SystemExit) as stop:
        call("--check")
    assert stop.value.code == 2 and "is not up to date" in capsys.readouterr().err
    assert "old" in readme.read_text()
    call()
    expected = "Before\n\n<!-- from results/t.md -->\n\n| a |\n| :-- |\n| 1 |\n\n<!-- end -->\n"
    assert readme.read_text() == expected + "\nafter | this\n"
    call("--check")
    table.write_text("nothing")
    with pytest.raises(SystemExit):
        call()
    assert "t.md: holds no table" in capsys.readouterr().err
    table.unlink()
    with pytest.raises(SystemExit):
        call()
    assert "t.md: No such file" in capsys.readouterr().err


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links), links


def test_every_named_option_exists():
    """Options in the README's commands are options of the scripts that it calls."""
    shared = (ROOT / "segmentation/common/precision.py").read_text(encoding="utf-8")
    for line in README.replace("\\\n", " ").splitlines():
        call = re.match(r"(?:python|torchrun [^.]*) (\S+\.py) (.*)", line)
        if call:
            source = (ROOT / call[1]).read_text(encoding="utf-8")
            if "from segmentation.common.precision import" in source:
                source += shared
            for option in re.findall(r"--[a-z][a-z0-9-]*", call[2]):
                option = re.sub("^--no-(?=tf32$)", "--", option)
                assert f'"{option}"' in source, (call[1], option)
