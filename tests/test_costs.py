"""What labels cost: outlines against closed forms, runs that record it, tables that compare it."""

import csv
import itertools
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import LOOP, call
from helpers_data import hash_again
from helpers_outlines import all_masks, random_blob
from skimage.measure import perimeter_crofton
from test_tables import read, run_main, write_run

from segmentation.analysis.costs import MEASURES, cost_rows, equal_rows, known_costs
from segmentation.analysis.runs import by_arm, combine_draws, read_runs, read_state
from segmentation.analysis.significance import area_between, area_under_curve, holm
from segmentation.common import pictures
from segmentation.common.runfiles import read_csv, write_csv
from segmentation.data.cost import CROFTON, TOLERANCE, Cost, cost, distances, pieces
from segmentation.data.datafolder import open_data
from segmentation.data.images import load_tensor
from segmentation.model import engine
from segmentation.model.finish import largest_region
from segmentation.model.unet import load_model
from segmentation.rounds.learner import Learner

NOTHING = np.zeros((64, 64), dtype=bool)


def disc(side, radius, centre=(0.5, 0.5)):
    """A disc in an image of side x side pixels; radius and centre (x, y) in image sides."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return np.hypot(x - centre[0], y - centre[1]) <= radius


def box(*edges, size=(64, 64)):
    """A rectangle: the pixels from row top to bottom and column left to right, both excluded."""
    top, bottom, left, right = edges
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# The cost of one mask ---------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("side", [48, 128, 256])
def test_the_outline_of_a_disc_is_that_of_a_circle(side, radius):
    """By any image size, on average over where it lies on the grid of pixels."""
    shifts = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2)) / side
    masks = [disc(side, radius, 0.5 + shift) for shift in shifts]
    found = np.array([cost(mask, np.zeros_like(mask)) for mask in masks])
    assert found[:, 0].mean() == pytest.approx(2 * np.pi * radius, rel=0.01)
    assert found[:, 1].mean() == pytest.approx(np.pi * radius**2, rel=0.01)
    np.testing.assert_array_equal(found[:, 2], found[:, 0])


@pytest.mark.parametrize(("height", "width"), [(20, 20), (1, 1), (7, 40)])
def test_the_outline_of_a_rectangle(height, width):
    """Exactly its sides with the corners cut, times the factor: 5.2 % less than 2 (h + w)."""
    found = cost(box(10, 10 + height, 5, 5 + width), NOTHING)
    pixels = CROFTON * (2 * (height + width - 2) + 4 * 0.5**0.5)
    assert found.outline == pytest.approx(pixels / 64)
    assert found.corrected == height * width / 64**2


def test_straight_lines_are_right_on_average_over_their_directions():
    """A square of half a side, turned: from 5.2 % too short to 2.6 % too long."""
    y, x = (np.mgrid[:512, :512] + 0.5) / 512 - 0.5
    ratios = []
    for angle in np.linspace(0, np.pi / 4, 31)[:-1]:
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        mask = np.maximum(abs(u), abs(v)) <= 0.25
        ratios.append(cost(mask, np.zeros_like(mask)).outline / 2)
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    assert min(ratios) > CROFTON - 0.01 and max(ratios) < 1.027


def corners_alone(mask):
    """The number of places where two pixels of a mask touch by their corners alone."""
    padded = np.pad(mask, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.count_nonzero((a & d & ~b & ~c) | (b & c & ~a & ~d))


def test_the_outline_is_the_perimeter_of_scikit_image():
    """Crofton's formula in four directions, also with holes and at the edge of the image.

    Pixels that touch by their corners alone are set aside: of them scikit-image's value depends on
    the direction.
    """
    masks = {name: mask for name, mask in all_masks().items() if not corners_alone(mask)}
    assert len(masks) >= 12 and {"ring", "frame", "comb", "full", "empty"} <= masks.keys()
    for name, mask in masks.items():
        expected = perimeter_crofton(np.pad(mask, 1), directions=4) / mask.size**0.5
        found = cost(mask, np.zeros_like(mask)).outline
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("name", all_masks())
def test_from_nothing_all_is_drawn_and_from_the_mask_itself_nothing(name):
    mask = all_masks()[name]
    found = cost(mask, np.zeros_like(mask))
    assert found.corrected == mask.mean() and found.redrawn == found.outline
    assert cost(mask, mask) == (found.outline, 0, 0)
    as_bytes = cost(mask.astype(np.uint8), np.zeros_like(mask))
    assert as_bytes == found


def test_the_unit_is_the_side_of_a_square_of_as_many_pixels():
    tall = cost(box(10, 30, 5, 15, size=(128, 32)), np.zeros((128, 32), dtype=bool))
    assert tall == pytest.approx(cost(box(10, 30, 5, 15), NOTHING))
    assert cost(NOTHING, NOTHING) == (0, 0, 0)


def test_what_is_near_the_draft_is_not_redrawn():
    """Concentric discs: all or nothing, as the draft is farther than the tolerance or not."""
    true = disc(256, 0.3)
    near, far = (cost(true, disc(256, 0.3 + TOLERANCE + more)) for more in (-0.005, 0.005))
    assert near.redrawn == 0 and far.redrawn == far.outline == near.outline
    for found, radius in ((near, 0.315), (far, 0.325)):
        assert found.corrected == pytest.approx(np.pi * (radius**2 - 0.3**2), rel=0.02)


def test_only_the_wrong_part_is_redrawn():
    """The draft of a rectangle lacks its right end: that end, less what is near the draft."""
    true, draft = box(20, 120, 20, 220, size=(256, 256)), box(20, 120, 20, 180, size=(256, 256))
    found, tolerance = cost(true, draft), TOLERANCE * 256
    assert found.corrected == 40 * 100 / 256**2
    assert found.redrawn * 256 == pytest.approx(CROFTON * (100 + 2 * (40 - tolerance)), abs=3)
    # What the draft has elsewhere costs area alone.
    more = cost(true, draft | box(200, 240, 20, 60, size=(256, 256)))
    assert more.redrawn == found.redrawn and more.corrected == (40 * 100 + 40 * 40) / 256**2


def to_segments(points, mask):
    """Distances of points M x 2 to the outline of a mask, by each of its pieces: brute force."""
    best = np.full(len(points), np.inf)
    for line in pictures.contours(mask):
        for a, b in itertools.pairwise(line):
            along = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)[:, None]
            best = np.minimum(best, np.linalg.norm(points - a - along * (b - a), axis=1))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_redrawn_against_brute_force(seed):
    """The distance to a few points of each piece is that to the piece, to 0.2 pixels."""
    true, other = random_blob(seed), random_blob(seed + 50)
    draft = true ^ (other & disc(52, 0.3)[:37])
    side, (middles, lengths, _) = true.size**0.5, pieces(true)
    exact, found = to_segments(middles, draft), distances(middles, draft)
    assert (exact <= found + 1e-9).all() and (found <= exact + 0.2).all()
    low, high = (lengths[exact > TOLERANCE * side - less].sum() / side for less in (0, 0.2))
    assert low - 1e-9 <= cost(true, draft).redrawn <= high + 1e-9 and high > 0
    assert cost(true[::-1].T, draft[::-1].T) == pytest.approx(cost(true, draft))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="a draft of"):
        cost(NOTHING, NOTHING[1:])


# Runs -------------------------------------------------------------------------------------------

LEARNS = [*LOOP, "--epochs", 40, "--lr", 0.01, "--keep-weights"]  # enough to draw something
ENTROPY = [*LEARNS, "--cold-start", "random", "--query", "entropy"]
LARGEST = [*LEARNS, "--largest"]


@pytest.fixture(scope="module")
def seg(data, tmp_path_factory):
    """A folder of two arms with one seed each: drawn images, three rounds, all weights kept."""
    out = tmp_path_factory.mktemp("cost") / "seg"
    for arm, more in {"entropy": ENTROPY, "largest": LARGEST}.items():
        words = ["--data", data, "--out", out / arm / "seed0", *more]
        call("active_learning", *words)
    return out


def test_each_label_has_its_cost_by_the_model_of_the_round_before(data, seg):
    opened, drafted = open_data(data), 0
    for arm in ("entropy", "largest"):
        folder = seg / arm / "seed0"
        state = read_state(folder / "state.json")
        for number in range(3):
            ids = [one["id"] for one in state["labelled"] if one["round"] == number]
            rows, true = (
                read_csv(folder / f"round_{number:02d}" / "cost.csv"),
                opened.load_masks(ids),
            )
            drafts = np.zeros_like(true)
            if number:
                model = load_model(folder / f"round_{number - 1:02d}" / "weights.pt")
                with torch.no_grad():
                    drafts = (model(load_tensor(opened, ids).float() / 255)[:, 0] > 0).numpy()
                if arm == "largest":
                    drafts = np.stack([largest_region(draft) for draft in drafts])
            drafted += drafts.sum()
            expected = [cost(*pair) for pair in zip(true, drafts, strict=True)]
            assert [row["id"] for row in rows] == ids
            assert [[float(row[name]) for name in Cost._fields] for row in rows] == [
                list(one) for one in expected
            ]
    assert drafted, "no model has drawn anything: this test shows nothing"


def results_of(folder):
    """What a run leaves, but for its arguments and the seconds in its logs."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in ("args.json", "env.json", "log.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_drafts_change_nothing_else(data, seg, tmp_path, monkeypatch):
    """Without their prediction choices, metrics and weights have the same bytes."""
    whole, costs = results_of(seg / "entropy" / "seed0"), Learner.costs
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "costs", lambda self, model, ids: costs(self, None, ids))
        words = ["--data", data, "--out", tmp_path / "run", *ENTROPY]
        call("active_learning", *words)
    found = results_of(tmp_path / "run")
    differ = [name for name in whole if whole[name] != found[name]]
    assert found.keys() == whole.keys()
    assert differ == ["round_01/cost.csv", "round_02/cost.csv"]


