"""predict.py on small folders of random pictures, by networks with random weights."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import LOOP, call, command_line
from helpers_preprocess import save
from PIL import Image

from segmentation import predict
from segmentation.common.door import run_script
from segmentation.common.runfiles import read_csv, write_csv, write_npz
from segmentation.data.datafolder import open_data
from segmentation.data.drafts import KINDS
from segmentation.data.formats import read
from segmentation.data.ids import id_of
from segmentation.data.images import Images
from segmentation.model import engine, metrics
from segmentation.model.confidence import calibrate, confidence, describe, likeness
from segmentation.model.finish import Finish, clean, largest_region
from segmentation.model.inference import image_features, mean_over_views, segment
from segmentation.model.trained import open_trained
from segmentation.model.unet import UNet, load_model, read_extra, save_model

SIZE = (32, 48)
PICTURES = {  # name -> height, width: larger, smaller, of other shapes
    "a.png": (64, 96),
    "b.bmp": (20, 31),
    "anna/left/c.png": (150, 70),
    "anna/d.PNG": (33, 200),
    "bert/a.jpg": (32, 48),
}


def smooth(seed, size, gray=False):
    """A random picture with large patches, uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6) if gray else (5, 6, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def photos(tmp_path):
    """A folder of the PICTURES; `b.bmp` is gray. They are a minute old."""
    folder = tmp_path / "photos"
    for seed, (name, size) in enumerate(PICTURES.items()):
        path = save(folder / name, smooth(seed, size, gray=name == "b.bmp"))
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    return folder


def network(seed, channels=3, width=4):
    """A U-Net with random weights whose masks are about half of the pictures."""
    torch.manual_seed(seed)
    model = UNet(in_channels=channels, width=width).eval()
    images = [smooth(seed, SIZE) for seed in range(20, 28)]
    with torch.no_grad():
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, :channels] / 255
        logits = model(x)
        model.head.weight.mul_(3 / logits.std())
        model.head.bias.fill_(0).sub_(model(x).median())
    return model


