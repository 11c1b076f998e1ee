"""report.py on a small run: what the page says is what the files hold; it is safe and complete."""

import base64
import csv
import html
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import LOOP, call, command_line
from helpers_data import write_data
from scipy import stats
from skimage.measure import grid_points_in_poly

from segmentation import report
from segmentation.analysis import charts, events, page
from segmentation.analysis.estimates import equal_parts, mean_dice, spearman
from segmentation.analysis.significance import Interval
from segmentation.common.door import run_script
from segmentation.common.runfiles import UserError, write_csv, write_json
from segmentation.model import metrics
from segmentation.model.confidence import held_out

SECTIONS = ["run", "data", "pretraining", "map", "chosen"]
SECTIONS += ["curve", "calibration", "cases", "sizes", "next"]
LEARNS = ["--epochs", "12", "--epochs-round", "6", "--lr", "0.02", "--dropout", "0"]
EMPTY = {"meta", "img", "br"}


# A run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(data, weights, clusters, tmp_path_factory):
    """A run as run.sh leaves it, with two arms, one of them with two seeds."""
    run = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(weights, run / "pretrain")
    shutil.copytree(clusters, run / "cluster")
    chosen = ["--clusters", run / "cluster", "--query", "entropy", "--cold-start", "saal"]
    for arm, seed, more in (
        ("random", 0, []),
        ("random", 1, []),
        ("saal-entropy", 0, [*chosen, "--init", "all", "--weights", run / "pretrain/best.pt"]),
    ):
        out = run / "seg" / arm / f"seed{seed}"
        call("active_learning", "--data", data, "--out", out, "--seed", seed, *LOOP, *LEARNS, *more)
    return run


@pytest.fixture
def run(made, tmp_path):
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def make(*words):
    """Call report.py with these words."""
    with command_line("report", *words):
        run_script(report.main)


def made_page(folder, *words):
    """The Page of a run."""
    make(folder, *words)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def change(path, function):
    """Apply a function to each row of a CSV file, in place."""
    rows = read(path)
    for number, row in enumerate(rows):
        function(number, row)
    write_csv(path, rows)