class Stopped(Exception):
    pass


def test_interrupted_after_the_costs_of_a_round(data, seg, tmp_path, monkeypatch):
    def train(*args, stream, **settings):
        if stream[1:] == ("round", 1):
            raise Stopped
        return whole_train(*args, stream=stream, **settings)

    whole_train, out = engine.train, tmp_path / "seed0"
    words = ["--data", data, "--out", out, *ENTROPY]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(engine, "train", train)
        call("active_learning", *words)
    path = out / "round_01" / "cost.csv"
    assert path.exists() and len(read_state(out / "state.json")["rounds"]) == 1
    path.write_text("damaged")
    call("active_learning", *words)
    assert results_of(out) == results_of(seg / "entropy" / "seed0")


def test_the_answers_are_what_costs(data, seg, tmp_path):
    """With --training-masks these are drawn, not those that are measured on."""
    copy = shutil.copytree(data, tmp_path / "data")
    masks = np.load(copy / "masks.npy")
    masks[:] = box(8, 16, 8, 24, size=masks.shape[1:])
    np.save(copy / "masks.npy", masks)
    hash_again(copy)
    words = ["--data", data, "--out", tmp_path / "run", *LOOP, "--rounds", 0]
    call("active_learning", *words, "--training-masks", copy)
    expected = cost(masks[0], np.zeros_like(masks[0]))
    for row in read_csv(tmp_path / "run" / "round_00" / "cost.csv"):
        assert [float(row[name]) for name in Cost._fields] == list(expected)


