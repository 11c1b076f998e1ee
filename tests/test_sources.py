"""preprocess.py on folders as labs have them: every file has an outcome, and nothing is lost."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

import preprocess
from segmentation.common import lock
from segmentation.common.runfiles import UserError
from segmentation.data.datafolder import open_data
from segmentation.data.drafts import Draft, write_labelme
from segmentation.data.ids import flat_name
from segmentation.data.originals import Originals
from tests.conftest import call
from tests.helpers_preprocess import blob, make_set, picture, save

NFC, NFD = (unicodedata.normalize(form, "Mühe é") for form in ("NFC", "NFD"))


def make(*words):
    """Run the script in this process, at 32 pixels."""
    try:
        preprocess.main([str(word) for word in (*words, "--size", 32)])
    finally:
        lock.release()


def read(out, name):
    return json.loads((out / f"{name}.json").read_text())


def rows(out):
    """The rows of the manifest by id."""
    return {row["id"]: row for row in read(out, "manifest")["rows"]}


def lines(out):
    """files.csv: file -> (outcome, id, notes), read without the project's own code."""
    with open(out / "files.csv", newline="", encoding="utf-8") as file:
        content = list(csv.DictReader(file))
    assert content and list(content[0]) == ["file", "outcome", "id", "notes"]
    found = {line["file"]: (line["outcome"], line["id"], line["notes"]) for line in content}
    assert len(found) == len(content) and list(found) == sorted(found)
    return found


def files_below(folder, label):
    """What files.csv must list for a folder of which nothing is left out."""
    walked = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {f"{label}/{path.relative_to(folder).as_posix()}" for path in walked}


@pytest.fixture
def refused(tmp_path):
    """Calls the script; returns the lines of its error, having checked that nothing was written."""

    def call(*words):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError) as error:
            make(*words)
        assert sorted(tmp_path.rglob("*")) == before
        return str(error.value).split("\n")

    return call


def patients(root, names, seed=0):
    """One distinct image and its mask under images/ and masks/ for each of these ids."""
    for place, name in enumerate(names):
        save(root / f"images/{name}.png", picture(seed + place))
        save(root / f"masks/{name}.png", blob(seed + place))
    return root


# Folders ----------------------------------------------------------------------------------------


def test_patients_may_use_the_same_names(tmp_path):
    root = patients(tmp_path / "raw", ["P1/a", "P1/b", "P2/a", "P2/day 2/a", "c"])
    make("--root", root, "--out", tmp_path / "d", "--no-gray", "--test-count", 1)
    assert open_data(tmp_path / "d").ids == ["P1/a", "P1/b", "P2/a", "P2/day 2/a", "c"]
    row = rows(tmp_path / "d")["P2/day 2/a"]
    assert row["image"] == row["mask"] == "P2/day 2/a.png"
    assert all(open_data(tmp_path / "d").has_mask.values())
    inputs = [file[0] for file in read(tmp_path / "d", "inputs")["files"]]
    assert "images/P2/day 2/a.png" in inputs and "masks/c.png" in inputs
    make("--verify", "--root", root, "--out", tmp_path / "d")


@pytest.mark.parametrize("below", ["", "Smith, J/", "Smith, J/2024/"])
def test_root_is_itself_the_image_folder(tmp_path, below):
    for place in range(4):
        save(tmp_path / f"raw/{below}{place}.png", picture(place))
        save(tmp_path / f"raw/masks/{below}{place}_mask.png", blob(place))
    make("--root", tmp_path / "raw", "--out", tmp_path / "raw/data")  # not searched for images
    data = open_data(tmp_path / "raw/data")
    assert data.ids == [f"{below}{place}" for place in range(4)]
    assert all(data.has_mask.values())
    make("--root", tmp_path / "raw", "--out", tmp_path / "raw/data")
    originals = Originals(tmp_path / "raw", data)
    assert np.array_equal(originals.mask(data.ids[2]), blob(2) > 0)


def test_masks_elsewhere(tmp_path):
    make_set(tmp_path / "raw", 4, images="P1", masks="../outlines")
    make("--root", tmp_path / "raw", "--masks", tmp_path / "outlines", "--out", tmp_path / "d")
    assert open_data(tmp_path / "d").ids == [f"P1/A00{i}" for i in range(4)]
    assert all(open_data(tmp_path / "d").has_mask.values())


