"""preprocess.py: every rule of reading, resizing, splitting, writing, verifying, downloading."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import preprocess
from segmentation.common import lock
from segmentation.common.door import run_script
from segmentation.common.runfiles import UserError, sha256_file
from segmentation.data import building, download, reading, splitting, synthetic
from segmentation.data.accounting import read_lines
from segmentation.data.datafolder import open_data
from segmentation.data.masks import read_mask
from segmentation.data.photos import read_photo
from tests.helpers_preprocess import archive, blob, make_set, picture, save, serve

ROOT = Path(__file__).resolve().parents[1]


def make(*words):
    """Run the script in this process."""
    try:
        preprocess.main([str(word) for word in words])
    finally:
        lock.release()


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def splits_of(out):
    return json.loads((out / "splits.json").read_text())


def fails(capsys, monkeypatch, *words):
    """Run the script as the command line does; it must exit 2 with one line, which is returned."""
    monkeypatch.setattr(sys, "argv", ["preprocess.py", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(preprocess.main)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def bad(capsys, monkeypatch, tmp_path):
    """Calls the script on tmp_path; checks the failure and that nothing was left behind."""

    def call(*words, names):
        before = {path.name for path in tmp_path.iterdir()}
        line = fails(capsys, monkeypatch, *words)
        assert str(names) in line
        assert {path.name for path in tmp_path.iterdir()} == before
        return line

    return call


# Reading ----------------------------------------------------------------------------------------


def test_folder_becomes_data(tmp_path, capsys):
    make_set(tmp_path / "raw", 10)
    make("--root", tmp_path / "raw", "--out", tmp_path / "d", "--size", "32x48", "--no-gray")
    data = open_data(tmp_path / "d")
    assert data.ids == [f"A{i:03d}" for i in range(10)]
    assert data.images.shape == (10, 32, 48, 3) and data.masks.shape == (10, 32, 48)
    assert data.images.dtype == data.masks.dtype == np.uint8
    assert set(np.unique(data.masks)) == {0, 1}
    assert len(data.pool) == 8 and len(data.test) == 2 and not data.synthetic
    assert all(data.has_mask.values())
    manifest = manifest_of(tmp_path / "d")
    row = manifest["rows"][3]
    assert row["image"] == "A003.png" and row["mask"] == "A003_segmentation.png"
    assert row["original_size"] == [40, 48]
    assert row["image_sha256"] == sha256_file(tmp_path / "raw/images/A003.png")
    assert row["mask_sha256"] == sha256_file(tmp_path / "raw/masks/A003_segmentation.png")
    assert manifest["arrays"]["images.npy"] == sha256_file(tmp_path / "d/images.npy")
    assert "10 images of 32x48" in capsys.readouterr().out


@pytest.mark.parametrize("outer", ["", "unzipped"])
def test_official_layout(tmp_path, outer):
    root = tmp_path / "raw"
    data = root / outer / "ISIC-2017_Training_Data"
    truth = root / outer / "ISIC-2017_Training_Part1_GroundTruth"
    for i in range(5):
        save(data / f"ISIC_{i}.jpg", picture(i))
        save(data / f"ISIC_{i}_superpixels.png", picture(i))
        save(truth / f"ISIC_{i}_segmentation.png", blob(i))
    (data / "metadata.csv").write_text("image_id,age\n")
    (data / "._ISIC_0.jpg").write_bytes(b"hidden")
    (root / outer / "ISIC-2017_Training_Part2_GroundTruth").mkdir()
    (root / outer / "ISIC-2017_Training_Part2_GroundTruth/ISIC_0_features.json").write_text("{}")
    make("--root", root, "--out", tmp_path / "d", "--size", 32)
    assert open_data(tmp_path / "d").ids == [f"ISIC_{i}" for i in range(5)]


def test_endings_in_any_case_and_mask_names(tmp_path):
    images, masks = tmp_path / "i", tmp_path / "m"
    for name in ("a.JPG", "b.Jpeg", "c.PNG", "d.bmp", "e_mask.png"):
        save(images / name, picture(len(name)))
    (images / "notes.txt").write_text("x")
    names = {"a": "a_segmentation.PNG", "b": "b.png", "c": "c_mask.BMP", "e_mask": "e_mask.png"}
    for i, name in enumerate(names.values()):
        save(masks / name, blob(i))
    make("--images", images, "--masks", masks, "--out", tmp_path / "d", "--size", 32)
    rows = {row["id"]: row["mask"] for row in manifest_of(tmp_path / "d")["rows"]}
    assert rows == {**names, "d": None}


def test_leftovers_are_kept_or_reported(tmp_path, capsys):
    make_set(tmp_path / "raw", 10)
    (tmp_path / "raw/masks/A004_segmentation.png").unlink()
    for name in ("X1", "X2"):
        save(tmp_path / f"raw/masks/{name}_segmentation.png", blob(1))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d", "--size", 32)
    data = open_data(tmp_path / "d")
    assert not data.has_mask["A004"] and "A004" in data.pool
    assert data.load_images(["A004"]).any()
    assert not data.masks[data.ids.index("A004")].any()
    assert manifest_of(tmp_path / "d")["masks_without_image"] == ["X1", "X2"]
    out = capsys.readouterr().out
    assert "without an image, ignored: 2 (X1, X2)" in out and "pool: 1 (A004)" in out
    assert len(data.test) == 9 // 5 and len(data.pool) == 9


def test_no_masks_at_all(tmp_path):
    make_set(tmp_path / "raw", 4)
    make("--images", tmp_path / "raw/images", "--out", tmp_path / "d", "--size", 32)
    data = open_data(tmp_path / "d")
    assert data.pool == data.ids and data.test == [] and not any(data.has_mask.values())
    with pytest.raises(UserError, match="have no mask"):
        data.load_masks(data.pool)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter, clockwise
    upright = picture(0, (32, 64))
    (tmp_path / "i").mkdir()
    stored = Image.fromarray(np.rot90(upright, 1).copy())
    stored.save(tmp_path / "i/a.png", exif=exif)
    save(tmp_path / "m/a.png", blob(0, (32, 64)))
    make("--images", tmp_path / "i", "--masks", tmp_path / "m", "--out", tmp_path / "d",
         "--size", "32x64", "--no-gray")  # fmt: skip
    data = open_data(tmp_path / "d")
    assert np.array_equal(data.images[0], upright)
    assert manifest_of(tmp_path / "d")["rows"][0]["original_size"] == [32, 64]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_image_modes(tmp_path, mode):
    image = Image.fromarray(picture(0)).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    assert read_photo(path).picture.mode == "RGB"


def test_sixteen_bit_image_is_refused(tmp_path):
    path = save(tmp_path / "a.png", picture(0, gray=True).astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"a\.png.*8 bits"):
        read_photo(path)


# Masks ------------------------------------------------------------------------------------------

TRUTH = blob(3) > 0


def palette(colours, indices):
    image = Image.new("P", (48, 40))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(indices.ravel().tolist())
    return image


MASKS = {
    "255": Image.fromarray(TRUTH.astype(np.uint8) * 255),
    "1": Image.fromarray(TRUTH.astype(np.uint8)),
    "bilevel": Image.fromarray(TRUTH),
    "equal channels": Image.fromarray(np.repeat(TRUTH[..., None], 3, 2).astype(np.uint8) * 255),
    "opaque alpha": Image.fromarray(TRUTH.astype(np.uint8) * 255).convert("RGBA"),
    "gray and alpha": Image.fromarray(TRUTH.astype(np.uint8) * 255).convert("LA"),
    "sixteen bit": Image.fromarray(TRUTH.astype(np.uint16) * 65535),
    "palette": palette([(0, 0, 0), (255, 255, 255)], TRUTH.astype(np.uint8)),
    "palette of colours": palette([(0, 0, 0), (128, 0, 0)], TRUTH.astype(np.uint8)),
    "palette reversed, by colour": palette(
        [(0, 0, 0), (9, 9, 9), (255, 255, 255)], TRUTH.astype(np.uint8) * 2
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_mask_modes(tmp_path, kind):
    MASKS[kind].save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (40, 48))
    assert mask.values.dtype == bool and np.array_equal(mask.values, TRUTH)
    assert mask.sha256 == sha256_file(tmp_path / "m.png")


gray_levels = np.where(TRUTH, 255, 0).astype(np.uint8)
gray_levels[4:9, 4:9] = 77
unequal = np.repeat(gray_levels[..., None] // 255 * 255, 3, 2)
unequal[5, 5, 1] ^= 255
half_clear = np.dstack([np.where(TRUTH, 255, 0)] * 3 + [np.full(TRUTH.shape, 128)])
BAD_MASKS = {
    "a third area": Image.fromarray(gray_levels),
    "values 0, 2": Image.fromarray(TRUTH.astype(np.uint8) * 2),
    "unequal channels": Image.fromarray(unequal),
    "half transparent": Image.fromarray(half_clear.astype(np.uint8)),
    "ambiguous palette": palette([(255, 255, 255), (0, 0, 0)], TRUTH.astype(np.uint8)),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_bad_mask_values(tmp_path, bad, kind):
    save(tmp_path / "i/a.png", picture(0))
    (tmp_path / "m").mkdir()
    BAD_MASKS[kind].save(tmp_path / "m/a.png")
    bad("--images", tmp_path / "i", "--masks", tmp_path / "m", "--out", tmp_path / "d",
        names=tmp_path / "m/a.png")  # fmt: skip


@pytest.mark.parametrize("value", [0, 1, 255])
def test_constant_masks(tmp_path, value):
    path = save(tmp_path / "m.png", np.full((40, 48), value, np.uint8))
    assert (read_mask(path, (40, 48)).values == (value > 0)).all()


# Resizing ---------------------------------------------------------------------------------------


def torch_cubic(array, size):
    """An independent anti-aliased cubic: uint8 h x w x C -> float H x W x C in 0..255."""
    tensor = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        tensor, size, mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).clamp(0, 255).numpy()


@pytest.mark.parametrize("shape, size", [((300, 410), (32, 48)), ((40, 48), (64, 96))])
@pytest.mark.parametrize("noise", [True, False])
def test_resize_is_antialiased_cubic(shape, size, noise):
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = np.stack([128 + 100 * np.sin(y / 9 + k) * np.cos(x / 7) for k in range(3)], 2)
    # Half the range: Pillow rounds and clips between its two passes, and noise would overshoot.
    array = picture(1, shape) // 2 + 64 if noise else waves.astype(np.uint8)
    ours = reading.resize_image(Image.fromarray(array), size, gray=False)
    assert ours.shape == (*size, 3) and ours.dtype == np.uint8
    assert np.abs(ours - torch_cubic(array, size)).max() <= 2


def test_gray_is_the_luma_of_the_colours():
    array = picture(2, (100, 100))
    ours = reading.resize_image(Image.fromarray(array), (32, 32), gray=True)
    luma = (array @ [0.299, 0.587, 0.114]).round()[..., None].astype(np.uint8)
    assert ours.shape == (32, 32, 1)
    assert np.abs(ours - torch_cubic(luma, (32, 32))).max() <= 2


@pytest.mark.parametrize("shape, size", [((301, 411), (32, 48)), ((40, 48), (64, 96))])
def test_mask_resize_is_nearest(shape, size):
    mask = blob(0, shape) > 0
    rows = ((np.arange(size[0]) + 0.5) * shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * shape[1] / size[1]).astype(int)
    ours = reading.resize_mask(mask, size)
    assert ours.dtype == np.uint8 and np.array_equal(ours, mask[np.ix_(rows, columns)])


# Splitting --------------------------------------------------------------------------------------


def names(count, prefix="I"):
    return {f"{prefix}{i:04d}": True for i in range(count)}


def test_paper_split():
    counts = splitting.resolve_counts(2000, None, None)
    pool, test = splitting.random_split(names(2000), [], *counts, seed=0)
    assert (len(pool), len(test)) == (1600, 400)
    assert sorted(pool + test) == list(names(2000)) and pool == sorted(pool)
    again = splitting.random_split(names(2000), [], *counts, seed=0)
    assert again == (pool, test)
    assert splitting.random_split(names(2000), [], *counts, seed=1)[1] != test
    half = sum(name < "I1000" for name in test)
    assert 150 < half < 250  # shuffled, not a block


def test_unlabelled_images_do_not_change_the_split():
    more = names(50) | {f"U{i}": False for i in range(7)}
    pool, test = splitting.random_split(names(50), [], None, 10, seed=3)
    assert splitting.random_split(more, [], None, 10, seed=3) == (
        sorted([*pool, *(f"U{i}" for i in range(7))]),
        test,
    )


@pytest.mark.parametrize(
    "labelled, pool, test, expected",
    [(2000, None, None, (None, 400)), (12, None, None, (None, 2)), (10, 9, None, (9, 1)),
     (10, 2, None, (2, 2)), (10, 4, 6, (4, 6)), (10, None, 0, (None, 0)),
     (0, None, None, (None, 0))],
)  # fmt: skip
def test_counts(labelled, pool, test, expected):
    assert splitting.resolve_counts(labelled, pool, test) == expected


def possible_sums(sizes):
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    return sums


def test_identical_images_never_straddle_and_counts_are_exact():
    rng = np.random.default_rng(0)
    for trial in range(400):
        ids = [f"I{i:03d}" for i in range(rng.integers(2, 40))]
        keys = rng.integers(0, rng.integers(1, 2 * len(ids)), len(ids)).tolist()
        duplicates = splitting.equal_groups(ids, keys)
        groups = [[i for i, k in zip(ids, keys, strict=True) if k == key] for key in set(keys)]
        assert sorted(map(sorted, duplicates)) == sorted(g for g in groups if len(g) > 1)
        labelled = dict.fromkeys(ids, True)
        wanted = int(rng.integers(0, len(ids)))
        pool, test = splitting.random_split(labelled, duplicates, None, wanted, seed=trial)
        assert sorted(pool + test) == ids
        for group in groups:
            assert set(group) <= set(pool) or set(group) <= set(test)
        best = max(total for total in possible_sums(map(len, groups)) if total <= wanted)
        assert len(test) == best


def test_identical_images_with_all_options():
    rng = np.random.default_rng(1)
    for trial in range(200):
        ids = [f"I{i:03d}" for i in range(60)]
        keys = [int(k) if k < 6 else 100 + i for i, k in enumerate(rng.integers(0, 30, 60))]
        labelled = {name: bool(rng.random() < 0.9) for name in ids}
        total = sum(labelled.values())
        pool, test = splitting.random_split(
            labelled, splitting.equal_groups(ids, keys), total - 25, 10, seed=trial
        )
        key = dict(zip(ids, keys, strict=True))
        assert not {key[i] for i in pool} & {key[i] for i in test}
        assert len(test) == 10 and all(labelled[name] for name in test)
        assert sum(labelled[name] for name in pool) == total - 25
        assert {name for name in ids if not labelled[name]} <= set(pool)


def test_duplicates_are_found_by_pixels(tmp_path, capsys):
    root = make_set(tmp_path / "raw", 10)
    save(root / "images/B.bmp", picture(3))  # the pixels of A003, another file
    save(root / "masks/B.png", blob(99))
    save(root / "images/C.png", picture(5))
    save(root / "masks/C.png", blob(5))
    for seed in range(4):
        out = tmp_path / f"d{seed}"
        make("--root", root, "--out", out, "--size", 32, "--seed", seed, "--test-count", 5)
        manifest, data = manifest_of(out), open_data(out)
        assert manifest["duplicates"] == [["A003", "B"], ["A005", "C"]]
        assert manifest["duplicates_with_different_masks"] == [["A003", "B"]]
        assert len(data.test) == 5 and len(data.pool) == 7
        for one, other in manifest["duplicates"]:
            assert (one in data.test) == (other in data.test)
    out = capsys.readouterr().out
    assert "identical images: 2 (A003 = B, A005 = C)" in out
    assert "different masks: 1 (A003 = B)" in out


def test_inexact_split_is_said(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"raw/images/{name}.png", picture(0))
        save(tmp_path / f"raw/masks/{name}.png", blob(0))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d", "--size", 32, "--test-count", 1)
    assert splits_of(tmp_path / "d")["test"] == []
    assert "4 labelled images in the pool and 0 in the test set instead of 3 and 1" in (
        capsys.readouterr().out
    )


def official_set(tmp_path):
    make_set(tmp_path / "raw", 6)
    make_set(tmp_path / "official", 3, first=50)
    return ["--root", tmp_path / "raw", "--test-images", tmp_path / "official/images",
            "--test-masks", tmp_path / "official/masks", "--size", 32]  # fmt: skip


def test_official_test_set(tmp_path, capsys):
    words = official_set(tmp_path)
    save(tmp_path / "official/images/T.png", picture(2))
    save(tmp_path / "official/masks/T.png", blob(2))
    make(*words, "--out", tmp_path / "d")
    data = open_data(tmp_path / "d")
    assert data.test == ["A050", "A051", "A052", "T"]
    assert data.pool == ["A000", "A001", "A003", "A004", "A005"]
    assert splits_of(tmp_path / "d")["dropped"] == ["A002"] and "A002" in data.ids
    assert "left out of the pool, identical to a test image: 1 (A002)" in capsys.readouterr().out
    make("--verify", *words, "--out", tmp_path / "d")
    assert capsys.readouterr().out.startswith("OK ")


def test_official_test_set_errors(tmp_path, bad):
    words = [*official_set(tmp_path), "--out", tmp_path / "d"]
    for count in (0, 3):
        bad(*words, "--test-count", count, names="--test-images")
    bad(*words[:4], *words[6:], names="--test-masks")
    (tmp_path / "official/masks/A051_segmentation.png").unlink()
    bad(*words, names=tmp_path / "official/images/A051.png")
    save(tmp_path / "official/masks/A051.png", blob(51))
    save(tmp_path / "official/images/A001.png", picture(70))
    save(tmp_path / "official/masks/A001.png", blob(70))
    bad(*words, names=tmp_path / "official/images/A001.png")


# Writing ----------------------------------------------------------------------------------------


def snapshot(folder):
    return {path.name: (path.stat().st_mtime_ns, sha256_file(path)) for path in folder.iterdir()}


def test_second_call_does_nothing(tmp_path, capsys, monkeypatch):
    words = ["--root", make_set(tmp_path / "raw", 6), "--out", tmp_path / "d", "--size", 32]
    make(*words)
    before = snapshot(tmp_path / "d")
    capsys.readouterr()
    monkeypatch.setattr(preprocess, "in_order", None)  # nothing is read
    make(*words, "--workers", 1)
    out = capsys.readouterr().out
    assert out.startswith("already done") and out.count("\n") == 1
    assert snapshot(tmp_path / "d") == before
    os.utime(tmp_path / "raw/images/A001.png")  # another time, the same bytes
    make(*words)
    assert capsys.readouterr().out.startswith("already done")
    assert before["manifest.json"] == snapshot(tmp_path / "d")["manifest.json"]


@pytest.mark.parametrize(
    "option", [("--seed", 1), ("--no-gray",), ("--test-count", 2), ("--pool-count", 3)]
)
def test_other_options_are_refused(tmp_path, bad, option):
    words = ["--root", make_set(tmp_path / "raw", 6), "--out", tmp_path / "d", "--size", 32]
    make(*words)
    before = snapshot(tmp_path / "d")
    line = bad(*words, *option, names=tmp_path / "d")
    assert "--overwrite" in line and "another --out" in line
    assert snapshot(tmp_path / "d") == before
    make(*words, *option, "--overwrite")
    assert snapshot(tmp_path / "d") != before


def test_changed_inputs_are_refused(tmp_path, bad):
    root = make_set(tmp_path / "raw", 6)
    words = ["--root", root, "--out", tmp_path / "d", "--size", 32]
    make(*words)
    save(root / "images/Z.png", picture(9))
    assert "images/Z.png" in bad(*words, names=tmp_path / "d")
    (root / "images/Z.png").unlink()
    path = root / "masks/A002_segmentation.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the same size, other bytes
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert "A002" in bad(*words, names=tmp_path / "d")


def test_manifest_depends_on_contents_and_options_alone(tmp_path):
    make_set(tmp_path / "one", 7)
    make_set(tmp_path / "two/below", 7)
    for path in (tmp_path / "two").rglob("*.png"):
        os.utime(path, (10, 10))
    make("--root", tmp_path / "one", "--out", tmp_path / "a/d", "--size", 32, "--workers", 1)
    make("--root", tmp_path / "two", "--out", tmp_path / "b/d", "--size", 32, "--workers", 5)
    for name in ("manifest.json", "splits.json", "images.npy", "masks.npy"):
        assert (tmp_path / "a/d" / name).read_bytes() == (tmp_path / "b/d" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "a/d/manifest.json").read_text()


def test_out_that_is_something_else_is_kept(tmp_path, bad):
    root = make_set(tmp_path / "raw", 3)
    keep = tmp_path / "d/thesis.txt"
    keep.parent.mkdir()
    keep.write_text("mine")
    bad("--root", root, "--out", tmp_path / "d", names=tmp_path / "d")
    bad("--root", root, "--out", tmp_path / "d", "--overwrite", names=keep)
    bad("--root", root, "--out", keep, names=keep)
    bad("--root", root, "--out", keep, "--overwrite", names=keep)
    assert keep.read_text() == "mine"


def test_failure_midway_leaves_the_old_data(tmp_path, bad):
    root = make_set(tmp_path / "raw", 9)
    words = ["--root", root, "--out", tmp_path / "d", "--size", 32]
    make(*words)
    before = snapshot(tmp_path / "d")
    (root / "images/A006.png").write_bytes(b"no picture")
    bad(*words, "--overwrite", names=root / "images/A006.png")
    assert snapshot(tmp_path / "d") == before


def test_killed_call_leaves_nothing_in_place(tmp_path):
    words = [sys.executable, "preprocess.py", "--demo", "4000", "--size", "256"]
    out = tmp_path / "d"
    process = subprocess.Popen([*words, "--out", str(out)], cwd=ROOT, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".d.partial"
    while not (partial / "masks.npy").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists() and not out.exists()
    make("--demo", 3, "--size", 32, "--out", out)
    assert len(open_data(out).ids) == 3 and list(tmp_path.iterdir()) == [out]


def test_no_room_on_the_disk(tmp_path, bad, monkeypatch):
    usage = building.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: usage)
    bad("--demo", 3, "--size", 32, "--out", tmp_path / "d", names="free some space")


def test_window_bounds_what_is_under_way():
    started, taken = [], 0
    for _ in reading.in_order(started.append, range(200), workers=2):
        taken += 1
        assert len(started) <= taken + 3 * 2
    assert taken == 200


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
@pytest.mark.parametrize("what", ["images", "masks"])
def test_damaged_file(tmp_path, bad, name, damage, what):
    save(tmp_path / f"images/{name}", picture(0, (100, 100)))
    save(tmp_path / f"masks/{name}", blob(0, (100, 100)))
    path = tmp_path / what / name
    content = path.read_bytes()
    broken = {"truncated": content[: len(content) // 2], "garbage": b"x" * 999, "empty": b""}
    path.write_bytes(broken[damage])
    bad("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--out", tmp_path / "d",
        names=path)  # fmt: skip


def test_every_cut_of_a_file_is_an_error_or_the_picture(tmp_path):
    for name in ("a.jpg", "a.png"):
        path = save(tmp_path / name, picture(0, (60, 60)))
        content = path.read_bytes()
        whole = np.asarray(read_photo(path).picture)
        for cut in range(0, len(content), 97):
            path.write_bytes(content[:cut])
            try:
                assert np.array_equal(np.asarray(read_photo(path).picture), whole)
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_bomb(tmp_path, bad, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    path = save(tmp_path / "images/a.png", picture(0))
    bad("--images", path.parent, "--out", tmp_path / "d", names=path)


def test_mask_of_another_size(tmp_path, bad):
    save(tmp_path / "images/a.png", picture(0))
    path = save(tmp_path / "masks/a.png", blob(0, (48, 40)))
    line = bad("--images", tmp_path / "images", "--masks", tmp_path / "masks",
               "--out", tmp_path / "d", names=path)  # fmt: skip
    assert "48x40" in line and "40x48" in line


def test_folders_that_do_not_fit(tmp_path, bad):
    out = ["--out", tmp_path / "d"]
    bad("--root", tmp_path / "none", *out, names=tmp_path / "none")
    bad("--images", tmp_path / "none", *out, names=tmp_path / "none")
    root = make_set(tmp_path / "raw", 2)
    images, masks = root / "images", root / "masks"
    bad("--images", images, "--masks", tmp_path / "none", *out, names=tmp_path / "none")
    bad("--images", images, "--masks", images, *out, names=images)
    (tmp_path / "empty").mkdir()
    bad("--root", tmp_path / "empty", *out, names=tmp_path / "empty")
    bad("--images", tmp_path / "empty", *out, names=tmp_path / "empty")
    bad("--images", images, "--masks", tmp_path / "empty", *out, names=tmp_path / "empty")
    second = save(root / "images/A001.jpg", picture(4))
    assert "A001.png" in bad("--root", root, *out, names=second.with_suffix(""))
    second.unlink()
    second = save(masks / "A001.png", blob(1))
    bad("--root", root, *out, names=masks / "A001")
    second.unlink()
    make_set(root / "more", 2)
    assert "--images" in bad("--root", root, *out, names="images, more")


@pytest.mark.parametrize(
    "words, name",
    [
        (["--sise", "64"], "--sise"),
        (["--size", "100"], "multiple of 16"),
        (["--size", "16"], "at least 32"),
        (["--size", "64x"], "64x"),
        (["--size", "64x40"], "64x40"),
        (["--seed", "x"], "--seed"),
        (["--workers", "0"], "--workers"),
        (["--test-count", "-1"], "--test-count"),
        (["--test-count", "6"], "--test-count"),
        (["--pool-count", "6"], "--pool-count"),
        (["--pool-count", "3", "--test-count", "3"], "5 images"),
        (["--demo", "3"], "--demo"),
        (["--images", "x"], "--images"),
        (["--masks", "nowhere"], "nowhere"),
        (["--test-masks", "x"], "--test-masks"),
    ],
)
def test_bad_options(tmp_path, bad, words, name):
    root = make_set(tmp_path / "raw", 5)
    bad("--root", root, "--out", tmp_path / "d", *words, names=name)


def test_incomplete_options(bad):
    bad("--out", "x", names="--root")
    bad("--demo", "3", names="--out")
    bad("--download", "--out", "x", names="--root")


def test_command_line_as_users_see_it(tmp_path):
    root = make_set(tmp_path / "raw", 3)
    path = root / "images/A001.png"
    path.write_bytes(path.read_bytes()[:200])
    words = [sys.executable, "preprocess.py", "--root", str(root), "--out", str(tmp_path / "d")]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {path}: ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [root]


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        make("--help")
    assert stop.value.code == 0 and "--test-images" in capsys.readouterr().out


# Verifying --------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    root = make_set(tmp_path / "raw", 6)
    (root / "masks/A005_segmentation.png").unlink()
    make("--root", root, "--out", tmp_path / "d", "--size", 32)
    return tmp_path / "d"


def test_verify_sound_data(made, capsys):
    capsys.readouterr()
    make("--verify", "--out", made)
    out = capsys.readouterr().out
    assert out.startswith("OK ") and "original files not checked" in out
    make("--verify", "--out", made, "--root", made.parent / "raw")
    assert "not checked" not in capsys.readouterr().out


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["images.npy", "masks.npy"])
def test_verify_finds_a_changed_array(made, bad, name):
    content = bytearray((made / name).read_bytes())
    content[-1] ^= 1
    (made / name).write_bytes(content)
    bad("--verify", "--out", made, names=made / name)
    (made / name).write_bytes(content[:-100])
    bad("--verify", "--out", made, names=made / name)


@pytest.mark.parametrize("row, value", [(0, 2), (5, 1)])  # row 5 has no mask
def test_verify_finds_a_wrong_mask(made, bad, row, value):
    masks = np.load(made / "masks.npy", mmap_mode="r+")
    masks[row, 0, 0] = value
    masks.flush()
    digest = sha256_file(made / "masks.npy")
    rewrite(made / "manifest.json", lambda content: content["arrays"].update({"masks.npy": digest}))
    assert f"A00{row}" in bad("--verify", "--out", made, names=made / "masks.npy")


def test_verify_finds_wrong_splits(made, bad):
    original = (made / "splits.json").read_text()
    for change in (
        lambda content: content["test"].append(content["pool"][0]),
        lambda content: content["pool"].append("stranger"),
    ):
        rewrite(made / "splits.json", change)
        bad("--verify", "--out", made, names=made / "splits.json")
        (made / "splits.json").write_text(original)
    (made / "splits.json").unlink()
    bad("--verify", "--out", made, names=made / "splits.json")


def test_verify_finds_changed_sources(made, bad):
    images = made.parent / "raw/images"
    save(images / "A002.png", picture(77))
    bad("--verify", "--out", made, "--root", images.parent, names=images / "A002.png")
    (images / "A001.png").unlink()
    bad("--verify", "--out", made, "--root", images.parent, names="A001.png")
    bad("--verify", "--out", made.parent / "none", names=made.parent / "none")


# Downloading ------------------------------------------------------------------------------------

DATA, TRUTH_FOLDER = download.ISIC_FOLDERS
PLACED = sorted([DATA, TRUTH_FOLDER, download.RECORD])


def official_archives(count=6, masks=None, extra=()):
    masks = count if masks is None else masks
    images = [f"{DATA}/ISIC_{i:07d}.jpg" for i in range(count)]
    spare = [f"{DATA}/ISIC_{i:07d}_superpixels.png" for i in range(count)]
    truth = [f"{TRUTH_FOLDER}/ISIC_{i:07d}_segmentation.png" for i in range(masks)]
    return {
        f"{DATA}.zip": archive(images + spare),
        f"{TRUTH_FOLDER}.zip": archive(truth, extra=extra),
    }


def get(server, root, *words):
    make("--download", "--root", root, "--url", server.url, "--expect", 6, *words)


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_download_and_preprocess(tmp_path, capsys):
    root = tmp_path / "isic"
    with serve(official_archives()) as server:
        get(server, root, "--out", tmp_path / "d", "--size", 32, "--test-count", 0)
        assert sorted(path.name for path in root.iterdir()) == PLACED
        assert len(open_data(tmp_path / "d").ids) == 6
        asked = len(server.requests)
        get(server, root)
        assert len(server.requests) == asked
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("ranges, tags", [(True, True), (True, False), (False, True)])
def test_download_resumes(tmp_path, bad, capsys, ranges, tags):
    root = tmp_path / "isic"
    root.mkdir()
    files = official_archives()
    words = ["--download", "--root", root, "--expect", 6]
    with serve(files, ranges, tags, cut=400) as server:
        line = bad(*words, "--url", server.url, names=f"{DATA}.zip")
        assert "run again to resume" in line
        assert (root / f"{DATA}.zip.part").stat().st_size == 400 and not (root / DATA).exists()
        get(server, root)
        assert server.requests[1][1] == "bytes=400-"
        assert bool(server.requests[1][2]) == tags
    assert len(list((root / DATA).iterdir())) == 12
    assert sorted(path.name for path in root.iterdir()) == PLACED


def test_download_of_a_file_that_changed_meanwhile_starts_over(tmp_path, bad):
    root = tmp_path / "isic"
    root.mkdir()
    with serve(official_archives(9), cut=400) as server:
        bad("--download", "--root", root, "--url", server.url, names=f"{DATA}.zip")
        server.files = official_archives(6)
        get(server, root)
    assert len(list((root / TRUTH_FOLDER).iterdir())) == 6


@pytest.mark.parametrize("surplus", [0, 50])
def test_part_that_is_complete_or_too_long(tmp_path, surplus):
    files = official_archives()
    part = tmp_path / f"{DATA}.zip.part"
    part.write_bytes(files[f"{DATA}.zip"] + b"x" * surplus)
    with serve(files) as server:
        get(server, tmp_path)
        assert len(server.requests) == (3 if surplus else 2)
    assert len(list((tmp_path / DATA).iterdir())) == 12


def evil(name, link=False):
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o120777 if link else 0o100644) << 16
    return info


@pytest.mark.parametrize(
    "entry",
    [evil("../evil.png"), evil("/tmp/evil.png"), evil("a/../../evil.png"), evil("..\\evil.png"),
     evil("C:/evil.png"), evil(f"{TRUTH_FOLDER}/link.png", link=True)],
    ids=lambda entry: entry.filename,
)  # fmt: skip
def test_evil_entry_is_refused(tmp_path, bad, entry):
    root = tmp_path / "in/isic"
    root.mkdir(parents=True)
    with serve(official_archives(extra=[entry])) as server:
        line = bad("--download", "--root", root, "--url", server.url, "--expect", 6,
                   names=f"{TRUTH_FOLDER}.zip")  # fmt: skip
    assert "leads outside" in line
    assert tree(tmp_path / "in") == ["isic", f"isic/{DATA}.zip", f"isic/{TRUTH_FOLDER}.zip"]


def test_huge_entry_is_refused(tmp_path, bad, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 4)
    root = tmp_path / "in/isic"
    root.mkdir(parents=True)
    with serve(official_archives()) as server:
        line = bad("--download", "--root", root, "--url", server.url, "--expect", 6,
                   names="ISIC-2017_Training_Data.zip")  # fmt: skip
    assert "MB unpacked, more than" in line


def test_wrong_count_replaces_nothing(tmp_path, bad):
    root = tmp_path / "isic"
    old = save(root / DATA / "old.png", picture(0))
    words = ["--download", "--root", root, "--expect", 6]
    with serve(official_archives(6, masks=5)) as server:
        line = bad(*words, "--url", server.url, names=f"{TRUTH_FOLDER}.zip")
    assert "5 pictures, not 6" in line
    assert old.exists() and not (root / TRUTH_FOLDER).exists()
    assert [name for name in tree(root) if "partial" in name] == []


def test_damaged_archive_is_fetched_anew(tmp_path, bad):
    root = tmp_path / "isic"
    root.mkdir()
    files = official_archives()
    broken = bytearray(files[f"{DATA}.zip"])
    broken[100] ^= 255  # inside the first picture: its CRC no longer fits
    with serve({**files, f"{DATA}.zip": bytes(broken)}) as server:
        line = bad("--download", "--root", root, "--url", server.url, "--expect", 6,
                   names=f"{DATA}.zip")  # fmt: skip
        assert "damaged" in line and tree(root) == []
        server.files = files
        get(server, root)
    assert (root / DATA).is_dir()


def test_another_archive_than_the_first_is_refused(tmp_path, bad):
    root, files = tmp_path / "isic", official_archives()
    with serve(files) as server:
        get(server, root)
        lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in files]
        assert (root / download.RECORD).read_text() == "".join(lines)
        shutil.rmtree(root / DATA)
        get(server, root)  # the same again
        shutil.rmtree(root / DATA)
        words = ["--download", "--root", root, "--url", server.url, "--expect"]
        server.files = official_archives(7)
        line = bad(*words, 7, names=f"{DATA}.zip")
        assert download.RECORD in line and lines[0][:64] in line
        assert not (root / DATA).exists() and (root / TRUTH_FOLDER).exists()
        (root / download.RECORD).unlink()
        make(*words, 7)
    assert len(list((root / TRUTH_FOLDER).iterdir())) == 7


def test_server_errors(tmp_path, bad):
    with serve({}) as server:
        words = ["--download", "--root", tmp_path, "--url", server.url]
        bad(*words, names="404")
    bad(*words, names="run again")  # nobody listens any more
    bad(*words[:-1], "nonsense", names="nonsense")


# Synthetic images -------------------------------------------------------------------------------


def test_demo(tmp_path, capsys):
    make("--demo", 12, "--size", "32x48", "--out", tmp_path / "d", "--no-gray")
    data = open_data(tmp_path / "d")
    assert data.synthetic and data.images.shape == (12, 32, 48, 3)
    assert data.ids[0] == "DEMO_0000000" and len(data.pool) == 10
    assert "SYNTHETIC" in capsys.readouterr().out
    groups = {row["group"] for row in manifest_of(tmp_path / "d")["rows"]}
    assert groups <= {group.name for group in synthetic.GROUPS}
    make("--demo", 5, "--size", "32x48", "--out", tmp_path / "e", "--no-gray", "--workers", 1)
    few = open_data(tmp_path / "e")
    assert np.array_equal(few.images, data.images[:5])
    assert np.array_equal(few.masks, data.masks[:5])
    make("--demo", 5, "--size", "32x48", "--out", tmp_path / "f", "--no-gray", "--seed", 1)
    assert not np.array_equal(open_data(tmp_path / "f").images, few.images)


def test_demo_images_have_something_to_learn():
    contrasts, areas, groups = [], [], []
    for index in range(60):
        image, mask, group = synthetic.draw_lesion(index, 0, (48, 48))
        assert image.dtype == np.uint8 and image.shape == (96, 96, 3) and mask.dtype == bool
        areas.append(mask.mean())
        groups.append(group)
        near = synthetic.ndimage.binary_dilation(mask, iterations=12)
        contrasts.append(image[near & ~mask].mean() - image[mask].mean())
    assert min(areas) > 0.003 and max(areas) < 0.8 and np.ptp(areas) > 0.1
    assert np.mean(np.array(contrasts) > 5) > 0.9  # lesions are darker than their surroundings
    assert min(contrasts) < 20 and max(contrasts) > 50  # some hardly, some clearly
    assert groups.count("fair") > groups.count("blue") and len(set(groups)) >= 4
    assert sum(group.share for group in synthetic.GROUPS) == pytest.approx(1)


# Real images ------------------------------------------------------------------------------------


def real(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder of real images")
    return folder


def test_isic2017(tmp_path):
    make("--root", real("SAAL_ISIC2017"), "--out", tmp_path / "d", "--size", 64)
    data = open_data(tmp_path / "d")
    assert (len(data.ids), len(data.pool), len(data.test)) == (2000, 1600, 400)
    assert data.masks.reshape(2000, -1).any(1).mean() > 0.99
    make("--verify", "--root", real("SAAL_ISIC2017"), "--out", tmp_path / "d")


def test_isic2017_at_camera_resolution(tmp_path):
    root = Path(real("SAAL_ISIC2017_FULLRES"))
    make("--root", root, "--out", tmp_path / "d", "--no-gray")
    data = open_data(tmp_path / "d")
    rows = manifest_of(tmp_path / "d")["rows"]
    assert data.images.shape == (12, 256, 256, 3) and len(data.test) == 2
    assert max(max(row["original_size"]) for row in rows) > 4000
    for row in (0, 8):
        path = next(root.rglob(rows[row]["image"]))
        exact = torch_cubic(np.asarray(Image.open(path)), (256, 256))
        difference = np.abs(data.images[row] - exact)
        assert difference.mean() < 0.4 and difference.max() <= 3  # Pillow rounds twice
        truth = np.asarray(Image.open(next(root.rglob(rows[row]["mask"])))) > 0
        assert data.masks[row].mean() == pytest.approx(truth.mean(), abs=0.005)


def test_starts_without_pytorch():
    words = [sys.executable, "-c", "import sys, preprocess; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(words, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_released_masks_lose_all_but_exact_255(size):
    mask = blob(3, (64, 64)) > 0
    mask[20:60, 10:50] = True
    values = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_CUBIC)
    left = reading.resize_mask_as_released(mask, size)
    assert left.dtype == np.uint8 and np.array_equal(left, (values == 255).astype(np.uint8))
    assert 0 < left.sum() < reading.resize_mask(mask, size).sum()


def test_released_masks_are_another_data_folder_of_the_same_images(tmp_path):
    make_set(tmp_path / "raw", 10)
    options = ["--root", tmp_path / "raw", "--size", "32"]
    make(*options, "--out", tmp_path / "right")
    make(*options, "--out", tmp_path / "released", "--released-masks")
    right, released = (open_data(tmp_path / name) for name in ("right", "released"))
    assert right.ids == released.ids and right.pool == released.pool
    assert np.array_equal(right.images, released.images)
    assert released.masks.sum() < right.masks.sum()
    assert right.fingerprint != released.fingerprint


def test_test_root_is_both_test_folders(tmp_path):
    make_set(tmp_path / "train", 8)
    make_set(tmp_path / "test", 3, first=20)
    options = ["--root", tmp_path / "train", "--size", "32"]
    make(*options, "--test-root", tmp_path / "test", "--out", tmp_path / "one")
    folders = ["--test-images", tmp_path / "test/images", "--test-masks", tmp_path / "test/masks"]
    make(*options, *folders, "--out", tmp_path / "two")
    one, two = ({**manifest_of(tmp_path / out), "name": ""} for out in ("one", "two"))
    assert one == two and splits_of(tmp_path / "one") == splits_of(tmp_path / "two")
    assert splits_of(tmp_path / "one")["test"] == ["A020", "A021", "A022"]


@pytest.mark.parametrize("option", ["--test-images", "--test-masks"])
def test_test_root_leaves_no_room_for_another_folder(tmp_path, bad, option):
    root = make_set(tmp_path / "train", 8)
    words = ["--root", root, "--test-root", root, option, root / "masks", "--out", tmp_path / "d"]
    bad(*words, names="--test-root is both folders; leave out --test-images and --test-masks")


def test_masks_that_look_wrong_are_named(tmp_path, capsys):
    (tmp_path / "raw" / "images").mkdir(parents=True)
    (tmp_path / "raw" / "masks").mkdir()
    disc = np.hypot(*np.mgrid[-20:20, -20:20]) < 10
    masks = {"a": disc, "b": ~disc, "c": disc & False, "d": disc & False, "full": disc | True}
    for name, mask in masks.items():
        Image.new("RGB", (40, 40), "red").save(tmp_path / "raw" / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "raw" / "masks" / f"{name}.png")
    make("--root", tmp_path / "raw", "--size", 32, "--out", tmp_path / "data")
    text = capsys.readouterr().out
    assert 'masks noted "is empty: no lesion": 2 (masks/c.png, masks/d.png)' in text
    assert 'masks noted "looks inverted' in text and "1 (masks/b.png)" in text
    assert 'masks noted "covers the whole image' in text and "1 (masks/full.png)" in text


def test_a_name_that_would_be_a_formula(tmp_path):
    """Matplotlib reads a text between dollar signs as one, and fails where it is none."""
    root = make_set(tmp_path / "raw", 6)
    name = r"$\frac$"
    Image.fromarray(picture(9)).save(root / "images" / f"{name}.jpg")
    save(root / "masks" / f"{name}_segmentation.png", blob(9))
    make("--root", root, "--size", 32, "--out", tmp_path / "data")
    assert name in open_data(tmp_path / "data").ids


def test_images_whose_bytes_are_damaged_are_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "raw").mkdir()
    for name in "ab":
        Image.fromarray(noise).save(tmp_path / "raw" / f"{name}.jpg")
    path = tmp_path / "raw" / "b.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:1500] + rng.bytes(200) + whole[1700:])
    make("--root", tmp_path / "raw", "--size", 32, "--out", tmp_path / "data")
    assert "damaged; look at them: 1 (images/b.jpg)" in capsys.readouterr().out
    notes = {line.file: line.notes for line in read_lines(tmp_path / "data" / "files.csv")}
    assert "JPEG" in notes["images/b.jpg"] and "JPEG" not in notes["images/a.jpg"]


def test_a_folder_that_was_being_replaced_gets_its_name_again(tmp_path, capsys):
    """As after SIGKILL between the two renamings."""
    words = ["--demo", 6, "--size", 32, "--out", tmp_path / "d"]
    make(*words)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "d").glob("*.npy")}
    (tmp_path / "d").rename(tmp_path / ".d.old")
    make(*words)
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "d").glob("*.npy")}
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_arrays_have_their_room_where_posix_fallocate_is_missing(tmp_path, monkeypatch):
    """As on macOS; the header stays as it is."""
    monkeypatch.delattr(os, "posix_fallocate")
    array = building.new_array(tmp_path / "x.npy", (3, 5, 7))
    array[1] = 9
    del array
    assert np.load(tmp_path / "x.npy").sum(axis=(1, 2)).tolist() == [0, 9 * 35, 0]
