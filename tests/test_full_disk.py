"""Every stage on a disk that fills up: one line that names a file; with more room it completes."""

import subprocess
import sys
from pathlib import Path

import pytest
from kill_harness import content, photographs, stages

ROOT = Path(__file__).resolve().parents[1]
PAGE = 4096


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    """disk(size) is a small disk of so many bytes, or changes its size."""
    place, mounted = tmp_path / "disk", []
    place.mkdir()

    def make(size):
        options = f"size={size}"
        done = mount(
            *(("-o", f"remount,{options}") if mounted else ("-t", "tmpfs", "-o", options, "tmpfs")),
            place,
        )
        if done.returncode and not mounted:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted.append(size)
        return place

    yield make
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder of undisturbed stages, name -> content)."""
    base = tmp_path_factory.mktemp("whole")
    photographs(base / "photos")
    found = {}
    for name, words in stages(base).items():
        done = run(words, base / f"whole-{name}")
        assert done.returncode == 0, done.stderr
        found[name] = content(base / f"whole-{name}")
    return base, found


def run(words, out):
    command = [sys.executable, ROOT / words[0], *words[1:], "--out", out]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("name", ["data", "pretrain", "cluster", "seg", "masks"])
def test_a_stage_on_a_full_disk(name, share, whole, disk):
    base, undisturbed = whole
    words, expected = stages(base)[name], undisturbed[name]
    needed = sum(-(-len(data) // PAGE) * PAGE for data in expected.values())
    out = disk(max(8 * PAGE, int(share * needed) // PAGE * PAGE)) / f"killed-{name}"
    done = run(words, out)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert str(out.parent) in lines[0] and "free some space" in lines[0], lines[0]
    disk(64 * 1024**2 + 10 * needed)
    done = run(words, out)
    assert done.returncode == 0, done.stderr
    found = content(out)
    assert found.keys() == expected.keys()
    assert [key for key in found if found[key] != expected[key]] == []