def test_layouts_of_before(tmp_path):
    """Folders inside one that is called *_data, and the same names with sub-folders."""
    for outer, images, masks in (
        ("my_data", "images", "masks"),
        ("ISIC_Data", "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        ("", "Images", "MASKS"),
    ):
        out = tmp_path / f"out {outer}"
        make_set(tmp_path / "raw" / images / outer, 3, images, masks)
        make("--root", tmp_path / "raw" / images, "--out", out)
        assert list(rows(out)) == ["A000", "A001", "A002"]
        assert all(open_data(out).has_mask.values())


def test_patients_may_be_called_like_folders_of_isic(tmp_path):
    patients(tmp_path / "raw", ["Smith_data/a", "Smith_data/b", "c"])
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    assert list(rows(tmp_path / "d")) == ["Smith_data/a", "Smith_data/b", "c"]


def test_pictures_outside_the_image_folder_are_said(tmp_path, capsys):
    make_set(tmp_path / "raw", 3)
    save(tmp_path / "raw/Smith/a.png", picture(8))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    assert f"elsewhere in {tmp_path / 'raw'}, not looked at: 1 (Smith/a.png)" in (
        capsys.readouterr().out
    )


def test_folder_of_masks_among_the_photographs_is_not_read_as_images(tmp_path, capsys):
    make_set(tmp_path / "raw", 3, images="P1", masks="P1/masks")
    make("--images", tmp_path / "raw", "--out", tmp_path / "d")
    assert list(rows(tmp_path / "d")) == ["P1/A000", "P1/A001", "P1/A002"]
    line = lines(tmp_path / "d")["images/P1/masks/A000_segmentation.png"]
    assert line[0] == "skipped" and line[2].startswith("in a folder of masks")
    save(tmp_path / "raw/P1/A000_mask.png", blob(0))
    make("--images", tmp_path / "raw", "--out", tmp_path / "e")
    assert "images named like masks" in capsys.readouterr().out
    notes = lines(tmp_path / "e")["images/P1/A000_mask.png"][2]
    assert notes == "no mask; named like the mask of A000"


def test_official_test_images_in_sub_folders(tmp_path):
    patients(tmp_path / "train", ["P1/a", "P1/b", "P2/a"])
    patients(tmp_path / "train/images/test", ["P3/a", "P4/a"], seed=50)
    words = ["--root", tmp_path / "train", "--test-root", tmp_path / "train/images/test"]
    make(*words, "--out", tmp_path / "d")
    data = open_data(tmp_path / "d")
    assert data.test == ["P3/a", "P4/a"] and data.pool == ["P1/a", "P1/b", "P2/a"]
    assert lines(tmp_path / "d")["test-images/P3/a.png"] == ("image", "P3/a", "")
    assert len(lines(tmp_path / "d")) == 10
    make("--verify", *words, "--out", tmp_path / "d")


# Ids and masks ----------------------------------------------------------------------------------

ODD = ["a b", " x ", "-rf", 'say "hi"', "it's", "$HOME", "$x_$", "50%", "#1", "a;b,c", "😀", "ß.1",
       "a\\b", "b\nc", "=1+1", "(2)", "~", "a__b", NFD]  # fmt: skip


def test_names_that_file_systems_allow(tmp_path, capsys):
    for place, name in enumerate(ODD):
        save(tmp_path / f"raw/images/P {name}/{name}.png", picture(place))
        save(tmp_path / f"raw/masks/P {name}/{name}_mask.png", blob(place))
    words = ["--root", tmp_path / "raw", "--out", tmp_path / "d", "--group", "folder"]
    make(*words)
    ids = open_data(tmp_path / "d").ids
    plain = {name: name for name in ODD} | {"b\nc": "b\\nc", NFD: NFC}
    assert sorted(ids) == sorted(f"P {name}/{name}" for name in plain.values())
    assert all(open_data(tmp_path / "d").has_mask.values())
    assert len(lines(tmp_path / "d")) == 2 * len(ODD)
    make("--verify", *words)
    capsys.readouterr()
    make(*words)
    assert capsys.readouterr().out.startswith("already done")


def test_names_that_are_not_utf8_are_skipped(tmp_path, capsys):
    make_set(tmp_path / "raw", 3)
    folder = os.fsencode(tmp_path / "raw/images")
    os.mkdir(folder + b"/caf\xe9")
    for name in (b"/b\xff.png", b"/caf\xe9/c.png"):
        with open(folder + name, "wb") as file:
            file.write((tmp_path / "raw/images/A000.png").read_bytes())
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    assert list(rows(tmp_path / "d")) == ["A000", "A001", "A002"]
    for name in ("images/b\\xff.png", "images/caf\\xe9/c.png"):
        assert lines(tmp_path / "d")[name] == ("skipped", "", "name is not UTF-8 (rename it)")
    assert "2 skipped (2 name is not UTF-8)" in capsys.readouterr().out


def test_composed_and_parted_letters_are_one_name(tmp_path):
    save(tmp_path / f"raw/images/{NFD}/{NFC}.png", picture(0))
    save(tmp_path / f"raw/masks/{NFC}/{NFD}_mask.png", blob(0))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    assert rows(tmp_path / "d")[f"{NFC}/{NFC}"]["mask"] == f"{NFC}/{NFD}_mask.png"


def test_all_images_of_equal_ids_are_named(tmp_path, refused):
    for name in (
        "P/a.png",
        "P/a.bmp",
        f"{NFC}.png",
        f"{NFD}.png",
        "c.png",
        "c.bmp",
        "c.tif",
        "d.png",
    ):
        save(tmp_path / "raw" / name, picture(0))
    first, *rest = refused("--root", tmp_path / "raw", "--out", tmp_path / "d", "--skip-bad")
    assert first == "3 ids belong to several images:" and len(rest) == 3
    for names in (("P/a.png", "P/a.bmp"), (NFC, NFD), ("c.png", "c.bmp", "c.tif")):
        assert any(all(name in line for name in names) for line in rest)


@pytest.mark.parametrize("ending", ["", "_mask", "_segmentation", "_Segmentation"])
@pytest.mark.parametrize(
    "name, of",
    [("P1/a", "P1/a"), ("P1__a", "P1/a"), ("b", "P2/b"), ("c_mask", "c_mask"), ("x y", "P#1/x y")],
)
def test_where_masks_are_found(tmp_path, name, of, ending):
    for place, image in enumerate(("P1/a", "P2/a", "P2/b", "c", "c_mask", "P#1/x y")):
        save(tmp_path / f"raw/images/{image}.png", picture(place))
    save(tmp_path / f"raw/masks/{name}{ending}.png", blob(0))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    assert {key: row["mask"] for key, row in rows(tmp_path / "d").items() if row["mask"]} == {
        of: f"{name}{ending}.png"
    }


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("P1/b", None),  # P1 is a patient, P2/b another's image
        ("P1/b_mask", None),
        ("export/P1/b", None),
        ("export/P2/b", "P2/b"),
        ("export/b_mask", "P2/b"),  # export is no folder of images
        ("P2/c", "P2/left/c"),  # below P2
        ("P1/d", None),  # an image without a folder
        ("export/d", "d"),
    ],
)
def test_a_mask_is_of_an_image_in_its_folder(tmp_path, name, of):
    for place, image in enumerate(("P1/a", "P2/b", "P2/left/c", "d")):
        save(tmp_path / f"raw/images/{image}.png", picture(place))
    for mask in ("P1/a", name):
        save(tmp_path / f"raw/masks/{mask}.png", blob(0))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    found = {key for key, row in rows(tmp_path / "d").items() if row["mask"]}
    assert found == {"P1/a"} | ({of} if of else set())
    line = lines(tmp_path / "d")[f"masks/{name}.png"]
    assert line[0] == ("mask" if of else "mask without image")