# A page -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A parsed page. It fails where an end tag does not fit, and where text stands for a tag."""

    def __init__(self, text):
        super().__init__()
        self.source, self.open, self.elements, self.words = text, [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        inside = [name for _, name in self.open if name in SECTIONS]
        found = {"tag": tag, "section": inside[0] if inside else None, "text": ""}
        self.elements.append({**dict(attributes), **found})
        if tag not in EMPTY:
            self.open.append((tag, dict(attributes).get("id")))
            self.elements[-1]["depth"] = len(self.open)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()[0] == tag, tag

    def handle_data(self, data):
        for element in reversed(self.elements):
            if element.get("depth", 99) <= len(self.open):
                break
        depth = len(self.open)
        for element in reversed(self.elements):  # all that are open hold the text
            if element.get("depth") == depth and depth:
                element["text"] += data
                depth -= 1

    def section(self, name):
        """The text of a section, with single spaces."""
        (found,) = [e for e in self.elements if e["tag"] == "section" and e.get("id") == name]
        return " ".join(found["text"].split())

    def find(self, tag, section=None, **attributes):
        """The elements with this tag, in a section, with these attributes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and section in (None, element["section"])
            and wanted.items() <= element.items()
        ]


def picture_of(element):
    """The pixels of an <img>, uint8 H x W, from its data URI."""
    kind, content = element["src"].split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", kind)
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_GRAYSCALE)


def test_all_sections_are_there_and_listed(run):
    page = made_page(run)
    links = [link["href"] for link in page.find("a")]
    assert links == [f"#{name}" for name in SECTIONS]
    assert [section["id"] for section in page.find("section")] == SECTIONS
    headings = [int(e["tag"][1]) for e in page.elements if re.fullmatch(r"h\d", e["tag"])]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))
    assert len(page.find("h2")) == len(SECTIONS)
    assert "Synthetic demo data" in page.source
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))


def test_the_page_is_complete_in_itself(run):
    page = made_page(run)
    assert not page.find("script") and not page.find("link")
    for element in page.elements:
        assert not any(name.startswith("on") for name in element), element
        for name in ("src", "href", "xlink:href"):
            if name in element:
                assert element[name].startswith(("data:image/", "#")), element[name][:80]
    style = "".join(element["text"] for element in page.find("style"))
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme" in style
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    assert all(image["alt"].strip() for image in page.find("img"))
    drawn = page.find("svg")
    assert drawn
    for svg in drawn:
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])


def test_same_run_same_bytes(run):
    first = made_page(run).source
    assert made_page(run).source == first


def test_what_was_run(run):
    page = made_page(run)
    env = json.loads((run / "seg/random/seed0/env.json").read_text())
    text = page.section("run")
    for words in (
        env["torch"],
        env["cpu"],
        f"Python {env['python']}",
        "--per-round",
        "--cold-start",
    ):
        assert words in text
    assert env["commit"] is None or env["commit"][:12] in text
    rows = [e["text"] for e in page.find("tr", "run")]
    assert any(row.startswith("random0, 1312 to 22") for row in rows), rows
    assert any(row.startswith("saal-entropy0312 to 22") for row in rows), rows


def test_time_of_training(run):
    for folder in run.glob("seg/saal-entropy/seed0/round_*"):
        change(folder / "log.csv", lambda _, row: row.update(seconds=100.0))
    epochs = sum(len(read(path)) for path in run.glob("seg/saal-entropy/seed0/round_*/log.csv"))
    row = next(e["text"] for e in made_page(run).find("tr", "run") if "saal-entropy" in e["text"])
    assert row.endswith(f"{round(100 * epochs / 60)} min")


def test_chosen_images(run, data):
    """Each round shows its images with id, reason and score, and the pictures are those images."""
    page = made_page(run, "--arm", "saal-entropy")
    state = json.loads((run / "seg/saal-entropy/seed0/state.json").read_text())
    entries = state["labelled"]
    captions = [e["text"] for e in page.find("figcaption", "chosen")]
    assert len(captions) == len(entries) == 22
    for entry, caption in zip(entries, captions, strict=True):
        assert caption == f"{entry['id']}{entry['source']}, score {entry['score']:.3g}"
    titles = [e["text"] for e in page.find("h3", "chosen")]
    assert titles == ["Round 0: 12 images", "Round 1: 5 images", "Round 2: 5 images"]
    rows = json.loads((data / "manifest.json").read_text())["rows"]
    place = {row["id"]: number for number, row in enumerate(rows)}
    images = np.load(data / "images.npy")
    for entry, element in zip(entries, page.find("img", "chosen"), strict=True):
        assert element["alt"] == f"image {entry['id']}"
        expected = images[place[entry["id"]], :, :, 0].astype(float)
        assert np.abs(picture_of(element) - expected).mean() < 4


def test_map_has_the_places_of_the_chosen_images(run):
    page = made_page(run, "--arm", "saal-entropy")
    with np.load(run / "cluster/clusters.npz") as arrays:
        place = dict(zip(arrays["ids"].tolist(), arrays["map"], strict=True))
    labelled = json.loads((run / "seg/saal-entropy/seed0/state.json").read_text())["labelled"]
    titles = [e["text"] for e in page.find("title", "map")]
    assert titles == [f"{one['id']}, round {one['round']}" for one in labelled]
    dots = [e for e in page.find("circle", "map") if float(e["r"]) == 5.5]
    drawn = np.array([[float(e["cx"]), float(e["cy"])] for e in dots])
    points = np.array([place[one["id"]] for one in labelled])
    scale = np.polyfit(points[:, 0], drawn[:, 0], 1)[0]
    assert scale > 0
    np.testing.assert_allclose(np.ptp(points @ [[scale], [0]] - drawn[:, :1]), 0, atol=0.2)
    np.testing.assert_allclose(np.ptp(points @ [[0], [scale]] + drawn[:, 1:]), 0, atol=0.2)
    (rest,) = page.find("path", "map", class_="pool")
    assert rest["d"].count("M") == len(place) - len(labelled)


def test_learning_curve_over_seeds_and_over_images(run):
    page = made_page(run)
    text = page.section("curve")
    means = []
    for seed in (0, 1):
        rows = read(run / f"seg/random/seed{seed}/round_02/metrics.csv")
        means.append(statistics.fmean(float(row["dice"]) for row in rows))
    middle = statistics.fmean(means)
    assert middle > 0.1
    low, high = stats.t.interval(0.95, 1, middle, stats.sem(means))
    ends = f"[{100 * max(0, low):.1f}, {100 * min(1, high):.1f}]"
    assert f"{100 * middle:.1f}{ends}" in text
    assert "2 seeds12 images" in text and "1 seed12 images" in text
    rows = read(run / "seg/saal-entropy/seed0/round_02/metrics.csv")
    dice = np.array([float(row["dice"]) for row in rows])
    row = next(e["text"] for e in page.find("tr", "curve") if e["text"].startswith("saal-entropy"))
    value, low, high = map(float, re.findall(r"([\d.]+)\[([\d.]+), ([\d.]+)\]$", row)[0])
    assert value == pytest.approx(100 * dice.mean(), abs=0.05)
    ends = stats.t.interval(0.95, len(dice) - 1, dice.mean(), stats.sem(dice))
    assert (low, high) == pytest.approx((100 * ends[0], min(100, 100 * ends[1])), abs=0.05)
    assert "Student's over the test images" in text and "Student's t over seeds" in text


def test_cases_show_the_outlines_that_were_measured(run, data):
    """The outline of truth encloses the mask; the predicted one has the Dice of metrics.csv."""
    page = made_page(run, "--arm", "saal-entropy")
    measured = {
        r["id"]: float(r["dice"]) for r in read(run / "seg/saal-entropy/seed0/round_02/metrics.csv")
    }
    ranked = sorted(measured, key=lambda name: (-measured[name], name))
    captions = [e["text"] for e in page.find("figcaption", "cases")]
    kinds = ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert len(captions) == 9
    assert captions[0] == f"{ranked[0]}best: Dice {100 * measured[ranked[0]]:.1f}\u00a0%"
    assert captions[-1] == f"{ranked[-1]}worst: Dice {100 * measured[ranked[-1]]:.1f}\u00a0%"
    assert [re.search("best|median|worst", text)[0] for text in captions] == kinds
    rows = json.loads((data / "manifest.json").read_text())["rows"]
    place = {row["id"]: number for number, row in enumerate(rows)}
    masks = np.load(data / "masks.npy")
    shown = [e for e in page.elements if e["section"] == "cases"]
    boxes = [n for n, e in enumerate(shown) if e.get("class") == "outlined"]
    assert len(boxes) == 9
    for start, end, caption in zip(boxes, [*boxes[1:], None], captions, strict=True):
        name = caption.split(re.search("best|median|worst", caption)[0])[0]
        areas = {}
        for kind in ("truth", "predicted"):
            paths = [e["d"] for e in shown[start:end] if e.get("class") == kind]
            areas[kind] = filled(paths[0] if paths else "", masks.shape[1:])
        np.testing.assert_array_equal(areas["truth"], masks[place[name]] == 1)
        both = (areas["truth"] & areas["predicted"]).sum()
        total = areas["truth"].sum() + areas["predicted"].sum()
        assert 2 * both / total == pytest.approx(measured[name], abs=1e-6)


def filled(path, shape):
    """The pixels inside the closed lines of an SVG path, by the even-odd rule; bool H x W."""
    inside = np.zeros(shape, dtype=bool)
    for line in path.split("M")[1:]:
        points = [tuple(map(float, pair.split())) for pair in line.rstrip("z").split("L")]
        inside ^= grid_points_in_poly(shape, [(y, x) for x, y in points])
    return inside


def test_cases_of_changed_weights_say_so(run):
    shutil.copy(
        run / "seg/random/seed1/round_02/weights.pt", run / "seg/saal-entropy/seed0/round_02"
    )
    path = run / "seg/saal-entropy/seed0/round_02/metrics.csv"
    change(path, lambda number, row: row.update(dice=0.9 - number / 100))
    assert "have changed since" in made_page(run, "--arm", "saal-entropy").section("cases")


def test_groups_by_lesion_size(run, data):
    page = made_page(run, "--arm", "saal-entropy")
    rows = read(run / "seg/saal-entropy/seed0/round_02/metrics.csv")
    listed = json.loads((data / "manifest.json").read_text())["rows"]
    place = {row["id"]: number for number, row in enumerate(listed)}
    masks = np.load(data / "masks.npy")
    pairs = [(100 * masks[place[row["id"]]].mean(), 100 * float(row["dice"])) for row in rows]
    pairs.sort(key=lambda pair: pair[0])  # of equal areas the first image first
    lines = [e["text"] for e in page.find("tr", "sizes")][1:]
    for number, (name, line) in enumerate(
        zip(("smallest", "middle", "largest"), lines, strict=True)
    ):
        areas, dice = zip(*pairs[4 * number : 4 * number + 4], strict=True)
        start = f"{name}{areas[0]:.1f} to {areas[-1]:.1f}4{statistics.fmean(dice):.1f} ["
        assert line.startswith(start), (line, start)
        assert line.endswith(f"]{sum(value < 50 for value in dice)}")


def test_calibration(run):
    path = run / "seg/saal-entropy/seed0/round_02/metrics.csv"
    whole = read(path)
    write_csv(path, [{k: v for k, v in row.items() if k != "confidence"} for row in whole])
    missing = made_page(run, "--arm", "saal-entropy").section("calibration")
    assert "no column confidence" in missing
    rng = np.random.default_rng(0)
    write_csv(path, whole)
    change(path, lambda _, row: row.update(dice=rng.uniform()))
    change(path, lambda _, row: row.update(confidence=(float(row["dice"]) + rng.uniform()) / 2))
    rows = read(path)
    confidence, truth = (np.array([float(r[k]) for r in rows]) for k in ("confidence", "dice"))
    expected = held_out(confidence, truth)
    text = made_page(run, "--arm", "saal-entropy").section("calibration")
    r = stats.spearmanr(expected, truth).statistic
    assert re.search(
        rf"correlation: {re.escape(f'{r:+.2f}')} \[[-+]0\.\d\d, [-+]0\.\d\d\], n\s=\s12\.", text
    )
    assert f"expects a Dice of {100 * expected.mean():.1f} %" in text
    page = made_page(run, "--arm", "saal-entropy")
    dots = page.find("circle", "calibration")
    assert len(dots) == 12
    across = np.array([float(e["cx"]) for e in dots])
    down = np.array([float(e["cy"]) for e in dots])
    assert np.corrcoef(across, expected)[0, 1] > 0.9999
    assert np.corrcoef(down, truth)[0, 1] < -0.9999
    (line,) = page.find("path", "calibration", class_="diagonal")
    ends = [list(map(float, pair.split())) for pair in line["d"][1:].split("L")]
    scale = np.polyfit(expected, across, 1), np.polyfit(truth, down, 1)
    drawn = [[np.polyval(one, end) for one in scale] for end in (0, 1)]
    np.testing.assert_allclose(ends, drawn, atol=0.5)


def test_cross_validation_is_shown(run):
    rows = [
        {"fold": n % 2, "id": f"i{n}", "dice": n / 10, "confidence": (n / 10) ** 2}
        for n in range(8)
    ]
    write_csv(run / "seg/saal-entropy/seed0/round_02/folds.csv", rows)
    page = made_page(run, "--arm", "saal-entropy")
    assert "2235.0 [" in page.section("curve").split("Cross-validation")[1]
    text = page.section("calibration")
    assert "correlation: +1.00 [no interval], n = 8" in text.replace("\u00a0", " ")


# What may be missing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "section", "words"),
    [
        (["pretrain"], "pretraining", "no restoration pretraining"),
        (["pretrain/restorations.png"], "pretraining", "restorations.png is not there"),
        (["cluster"], "map", "There is no map"),
        (["cluster/clusters.npz"], "map", "There is no map"),
        (["seg"], "curve", "No round has been measured"),
        (["seg"], "chosen", "Round 0: 12 images"),  # the cold start of cluster.py
        (["seg", "cluster"], "chosen", "No image has been chosen"),
        (["seg/saal-entropy/seed0/round_02/weights.pt"], "cases", "has no weights.pt"),
        (["seg/saal-entropy/seed0/round_02/metrics.csv"], "cases", "17 labels"),
        (["seg/saal-entropy/seed0/state.json"], "run", "0 of 1 (1 unfinished)"),
        (["seg/saal-entropy/seed0/args.json"], "run", "Settings of all 2 trainings"),
        (["seg/saal-entropy/seed0/env.json"], "run", "not recorded"),
    ],
)
def test_missing_parts(run, gone, section, words):
    for name in gone:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    more = ["--arm", "saal-entropy"] if "seg" not in gone else []
    assert words in made_page(run, *more).section(section)


def test_data_folder_is_gone(run, data, tmp_path, capsys):
    for path in run.rglob("args.json"):
        path.write_text(path.read_text().replace(str(data), str(tmp_path / "gone")))
    page = made_page(run)
    printed = capsys.readouterr().out
    assert f"({tmp_path / 'gone'}) is not there; give it with --data" in printed
    assert f"({tmp_path / 'gone'}) is not there; give it with --data" in page.source
    for section in ("data", "cases", "sizes"):
        assert "data folder is not there" in page.section(section)
    assert not page.find("img", "chosen") and len(page.find("figcaption", "chosen")) == 22
    assert len(made_page(run, "--data", data).find("img", "chosen")) == 22
    shutil.copytree(data, run / "gone")  # a data folder inside the run
    assert len(made_page(run).find("img", "chosen")) == 22


def test_another_data_folder_is_noticed(run, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    splits = json.loads((other / "splits.json").read_text())
    write_json(other / "splits.json", {**splits, "rule": "another"})
    assert "is not as it was when random was trained" in made_page(
        run, "--data", other
    ).source.replace("seg/random/seed0", "random")


def test_damaged_files_are_named(run, capsys):
    (run / "seg/random/seed0/env.json").write_text("{")
    (run / "seg/random/seed0/round_00/metrics.csv").write_text("id,dice\na,much\n")
    page = made_page(run)
    printed = capsys.readouterr().out
    for words in (
        "env.json: not readable as JSON",
        "metrics.csv: holds a value that is not a number",
    ):
        assert words in printed and words in page.source


def test_one_round_one_seed_by_itself(made, tmp_path):
    """A folder that active_learning.py has filled, alone and as RUN/model."""
    alone = tmp_path / "runs" / "mine"
    shutil.copytree(made / "seg/random/seed0", alone)
    assert "Dice of mine with 22 labels" in made_page(alone).source
    shutil.copytree(made / "seg/random/seed0", tmp_path / "runs/model")
    shutil.rmtree(alone)
    page = made_page(tmp_path / "runs")
    assert "Dice of model with 22 labels" in page.source
    assert "option --arm" not in page.source


def test_unfinished_run(run):
    path = run / "seg/saal-entropy/seed0/state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "rounds_planned": 7}))
    page = made_page(run)
    assert "3 of 8 (1 unfinished)" in page.section("run")
    assert "Finish seg/saal-entropy/seed0: give the same command again" in page.section("next")


def test_images_that_wait_for_a_person(run, data, tmp_path):
    ids = json.loads((run / "seg/saal-entropy/seed0/state.json").read_text())["labelled"]
    done, pool = ids[0]["id"], {one["id"] for one in ids}
    with np.load(run / "cluster/clusters.npz") as arrays:
        new = [name for name in arrays["ids"].tolist() if name not in pool][:2]
    rows = [
        {
            "file": f"{name}.jpg",
            "id": name,
            "reason": "unlike all others",
            "cluster": 3,
            "score": 0.5,
        }
        for name in [done, *new]
    ]
    folder = run / "to_annotate" / "round_03"
    write_csv(folder / "list.csv", [{**row, "cluster_size": 17} for row in rows])
    hint = {"measured": ["Dice 84"], "advice": "Do stop.", "masks": "python predict.py 'a & b'"}
    write_json(run / "hint.json", hint)
    write_json(run / "annotate.json", {"command": "python annotate.py --root 'my <images>'"})
    other = shutil.copytree(data, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    for row in manifest["rows"]:
        row["mask"] = None if row["id"] in new else row["mask"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    page = made_page(run, "--arm", "saal-entropy", "--data", other)
    text = page.section("chosen")
    assert "Waiting for outlines, round_03: 2 images" in text
    caption = f"{new[0]}unlike all others, score 0.5, one of 17 in cluster 3"
    assert caption in [e["text"] for e in page.find("figcaption", "chosen")]
    assert f"{done}unlike all others" in text  # its reason is also that of the round
    assert "round 3: 2 images" in page.section("map")
    steps = page.section("next")
    assert "Outline the 2 images of to_annotate/round_03/list.csv" in steps
    assert "python annotate.py --root 'my <images>'" in steps
    assert "python predict.py 'a & b'" in steps
    assert "Dice 84" in steps and "Do stop." in steps


def test_files_of_the_data_folder(run, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    rows = [{"file": f"images/{n}.jpg", "outcome": "image", "id": n, "notes": ""} for n in range(5)]
    rows[4]["notes"] = "turned by its EXIF orientation"
    rows.append(
        {"file": "images/<x>.jpg", "outcome": "skipped", "id": "", "notes": "ends too early"}
    )
    write_csv(other / "files.csv", rows)
    page = made_page(run, "--data", other)
    text = page.section("data")
    assert "image5" in text and "skipped1" in text
    assert "Files that are not used (1)" in text
    assert "images/<x>.jpgskippedends too early" in text
    assert "Files that are used, with a note (1)" in text and "turned by its EXIF" in text


def test_no_run(tmp_path, capsys):
    for folder, words in ((tmp_path, "holds no pretraining"), (tmp_path / "no", "no such folder")):
        with pytest.raises(SystemExit) as stop:
            make(folder)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and len(lines) == 1 and words in lines[0], lines
    assert not list(tmp_path.iterdir())


def test_bad_options(run, tmp_path):
    for words, message in (
        (["--arm", "best"], "--arm best: not in .*; it has random, saal-entropy"),
        (["--out", tmp_path], "is a folder; give the name of a file"),
        (["--data", tmp_path], "is no data folder"),
    ):
        with (
            command_line("report", run, *words),
            pytest.raises(UserError, match=message),
        ):
            report.main()
    assert not (run / "report.html").exists()


# Odd names --------------------------------------------------------------------------------------

ODD = ["a<b>&amp;", "\"quoted\" 'id'", "$x^2$ onload=alert(1)", "</figcaption><script>", "ü 漢字 x"]


def test_odd_ids(tmp_path):
    """Ids, arms and reasons with markup in them appear as they are, and add no element."""
    folder, count = tmp_path / "data", len(ODD)
    images = np.full((2 * count, 8, 8, 3), 99, dtype=np.uint8)
    masks = np.zeros((2 * count, 8, 8), dtype=np.uint8)
    masks[:, 2:5, 2:5] = 1
    ids = ODD + [f"test {name}" for name in ODD]
    order = sorted(ids)
    write_data(folder, images, masks, order, ODD, ids[count:], synthetic=False, rule="<i>rule")
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, "duplicates": [ODD[:2]]})
    run = tmp_path / "run <i>&"
    arm = run / "seg" / "<b>arm&" / "seed0"
    labelled = [{"round": 0, "id": name, "score": 1.0, "source": "<b>why&"} for name in ODD]
    entry = {"round": 0, "labels": count, "pseudo": [], "note": "<note>"}
    state = {"seed": 0, "rounds_planned": 0, "rounds": [entry], "labelled": labelled}
    write_json(arm / "state.json", state)
    write_json(arm / "args.json", {"args": {"data": str(folder), "x": "<option>"}})
    scores = [{"id": name, "dice": n / 10} for n, name in enumerate(ids[count:])]
    write_csv(arm / "round_00" / "metrics.csv", scores)
    page = made_page(run)
    assert [e["text"] for e in page.find("b", "chosen")] == ODD
    assert [e["alt"] for e in page.find("img", "chosen")] == [f"image {name}" for name in ODD]
    assert {e["text"] for e in page.find("b", "cases")} <= set(ids[count:])
    assert all(e["text"].endswith("<b>why&, score 1") for e in page.find("figcaption", "chosen"))
    assert page.find("h1")[0]["text"] == "Run run <i>&"
    assert "<note>" in page.section("chosen") and "<option>" in page.section("run")
    assert not page.find("script") and not page.find("i")
    assert not [e for e in page.elements if "onload" in e]


def test_escaping():
    made = page.element(
        "p", "a < b & \"c\" 'd'", page.Html("<br>"), [None, 3], title="\"<&'", on=True
    )
    assert made == (
        '<p title="&quot;&lt;&amp;&#x27;" on>a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;<br>3</p>'
    )
    assert page.element("img", alt="", width=None, class_="a", aria_label="b") == (
        '<img alt="" class="a" aria-label="b">'
    )


# Maths ------------------------------------------------------------------------------------------


def test_the_mean_of_dice_and_its_interval():
    dice = [0.70, 0.72, 0.77]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(dice) / 3**0.5
    assert mean_dice(dice) == pytest.approx((0.73, 0.73 - half, 0.73 + half))
    dice = np.random.default_rng(0).beta(8, 3, 400)
    ends = stats.t.interval(0.95, 399, dice.mean(), stats.sem(dice))
    assert mean_dice(dice) == pytest.approx((dice.mean(), *ends))
    assert mean_dice([0.1, 0.9]) == pytest.approx((0.5, 0, 1))  # cut off
    assert mean_dice([0.5]) == Interval(0.5)


def test_spearman():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        x = rng.normal(size=40)
        found = spearman(x, 0.6 * x + 0.8 * rng.normal(size=40))
        covered += found.low <= 6 / np.pi * np.arcsin(0.6 / 2) <= found.high  # of normal pairs
    assert 0.92 <= covered / 300 <= 0.98
    x, y = rng.normal(size=(2, 30))
    assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert spearman(np.exp(x), -x).value == pytest.approx(-1) and spearman(x, -x).low is None
    assert spearman(np.ones(5), np.arange(5.0)) is None and spearman(x[:1], y[:1]) is None
    assert spearman(x[:3], y[:3]).low is None


@pytest.mark.parametrize(
    ("count", "sizes"), [(100, [25] * 4), (41, [11, 10, 10, 10]), (13, [5, 4, 4]), (5, [5])]
)
def test_equal_parts(count, sizes):
    values = np.random.default_rng(0).permutation(count)
    parts = equal_parts(values)
    assert [len(part) for part in parts] == sizes
    assert [values[i] for part in parts for i in part] == list(range(count))
    assert equal_parts(np.zeros(12))[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("ends", [(0, 100), (61.3, 64.2), (0, 0), (-3, 0.2), (99, 99.4)])
def test_ticks_hold_the_values(ends):
    ticks = charts.nice_ticks(*ends)
    assert ticks[0] <= ends[0] and ticks[-1] >= ends[1] and 2 <= len(ticks) <= 8
    assert len(set(np.round(np.diff(ticks), 9))) == 1


def test_chart_places_values_by_its_own_numbers():
    """A point of the learning curve lies where the numbers beside the axis say."""
    curves = {
        "a": [(10, Interval(0.5, 0.4, 0.65)), (20, Interval(0.62, 0.6, 0.7)), (160, Interval(0.8))],
        "full": [(1600, Interval(0.9, 0.85, 0.95))],
    }
    drawn = Page(page.element("body", charts.learning_curves(curves, "alt")))
    numbers = [e for e in drawn.find("text") if e["text-anchor"] == "end"]
    y = np.polyfit([float(e["y"]) for e in numbers], [float(e["text"]) for e in numbers], 1)
    labels = [e for e in drawn.find("text") if e["text"].isdigit() and e not in numbers]
    x = np.polyfit([float(e["x"]) for e in labels], np.log2([float(e["text"]) for e in labels]), 1)
    first = next(e["d"] for e in drawn.find("path") if "L" in e["d"])
    places = np.array([list(map(float, pair.split())) for pair in first[1:].split("L")])
    offset = y[0] * 4  # the baseline of a number is below the line that it stands for
    np.testing.assert_allclose(np.polyval(y, places[:, 1]) + offset, [50, 62, 80], atol=0.3)
    np.testing.assert_allclose(2 ** np.polyval(x, places[:, 0]), [10, 20, 160], rtol=0.06)
    lines = [e for e in drawn.find("line") if "class" not in e]
    ends = [(float(e["y1"]), float(e["y2"])) for e in lines]
    expected = [(40, 65), (60, 70), (85, 95)]
    np.testing.assert_allclose(np.polyval(y, ends) + offset, expected, atol=0.3)


def test_wide_intervals_are_cut_off_at_the_axis():
    few = [(10, Interval(0.80, 0.2, 1.0)), (20, Interval(0.83, 0.82, 0.84))]
    drawn = Page(page.element("body", charts.learning_curves({"a": few}, "alt")))
    numbers = {int(e["text"]): float(e["y"]) for e in drawn.find("text", **{"text-anchor": "end"})}
    assert min(numbers) == 70 and max(numbers) <= 100
    wide, narrow = (e for e in drawn.find("line") if "class" not in e)
    assert float(wide["y1"]) == pytest.approx(numbers[70] - 4)
    assert float(narrow["y1"]) < float(wide["y1"])
    assert charts.goes_beyond([interval for _, interval in few])
    grouped = Page(page.element("body", charts.groups([i for _, i in few], "ab", "alt", "x")))
    numbers = [int(e["text"]) for e in grouped.find("text", **{"text-anchor": "end"})]
    assert min(numbers) <= 20
    assert not charts.goes_beyond([Interval(0.5, 0.45, 0.55), Interval(0.7)])


def test_many_arms_get_several_charts(run):
    for number in range(7):
        shutil.copytree(run / "seg/random/seed0", run / f"seg/arm{number}/seed0")
    page = made_page(run)
    assert len(page.find("svg", "curve", class_="chart")) == 2
    (first, second) = page.find("ul", "curve", class_="legend")
    assert first["text"] + second["text"] == "".join(
        [*(f"arm{n}" for n in range(7)), "random", "saal-entropy"]
    )


# TensorBoard ------------------------------------------------------------------------------------


def test_tensorboard(run, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "events"
    make(run, "--tensorboard", out)
    read_back = reader.EventAccumulator(str(out / "seg/saal-entropy/seed0"))
    read_back.Reload()
    for name in (*metrics.NAMES, "confidence"):
        found = read_back.Scalars(f"test/{name}")
        assert [event.step for event in found] == [12, 17, 22]
        for number, event in enumerate(found):
            rows = read(run / f"seg/saal-entropy/seed0/round_{number:02d}/metrics.csv")
            assert event.value == pytest.approx(
                np.mean([float(row[name]) for row in rows]), rel=1e-5
            )
    log = [
        row for n in range(3) for row in read(run / f"seg/saal-entropy/seed0/round_{n:02d}/log.csv")
    ]
    found = read_back.Scalars("training/loss")
    assert [event.value for event in found] == pytest.approx(
        [float(row["loss"]) for row in log], rel=1e-5
    )
    assert [event.step for event in found] == np.cumsum([int(row["steps"]) for row in log]).tolist()
    with (
        command_line("report", run, "--tensorboard", out),
        pytest.raises(UserError, match="not empty"),
    ):
        report.main()


def test_tensorboard_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        events.check_events(tmp_path)


# In a browser -----------------------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LOOK = """
<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe width="375" height="900" style="border:0" srcdoc="PAGE"></iframe>
<pre id="found"></pre>
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(part => part.open = true);
  const images = [...page.images], right = element => element.getBoundingClientRect().right;
  const boxed = element => element.closest(".scroll, pre, svg");
  const wide = [...page.body.querySelectorAll("*")].filter(e => !boxed(e) && right(e) > 375.5);
  const style = page.defaultView.getComputedStyle(page.body);
  document.getElementById("found").textContent = JSON.stringify({
    window: page.defaultView.innerWidth, scroll: root.scrollWidth, images: images.length,
    broken: images.filter(i => !(i.complete && i.naturalWidth > 0)).length,
    wide: wide.map(e => e.outerHTML.slice(0, 80)), ink: style.color, paper: style.backgroundColor,
    charts: [...page.querySelectorAll("svg.chart")].map(e => e.getBoundingClientRect().width),
  });
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium in the PATH; install it to test the page")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_in_a_browser_on_a_phone(run, tmp_path, dark):
    """The page as it is, in a frame 375 pixels wide: pictures load, nothing is wider, no errors."""
    path = run / "seg/saal-entropy/seed0/round_02/metrics.csv"
    change(path, lambda number, row: row.update(confidence=number / 12))
    long = "a_very_long_name_without_a_single_space_that_is_wider_than_a_phone_0123456789.jpg"
    rows = [{"file": long, "id": long, "reason": long, "cluster": "", "score": 1}]
    write_csv(run / "to_annotate/round_03/list.csv", rows)
    source = made_page(run).source
    (tmp_path / "look.html").write_text(LOOK.replace("PAGE", html.escape(source)), encoding="utf-8")
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,900"]
    words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom"]
    words.append((tmp_path / "look.html").as_uri())
    result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', result.stdout)[1]))
    assert "CONSOLE" not in result.stderr, re.findall(".*CONSOLE.*", result.stderr)
    assert found["window"] == 375 and found["scroll"] <= 375
    assert found["wide"] == []
    assert found["images"] == len(Page(source).find("img")) > 30 and found["broken"] == 0
    assert len(found["charts"]) == 4 and all(200 < width <= 375 for width in found["charts"])
    ink, paper = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("ink", "paper"))
    assert (ink > paper) == dark
