"""Near copies made on purpose: what they are, where they may be, and how they are counted."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import call
from PIL import Image
from test_copies import folder, skin

from segmentation import probe
from segmentation.analysis.page_data import data_overview
from segmentation.analysis.screening import screened, screened_markdown
from segmentation.common.runfiles import read_json, write_json
from segmentation.data.datafolder import open_data
from segmentation.data.nearcopies import CUT, GAIN, SHIFT, amount, near_copy, sources_of
from segmentation.data.splitting import random_split

WORDS = ["--size", 32, "--no-gray", "--near-copies", "0.25x3"]


def make(root, out, *more):
    call("preprocess", "--root", root, "--out", out, *WORDS, *more)
    return open_data(out)


def families(data):
    """Source -> its copies."""
    found = {}
    for copy, source in data.copy_of.items():
        found.setdefault(source, []).append(copy)
    return found


def test_amounts():
    assert amount("0.1x10") == (0.1, 10) and amount("1x1") == (1, 1)
    for text in ("0x5", "0.1x0", "2x3", "0.1", "x4", "0.1x-2", "0.1x1.5", "nanx2"):
        with pytest.raises(ValueError, match="SHARExTIMES"):
            amount(text)


def test_sources_are_a_seeded_share():
    ids = [f"I{n:03d}" for n in range(200)]
    drawn = [sources_of(ids, 0.1, seed) for seed in range(400)]
    assert all(len(set(one)) == 20 and one == sorted(one) for one in drawn)
    assert drawn[3] == sources_of(ids[::-1], 0.1, 3)
    count = np.unique(np.concatenate(drawn), return_counts=True)[1]
    assert len(count) == 200 and count.min() > 15 and count.max() < 75  # 40 expected, sd 6
    assert len(sources_of(ids[:3], 0.1, 0)) == 1


def test_a_near_copy_is_a_part_of_its_source_flipped_in_other_colours():
    """In place of a mask, the number of each pixel: what it becomes says where the pixels went."""
    height, width = 100, 120
    picture = skin(0, (height, width))
    number = np.arange(height * width).reshape(height, width)
    sizes, flips = set(), set()
    for seed in range(200):
        copy, moved = near_copy(picture, number, np.random.default_rng(seed))
        assert copy.dtype == np.uint8 and copy.shape == (*moved.shape, 3)
        (y,), (x,) = np.diff(moved[:, :1] // width, axis=0).T, np.diff(moved[:1] % width)
        assert len(set(y)) == len(set(x)) == 1 and {abs(y[0]), abs(x[0])} == {1}
        assert np.array_equal(
            moved, moved[0, 0] + np.add.outer(*map(steps, moved.shape, (y[0] * width, x[0])))
        )
        for got, source in zip(
            copy.reshape(-1, 3).T, picture.reshape(-1, 3)[moved.ravel()].T, strict=True
        ):
            inside = (got > 0) & (got < 255)
            gain, shift = np.polyfit(source[inside], got[inside], 1)
            assert 0.99 - GAIN < gain < 1.01 + GAIN and abs(shift) < SHIFT + 1
            assert np.abs(source * gain + shift - got)[inside].max() < 1
        flips.add((y[0], x[0]))
        sizes.add(moved.shape)
    assert len(flips) == 4 and {min(sizes)[0], max(sizes)[0]} == {round(height * (1 - CUT)), height}
    assert near_copy(picture, None, np.random.default_rng(0))[1] is None


def steps(count, step):
    return np.arange(count) * step


def test_the_data_folder_has_the_copies_with_their_masks(tmp_path, capsys):
    root = folder(tmp_path)
    data = make(root, tmp_path / "data", "--test-count", 6)
    text = capsys.readouterr().out
    assert "near copies: 18, of 6 images" in text
    assert len(data.ids) == 24 + 18 and data.ids == sorted(data.ids)
    for source, copies in families(data).items():
        assert copies == [f"{source}~{number}" for number in (1, 2, 3)]
        images, masks = data.load_images([source, *copies]), data.load_masks([source, *copies])
        assert len({image.tobytes() for image in images}) == 4
        area = masks.mean(axis=(1, 2))
        assert area == pytest.approx(area[0], rel=0.35)
        for image in images[1:]:  # nearer to its source, in one of four flips, than to the others
            flipped = [image[::a, ::b] for a in (1, -1) for b in (1, -1)]
            assert nearest(flipped, data) == source
    again = make(root, tmp_path / "again", "--test-count", 6)
    assert again.fingerprint.partition("-")[2] == data.fingerprint.partition("-")[2]
    assert np.array_equal(again.images, data.images) and np.array_equal(again.masks, data.masks)
    make(root, tmp_path / "data", "--test-count", 6)
    assert "already done" in capsys.readouterr().out
    call("preprocess", "--verify", "--root", root, "--out", tmp_path / "data")


def nearest(images, data):
    """The source whose picture goes best with one of the images, by correlation."""
    originals = [name for name in data.ids if name not in data.copy_of]
    rows = data.load_images(originals).reshape(len(originals), -1)
    table = np.corrcoef([*rows, *(image.ravel() for image in images)])
    return originals[int(table[len(rows) :, : len(rows)].max(axis=0).argmax())]


@pytest.mark.parametrize("more", [(), ("--link-copies",)])
def test_copies_are_never_tested_and_leave_with_a_tested_source(tmp_path, capsys, more):
    root, left_out = folder(tmp_path, range(4)), 0
    for seed in range(4):
        out = tmp_path / f"data{seed}"
        data = make(root, out, "--test-count", 8, "--seed", seed, *more)
        plain = tmp_path / f"plain{seed}"
        words = ["--root", root, "--size", 32, "--test-count", 8, "--seed", seed, *more]
        call("preprocess", *words, "--out", plain)
        assert data.test == open_data(plain).test  # the split that there is without copies
        assert [name for name in data.pool if name not in data.copy_of] == open_data(plain).pool
        for source, copies in families(data).items():
            where = data.pool if source in data.pool else read_json(out / "splits.json")["dropped"]
            assert set(copies) <= set(where)
            left_out += len(copies) * (source in data.test)
    assert left_out
    assert "or a copy of it" in capsys.readouterr().out


def test_given_test_images_get_no_copies(tmp_path):
    root, listed = folder(tmp_path), tmp_path / "test.txt"
    listed.write_text("\n".join(f"a{n:02d}" for n in range(20)))
    data = make(root, tmp_path / "data", "--test-list", listed)
    assert len(data.test) == 20 and len(data.pool) == 4 + 3
    assert set(data.copy_of.values()) < {f"a{n}" for n in range(20, 24)}


def test_real_copies_are_searched_among_the_images_alone(tmp_path):
    root = folder(tmp_path, range(2))
    make(root, tmp_path / "data", "--link-copies")
    copies = read_json(tmp_path / "data" / "manifest.json")["copies"]
    assert copies == [["a00", "b00"], ["a01", "b01"]]


def test_a_copy_keeps_its_family_together(tmp_path):
    data = make(folder(tmp_path), tmp_path / "data")
    wanted = sorted([source, *copies] for source, copies in families(data).items())
    assert data.linked == wanted


def test_an_image_with_the_id_of_a_copy(tmp_path, refused):
    root = folder(tmp_path)
    words = ["--root", root, "--size", 32, "--near-copies", "1x1", "--out", tmp_path / "data"]
    Image.fromarray(skin(99)).save(root / "images" / "a03~1.png")
    assert "a03~1.png: has the id of near copy 1 of a03" in refused("preprocess", *words)


def test_files_that_cannot_be_used_are_told_once(tmp_path, refused):
    root = folder(tmp_path)
    (root / "images/a03.png").write_bytes(b"no picture")
    words = ["--root", root, "--size", 32, "--near-copies", "1x2", "--out", tmp_path / "data"]
    assert "a03.png: not readable" in refused("preprocess", *words)  # and that is one line
    (root / "masks/a05.png").write_bytes(b"no picture")
    call("preprocess", *words, "--skip-bad")
    data, skipped = (
        open_data(tmp_path / "data"),
        read_json(tmp_path / "data/manifest.json")["skipped"],
    )
    assert [row["file"] for row in skipped] == ["images/a03.png", "masks/a05.png"]
    assert len(data.ids) == 23 * 3 and not data.has_mask["a05"] and not data.has_mask["a05~1"]


def test_a_tested_copy_is_noticed(tmp_path, refused):
    data = make(folder(tmp_path), tmp_path / "data")
    path = tmp_path / "data" / "splits.json"
    splits = read_json(path)
    family = [
        name for source, copies in list(families(data).items())[:1] for name in (source, *copies)
    ]
    splits["pool"] = [name for name in splits["pool"] if name not in family]
    splits["test"] = sorted({*splits["test"], *family})
    splits["dropped"] = [name for name in splits["dropped"] if name not in family]
    write_json(path, {key: value for key, value in splits.items() if key != "schema"})
    words = ["preprocess", "--verify", "--out", tmp_path / "data"]
    assert "has near copies among the test images" in refused(*words)


def test_a_copy_of_nothing_is_refused(tmp_path, refused):
    make(folder(tmp_path), tmp_path / "data")
    path = tmp_path / "data" / "manifest.json"
    content = read_json(path)
    copy = next(row for row in content["rows"] if "copy_of" in row)
    copy["copy_of"] = "b99"
    write_json(path, {key: value for key, value in content.items() if key != "schema"})
    text = refused("preprocess", "--verify", "--out", tmp_path / "data")
    assert f"{copy['id']} is a near copy of b99, which is not there" in text


def test_the_page_tells_the_copies(tmp_path):
    out = tmp_path / "data"
    make(folder(tmp_path), out)
    manifest, splits = (read_json(out / f"{name}.json") for name in ("manifest", "splits"))
    run = SimpleNamespace(manifest=manifest, splits=splits, files=[], data_folder=out)
    text = "".join(str(part) for part in data_overview(run))
    assert "near copies, made on purpose" in text and "18" in text
    assert "240 pixels" in text and "sizes" not in text  # of the files, not of the copies


def test_the_probe_tests_the_images_that_it_tests_without_copies(tmp_path):
    root = folder(tmp_path, range(3))
    data = make(root, tmp_path / "data", "--test-count", 0, "--link-copies")
    plain = tmp_path / "plain"
    call(
        "preprocess",
        "--root",
        root,
        "--size",
        32,
        "--test-count",
        0,
        "--link-copies",
        "--out",
        plain,
    )
    plain = open_data(plain)
    for number in range(5):
        split = random_split(plain.has_mask, plain.linked, None, 27 // 5, number)
        assert [[plain.ids[row] for row in side] for side in probe.split_of(plain, number)] == [
            *split
        ]
        pool, test = ([data.ids[row] for row in side] for side in probe.split_of(data, number))
        assert test == split[1] and [name for name in pool if name not in data.copy_of] == split[0]
        for source, copies in families(data).items():
            assert (set(copies) <= set(pool)) == (source in pool)
            assert not set(copies) & set(test)


def test_distinct_images_are_counted():
    data = SimpleNamespace(ids=["a", "a~1", "a~2", "b", "c", "c~1"])
    data.copy_of = {"a~1": "a", "a~2": "a", "c~1": "c"}
    assert probe.distinct(data, np.array([1, 2, 3])) == 2
    assert probe.distinct(data, np.array([0, 5, 4])) == 2
    rows = [
        {"rule": rule, "features": "", "labels": 3, "seed": seed, "split": seed}
        | {"dice": 0.5 + 0.1 * seed, "distinct": seed + (rule == "saal")}
        for seed in (1, 2)
        for rule in ("random", "saal")
    ]
    first, second = screened(rows)
    assert (first.distinct, second.distinct) == (1.5, 2.5)
    table = screened_markdown([first, second])
    assert "| distinct |" in table and "| 1.5 |" in table
    for row in rows:
        del row["distinct"]
    assert "distinct" not in screened_markdown(screened(rows))