@pytest.mark.parametrize(
    ("folder", "of"), [("P1", "P1/a"), ("P2", "P2/a"), ("x/P2", "P2/a"), ("P3", None), ("", None)]
)
def test_a_drawing_is_of_an_image_in_the_folder_of_its_file(tmp_path, refused, folder, of):
    """LabelMe writes the name alone of an image that lies beside its file."""
    for place, image in enumerate(("P1/a", "P2/a", "P3/b", "c")):
        save(tmp_path / f"raw/images/{image}.png", picture(place))
    shape = blob(0).shape
    write_labelme(tmp_path / "raw/masks", [Draft("c.png", shape, blob(0) > 0)])
    write_labelme(tmp_path / "drawn", [Draft("a.png", shape, blob(1) > 0)])
    (tmp_path / "raw/masks" / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "drawn/a.json").rename(tmp_path / "raw/masks" / folder / "a.json")
    words = ["--root", tmp_path / "raw", "--out", tmp_path / "d"]
    if not folder:
        line = "".join(refused(*words))
        assert "could be the mask of P1/a, P2/a; put the file into the folder of one, such" in line
        return
    make(*words)
    found = {key for key, row in rows(tmp_path / "d").items() if row["mask"]}
    assert found == {"c"} | ({of} if of else set())


def test_masks_named_flat_for_every_odd_name(tmp_path):
    for place, name in enumerate(ODD):
        save(tmp_path / f"raw/images/P/{name}.png", picture(place))
        id_ = f"P/{unicodedata.normalize('NFC', name)}".replace("\n", "\\n")
        save(tmp_path / f"raw/masks/{flat_name(id_)}_segmentation.png", blob(place))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    data = open_data(tmp_path / "d")
    assert len(data.ids) == len(ODD) and all(data.has_mask.values())


def test_masks_that_fit_several_images(tmp_path, refused):
    for place, image in enumerate(("P1/a", "P2/a", "P1__a", "c")):
        save(tmp_path / f"raw/images/{image}.png", picture(place))
    for place, mask in enumerate(("a", "P1__a", "c", "c_mask", "other")):
        save(tmp_path / f"raw/masks/{mask}.png", blob(place))
    words = ["--root", tmp_path / "raw", "--out", tmp_path / "d"]
    first, *rest = refused(*words)
    assert first.startswith("3 files cannot be used") and "--skip-bad" in first
    assert "masks/P1__a.png: could be the mask of P1/a, P1__a; " in rest[0]
    assert "masks/a.png: could be the mask of P1/a, P2/a; name it after one" in rest[1]
    assert "masks/c.png: one of several masks of c (c.png, c_mask.png)" in rest[2]
    make(*words, "--skip-bad")
    assert not any(open_data(tmp_path / "d").has_mask.values())
    found = lines(tmp_path / "d")
    assert {file for file, line in found.items() if line[0] == "skipped"} == {
        "masks/a.png", "masks/P1__a.png", "masks/c.png", "masks/c_mask.png"}  # fmt: skip
    assert found["masks/other.png"] == ("mask without image", "other", "")
    assert found["images/c.png"] == ("image", "c", "no mask")
    assert refused(*words)[0].startswith(f"{tmp_path / 'd'}: was made by --skip-bad without 4")


