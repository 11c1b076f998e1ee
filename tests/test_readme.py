"""What the README shows is what results/ holds."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_table_is_the_measured_one():
    shown = [line for line in README.splitlines() if re.match(r"\| .* \| \d+ \| \d+ \| \d", line)]
    table = (ROOT / "results" / "isic2017-cpu" / "table.md").read_text(encoding="utf-8")
    measured = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert shown == [line for line in measured if "--:" not in line] and len(shown) == 6


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links), links


def test_every_named_option_exists():
    """Options in the README's commands are options of the scripts that it calls."""
    for line in README.replace("\\\n", " ").splitlines():
        call = re.match(r"python (\S+\.py) (.*)", line)
        if call:
            source = (ROOT / call[1]).read_text(encoding="utf-8")
            for option in re.findall(r"--[a-z][a-z-]*", call[2]):
                assert f'"{option}"' in source, (call[1], option)
