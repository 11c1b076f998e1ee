"""Properties that hold for whatever comes in: rules, metrics, masks in files, folders of files."""

import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segmentation.common.runfiles import UserError, read_json, write_json
from segmentation.common.schemas import Splits, State, read_checked
from segmentation.data import runlengths
from segmentation.data.accounting import read_lines
from segmentation.data.polygons import fill_all, outlines
from segmentation.model import metrics
from segmentation.selection import geometry
from segmentation.selection.distances import normalise
from segmentation.selection.strategies import COLD_STARTS, View, ask

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(bool, size))


@st.composite
def pools(draw):
    """(features with repeated rows, labelled, budget, seed)."""
    count, dimensions = draw(st.integers(2, 30)), draw(st.integers(1, 5))
    kinds = draw(st.integers(1, count))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    points = rng.normal(size=(kinds, dimensions)).astype(np.float32)
    features = points[rng.integers(kinds, size=count)]
    labelled = rng.random(count) < draw(st.sampled_from([0.0, 0.3, 0.8]))
    labelled[rng.integers(count)] = False
    budget = draw(st.integers(1, int((~labelled).sum())))
    return features, labelled, budget, draw(st.integers(0, 99))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # if rows repeat
@pytest.mark.parametrize("name", COLD_STARTS)
@few
@given(pool=pools())
def test_a_rule_keeps_its_word(name, pool):
    """Exactly the budget, distinct, unlabelled, the same again; the input stays as it is."""
    features, labelled, budget, seed = pool
    k = min(4, len(features))
    known = {"features": features, "pretext_loss": np.abs(features).sum(1)}
    known |= {"patterns": normalise(features.repeat(2, axis=0)).reshape(len(features), 2, -1)}
    known |= vars(geometry.kmeans(features, k, seed))
    before = {key: np.copy(value) for key, value in known.items()}
    found = [
        ask(COLD_STARTS[name], View(labelled, np.random.default_rng(seed), known.get), budget)
        for _ in range(2)
    ]
    places = found[0].places
    assert len(set(places.tolist())) == len(places) == budget and not labelled[places].any()
    assert (places == found[1].places).all()
    for key, value in before.items():
        assert np.array_equal(value, known[key])


@few
@given(pair=masks.flatmap(lambda one: st.tuples(st.just(one), arrays(bool, one.shape))))
def test_metrics_of_any_masks(pair):
    one, other = pair
    (row,), (swapped,) = (metrics.per_image(a[None], b[None]) for a, b in (pair, pair[::-1]))
    both, either = (one & other).sum(), (one | other).sum()
    assert row["jaccard"] == pytest.approx(both / either if either else 1)
    assert row["dice"] == pytest.approx(2 * row["jaccard"] / (1 + row["jaccard"]))
    assert row["pixel_accuracy"] == pytest.approx((one == other).mean())
    assert row["sensitivity"] == pytest.approx(both / other.sum() if other.any() else 1)
    assert row["thresholded_jaccard"] in (0, row["jaccard"])
    for name in ("dice", "jaccard", "pixel_accuracy", "hd95"):
        assert row[name] == pytest.approx(swapped[name])
    assert 0 <= row["hd95"] <= np.hypot(*one.shape)
    assert (row["hd95"] == 0) >= (one == other).all()


@few
@given(mask=masks)
def test_masks_survive_run_lengths_and_outlines(mask):
    counts = runlengths.coco_counts(mask)
    assert sum(counts) == mask.size
    assert (runlengths.coco_mask(counts, mask.shape) == mask).all()
    text = runlengths.counts_to_text(counts)
    assert list(runlengths.text_to_counts(text)) == list(counts)
    assert (runlengths.brush_mask(runlengths.brush_bytes(mask), mask.shape) == mask).all()
    assert (fill_all(outlines(mask), mask.shape) == mask).all()


# Files ------------------------------------------------------------------------------------------