# Accounting -------------------------------------------------------------------------------------


def full_house(root):
    """A folder with a file of every kind, one line of files.csv each."""
    for name in ("P1/a.JPG", "P1/b.tif", "P2/a.webp", "e.bmp"):
        save(root / "images" / name, picture(len(name) + ord(name[1])))
    pillow_heif.from_pillow(Image.fromarray(picture(9))).save(root / "images/P2/d.heic")
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(picture(4)).save(root / "images/P2/t.png", exif=exif)
    for name in ("P1/a.png", "e_mask.png", "P2__t_segmentation.png", "zz_mask.png"):
        save(root / "masks" / name, blob(1))
    save(root / "images/P1/a_superpixels.png", blob(2))
    for name in ("images/P1/notes.txt", "images/Thumbs.db", "images/.DS_Store", "images/README",
                 "images/.cache/x.png", "images/P1/x.jpg.part", "masks/._e.png",
                 "masks/list.csv"):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "images/link.png").symlink_to("nowhere.png")
    (root / "images/P2/loop").symlink_to("..")
    return {
        "images/P1/a.JPG": ("image", "P1/a", ""),
        "images/P1/b.tif": ("image", "P1/b", "no mask"),
        "images/P2/a.webp": ("image", "P2/a", "no mask"),
        "images/P2/d.heic": ("image", "P2/d", "no mask"),
        "images/P2/t.png": ("image", "P2/t", "turned as its EXIF data say"),
        "images/e.bmp": ("image", "e", ""),
        "masks/P1/a.png": ("mask", "P1/a", ""),
        "masks/e_mask.png": ("mask", "e", ""),
        "masks/P2__t_segmentation.png": ("mask", "P2/t", ""),
        "masks/zz_mask.png": ("mask without image", "zz", ""),
        "images/P1/a_superpixels.png": ("skipped", "", "superpixels"),
        "images/P1/notes.txt": ("skipped", "", "not a picture (.txt)"),
        "images/P1/x.jpg.part": ("skipped", "", "not a picture (.part)"),
        "images/Thumbs.db": ("skipped", "", "not a picture (.db)"),
        "images/README": ("skipped", "", "not a picture (no ending)"),
        "images/.DS_Store": ("skipped", "", "hidden"),
        "images/.cache/x.png": ("skipped", "", "hidden"),
        "masks/._e.png": ("skipped", "", "hidden"),
        "masks/list.csv": ("skipped", "", "not a picture (.csv)"),
        "images/link.png": ("skipped", "", "not a file (a link that leads nowhere, or a device)"),
        "images/P2/loop": ("skipped", "", "not a file (a link to a folder above it)"),
    }


def test_every_file_has_a_line(tmp_path, capsys):
    root = tmp_path / "raw"
    expected = full_house(root)
    make("--root", root, "--out", tmp_path / "d", "--test-count", 1)
    assert lines(tmp_path / "d") == expected
    on_disk = files_below(root / "images", "images") | files_below(root / "masks", "masks")
    assert expected.keys() == on_disk | {"images/P2/loop"}  # which os.walk calls a folder
    out = capsys.readouterr().out
    assert (
        "files: 6 images, 3 masks, 1 mask without image, 11 skipped (5 not a picture, 3 hidden, "
        "2 not a file, 1 superpixels)"
    ) in out
    assert f"each with its reasons in {tmp_path / 'd/files.csv'}" in out
    make("--verify", "--root", root, "--out", tmp_path / "d")


def test_all_bad_files_are_reported_together(tmp_path, refused, capsys):
    root = make_set(tmp_path / "raw", 9)
    (root / "images/A001.png").write_bytes(b"")
    (root / "images/A003.png").write_bytes((root / "images/A003.png").read_bytes()[:300])
    save(root / "masks/A005_segmentation.png", blob(5, (48, 40)))
    (root / "masks/A007_segmentation.png").write_bytes(b"x")
    words = ["--root", root, "--out", tmp_path / "d"]
    first, *rest = refused(*words)
    assert first.startswith("4 files cannot be used; ") and first.endswith("without them:")
    names = (
        "images/A001.png: not readable (it is empty)",
        "images/A003.png: not readable (image file is truncated",
        "masks/A005_segmentation.png: ",
        "masks/A007_segmentation.png: not readable (not a picture)",
    )
    assert len(rest) == 4
    for name, line in zip(names, rest, strict=True):
        assert line.startswith(f"  {root}/{name}")
    assert "48x40" in rest[2] and "40x48" in rest[2]

    capsys.readouterr()
    make(*words, "--skip-bad")
    out = capsys.readouterr().out
    assert "left out by --skip-bad, as they cannot be used: 4 (images/A001.png, images" in out
    data, found = open_data(tmp_path / "d"), lines(tmp_path / "d")
    assert data.ids == ["A000", "A002", "A004", "A005", "A006", "A007", "A008"]
    assert [name for name in data.ids if not data.has_mask[name]] == ["A005", "A007"]
    assert found["images/A001.png"] == (
        "skipped", "A001", "not readable (it is empty); replace or remove it")  # fmt: skip
    assert found["masks/A001_segmentation.png"] == (
        "skipped", "A001", "its image is not readable")  # fmt: skip
    assert found["masks/A005_segmentation.png"][0] == "skipped"
    assert "48x40" in found["masks/A005_segmentation.png"][2]
    assert found["images/A005.png"] == ("image", "A005", "no mask, as its mask cannot be used")
    make("--verify", *words)


