"""The maps of what each arm labelled first."""

import json
import sys

import numpy as np
import pytest
from conftest import LOOP, call

from segmentation import choices
from segmentation.common.door import run_script
from segmentation.common.runfiles import read_npz, write_npz


@pytest.fixture(scope="module")
def runs(data, clusters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for arm in ("random", "typiclust"):
        words = ["--data", data, "--cold-start", arm, "--query", arm, "--clusters", clusters]
        call("active_learning", *words, *LOOP, "--rounds", 0, "--out", folder / arm / "seed0")
    return folder


@pytest.fixture
def draw(data, clusters, runs, tmp_path, monkeypatch):
    def make(*words):
        files = ["--data", data, "--clusters", clusters, "--runs", runs, "--out", tmp_path / "out"]
        words = ["choices.py", *files, *words]
        words += [] if "--arms" in words else ["--arms", "random", "typiclust"]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        run_script(choices.main)
        return tmp_path / "out"

    return make


@pytest.mark.parametrize("budget", [10, 11])
def test_a_map_and_a_sheet_for_each_arm(draw, runs, clusters, figures, budget):
    out = draw("--budget", budget)
    assert {path.name for path in out.iterdir()} == {"map.png", "random.png", "typiclust.png"}
    panels = figures["map.png"].axes
    assert [axes.get_title() for axes in panels] == ["random", "typiclust"]
    assert f"The first {budget} labels of seed 0" in figures["map.png"].get_suptitle()
    content = read_npz(clusters / "clusters.npz")
    place = {name: row for row, name in enumerate(content["ids"].tolist())}
    for axes, arm in zip(panels, ("random", "typiclust"), strict=True):
        state = json.loads((runs / arm / "seed0" / "state.json").read_text())
        rows = sorted(place[entry["id"]] for entry in state["labelled"][:budget])
        everything, marked = axes.collections
        np.testing.assert_allclose(everything.get_offsets(), content["map"])
        np.testing.assert_allclose(marked.get_offsets(), content["map"][rows])


def test_an_arm_that_is_not_so_far_yet(draw):
    out = draw("--budget", 10, "--arms", "late", "random", "--partial")
    assert {path.name for path in out.iterdir()} == {"map.png", "random.png"}


def test_the_map_has_a_place_for_every_image(clusters):
    content = read_npz(clusters / "clusters.npz")
    assert content["map"].shape == (len(content["ids"]), 2) and np.isfinite(content["map"]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", 13), "has 12 labels; give a smaller --budget"),
        (("--seed", 4), "seed4/state.json: not found"),
        (("--seed", 4, "--partial"), "seed4/state.json: not found"),
        (("--budget", 10, "--arms", "random", "late"), "late/seed0/state.json: not found"),
        (("--clusters", "nowhere"), "nowhere/clusters.npz: not found"),
    ],
)
def test_bad_input(draw, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        draw(*words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_clusters_without_a_map(draw, clusters, tmp_path, capsys):
    content = read_npz(clusters / "clusters.npz")
    content.pop("map")
    write_npz(tmp_path / "old" / "clusters.npz", **content)
    with pytest.raises(SystemExit):
        draw("--clusters", tmp_path / "old")
    assert "has no map" in capsys.readouterr().err
