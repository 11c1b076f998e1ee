"""What the README shows is what results/ holds."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows_of(text):
    """The lines of result tables: an arm, its labels, its seeds, its figures."""
    return [line for line in text.splitlines() if re.match(r"\| \S+ \| \d+ \| \d+ \| \d", line)]


def test_the_results_tables_are_the_measured_ones():
    folders = ("isic2017-cpu", "isic2017-cpu-encoder")
    measured = [
        rows_of((ROOT / "results" / folder / "table.md").read_text(encoding="utf-8"))
        for folder in folders
    ]
    assert [len(rows) for rows in measured] == [6, 4]
    assert rows_of(README) == measured[0] + measured[1]


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links), links


def test_every_named_option_exists():
    """Options in the README's commands are options of the scripts that it calls."""
    shared = (ROOT / "segmentation/speed.py").read_text(encoding="utf-8")
    for line in README.replace("\\\n", " ").splitlines():
        call = re.match(r"(?:python|torchrun [^.]*) (\S+\.py) (.*)", line)
        if call:
            source = (ROOT / call[1]).read_text(encoding="utf-8")
            if "from segmentation.speed import" in source:
                source += shared
            for option in re.findall(r"--[a-z][a-z0-9-]*", call[2]):
                option = re.sub("^--no-(?=tf32$)", "--", option)
                assert f'"{option}"' in source, (call[1], option)