def test_skip_bad_gives_the_same_data_as_removing_the_files(tmp_path):
    root = make_set(tmp_path / "raw", 12)
    for name in ("A000", "A007", "A011"):
        (root / f"images/{name}.png").write_bytes(b"x")
    (root / "masks/A005_segmentation.png").write_bytes(b"x")
    make("--root", root, "--out", tmp_path / "one/d", "--skip-bad")
    for name in ("A000", "A007", "A011"):
        (root / f"images/{name}.png").unlink()
    (root / "masks/A005_segmentation.png").unlink()
    make("--root", root, "--out", tmp_path / "two/d")
    for name in ("images.npy", "masks.npy", "splits.json"):
        assert (tmp_path / "one/d" / name).read_bytes() == (tmp_path / "two/d" / name).read_bytes()
    one, two = (read(tmp_path / which / "d", "manifest") for which in ("one", "two"))
    assert one["rows"] == two["rows"] and "skipped" in one and "skipped" not in two


def test_originals_of_data_without_the_bad_files(tmp_path):
    """Two masks of one image are no mask of it; the masks of the others are found."""
    root = make_set(tmp_path / "raw", 4)
    save(root / "masks/A001.png", blob(1))
    make("--root", root, "--out", tmp_path / "d", "--skip-bad")
    data = open_data(tmp_path / "d")
    originals = Originals(root, data)
    assert not data.has_mask["A001"] and originals.sources["A001"].mask is None
    assert np.array_equal(originals.mask("A002"), blob(2) > 0)


def test_skip_bad_without_a_good_image(tmp_path, refused):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.png").write_bytes(b"x")
    (line,) = refused("--root", tmp_path / "raw", "--out", tmp_path / "d", "--skip-bad")
    assert line.startswith(f"{tmp_path / 'raw/a.png'}: not readable (not a picture)")


def test_skip_bad_again(tmp_path, capsys, refused):
    """Done already with the option, refused without it, noticed when a file is mended."""
    root = make_set(tmp_path / "raw", 6)
    (root / "images/A001.png").write_bytes(b"bad")
    (root / "masks/A002_segmentation.png").write_bytes(b"bad")
    words = ["--root", root, "--out", tmp_path / "d"]
    make(*words, "--skip-bad")
    capsys.readouterr()
    make(*words, "--skip-bad")
    assert capsys.readouterr().out.startswith("already done")
    for path in root.rglob("*.png"):
        os.utime(path)  # a copy: other times, the same contents
    make(*words, "--skip-bad")
    assert capsys.readouterr().out.startswith("already done")
    assert "give --skip-bad again" in refused(*words)[0]
    (root / "masks/A002_segmentation.png").write_bytes(b"BAD")
    assert "the mask of A002" in refused(*words, "--skip-bad")[0]
    save(root / "masks/A002_segmentation.png", blob(2))
    assert "masks/A002_segmentation.png" in refused(*words, "--skip-bad")[0]
    make(*words, "--skip-bad", "--overwrite")
    assert open_data(tmp_path / "d").has_mask["A002"]


def test_skip_bad_may_be_given_for_good_folders(tmp_path, capsys):
    words = ["--root", make_set(tmp_path / "raw", 6), "--out", tmp_path / "d"]
    make(*words, "--skip-bad")
    make(*words)
    assert "already done" in capsys.readouterr().out
    assert "skip_bad" not in read(tmp_path / "d", "manifest")["options"]


def test_official_test_image_with_a_bad_mask_waits(tmp_path):
    make_set(tmp_path / "raw", 5)
    make_set(tmp_path / "test", 3, first=50)
    (tmp_path / "test/masks/A051_segmentation.png").write_bytes(b"x")
    words = ["--root", tmp_path / "raw", "--test-root", tmp_path / "test"]
    make(*words, "--out", tmp_path / "d", "--skip-bad")
    splits = read(tmp_path / "d", "splits")
    assert splits["test"] == ["A050", "A052"] and splits["waiting"] == ["A051"]
    assert open_data(tmp_path / "d").waiting == ["A051"]


# Changes ----------------------------------------------------------------------------------------


