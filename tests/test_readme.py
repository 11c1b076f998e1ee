"""What the README shows is what results/ holds."""

import re
import sys
from pathlib import Path

import pytest

from results import update_readme
from segmentation.common.door import run_script
from segmentation.selection.strategies import COLD_STARTS, QUERIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted(ROOT.glob("results/**/*.md"))]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_linked_file_exists(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, missing
    assert links or page.name != "README.md"


def test_every_strategy_stands_in_the_table():
    """The first column of the table of strategies names all of them, the cold starts first."""
    section = README.split("\n## Strategies\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = re.findall("`([^`]+)`", " ".join(rows))
    assert sorted(names) == sorted(QUERIES)
    assert set(names[: len(COLD_STARTS)]) == set(COLD_STARTS)


def test_every_named_option_exists():
    """Options in the README's commands are options of the scripts that it calls."""
    shared = {
        module: (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        for module in (
            "segmentation.common.precision",
            "segmentation.model.encoders",
            "segmentation.model.finish",
        )
    }
    for line in README.replace("\\\n", " ").splitlines():
        call = re.match(r"(?:python|torchrun [^.]*) (\S+\.py) (.*)", line)
        if call:
            source = (ROOT / call[1]).read_text(encoding="utf-8")
            for module, text in shared.items():
                source += text if f"from {module} import" in source else ""
            for option in re.findall(r"--[a-z][a-z0-9-]*", call[2]):
                if f'"{option}"' not in source:  # --no-X is there where X can be switched off
                    option = rf'"{option.replace("--no-", "--", 1)}",\s+action=\S+BooleanOptional'
                    assert re.search(option, source), (call[1], option)