# Tables -----------------------------------------------------------------------------------------


def test_tables_of_runs(seg, tmp_path, capsys, figures):
    call("tables", "--runs", seg, "--out", tmp_path, "--baseline", "largest")
    printed = capsys.readouterr().out
    for name in ("cost.md", "cost.csv", "cost_curves.png", "equal_cost.md", "equal_cost.csv"):
        assert (tmp_path / name).exists() and str(tmp_path / name) in printed
    rows = read(tmp_path / "cost.csv")
    assert [(row["arm"], row["labels"]) for row in rows] == [
        (arm, labels) for arm in ("entropy", "largest") for labels in ("12", "17", "22")
    ]
    files = [seg / "entropy" / "seed0" / f"round_{number:02d}" / "cost.csv" for number in range(3)]
    for name in Cost._fields:
        sums = np.cumsum([sum(float(row[name]) for row in read_csv(path)) for path in files])
        assert [float(row[f"{name}_mean"]) for row in rows[:3]] == pytest.approx(sums.tolist())
    assert [axes.get_xlabel() for axes in figures["cost_curves.png"].axes] == [
        measure.axis for measure in MEASURES.values()
    ]


def test_older_runs_have_the_tables_of_before(seg, tmp_path, capsys):
    """Without cost.csv in a round the arm is left out of the costs; without any there are none."""
    runs = shutil.copytree(seg, tmp_path / "seg")
    (runs / "entropy" / "seed0" / "round_01" / "cost.csv").unlink()
    call("tables", "--runs", runs, "--baseline", "entropy")
    text = (tmp_path / "tables" / "cost.md").read_text()
    assert "| largest |" in text and "| entropy |" not in text
    assert "Left out, as their costs are not known: entropy." in text
    assert not (tmp_path / "tables" / "equal_cost.md").exists()
    for path in runs.rglob("cost.csv"):
        path.unlink()
    call("tables", "--runs", runs, "--out", tmp_path / "old", "--baseline", "entropy")
    names = {path.name for path in (tmp_path / "old").iterdir() if path.name[0] != "."}
    assert "table.md" in names and not [name for name in names if "cost" in name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[0].pop("redrawn"), "no column redrawn"),
        (lambda rows: rows[2].update(outline="-1"), "outline of .* is -1, which cannot be"),
        (lambda rows: rows[2].update(outline="nan"), "is nan, which cannot be"),
        (lambda rows: rows[1].update(corrected="1.5"), "corrected of .* is 1.5"),
        (lambda rows: rows[1].update(corrected="half"), "not a number"),
        (lambda rows: rows[0].update(redrawn="99"), "more is redrawn of .* than its outline"),
        (lambda rows: rows[0].update(id="nobody"), "other images than were labelled"),
        (lambda rows: rows.append(rows[0]), "lists an image twice"),
        (lambda rows: rows.pop(), "other images than were labelled"),
    ],
)
def test_damaged_costs(seg, tmp_path, refused, change, reason):
    runs = shutil.copytree(seg, tmp_path / "seg")
    path = runs / "entropy" / "seed0" / "round_01" / "cost.csv"
    rows = read_csv(path)
    change(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    line = refused("tables", "--runs", runs)
    assert str(path) in line and "delete the run's folder" in line
    assert re.search(reason, line)


def write_costed(runs, arm, seed, dice, labels, each):
    """A run by hand of which each label has an outline of `each`, a fifth of it redrawn."""
    folder = write_run(runs, arm, seed, dice, labels)
    before = [0, *labels]
    for number in range(len(labels)):
        row = {"outline": each, "corrected": 0.25, "redrawn": each / 5}
        names = [f"{number} {place}" for place in range(labels[number] - before[number])]
        write_csv(folder / f"round_{number:02d}" / "cost.csv", [{"id": n, **row} for n in names])


@pytest.fixture
def doubling(tmp_path):
    """Each doubling of the labels is 10 points: those of `short` are half as long as `long`'s."""
    runs, labels = tmp_path / "seg", (10, 20, 40, 80)
    for seed, shift in enumerate((-0.02, 0, 0.02)):
        curve = [0.4 + shift + 0.1 * number for number in range(4)]
        write_costed(runs, "long", seed, curve, labels, 2.0)
        write_costed(runs, "short", seed, curve, labels, 1.0)
        write_costed(runs, "short+draw0", seed, curve, labels, 1.0)
    write_costed(runs, "full", 0, [0.8], (100,), 1.0)
    return runs


def test_equal_cost(doubling, monkeypatch):
    """At equal length, with labels half as long, it is one doubling ahead; at equal count even."""
    out = doubling.parent / "tables"
    arms = ["--arms", "full", "long", "short"]
    run_main(monkeypatch, "--runs", doubling, "--baseline", "long", *arms)
    rows = {row["measure"]: row for row in read(out / "equal_cost.csv")}
    assert list(rows) == list(MEASURES) and all(row["arm"] == "short" for row in rows.values())
    expected = {"images": (0, 10, 80), "outline": (0.1, 20, 80), "redrawn": (0.1, 4, 16)}
    expected["corrected"] = (0, 2.5, 20)
    for measure, numbers in expected.items():
        found = [float(rows[measure][name]) for name in ("difference", "low", "high")]
        assert found == pytest.approx(numbers, abs=1e-9)
    text = (out / "equal_cost.md").read_text()
    assert "| short | outline, sides | 20 to 80 | +10.0 [+10.0, +10.0] | < 0.001 | " in text
    assert "| short | images | 10 to 80 | +0.0 [" in text
    assert "in common with long: full." in text
    text = (out / "cost.md").read_text()
    assert (
        "| long | 3 | 80 | 160.0 ± 0.0 (2.000) | 32.0 ± 0.0 (0.400) | 20.0 ± 0.0 (0.250) |" in text
    )
    assert "70.0 ± 2.0 |" in text


def test_draws_and_labels_that_cost_nothing(doubling):
    """The mean of draws has costs, the best of them none; with a cost of 0 nothing is compared."""
    groups, _ = combine_draws(by_arm(read_runs(doubling)[0]))
    known, others = known_costs(groups)
    assert others == ["short+best"] and "short+draws (mean of 1)" in known
    rows, apart = equal_rows(known, "long")
    assert {row["arm"]: row["p_holm"] for row in rows}["short+draws (mean of 1)"] is None
    assert apart == ["full"]
    for run in known["short"]:
        run.costs["redrawn"][0] = 0
    rows, apart = equal_rows(known, "long")
    assert apart == ["full", "short"]
    assert [row["measure"] for row in rows if row["arm"] == "short"] == [
        "images",
        "outline",
        "corrected",
    ]
    assert len(cost_rows(known)) == 13


def test_holm_is_over_all_arms_and_measures(tmp_path):
    for seed in range(4):
        noise = 0.03 * (-1) ** seed
        write_costed(tmp_path, "base", seed, [0.5, 0.6], (10, 20), 1.0)
        for arm, gain in enumerate((0.02, 0.1)):
            curve = [0.5 + gain + noise, 0.6 + gain - noise / 2]
            write_costed(tmp_path, f"arm{arm}", seed, curve, (10, 20), 0.9)
    rows, _ = equal_rows(by_arm(read_runs(tmp_path)[0]), "base")
    assert len(rows) == 8
    assert {row["measure"] for row in rows} == set(MEASURES)
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])