def test_changes_in_sub_folders_are_noticed(tmp_path, refused, capsys):
    root = patients(tmp_path / "raw", ["P1/a", "P2/a", "P2/b", "P3/a", "P3/b", "P3/c"])
    words = ["--root", root, "--out", tmp_path / "d"]
    make(*words)
    save(root / "images/P4/x/a.png", picture(70))
    assert "images/P4/x/a.png" in refused(*words)[0]
    (root / "images/P4/x/a.png").unlink()
    (root / "images/P2/b.png").rename(root / "images/P1/b.png")
    assert "images/P1/b.png" in refused(*words)[0]
    (root / "images/P1/b.png").rename(root / "images/P2/b.png")
    capsys.readouterr()
    make(*words)
    assert capsys.readouterr().out.startswith("already done")
    content = bytearray((root / "images/P3/a.png").read_bytes())
    content[-1] ^= 1
    (root / "images/P3/a.png").write_bytes(content)
    os.utime(root / "images/P3/a.png", (5, 5))
    assert "the image P3/a" in refused(*words)[0]


def test_other_files_may_come_and_go(tmp_path, capsys):
    root = tmp_path / "raw"
    expected = full_house(root)
    words = ["--root", root, "--out", tmp_path / "d", "--test-count", 1]
    make(*words)
    kept = {name: (tmp_path / "d" / name).read_bytes() for name in ("manifest.json", "inputs.json")}
    (root / "images/Thumbs.db").unlink()
    (root / "images/P1/new.txt").write_text("x")
    capsys.readouterr()
    make(*words)
    assert capsys.readouterr().out.startswith("already done")
    del expected["images/Thumbs.db"]
    expected["images/P1/new.txt"] = ("skipped", "", "not a picture (.txt)")
    assert lines(tmp_path / "d") == expected
    assert kept == {name: (tmp_path / "d" / name).read_bytes() for name in kept}


def test_data_folders_of_before_are_still_opened(tmp_path, capsys):
    """As older code wrote them: without files.csv and the entry `waiting`."""
    words = ["--root", make_set(tmp_path / "raw", 6), "--out", tmp_path / "d"]
    make(*words)
    manifest, splits = read(tmp_path / "d", "manifest"), read(tmp_path / "d", "splits")
    assert list(splits) == ["schema", "seed", "rule", "pool", "test", "dropped"]
    assert not {"groups", "skipped"} & manifest.keys() and "group" not in manifest["rows"][0]
    assert list(manifest["options"]) == [
        "size", "gray", "seed", "pool_count", "test_count", "official_test", "demo"]  # fmt: skip
    (tmp_path / "d/files.csv").unlink()
    capsys.readouterr()
    make(*words)
    assert capsys.readouterr().out.startswith("already done")
    assert open_data(tmp_path / "d").waiting == [] and not (tmp_path / "d/files.csv").exists()
    make("--verify", *words)


# Groups -----------------------------------------------------------------------------------------


def sides(out):
    splits = read(out, "splits")
    return set(splits["pool"]), set(splits["test"]) | set(splits.get("waiting", []))


def test_group_by_folder(tmp_path, capsys):
    names = [f"P{i}/{day}/{k}" for i in range(6) for day in "ab" for k in range(2)]
    root = patients(tmp_path / "raw", [*names, "alone"])
    for seed in range(4):
        out = tmp_path / f"d{seed}"
        make("--root", root, "--out", out, "--group", "folder", "--seed", seed, "--test-count", 8)
        pool, test = sides(out)
        assert len(test) == 8 and len({name[:2] for name in test}) == 2
        assert not {name[:2] for name in pool} & {name[:2] for name in test}
        assert rows(out)["P1/a/0"]["group"] == "P1" and "group" not in rows(out)["alone"]
        assert lines(out)["images/alone.png"] == ("image", "alone", "in no group")
    assert (
        "groups: 6; images in none, each a group of its own: 1 (alone)" in capsys.readouterr().out
    )
    make("--root", root, "--out", tmp_path / "e", "--group", "folder", "--test-count", 3)
    assert "instead of 22 and 3, because groups stay together" in capsys.readouterr().out
    make("--verify", "--root", root, "--out", tmp_path / "d0")


def test_few_outlines_of_many_patients_can_be_tested(tmp_path, capsys):
    root = patients(tmp_path / "raw", [f"P{i}/{k}" for i in range(10) for k in range(4)])
    for path in (root / "masks").rglob("[123].png"):
        path.unlink()
    make("--root", root, "--out", tmp_path / "d", "--group", "folder")
    splits = read(tmp_path / "d", "splits")
    assert len(splits["test"]) == 2 and len(splits["pool"]) == 32
    tested = {name[:2] for name in splits["test"]}
    assert splits["dropped"] == [f"{p}/{k}" for p in sorted(tested) for k in (1, 2, 3)]
    assert "left out of the pool, identical to a test image or of its group: 6 (" in (
        capsys.readouterr().out
    )


