"""annotate.py, with a test that plays the person who draws the outlines."""

import json
import os
import shlex
import shutil
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import call, command_line
from PIL import Image

from segmentation import annotate
from segmentation.analysis import hint
from segmentation.analysis.runfolder import open_run
from segmentation.common.door import run_script
from segmentation.common.runfiles import read_csv, read_npz
from segmentation.data.datafolder import open_data
from segmentation.data.drafts import Draft, write_coco, write_labelme
from segmentation.data.images import Images
from segmentation.data.synthetic import draw_lesion
from segmentation.model.finish import Finish
from segmentation.model.inference import segment
from segmentation.model.unet import UNet, save_model

REAL = os.environ.get("SAAL_ISIC2017")
FEW = [
    "--size",
    "64",
    "--per-round",
    "4",
    "--test",
    "3",
    "--folds",
    "0",
    "--folds",
    "0",
    "--steps",
    "6",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """The scripts that annotate.py calls run in this process, which saves their start-up."""
    monkeypatch.setattr(
        annotate, "call", lambda script, *words, **_: call(Path(script).stem, *words)
    )


def lesions(count):
    """Pairs of an RGB image and its mask, bool: real ones where there are, else drawn ones."""
    if not REAL:
        return [draw_lesion(index, 0, (48, 64))[:2] for index in range(count)]
    images = sorted(Path(REAL).glob("*_Data/*.jpg"))[:: 2000 // count][:count]
    masks = [next(Path(REAL).glob(f"*_GroundTruth/{path.stem}_*.png")) for path in images]
    return [
        (np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(mask)) > 0)
        for image, mask in zip(images, masks, strict=True)
    ]


@pytest.fixture
def lab(tmp_path):
    """(folder of 24 photographs of 8 patients, truth: id -> mask)."""
    truth = {}
    for number, (image, mask) in enumerate(lesions(24)):
        name = f"patient {number // 3}/photo {number % 3}"
        path = tmp_path / "photos" / f"{name}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, format="JPEG")
        truth[name] = mask
    return tmp_path / "photos", truth


def run(root, out, *more):
    """Call the script: its exit code."""
    words = ["--root", root, "--out", out, "--group", "folder", *FEW, *more]
    with command_line("annotate", *words):
        try:
            run_script(annotate.main)
        except SystemExit as stop:
            return stop.code
    return 0


def asked(out, number):
    """The rows of a request's list."""
    return read_csv(out / "to_annotate" / f"round_{number:02d}" / "list.csv")


def answer(root, out, number, truth, how):
    """Outline what was asked for in a round, as masks in the folder masks."""
    masks = root / "masks"
    masks.mkdir(exist_ok=True)
    rows = asked(out, number)
    drafts = [Draft(row["file"], truth[row["id"]].shape, truth[row["id"]]) for row in rows]
    if how == "png":
        for draft in drafts:
            Image.fromarray(draft.mask).save(masks / f"{Path(draft.name).stem}.png")
    elif how == "coco":
        write_coco(masks / f"round {number}.json", drafts)
    else:
        write_labelme(masks / f"round {number}", drafts, tolerance=0)


def test_three_rounds_in_three_formats(lab, tmp_path, capsys):
    """The last model is that of a run whose oracle has all masks, to the last digit."""
    root, truth = lab
    out = tmp_path / "out"
    assert run(root, out) == annotate.AWAITING
    assert "awaited: 4 of 4 outlines and 3 of 3 for measuring only" in capsys.readouterr().out
    first = asked(out, 0)
    assert [row["purpose"] for row in first] == ["training"] * 4 + ["measuring"] * 3
    assert len({row["id"].partition("/")[0] for row in first[4:]}) == 1  # a whole patient
    for row in first:
        copy = out / "to_annotate" / "round_00" / "images" / row["file"]
        assert copy.read_bytes() == (root / f"{row['id']}.JPG").read_bytes()

    answer(root, out, 0, truth, "png")
    wrong = root / "masks" / f"{Path(first[1]['file']).stem}.png"
    right = wrong.read_bytes()
    Image.fromarray(truth[first[1]["id"]][:-3]).save(wrong)
    capsys.readouterr()
    assert run(root, out) == 2
    message = capsys.readouterr().err
    assert str(wrong) in message and "export the mask at the size of its image" in message
    wrong.write_bytes(right)

    seen = [{row["id"] for row in first}]
    for number, how in enumerate(("png", "coco", "labelme")):
        answer(root, out, number, truth, how) if number else None
        before = sorted((root / "masks").rglob("*"))
        assert run(root, out) == annotate.AWAITING
        assert sorted((root / "masks").rglob("*")) == before  # nothing is written there
        rows = asked(out, number + 1)
        assert len(rows) == 4 and not {row["id"] for row in rows} & set.union(*seen)
        seen.append({row["id"] for row in rows})
    text = capsys.readouterr().out
    assert "12 outlines to learn from" in text and "images for measuring: Dice " in text
    assert "n = 3" in text and "Another round" in text
    assert open_run(out).notes == []

    for name in truth:
        mask = root / "masks" / f"{name}.png"  # the oracle knows all masks, as pictures
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(truth[name]).save(mask)
    for path in [*(root / "masks").glob("*.*"), *(root / "masks").glob("round*/*.json")]:
        path.unlink()
    data, simulated = tmp_path / "data", tmp_path / "simulated"
    words = ["--group", "folder", "--size", 64, "--no-gray"]
    call("preprocess", "--root", root, "--out", data, *words, "--test-list", out / "measuring.txt")
    words = [*annotate.NETWORK, *annotate.RECIPE, "--steps", 6, "--device", "cpu"]
    words += ["--cold-start", "typicover", "--query", "typicover", "--budgets", 4, 8, 12]
    words += ["--clusters", out / "cluster" / "round_00"]
    call("active_learning", "--data", data, "--out", simulated, *words)
    for name in ("metrics.csv", "weights.pt"):
        same = [(folder / "round_02" / name).read_bytes() for folder in (out / "model", simulated)]
        assert same[0] == same[1], name
    hint = json.loads((out / "hint.json").read_text())
    dice = [float(row["dice"]) for row in read_csv(simulated / "round_02" / "metrics.csv")]
    assert f"Dice {100 * np.mean(dice):.1f} [" in hint["measured"][0] and hint["labels"] == 12


def test_partial_batches_new_photographs_and_drafts(lab, tmp_path, capsys):
    root, truth = lab
    out = tmp_path / "out"
    assert run(root, out) == annotate.AWAITING
    rows = asked(out, 0)
    answer(root, out, 0, truth, "png")
    late = root / "masks" / f"{Path(rows[2]['file']).stem}.png"
    content = late.read_bytes()
    late.unlink()
    capsys.readouterr()
    assert run(root, out) == annotate.AWAITING
    text = capsys.readouterr().out
    assert "awaited: 1 of 4 outlines of the images" in text
    command = shlex.split(text.partition("then: python ")[2])
    assert command[1:3] == ["--root", str(root)] and "--allow-partial" not in command

    image = cv2.imread(str(root / f"{rows[0]['id']}.JPG"))
    cv2.imwrite(str(root / "new.png"), image[::-1])
    test = json.loads((out / "annotate.json").read_text())["test"]
    assert run(root, out, "--allow-partial", "--per-round", "5") == annotate.AWAITING
    state = json.loads((out / "annotate.json").read_text())
    assert state["test"] == test == open_data(out / "data").test
    assert len(state["rounds"][0]["labelled"]) == 3 and len(state["rounds"][1]["asked"]) == 5
    everything = [*state["rounds"][0]["asked"], *state["rounds"][1]["asked"]]
    assert len(set(everything)) == 9  # the late one is not asked for again
    predicted = out / "to_annotate" / "round_01" / "predicted"
    assert len(read_csv(predicted / "predictions.csv")) == 5
    assert (predicted / "drafts" / "coco.json").exists()

    late.write_bytes(content)  # it comes, and nothing else
    assert run(root, out, "--allow-partial") == annotate.AWAITING
    state = json.loads((out / "annotate.json").read_text())
    assert state["rounds"][1]["labelled"] == [rows[2]["id"]]


def test_too_few_answers_are_not_taken_down(lab, tmp_path, capsys):
    """As when a photograph that was asked for has gone: another outline helps."""
    root, truth = lab
    out, words = tmp_path / "out", ["--folds", "4"]
    assert run(root, out, *words) == annotate.AWAITING
    gone = asked(out, 0)[0]["id"]
    answer(root, out, 0, truth, "png")
    (root / f"{gone}.JPG").unlink()
    (root / "masks" / f"{Path(asked(out, 0)[0]['file']).stem}.png").unlink()
    capsys.readouterr()
    for _ in range(2):
        assert run(root, out, *words) == 2
        assert "too few outlines: 3, but --folds 4 needs 4; outline" in capsys.readouterr().err
    data = open_data(out / "data")
    other = next(name for name in data.pool if not data.has_mask[name])
    mask = root / "masks" / f"{other}.png"
    mask.parent.mkdir(exist_ok=True)
    Image.fromarray(truth[other]).save(mask)
    assert run(root, out, *words) == annotate.AWAITING
    assert "4 outlines to learn from" in capsys.readouterr().out


def test_the_gain_is_by_masks_that_were_corrected(lab, tmp_path):
    """Of the round before too; its metrics.csv has the Dice with the masks of then."""
    root, truth, out, rows = outlined(lab, tmp_path)
    answer(root, out, 1, truth, "png")
    for row in rows:
        if row["purpose"] == "measuring":
            Image.fromarray(~truth[row["id"]]).save(root / f"masks/{Path(row['file']).stem}.png")
    assert run(root, out) == annotate.AWAITING
    before, now = ({}, {})
    for number, dice in enumerate((before, now)):
        words = ["--weights", out / f"model/round_0{number}/weights.pt", "--data", out / "data"]
        call("evaluate", *words, "--out", tmp_path / str(number))
        found = read_csv(tmp_path / str(number) / "metrics.csv")
        dice.update({row["id"]: float(row["dice"]) for row in found})
    gain = json.loads((out / "hint.json").read_text())["gain"]
    expected = np.mean([now[name] - before[name] for name in now])
    assert gain["value"] == pytest.approx(expected) and len(now) == 3
    old = annotate.dice_of(out / "model/round_00/metrics.csv")
    assert all(abs(old[name] - before[name]) > 0.01 for name in now)


def test_masks_are_compared_as_their_users_get_them(data, tmp_path):
    opened, model = open_data(data), UNet(width=4).eval()
    images = Images(opened, opened.pool, torch.device("cpu"))
    with torch.no_grad():
        model.head.bias.sub_(model(images[:] / 255).median())
    args = Namespace(out=tmp_path, device="cpu")
    made = []
    for number, finish in enumerate((Finish(), Finish(views=True, largest=True))):
        path = annotate.folder_of(args, number) / "weights.pt"
        save_model(path, model, size=[32, 32], finish=finish._asdict())
        made.append(annotate.masks_of(args, opened, opened.pool, annotate.trained_of(args, number)))
        expected = segment(model, images, 16, torch.device("cpu"), finish)
        np.testing.assert_array_equal(made[-1], expected)
    assert (made[0] != made[1]).any()


def test_what_is_refused(lab, tmp_path, capsys):
    root, _ = lab
    for words, reason in (
        (["--test", "0"], "nothing to measure by"),
        (["--test", "13"], "too few to set 13 aside"),
        (["--folds", "1"], "--folds 1: one part cannot be measured by the others"),
        (["--folds", "5"], "too few outlines: 4, but --folds 5 needs 5; give a larger --per-round"),
        (["--folds", "22", "--per-round", "30"], "too few outlines: 21, but --folds 22 needs 22"),
        (["--per-round", "1"], "too few outlines: 1, but training needs 2; give a larger"),
    ):
        assert run(root, tmp_path / "out", *words) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()  # so that other options may be given
    assert run(root, root / "out") == 2
    assert "is inside of --root" in capsys.readouterr().err
    assert run(root, tmp_path / "out") == annotate.AWAITING
    assert run(root, tmp_path / "out", "--seed", "1") == 2
    assert "was made with --seed 0; give the same" in capsys.readouterr().err


def outlined(lab, tmp_path, *words):
    """A lab whose first round is trained: (root, truth, out, the rows that were asked for)."""
    root, truth = lab
    out = tmp_path / "out"
    assert run(root, out, *words) == annotate.AWAITING
    answer(root, out, 0, truth, "png")
    assert run(root, out, *words) == annotate.AWAITING
    return root, truth, out, asked(out, 0)


def test_photographs_that_go_and_others_in_their_place(lab, tmp_path, capsys):
    root, _, out, rows = outlined(lab, tmp_path)
    learned, measuring = rows[0], rows[-1]
    files = [root / f"{learned['id']}.JPG", root / "masks" / f"{Path(learned['file']).stem}.png"]
    whole = [path.read_bytes() for path in files]
    for gone, reason in ((files[1:], "has no outline any more"), (files, "is gone, or cannot be")):
        for path in gone:
            path.unlink(missing_ok=True)
        capsys.readouterr()
        for _ in range(2):
            assert run(root, out, "--allow-partial") == 2
            error = capsys.readouterr().err
            assert f"{learned['id']}, from which a round has learned, {reason}" in error
    for path, content in zip(files, whole, strict=True):
        path.write_bytes(content)

    (root / f"{measuring['id']}.JPG").unlink()
    data, before = open_data(out / "data"), read_npz(out / "cluster/round_01/features.npz")
    other = next(name for name in data.pool if not data.has_mask[name])
    image = cv2.imread(str(root / f"{other}.JPG"))
    cv2.imwrite(str(root / f"{other}.JPG"), 255 - image)
    capsys.readouterr()
    answer(root, out, 1, lab[1], "png")
    assert run(root, out) == annotate.AWAITING
    text = capsys.readouterr().out
    assert f"gone, so measured without: 1 ({measuring['id']})" in text and "n = 2" in text
    now = read_npz(out / "cluster/round_02/features.npz")
    assert now["ids"].tolist() == before["ids"].tolist()
    moved = np.abs(now["features"] - before["features"]).max(axis=1) > 1e-3
    assert now["ids"][moved].tolist() == [other]  # the features are of the photograph that is there


def test_the_images_for_measuring_are_drawn_at_the_start(lab, tmp_path, capsys):
    words = ["--test", "0", "--folds", "2"]
    root, _, out, _ = outlined(lab, tmp_path, *words)
    capsys.readouterr()
    for _ in range(2):
        assert run(root, out, "--test", "3") == 2
        assert "was begun without images for measuring only" in capsys.readouterr().err
    assert run(root, out, *words) == annotate.AWAITING
    shutil.rmtree(root / "masks")
    for path in root.glob("patient */*"):
        path.rename(root / "patient 0" / f"{path.parent.name} {path.name}")
    assert run(root, tmp_path / "other") == 2
    assert "no 3 images can be set aside for measuring, as their groups" in capsys.readouterr().err


def test_when_all_are_outlined_no_other_round_is_advised(lab, tmp_path, capsys):
    root, truth = lab
    out, words = tmp_path / "out", ["--per-round", "30"]
    assert run(root, out, *words) == annotate.AWAITING
    (root / "masks").mkdir()
    for row in asked(out, 0)[:-3]:
        Image.fromarray(truth[row["id"]]).save(root / "masks" / f"{Path(row['file']).stem}.png")
    assert run(root, out, *words) == annotate.AWAITING
    text = capsys.readouterr().out
    assert "awaited: 0 of 21 outlines and 3 of 3 for measuring only of the images in" in text
    answer(root, out, 0, truth, "png")
    assert not run(root, out, *words)
    text = capsys.readouterr().out
    assert hint.ALL in text and "all images have been asked for" in text and "another" not in text
