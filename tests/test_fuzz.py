"""The targets of the fuzzer take their own corpus, and bytes that are nothing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "fuzz"))

import targets


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target(name, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "folder").mkdir()
    targets.write_corpus(name, tmp_path / "corpus")
    target = targets.TARGETS[name](tmp_path / "folder")
    found = [path.read_bytes() for path in (tmp_path / "corpus").iterdir()]
    assert found
    for data in [*found, b"", b"\0", b"{}", b"[]", found[0][: len(found[0]) // 2]]:
        target(data)