@st.composite
def states(draw):
    """A state.json as active_learning.py writes it."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=5))
    labelled, rounds = [], []
    for number, size in enumerate(sizes):
        start = len(labelled)
        labelled += [
            {"round": number, "id": f"i{start + n}", "score": 0.5, "source": "x"}
            for n in range(size)
        ]
        rounds.append({"round": number, "labels": len(labelled), "pseudo": [], "note": ""})
    planned = max(0, len(sizes) - 1) + draw(st.integers(0, 2))
    return {"seed": 0, "data": "x", "synthetic": False, "rounds_planned": planned} | {
        "rounds": rounds,
        "labelled": labelled,
    }


@few
@given(state=states(), place=st.integers(0, 99))
def test_a_state_is_taken_and_a_wrong_one_is_not(state, place, tmp_path):
    path = tmp_path / "state.json"
    write_json(path, state)
    assert read_checked(path, State, "delete it") == read_json(path)
    wrong = [{**state, name: None} for name in ("seed", "data", "rounds", "labelled")]
    if state["labelled"]:
        one = state["labelled"][place % len(state["labelled"])]
        wrong += [
            {**state, "labelled": [*state["labelled"], one]},
            {**state, "labelled": [other for other in state["labelled"] if other is not one]},
            {**state, "rounds": state["rounds"][:-1]},
            {**state, "rounds": [*state["rounds"], state["rounds"][-1]]},
        ]
    for content in wrong:
        write_json(path, content)
        with pytest.raises(UserError, match=r"state\.json"):
            read_checked(path, State, "delete it")


@few
@given(
    sides=st.lists(st.sampled_from(["pool", "test", "dropped", "waiting"]), min_size=1, max_size=9)
)
def test_splits_are_disjoint(sides, tmp_path):
    path = tmp_path / "splits.json"
    splits = {side: [] for side in ("pool", "test", "dropped", "waiting")}
    for number, side in enumerate(sides):
        splits[side].append(f"i{number}")
    write_json(path, splits)
    assert read_checked(path, Splits, "x") == read_json(path)
    for other in splits.values():
        other.append("i0")
        write_json(path, splits)
        with pytest.raises(UserError, match="the id i0 stands there twice"):
            read_checked(path, Splits, "x")
        other.pop()


NAMES = st.text(string.ascii_letters + string.digits + " äß漢._-'$&<", min_size=1, max_size=8)
KINDS = {".png": "PNG", ".JPG": "JPEG", ".bmp": "BMP", ".txt": None, ".csv": None, "": None}


@settings(few, max_examples=15)
@given(files=st.dictionaries(NAMES, st.sampled_from(sorted(KINDS)), min_size=1, max_size=6))
def test_every_file_is_accounted_for(files, tmp_path_factory, call_preprocess):
    """Each file below the folder is in one line of files.csv; each image is in one set."""
    folder = tmp_path_factory.mktemp("files")
    images = folder / "root" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (32, 32), "green").save(images / "sure.png")
    for number, (name, ending) in enumerate(files.items()):
        path = images / f"{name.strip('. ') or 'x'}{ending}"
        if KINDS[ending]:
            Image.new("RGB", (32, 32), (number, 0, 0)).save(path, KINDS[ending])
        else:
            path.write_text("text")
    if not call_preprocess("--root", folder / "root", "--size", 32, "--out", folder / "data"):
        assert not (folder / "data").exists()  # two names that are one id, for instance
        return
    listed = [line.file for line in read_lines(folder / "data" / "files.csv")]
    there = [path for path in images.rglob("*") if path.is_file()]
    assert len(listed) == len(set(listed)) == len(there)
    manifest, splits = (read_json(folder / "data" / f"{n}.json") for n in ("manifest", "splits"))
    ids = sorted(row["id"] for row in manifest["rows"])
    assert sorted(splits["pool"] + splits["test"] + splits["dropped"]) == ids


@pytest.fixture
def call_preprocess():
    """call_preprocess(*words): whether it was done; False where it refused the input."""
    from conftest import call

    def run(*words):
        try:
            call("preprocess", *words)
        except SystemExit as stop:
            assert stop.code == 2
            return False
        return True

    return run
