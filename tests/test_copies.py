"""Copies of one photograph: what is found, what is not, and that a split keeps them together."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import call
from PIL import Image
from scipy.ndimage import gaussian_filter

from segmentation.analysis.page_data import data_overview
from segmentation.common.runfiles import read_json
from segmentation.data.copies import alike, find_copies, points_of, shared_points
from segmentation.data.datafolder import open_data
from segmentation.data.splitting import linked


def skin(seed, size=(240, 320)):
    """A picture of spots, uint8 h x w x 3, another one for each seed."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal(size), 2) * 25
    noise += gaussian_filter(rng.standard_normal(size), 20) * 1500
    colours = rng.uniform(0.6, 1.0, 3)
    return np.clip((150 + noise)[..., None] * colours, 0, 255).astype(np.uint8)


def other_colours(array):
    return np.clip(array * [0.8, 1.0, 1.1] * 0.9 + 12, 0, 255).astype(np.uint8)


def cut(array):
    """Without its margins, enlarged to the size it had."""
    h, w = array.shape[:2]
    part = Image.fromarray(array[h // 30 : h - h // 40, w // 40 : w - w // 30])
    return np.asarray(part.resize((w, h), Image.Resampling.BICUBIC))


CHANGES = {
    "other colours": other_colours,
    "cut": cut,
    "both": lambda array: other_colours(cut(array)),
    "smaller": lambda array: np.asarray(Image.fromarray(array).reduce(2)),
    "coarse": lambda array: np.asarray(Image.fromarray(array).quantize(16).convert("RGB")),
}


def gray(array):
    return np.asarray(Image.fromarray(array).convert("L"))


def shrunk(array):
    return np.asarray(Image.fromarray(array).resize((48, 48)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_and_nothing_else(change):
    originals = [skin(seed) for seed in range(12)]
    pictures = [*originals, CHANGES[change](originals[3]), CHANGES[change](originals[7])]
    images = np.stack([shrunk(picture) for picture in pictures])
    found = find_copies(images, lambda place: gray(pictures[place]))
    assert found == [(3, 12), (7, 13)]


def test_pictures_that_only_look_alike_are_no_copies():
    """The same light and dark, other details."""
    rough = gaussian_filter(np.random.default_rng(0).standard_normal((240, 320)), 20) * 900 + 128
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    fine = [gaussian_filter(rng.standard_normal(rough.shape), 2) * 40 for rng in rngs]
    pictures = [
        np.repeat(np.clip(rough + f, 0, 255)[..., None], 3, 2).astype(np.uint8) for f in fine
    ]
    images = np.stack([shrunk(picture) for picture in pictures])
    assert len(alike(images)) == 6
    assert find_copies(images, lambda place: gray(pictures[place])) == []


def test_pictures_without_a_detail():
    plain = np.zeros((5, 32, 32, 1), np.uint8)
    plain[1] = 255
    assert alike(plain) == []
    assert find_copies(plain, lambda place: plain[place, ..., 0]) == []
    assert shared_points(points_of(plain[0, ..., 0]), points_of(gray(skin(0)))) == 0
    assert alike(plain[:1]) == []


def test_alike_is_the_correlation():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    images[30:] = images[:10] // 2 + rng.integers(0, 40, (10, 32, 32, 3), dtype=np.uint8)
    table = np.corrcoef(images.mean(axis=3).reshape(40, -1))
    pairs = {(i, j) for i in range(40) for j in range(i + 1, 40) if table[i, j] >= 0.93}
    assert set(alike(images)) == pairs and len(pairs) >= 5


def folder(tmp_path, copies=()):
    """24 photographs with masks, then these copies; the folder."""
    root = tmp_path / "raw"
    for place in ("images", "masks"):
        (root / place).mkdir(parents=True)
    pictures = {f"a{number:02d}": skin(number) for number in range(24)}
    pictures |= {f"b{number:02d}": other_colours(skin(number)) for number in copies}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(root / "images" / f"{name}.png")
        mask = np.zeros(picture.shape[:2], np.uint8)
        mask[60:160, 100:200] = 255
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


def test_a_split_keeps_copies_together(tmp_path, capsys):
    root, copies = folder(tmp_path, range(6)), [[f"a{n:02d}", f"b{n:02d}"] for n in range(6)]
    parted = 0
    for seed in range(3):
        words = ["--root", root, "--size", 32, "--seed", seed, "--test-count", 10]
        call("preprocess", *words, "--out", tmp_path / f"apart{seed}")
        capsys.readouterr()
        call("preprocess", *words, "--link-copies", "--out", tmp_path / f"linked{seed}")
        assert "copies of one photograph: 6 (a00 = b00," in capsys.readouterr().out
        assert linked(read_json(tmp_path / f"linked{seed}" / "manifest.json")) == copies
        for kind in ("apart", "linked"):
            data = open_data(tmp_path / f"{kind}{seed}")
            assert len(data.test) == 10 and len(data.pool) == 20
            both = [pair for pair in copies if len(set(pair) & set(data.test)) == 1]
            parted += len(both) if kind == "apart" else 0
            assert kind == "apart" or not both
    assert parted


def test_copies_of_given_test_images_leave_the_pool(tmp_path, capsys):
    root = folder(tmp_path, [2])
    (tmp_path / "test.txt").write_text("a02\na05\n")
    words = ["--root", root, "--size", 32, "--test-list", tmp_path / "test.txt", "--link-copies"]
    call("preprocess", *words, "--out", tmp_path / "data")
    assert "left out of the pool, identical to a test image or a copy of it: 1 (b02)" in (
        capsys.readouterr().out
    )
    assert open_data(tmp_path / "data").test == ["a02", "a05"]
    assert "b02" not in open_data(tmp_path / "data").pool


def test_the_page_tells_the_copies(tmp_path):
    root, out = folder(tmp_path, range(2)), tmp_path / "data"
    for words, told in (([], False), (["--link-copies"], True)):
        call("preprocess", "--root", root, "--size", 32, "--out", out, "--overwrite", *words)
        manifest, splits = (read_json(out / f"{name}.json") for name in ("manifest", "splits"))
        run = SimpleNamespace(manifest=manifest, splits=splits, files=[], data_folder=out)
        text = "".join(str(part) for part in data_overview(run))
        assert ("2 groups of 4: a00 = b00; a01 = b01" in text) == told


def test_the_option_belongs_to_the_data_folder(tmp_path, refused):
    root = folder(tmp_path)
    words = ["--root", root, "--size", 32, "--out", tmp_path / "data"]
    call("preprocess", *words)
    assert "link_copies = None, not True" in refused("preprocess", *words, "--link-copies")


REAL = Path(os.environ.get("SAAL_ISIC2017", "/nowhere"))
PAIRS = """0000164/0014795 0000165/0014788 0000177/0014657 0000204/0014748 0000205/0014742
0000206/0014739 0000222/0014846 0000223/0014818 0000224/0014791 0000225/0014778 0000229/0014771
0012290/0013594 0012672/0012673 0012756/0013184"""  # each looked at


@pytest.mark.skipif(not REAL.is_dir(), reason="SAAL_ISIC2017 does not name a folder of real images")
def test_the_copies_in_isic_2017(tmp_path):
    paths = sorted((REAL / "ISIC-2017_Training_Data").glob("*.jpg"))
    pictures = [gray(np.asarray(Image.open(path))) for path in paths]
    images = np.stack([np.asarray(Image.fromarray(p).resize((48, 48))) for p in pictures])[
        ..., None
    ]
    found = find_copies(images, lambda place: pictures[place])
    names = [path.stem.removeprefix("ISIC_") for path in paths]
    assert [f"{names[i]}/{names[j]}" for i, j in found] == PAIRS.split()