def test_area_between():
    """The whole of a curve, a part of it by a fine sum, and one that stands still for a while."""
    costs, dice = [3, 5, 11, 30], np.random.default_rng(0).random((2, 7, 4))
    whole = area_between(costs, dice, 3, 30)
    np.testing.assert_allclose(whole, area_under_curve(costs, dice))
    grid = np.linspace(np.log2(4), np.log2(20), 20001)
    for low, high in ((4, 20), (5, 11), (6, 7), (3, 29)):
        grid = np.linspace(np.log2(low), np.log2(high), 20001)
        for curve, found in zip(dice[0], area_between(costs, dice, low, high)[0], strict=True):
            values = np.interp(grid, np.log2(costs), curve)
            assert found == pytest.approx(values.mean(), abs=1e-4)
    # From 2 to 8 in steps of one doubling; at 4 a label that costs nothing gains 20 points.
    assert area_between([2, 4, 4, 8], [0.2, 0.4, 0.6, 0.8], 2, 8) == pytest.approx(0.5)
    for low, high in ((2, 20), (4, 31), (5, 5)):
        with pytest.raises(ValueError, match="no part of a curve"):
            area_between(costs, dice, low, high)


def test_cost_curves_are_panels_of_one_height(tmp_path, figures):
    one = {"a": ([10, 80], [50, 60], [1, 1]), "full": ([1600], [80], [None])}
    other = {"a": ([1.5, 8], [50, 60], [1, 1]), "full": ([900], [80], [None])}
    free = {"a": ([0, 8], [50, 60], [1, 1]), "full": ([5], [80], [None])}
    path = tmp_path / "c.png"
    pictures.cost_curves(
        path, [("labels", one), ("length", other), ("area", free)], "Dice (%)", "t"
    )
    first, second, third, unused = figures["c.png"].axes
    assert [axes.get_xlabel() for axes in (first, second, third)] == ["labels", "length", "area"]
    assert first.get_ylim() == second.get_ylim() and not unused.axison
    assert [axes.get_xscale() for axes in (first, second, third)] == ["log", "log", "linear"]
    assert [text.get_text() for text in first.get_xticklabels()] == ["10", "80"]
    for axes in (first, second, third):
        assert tuple(axes.lines[1].get_xdata()) == (0, 1), "full supervision is a line across"
        assert axes.get_xlim()[1] < 200
    (legend,) = figures["c.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["full (1600 labels)", "a"]