def test_identical_images_join_groups(tmp_path):
    root = patients(tmp_path / "raw", [f"P{i}/{k}" for i in range(6) for k in range(2)])
    for i in range(0, 6, 2):  # P0 = P1, P2 = P3, P4 = P5 by one image
        (root / f"images/P{i + 1}/0.png").write_bytes((root / f"images/P{i}/0.png").read_bytes())
    for seed in range(6):
        out = tmp_path / f"d{seed}"
        make("--root", root, "--out", out, "--group", "folder", "--seed", seed, "--test-count", 4)
        pool, test = sides(out)
        assert len(test) == 4 and len(pool) == 8
        assert len({int(name[1]) // 2 for name in test}) == 1


@pytest.mark.parametrize("mark", [",", ";"])
def test_groups_of_a_table(tmp_path, capsys, mark, refused):
    root = make_set(tmp_path / "raw", 10)
    table = ["Image,Group", *(f"A00{i},{i // 2}" for i in range(8)), "A008.png,Ä 4", "gone,9", ",,"]
    path = tmp_path / "patients.csv"
    path.write_bytes("\r\n".join(table).replace(",", mark).encode("utf-8-sig"))
    words = ["--root", root, "--out", tmp_path / "d", "--group", path]
    make(*words)
    group = {name: row.get("group") for name, row in rows(tmp_path / "d").items()}
    assert group == {f"A00{i}": str(i // 2) for i in range(8)} | {"A008": "Ä 4", "A009": None}
    assert read(tmp_path / "d", "manifest")["groups"] == {"without": ["A009"], "unknown": ["gone"]}
    out = capsys.readouterr().out
    assert "images in none, each a group of its own: 1 (A009)" in out
    assert "in the table of groups but not in the folder: 1 (gone)" in out
    path.write_text("\n".join(table) + "\n", encoding="utf-8")  # the same in other words
    make(*words)
    assert capsys.readouterr().out.startswith("already done")
    path.write_text("\n".join(table).replace("A003,1", "A003,2"), encoding="utf-8")
    assert "first difference: the groups of --group" in refused(*words)[0]
    assert "group = file, not None" in refused(*words[:4])[0]


def test_tables_of_groups_that_are_wrong(tmp_path, refused):
    root = make_set(tmp_path / "raw", 3)
    path = tmp_path / "p.csv"
    words = ["--root", root, "--out", tmp_path / "d", "--group", path]
    assert refused(*words) == [f"{path}: not found; give an existing file"]
    for content, reason in (
        (b"", "has no columns image and group"),
        (b"image,patient\nA000,1\n", "has no columns image and group"),
        (b"image,group\nA000,1\nA000.png,2\n", "has A000 in the groups 1 and 2; keep one"),
        ("image,group\nA000,Müller\n".encode("latin-1"), "is not UTF-8"),
        (b'image,group\n"A000,1\n', "not readable as CSV"),
    ):
        path.write_bytes(content)
        (line,) = refused(*words)
        assert line.startswith(f"{path}: {reason}")


def test_groups_with_official_test_images(tmp_path):
    patients(tmp_path / "train", ["P1/a", "P1/b", "P2/a", "P3/a"])
    patients(tmp_path / "test", ["P1/c", "P4/a"], seed=50)
    words = ["--root", tmp_path / "train", "--test-root", tmp_path / "test", "--group", "folder"]
    make(*words, "--out", tmp_path / "d")
    splits = read(tmp_path / "d", "splits")
    assert splits["pool"] == ["P2/a", "P3/a"] and splits["dropped"] == ["P1/a", "P1/b"]


# Test lists -------------------------------------------------------------------------------------


def test_a_list_is_the_test_set_whatever_arrives(tmp_path, capsys, refused):
    root = patients(tmp_path / "raw", ["P1/a", "P1/b", "P2/a", "P3/a", "P4/a"])
    (root / "masks/P3/a.png").unlink()
    path = tmp_path / "test.txt"
    path.write_text("P2/a\r\nP3/a.png\n\n", encoding="utf-8-sig")
    words = ["--root", root, "--test-list", path, "--group", "folder"]
    make(*words, "--out", tmp_path / "d")
    splits = read(tmp_path / "d", "splits")
    assert (splits["test"], splits["waiting"]) == (["P2/a"], ["P3/a"])
    assert splits["pool"] == ["P1/a", "P1/b", "P4/a"] and splits["dropped"] == []
    out = capsys.readouterr().out
    assert "test images without a mask, in no set yet: 1 (P3/a)" in out
    assert "3 pool, 1 test, 1 waiting for their masks" in out
    make(*words, "--out", tmp_path / "d")
    make("--verify", *words, "--out", tmp_path / "d")

    save(root / "masks/P3/a.png", blob(3))  # the mask arrives, and more images of each kind
    save(root / "images/P3/b.png", picture(61))
    (root / "images/P5").mkdir()
    (root / "images/P5/twin.png").write_bytes((root / "images/P2/a.png").read_bytes())
    save(root / "images/P5/c.png", picture(62))
    save(root / "images/P6/a.png", picture(63))
    again = ["--root", root, "--test-list", tmp_path / "d/splits.json", "--group", "folder"]
    make(*again, "--out", tmp_path / "e")
    splits = read(tmp_path / "e", "splits")
    assert splits["test"] == ["P2/a", "P3/a"] and splits["waiting"] == []
    assert splits["dropped"] == ["P3/b", "P5/c", "P5/twin"]
    assert splits["pool"] == ["P1/a", "P1/b", "P4/a", "P6/a"]
    capsys.readouterr()
    make(*words, "--out", tmp_path / "e")  # the same images by another list
    assert capsys.readouterr().out.startswith("already done")
    path.write_text("P2/a\n")
    assert "the images of --test-list" in refused(*words, "--out", tmp_path / "e")[0]


def test_lists_that_are_wrong(tmp_path, refused):
    root = make_set(tmp_path / "raw", 5)
    path = tmp_path / "t.txt"
    words = ["--root", root, "--out", tmp_path / "d", "--test-list", path]
    assert "not found" in refused(*words)[0]
    path.write_text("A001\nB1\nB2\nA002\n")
    (line,) = refused(*words)
    assert line.startswith(f"{path}: lists images that are not in the image folder: 2 (B1, B2)")
    path.write_text("\n \n")
    assert "lists no images" in refused(*words)[0]
    path.write_bytes(b"A001\n\xff\n")
    assert "is not UTF-8" in refused(*words)[0]
    (tmp_path / "x.json").write_text('{"schema": 1, "pool": []}')
    assert "has no list of test images" in refused(*words[:-1], tmp_path / "x.json")[0]
    path.write_text("A001\n")
    for count in (0, 2):
        assert "--test-list sets the split" in refused(*words, "--test-count", count)[0]
    assert "--demo" in refused("--demo", 5, "--out", tmp_path / "d", "--test-list", path)[0]


def test_lists_of_odd_names(tmp_path):
    for place, name in enumerate(ODD):
        save(tmp_path / f"raw/{name}.png", picture(place))
    ids = [name.replace("\n", "\\n") for name in ODD]
    (tmp_path / "t.txt").write_text("\n".join(ids), encoding="utf-8")
    words = ["--root", tmp_path / "raw", "--test-list", tmp_path / "t.txt"]
    make(*words, "--out", tmp_path / "d")
    splits = read(tmp_path / "d", "splits")
    assert len(splits["waiting"]) == len(ODD) and splits["pool"] == splits["test"] == []


# Verifying --------------------------------------------------------------------------------------


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_verify_finds_what_is_wrong_with_groups_lists_and_files(tmp_path, refused):
    root = patients(tmp_path / "raw", ["P1/a", "P1/b", "P2/a", "P3/a", "P4/a"])
    (root / "masks/P3/a.png").unlink()
    (tmp_path / "t.txt").write_text("P1/a\nP1/b\nP3/a\n")
    out = tmp_path / "d"
    words = ["--root", root, "--out", out]
    make(*words, "--group", "folder", "--test-list", tmp_path / "t.txt")
    make("--verify", *words)
    original = (out / "splits.json").read_text()

    def move(name, where, to):
        def change(content):
            content[where].remove(name)
            content[to].append(name)

        rewrite(out / "splits.json", change)
        (line,) = refused("--verify", *words)
        (out / "splits.json").write_text(original)
        return line

    assert "linked images on both sides (P1/a, P1/b)" in move("P1/b", "test", "pool")
    rewrite(out / "splits.json", lambda content: content["waiting"].append("P2/a"))
    assert "the id P2/a stands there twice" in refused("--verify", *words)[0]
    (out / "splits.json").write_text(original)
    table = (out / "files.csv").read_text()
    for kind in ("image", "mask"):
        (out / "files.csv").write_text(table.replace(f"P2/a.png,{kind},", "P2/a.png,skipped,"))
        assert f"lists another set of {kind} files" in refused("--verify", *words)[0]
    (out / "files.csv").write_text(table)
    (root / "images/P4/a.png").rename(root / "images/P4/z.png")
    assert "P4/a.png: is no longer in the image folder" in refused("--verify", *words)[0]


def test_the_arrays_are_those_of_the_files(tmp_path):
    """Rows, ids and files stay together when folders, formats and bad files mix."""
    root = tmp_path / "raw"
    full_house(root)
    (root / "images/P1/bad.png").write_bytes(b"x")
    make("--root", root, "--out", tmp_path / "d", "--no-gray", "--skip-bad", "--test-count", 0)
    data = open_data(tmp_path / "d")
    assert len(data.images) == len(data.ids) == 6
    for name, row in rows(tmp_path / "d").items():
        with Image.open(root / "images" / row["image"]) as image:
            turned = image.rotate(180) if name == "P2/t" else image
            small = turned.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(data.load_images([name])[0], np.asarray(small))


# Other stages -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has no emoji
def test_odd_ids_pass_through_clustering_and_its_pictures(tmp_path):
    for place, name in enumerate(ODD):
        save(tmp_path / f"raw/P/{name}.png", picture(place))
    make("--root", tmp_path / "raw", "--out", tmp_path / "d")
    words = ["--features", "thumbnail", "--rule", "kmeans", "--k", 3, "--device", "cpu"]
    budget = len(ODD)  # all, so that each is a caption
    call("cluster", "--data", tmp_path / "d", "--out", tmp_path / "c", "--budget", budget, *words)
    chosen = [entry["id"] for entry in read(tmp_path / "c", "selection")["selection"]]
    assert sorted(chosen) == open_data(tmp_path / "d").ids