def make_weights(folder, seed=0, channels=3, pairs=40, size=SIZE, **finish):
    """A weights.pt with metrics.csv, folds.csv and reference.npz beside it; returns its path."""
    model, rng = network(seed, channels), np.random.default_rng(seed)
    values = rng.random(pairs)
    rows = [{"id": i, "dice": v**2, "confidence": v} for i, v in enumerate(values)]
    extra = {"size": list(size), "finish": {"views": False, "largest": False, **finish}}
    save_model(folder / "weights.pt", model, **extra)
    if pairs:
        write_csv(folder / "metrics.csv", rows[: pairs // 2])
        write_csv(folder / "folds.csv", [{"fold": 0, **row} for row in rows[pairs // 2 :]])
    features = rng.normal(size=(30, model.bottleneck_channels)).astype(np.float32)
    write_npz(folder / "reference.npz", features=features)
    return folder / "weights.pt"


def run(weights, photos, out, *more):
    """Call the script; returns the rows of predictions.csv by image."""
    weights = [weights] if isinstance(weights, Path) else weights
    words = ["--weights", *weights, photos, "--out", out, "--device", "cpu", "--workers", 2, *more]
    torch.set_num_threads(1)
    with command_line("predict", *words):
        run_script(predict.main)
    return {row["image"]: row for row in read_csv(out / "predictions.csv")}


def refused(capsys, *words):
    """The one line on stderr of a call that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*words)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def probability(path, photo, views=False):
    """The lesion probability of a photo by Pillow and torch alone, at the network's size."""
    model = load_model(path)
    picture = Image.open(photo).convert("RGB")
    picture = picture.convert("L") if model.in_channels == 1 else picture
    pixels = np.asarray(picture.resize(SIZE[::-1], Image.Resampling.BICUBIC)).reshape(*SIZE, -1)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = image_features(model, x).numpy()
        p = mean_over_views(model, x) if views else model(x)[:, 0].sigmoid()
    return p[0].numpy(), features


def mask_of(out, name):
    return np.asarray(Image.open((out / "masks" / name).with_suffix(".png")))


def files_of(out):
    """Name -> content of all files of a folder; the environment is left out."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.name != "env.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("finish", [{}, {"views": True, "largest": True}])
def test_masks_rows_and_overlays(photos, tmp_path, channels, finish, capsys):
    weights, out = make_weights(tmp_path / "w", channels=channels, **finish), tmp_path / "out"
    rows = run(weights, photos, out, "--batch", 2)
    assert list(rows) == sorted(PICTURES)
    trained = open_trained(weights)
    fit, marked = calibrate(*np.transpose(trained.pairs)), 0
    assert len(trained.pairs) == 40
    for name, size in PICTURES.items():
        p, features = probability(weights, photos / name, bool(finish))
        mask, row = mask_of(out, name), rows[name]
        large = cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        small = p > 0.5
        if finish:
            large, small = largest_region(large), largest_region(small)
            p = np.where(small, np.where(p > 0.5, p, 1), np.where(p > 0.5, 0, p))
        assert mask.dtype == np.uint8 and mask.shape == size and set(np.unique(mask)) == {0, 255}
        assert ((mask > 0) == large).mean() > 0.99
        columns, warnings = describe(mask > 0)
        like = likeness(features, trained.reference)[0]
        warnings += ["unlike the training images"] if like < 0.01 else []
        assert (int(row["height"]), int(row["width"])) == size
        for key, value in columns.items():
            assert float(row[key]) == pytest.approx(value, abs=1e-6)
        assert row["warnings"] == "; ".join(warnings)
        assert float(row["likeness"]) == pytest.approx(like, abs=1e-4)
        expected = fit.expected(confidence(p, small))
        assert float(row["expected_dice"]) == pytest.approx(expected, abs=1e-3)
        assert row["needs_review"] == ("yes" if expected < fit.threshold or like < 0.01 else "no")
        assert row["calibrated"] == "yes"
        marked += row["needs_review"] == "yes"
        with Image.open((out / "overlays" / name).with_suffix(".jpg")) as overlay:
            assert overlay.size == size[::-1] and overlay.mode == "RGB"
    printed = capsys.readouterr().out
    assert f"5 masks in {out / 'masks'} (5 of them new), {marked} need review" in printed
    assert ("--views and --largest: as in the training" in printed) == bool(finish)
    record = json.loads((out / "calibration.json").read_text())
    assert record["calibrated"] and record["threshold"] == fit.threshold
    assert record["fits"] == [{"weights_sha256": trained.sha256, **fit._asdict()}]


def test_an_ensemble_is_the_mean(photos, tmp_path, capsys):
    some = [make_weights(tmp_path / str(seed), seed) for seed in (0, 1)]
    deep, rows = [], []
    for number, weights in enumerate([some[:1], some[1:], some]):
        out = tmp_path / f"out{number}"
        rows.append(run(weights, photos, out, "--probabilities"))
        path = (out / "probabilities" / "anna/left/c.png", out)
        deep.append(np.asarray(Image.open(path[0])).astype(np.float64))
        assert ((deep[-1] > 32767.5) == (mask_of(out, "anna/left/c.png") > 0)).mean() > 0.999
    p, _ = probability(some[0], photos / "anna/left/c.png")
    large = cv2.resize(p, (70, 150), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(deep[0] / 65535, large, atol=0.01)
    np.testing.assert_allclose(deep[2], (deep[0] + deep[1]) / 2, atol=1.01)
    assert np.abs(deep[0] - deep[1]).mean() > 1000
    for one, other, both in zip(*(found.values() for found in rows), strict=True):
        for name in ("expected_dice", "likeness"):  # each network's of its own mask
            mean = (float(one[name]) + float(other[name])) / 2
            assert float(both[name]) == pytest.approx(mean, abs=1.1e-4)
    records = [json.loads((tmp_path / f"out{n}/calibration.json").read_text()) for n in range(3)]
    assert records[2]["fits"] == records[0]["fits"] + records[1]["fits"]
    assert records[2]["threshold"] == (records[0]["threshold"] + records[1]["threshold"]) / 2
    capsys.readouterr()
    third = make_weights(tmp_path / "third", 2, pairs=0)  # not calibrated: it does not count there
    more = run([*some, third], photos, tmp_path / "out3")
    for name in PICTURES:
        assert more[name]["expected_dice"] == rows[2][name]["expected_dice"]
    assert "expected Dice is that of 2 of 3 networks" in capsys.readouterr().out


def test_views_given_here_change_the_mask_and_not_what_is_expected(photos, tmp_path, capsys):
    """The calibration is from confidences without views, so those are what it is asked for."""
    weights = make_weights(tmp_path / "w")
    plain = run(weights, photos, tmp_path / "plain")
    views = run(weights, photos, tmp_path / "views", "--views")
    for name in PICTURES:
        for column in ("expected_dice", "likeness"):
            assert views[name][column] == plain[name][column]
    assert any(views[name]["area"] != plain[name]["area"] for name in PICTURES)
    p, _ = probability(weights, photos / "a.png", views=True)
    large = cv2.resize(p, (96, 64), interpolation=cv2.INTER_LINEAR) > 0.5
    assert ((mask_of(tmp_path / "views", "a.png") > 0) == large).mean() > 0.99
    assert "expected Dice is that without the --views" in capsys.readouterr().out


def test_overlays_are_small_and_show_the_outline(tmp_path):
    save(tmp_path / "in" / "big.png", smooth(3, (1500, 3000)))
    run(make_weights(tmp_path / "w"), tmp_path / "in", tmp_path / "out")
    overlay = np.asarray(Image.open(tmp_path / "out/overlays/big.jpg")).astype(int)
    assert overlay.shape == (512, 1024, 3)
    assert mask_of(tmp_path / "out", "big.png").shape == (1500, 3000)
    mask = cv2.resize(mask_of(tmp_path / "out", "big.png"), (1024, 512)) > 0
    yellow = np.abs(overlay - (255, 213, 0)).max(axis=-1) < 60
    border = mask ^ cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=1).astype(bool)
    near = cv2.dilate(border.astype(np.uint8), np.ones((9, 9))) > 0
    assert yellow[border].mean() > 0.8 and yellow[near].mean() > 2 * yellow[~near].mean()


# Whole or interrupted ---------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_call_goes_on_where_it_was(photos, tmp_path, monkeypatch, torn, capsys):
    weights = make_weights(tmp_path / "w")
    run(weights, photos, tmp_path / "whole", "--batch", 2)
    done, write = [], predict.write

    def stopping(one, *how):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(one.item.name)
        return write(one, *how)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predict, "write", stopping)
        run(weights, photos, tmp_path / "out", "--batch", 2, "--workers", 1)
    out = tmp_path / "out" / "predictions.csv"
    before = len(read_csv(out))
    assert before == 3
    if torn:
        out.write_text(out.read_text()[:-20])
    for place in ("masks", "overlays"):
        assert not list((tmp_path / "out" / place).rglob(".*"))
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(predict, "write", lambda p, *how: written.append(p) or write(p, *how))
        run(weights, photos, tmp_path / "out", "--batch", 2)
    assert len(written) == (3 if torn else 2)
    whole, resumed = files_of(tmp_path / "whole"), files_of(tmp_path / "out")
    assert resumed == whole
    stamps = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in whole}
    capsys.readouterr()
    run(weights, photos, tmp_path / "out")
    assert "5 masks in" in (text := capsys.readouterr().out) and "(0 of them new)" in text
    masks = [name for name in whole if name.startswith("masks/")]
    assert all((tmp_path / "out" / n).stat().st_mtime_ns == stamps[n] for n in masks)


def test_new_and_changed_images_are_made(photos, tmp_path, capsys):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    run(weights, photos, out)
    before = files_of(out)
    save(photos / "new/e.png", smooth(50, (40, 40)))
    save(photos / "a.png", smooth(51, (70, 80)))
    future = (out / "masks" / "a.png").stat().st_mtime + 1
    os.utime(photos / "a.png", (future, future))
    (out / "masks/bert/a.png").unlink()
    capsys.readouterr()
    rows = run(weights, photos, out)
    assert "6 masks in" in (text := capsys.readouterr().out) and "(3 of them new)" in text
    assert list(rows) == sorted([*PICTURES, "new/e.png"])
    assert mask_of(out, "a.png").shape == (70, 80) and rows["a.png"]["height"] == "70"
    assert files_of(out)["masks/bert/a.png"] == before["masks/bert/a.png"]


def test_a_copy_that_keeps_its_time_is_a_new_image(photos, tmp_path):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    other = save(tmp_path / "other.png", smooth(51, (70, 80)))
    os.utime(other, (other.stat().st_mtime - 3600,) * 2)
    run(weights, photos, out)
    shutil.copy2(other, photos / "a.png")
    rows = run(weights, photos, out)
    assert mask_of(out, "a.png").shape == (70, 80) and rows["a.png"]["height"] == "70"


def test_folders_that_swap_their_names(photos, tmp_path):
    """Renaming a folder changes no time of a file in it."""
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    for seed, name in enumerate(("x", "y")):
        save(photos / name / "a.png", smooth(60 + seed, (40 + seed, 50)))
    run(weights, photos, out)
    for old, new in (("x", "z"), ("y", "x"), ("z", "y")):
        (photos / old).rename(photos / new)
    rows = run(weights, photos, out)
    assert [rows[f"{name}/a.png"]["height"] for name in "xy"] == ["41", "40"]
    run(weights, photos, tmp_path / "new")
    assert files_of(out) == files_of(tmp_path / "new")


def test_images_that_are_gone_have_no_row(photos, tmp_path):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    run(weights, photos, out)
    (photos / "a.png").unlink()
    rows = run(weights, photos, out, "--drafts", "coco")
    assert "a.png" not in rows and len(rows) == len(PICTURES) - 1
    assert (out / "masks" / "a.png").exists()
    drawn = json.loads((out / "drafts" / "coco.json").read_text())["images"]
    assert len(drawn) == len(rows)


def test_photographs_that_are_called_as_masks(photos, tmp_path, capsys):
    """Without an image of which they could be the masks they are photographs."""
    save(photos / "mole_mask.png", smooth(70, (40, 40)))
    save(photos / "a_mask.png", smooth(71, (40, 40)))
    rows = run(make_weights(tmp_path / "w"), photos, tmp_path / "out")
    assert set(rows) == {*PICTURES, "mole_mask.png"}
    assert "left out: 1 files named as masks" in capsys.readouterr().out


def test_unreadable_files_are_listed_and_the_rest_is_done(photos, tmp_path, capsys):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    (photos / "anna/bad.jpg").write_bytes(b"not a picture")
    whole = (photos / "a.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            run(weights, photos, out)
        assert stop.value.code == 1
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 2 and all("not readable" in line for line in lines)
        assert "5 masks in" in captured.out and "2 images could not be read" in captured.out
        assert [row["image"] for row in read_csv(out / "predictions.csv")] == sorted(PICTURES)
        errors = {row["image"]: row["reason"] for row in read_csv(out / "errors.csv")}
        assert list(errors) == ["anna/bad.jpg", "cut.png"] and "bad.jpg" in errors["anna/bad.jpg"]
    save(photos / "anna/bad.jpg", smooth(60, (30, 30)))
    (photos / "cut.png").unlink()
    assert "anna/bad.jpg" in run(weights, photos, out)
    assert not (out / "errors.csv").exists()
    assert "6 masks in" in (text := capsys.readouterr().out) and "(1 of them new)" in text


def test_a_folder_of_unreadable_files(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        run(make_weights(tmp_path / "w"), tmp_path / "in", tmp_path / "out")
    assert stop.value.code == 1 and "0 masks in" in capsys.readouterr().out


def test_memory_is_bounded(tmp_path, monkeypatch):
    """At no time are more images read and not yet predicted than a batch and the readers hold."""
    for number in range(40):
        save(tmp_path / "in" / f"{number:02d}.png", smooth(number, (16, 16)))
    read, waiting, predicted = [], [], []
    reading, predicting, writing = predict.read, predict.Ensemble.predict, predict.write

    def watched(ensemble, items, device):
        waiting.append(len(read) - len(predicted))
        found = predicting(ensemble, items, device)
        predicted.extend(items)
        ahead.append(len(predicted) - len(written))
        return found

    written, ahead = [], []
    monkeypatch.setattr(predict, "read", lambda *words: read.append(1) or reading(*words))
    monkeypatch.setattr(predict.Ensemble, "predict", watched)
    monkeypatch.setattr(predict, "write", lambda *words: written.append(1) or writing(*words))
    run(make_weights(tmp_path / "w"), tmp_path / "in", tmp_path / "out", "--batch", 4)
    assert len(read) == len(predicted) == len(written) == 40 and len(waiting) == 10
    assert max(waiting) <= 4 + 3 * 2  # a batch, and three per worker
    assert max(ahead) <= 4 + 3 * 2


# What the weights know --------------------------------------------------------------------------


def test_old_weights_need_a_size_and_are_not_calibrated(photos, tmp_path, capsys):
    path = tmp_path / "w" / "weights.pt"
    save_model(path, network(0))
    line = refused(capsys, path, photos, tmp_path / "out")
    assert "weights.pt: does not say the size of its training images; give the --size" in line
    assert not (tmp_path / "out").exists()
    write_csv(tmp_path / "w" / "metrics.csv", [{"id": "x", "dice": 0.5}] * 30)
    rows = run(path, photos, tmp_path / "out", "--size", "32x48")
    out = capsys.readouterr().out
    assert "note: expected Dice is not calibrated and too high as a rule" in out
    assert "note: there is no reference.npz" in out
    p, _ = probability(path, photos / "a.png")
    row = rows["a.png"]
    assert float(row["expected_dice"]) == pytest.approx(confidence(p, p > 0.5), abs=1e-3)
    assert (row["calibrated"], row["likeness"]) == ("no", "")
    same = run(make_weights(tmp_path / "new"), photos, tmp_path / "same", "--size", "32x48")
    assert same["a.png"]["area"] == row["area"]


def test_images_far_from_the_reference_are_unlike(photos, tmp_path):
    weights = make_weights(tmp_path / "w")
    features = np.concatenate([probability(weights, photos / name)[1] for name in PICTURES])
    rng = np.random.default_rng(0)
    near = features.mean(axis=0) + rng.normal(size=(300, 32)) * np.ptp(features, axis=0)
    for reference, unlike in ((near, False), (near + 1000, True)):
        write_npz(tmp_path / "w" / "reference.npz", features=reference.astype(np.float32))
        rows = run(weights, photos, tmp_path / f"out{unlike}")
        for row in rows.values():
            assert ("unlike the training images" in row["warnings"]) == unlike
            assert row["needs_review"] == "yes" or not unlike


def test_nothing_found_needs_review(photos, tmp_path):
    weights = make_weights(tmp_path / "w", pairs=0)
    model = network(0)
    with torch.no_grad():
        model.head.bias.sub_(1000)
    save_model(weights, model, **read_extra(weights))
    rows = run(weights, photos, tmp_path / "out")
    for row in rows.values():
        assert row["area"] == "0" and "nothing found" in row["warnings"]
        assert row["box_left"] == "" and row["needs_review"] == "yes"
        assert float(row["expected_dice"]) == 0


def test_after_active_learning(data, tmp_path, capsys):
    """The whole way: train, then predict the test images from files; both give the same masks."""
    words = [*LOOP, "--rounds", 0, "--folds", 2]
    call("active_learning", "--data", data, "--out", tmp_path / "run", *words)
    opened, folder = open_data(data), tmp_path / "run" / "round_00"
    assert read_extra(folder / "weights.pt") == {
        "size": [32, 32],
        "finish": {"views": False, "largest": False},
    }
    trained = open_trained(folder / "weights.pt")
    assert trained.reference.shape == (len(opened.pool), 32) and len(trained.pairs) == 12 + 12
    for name, image in zip(opened.test, opened.load_images(opened.test), strict=True):
        save(tmp_path / "in" / f"{name}.png", image[..., 0])
    rows = run(folder / "weights.pt", tmp_path / "in", tmp_path / "out")
    fit = calibrate(*np.transpose(trained.pairs))
    measured = read_csv(folder / "metrics.csv")
    truth = opened.load_masks(opened.test) > 0
    for row, mask in zip(measured, truth, strict=True):
        name = f"{row['id']}.png"
        found = mask_of(tmp_path / "out", name) > 0
        dice = 2 * (found & mask).sum() / max(1, found.sum() + mask.sum())
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        expected = fit.expected(float(row["confidence"]))
        assert float(rows[name]["expected_dice"]) == pytest.approx(expected, abs=1e-4)
    assert "fit to 24 images with known masks" in capsys.readouterr().out


# Refusals ---------------------------------------------------------------------------------------


def test_other_settings_are_refused(photos, tmp_path, capsys):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    run(weights, photos, out)
    other = make_weights(tmp_path / "v", seed=1)
    for words, what in (
        ((other, photos, out), "another weights"),
        (([weights, other], photos, out), "another weights"),
        ((weights, photos, out, "--largest"), "--largest False, not True"),
        ((weights, photos, out, "--probabilities"), "--probabilities False, not True"),
        ((weights, photos / "anna", out), "--folder "),
    ):
        before = files_of(out)
        assert f"this folder was made with {what}" in refused(capsys, *words)
        assert files_of(out) == before
    moved = tmp_path / "moved"
    (tmp_path / "w").rename(moved)  # the same files elsewhere are the same weights
    run(moved / "weights.pt", photos, out)
    rows = read_csv(moved / "metrics.csv")
    write_csv(moved / "metrics.csv", rows[1:])
    assert "another weights" in refused(capsys, moved / "weights.pt", photos, out)


def test_bad_input(photos, tmp_path, capsys):
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    wide = make_weights(tmp_path / "wide", size=(48, 64))
    gray = make_weights(tmp_path / "gray", channels=1)
    save_model(tmp_path / "best.pt", UNet(3, 3, width=4))
    for words, what in (
        ((weights, tmp_path / "none", out), "none: no such folder"),
        ((weights, tmp_path / "empty", out), "empty: has no pictures"),
        ((weights, photos, photos / "out"), "lies inside"),
        ((weights, photos, photos), "lies inside"),
        ((weights, photos, out, "--size", 64), "trained on images of 32x48; leave out --size"),
        ((weights, photos, out, "--size", 33), "33: each side must be a multiple of 16"),
        (([weights, wide], photos, out), "is for images of 48x64 in colour, but"),
        (([weights, gray], photos, out), "is for images of 32x48 in gray, but"),
        ((tmp_path / "best.pt", photos, out, "--size", 32), "restores images"),
        ((tmp_path / "no.pt", photos, out), "no.pt: not found"),
    ):
        assert what in refused(capsys, *words)
        assert not out.exists()
    with command_line("predict", "--weights", weights, "--out", out), pytest.raises(SystemExit):
        run_script(predict.main)
    assert "there is no FOLDER" in capsys.readouterr().err
    (tmp_path / "w" / "metrics.csv").write_text("id,dice,confidence\nx,high,0.5\n")
    assert "metrics.csv: holds a value that is not a number" in refused(
        capsys, weights, photos, out
    )
    save(photos / "anna" / "d.jpg", smooth(9, (30, 30)))
    make_weights(tmp_path / "w")
    line = refused(capsys, weights, photos, out)
    assert "would have the same mask as anna/d" in line and not out.exists()


def test_which_files_are_images(photos, tmp_path, capsys):
    for name in ("a_segmentation.png", "anna/c_mask.png", ".hidden/x.png", ".x.png", "notes.txt"):
        path = photos / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((photos / "a.png").read_bytes())
    assert list(predict.find_images(photos)) == sorted(PICTURES)
    assert "2 files named as masks" in capsys.readouterr().out


def test_rows_with_odd_names(tmp_path):
    """Names with commas, quotes and letters beyond ASCII come back from the table."""
    names = sorted(['left, "first".png', "größe.png", "dots.and.more.png"])
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, smooth(seed, (24, 24)))
    weights, out = make_weights(tmp_path / "w"), tmp_path / "out"
    assert list(run(weights, tmp_path / "in", out)) == names
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))) == predict.COLUMNS
    assert (out / "masks" / "dots.and.more.png").exists()
    assert list(run(weights, tmp_path / "in", out)) == names


def test_a_row_without_room_names_the_table(photos, tmp_path, capsys, monkeypatch):
    """As everywhere: one line with what to do, or a traceback of what only a mistake can cause."""
    weights, out = make_weights(tmp_path / "model"), tmp_path / "out"

    def fails(*_):
        raise error

    monkeypatch.setattr(predict, "write", fails)
    error = OSError(errno.ENOSPC, "No space left on device")
    line = refused(capsys, weights, photos, out)
    place = out / "predictions.csv"
    assert line == f"error: {place}: No space left on device; free some space and call it again"
    error = OSError("no number")
    with pytest.raises(OSError, match="no number"):
        run(weights, photos, out)


def test_drafts_hold_the_masks(photos, tmp_path, capsys):
    """Each tool's file, read back, has the mask of each image; it is not written twice."""
    weights, out = make_weights(tmp_path / "model"), tmp_path / "out"
    run(weights, photos, out, "--drafts", *KINDS)
    truth = {id_of(name): mask_of(out, name) > 0 for name in PICTURES}
    drafts = out / "drafts"
    coco, cvat = (read(drafts / name).drawings for name in ("coco.json", "cvat.zip"))
    for found in ({id_of(d.name): d for d in coco}, {d.name: d for d in cvat}):
        assert found.keys() == truth.keys()
        for name, drawing in found.items():
            np.testing.assert_array_equal(drawing.mask(truth[name].shape), truth[name])
    for name, mask in truth.items():
        (drawing,) = read(drafts / "labelme" / f"{name}.json").drawings
        assert (drawing.mask(mask.shape) != mask).mean() < 0.1  # corners are left out
    tasks = json.loads((drafts / "label_studio" / "tasks.json").read_text())
    assert len(tasks) == len(PICTURES)
    before = files_of(drafts)
    capsys.readouterr()
    run(weights, photos, out, "--drafts", *KINDS)
    assert files_of(drafts) == before
    assert capsys.readouterr().out.count("is there already and stays as it is") == len(KINDS)


@pytest.mark.parametrize("finish", [Finish(), Finish(views=True, largest=True)])
def test_confidence_comes_with_the_same_metrics(data, finish):
    """Beside the metrics, from the same predictions as those of segment."""
    opened, model = open_data(data), network(0, channels=1)
    images = Images(opened, opened.test, "cpu")
    masks = segment(model, images[:], 4, "cpu", finish)
    plain = metrics.per_image(masks, opened.load_masks(opened.test))
    rows = engine.evaluate(model, opened, images, 4, "cpu", finish)
    assert [list(row)[-1] for row in rows] == ["confidence"] * len(opened.test)
    x = torch.from_numpy(opened.load_images(opened.test)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        p = (mean_over_views(model, x) if finish.views else model(x)[:, 0].sigmoid()).numpy()
    for row, one in zip(rows, clean(p) if finish.largest else p, strict=True):
        assert row["confidence"] == pytest.approx(confidence(one, one > 0.5), abs=1e-4)
    assert [row["id"] for row in rows] == opened.test
    assert [
        {k: v for k, v in row.items() if k not in ("id", "confidence")} for row in rows
    ] == plain
