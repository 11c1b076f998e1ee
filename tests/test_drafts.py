"""drafts.py: what is written for annotation tools is what the tools, and formats.py, read."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from segmentation.common.runfiles import UserError
from segmentation.data import drafts, formats
from segmentation.data.drafts import Draft
from tests.helpers_outlines import all_masks, border

MASKS = all_masks()
DRAFTS = [Draft(f"part {i % 2}/{name}.jpg", mask.shape, mask) for i, (name, mask) in
          enumerate(MASKS.items())]  # fmt: skip


def read(path):
    """Dict of name -> Drawing of a file."""
    found = formats.read(path)
    assert found.missing == [] and found.notes == []
    return {drawing.name: drawing for drawing in found.drawings}


def check(found, without_extension=False):
    """That the Drawings are exactly DRAFTS."""
    assert len(found) == len(DRAFTS)
    for draft in DRAFTS:
        drawing = found[draft.name.removesuffix(".jpg" if without_extension else "")]
        assert drawing.notes == () and np.array_equal(drawing.mask(draft.size), draft.mask)


def submitted(path, to):
    """Label Studio's export after a person has submitted each prediction as it is."""
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        (prediction,) = task["predictions"]
        done = {"result": prediction["result"], "was_cancelled": False, "id": number}
        task |= {"id": number, "annotations": [done]}
    to.write_text(json.dumps(tasks))
    return to


# There and back ---------------------------------------------------------------------------------


def test_labelme(tmp_path):
    drafts.write_labelme(tmp_path / "out", iter(DRAFTS), tmp_path / "photos", tolerance=0)
    assert len(list((tmp_path / "out").rglob("*"))) == len(DRAFTS) + 2
    for draft in DRAFTS:
        path = (tmp_path / "out" / draft.name).with_suffix(".json")
        ((name, drawing),) = read(path).items()
        assert os.path.normpath(path.parent / name) == str(tmp_path / "photos" / draft.name)
        assert drawing.size == draft.size and np.array_equal(drawing.mask(), draft.mask)


def test_labelme_polygons_to_be_edited(tmp_path):
    drafts.write_labelme(tmp_path / "exact", DRAFTS, tolerance=0)
    drafts.write_labelme(tmp_path / "few", DRAFTS)
    corners = {"exact": 0, "few": 0}
    for draft in DRAFTS:
        for folder in corners:
            path = (tmp_path / folder / draft.name).with_suffix(".json")
            content = json.loads(path.read_text())
            corners[folder] += sum(len(shape["points"]) for shape in content["shapes"])
            assert content["imagePath"] == Path(draft.name).name
        ((_, drawing),) = read(path).items()
        assert not ((drawing.mask() != draft.mask) & ~border(draft.mask)).any()
    assert corners["few"] < corners["exact"] / 2


@pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # of pycocotools
def test_coco(tmp_path):
    drafts.write_coco(tmp_path / "out.json", iter(DRAFTS))
    check(read(tmp_path / "out.json"))
    theirs = COCO(tmp_path / "out.json")
    names = {row["id"]: row["file_name"] for row in theirs.imgs.values()}
    assert len(theirs.anns) == len(DRAFTS)
    for row in theirs.anns.values():
        mask = MASKS[Path(names[row["image_id"]]).stem]
        assert np.array_equal(theirs.annToMask(row), mask) and row["area"] == mask.sum()
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert row["bbox"] == coco_mask.toBbox(rle).tolist()
    assert theirs.loadCats(theirs.getCatIds()) == [{"id": 1, "name": "lesion", "supercategory": ""}]


def test_label_studio(tmp_path):
    drafts.write_label_studio(tmp_path, iter(DRAFTS))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"].startswith("/data/local-files/?d=part%200/")
    assert formats.read(tmp_path / "tasks.json").drawings == []  # no one has outlined them yet
    found = read(submitted(tmp_path / "tasks.json", tmp_path / "export.json"))
    check(found)
    for drawing, draft in zip(found.values(), DRAFTS, strict=True):
        assert drawing.size == (draft.size if draft.mask.any() else None)


def test_label_studio_predictions_belong_to_the_config(tmp_path):
    drafts.write_label_studio(tmp_path, DRAFTS)
    root = ElementTree.parse(tmp_path / "config.xml").getroot()
    brush, image = root.find("BrushLabels"), root.find("Image")
    labels = {label.get("value") for label in brush.findall("Label")}
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        (prediction,) = task["predictions"]
        assert image.get("value") == "$" + next(iter(task["data"]))
        assert prediction["model_version"] == "SAAL"
        for result in prediction["result"]:
            assert result["from_name"] == brush.get("name")
            assert result["to_name"] == image.get("name") == brush.get("toName")
            assert result["type"] == "brushlabels" and set(result["value"]["brushlabels"]) == labels


def test_cvat(tmp_path):
    drafts.write_cvat(tmp_path / "out.zip", iter(DRAFTS))
    check(read(tmp_path / "out.zip"), without_extension=True)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert listed == [draft.name.removesuffix(".jpg") for draft in DRAFTS]
        for name in listed:
            for folder in ("SegmentationClass", "SegmentationObject"):
                with Image.open(archive.open(f"{folder}/{name}.png")) as picture:
                    assert picture.mode == "RGB"
                    mask = np.asarray(picture).any(axis=-1)
                    assert np.array_equal(mask, MASKS[Path(name).name])


def test_cvat_gives_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    drafts.write_cvat(tmp_path / "now.zip", iter(DRAFTS))
    monkeypatch.setattr("time.time", lambda: 2e9)
    drafts.write_cvat(tmp_path / "later.zip", iter(DRAFTS))
    assert (tmp_path / "now.zip").read_bytes() == (tmp_path / "later.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "now.zip") as archive:
        assert all(entry.external_attr >> 16 & 0o444 == 0o444 for entry in archive.infolist())


def test_images_without_drafts(tmp_path):
    images = [Draft(f"ä b/{i}#1+2.jpg", (30, 40 + i)) for i in range(3)]
    drafts.write_coco(tmp_path / "coco.json", images)
    rows = COCO(tmp_path / "coco.json").imgs.values()
    assert [(row["file_name"], row["height"], row["width"]) for row in rows] == [
        (image.name, *image.size) for image in images
    ]
    drafts.write_label_studio(tmp_path, images)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert all(set(task) == {"data"} for task in tasks)
    for path in ("coco.json", "tasks.json"):
        found = formats.read(tmp_path / path)
        assert found.drawings == []
        assert found.missing == [image.name for image in images]


def test_nothing_to_write(tmp_path):
    drafts.write_coco(tmp_path / "a.json", [])
    drafts.write_cvat(tmp_path / "a.zip", [])
    drafts.write_labelme(tmp_path / "labelme", [])
    drafts.write_label_studio(tmp_path, [])
    assert formats.read(tmp_path / "a.json").drawings == []
    assert json.loads((tmp_path / "tasks.json").read_text()) == []
    assert list((tmp_path / "labelme").iterdir()) == []


# Whole or not at all, and little at a time ------------------------------------------------------

WRITERS = {
    "labelme": drafts.write_labelme,
    "a.json": drafts.write_coco,
    "studio": drafts.write_label_studio,
    "a.zip": drafts.write_cvat,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_interrupted_writer_leaves_nothing(tmp_path, name):
    def broken():
        yield from DRAFTS[:3]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        WRITERS[name](tmp_path / name, broken())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    WRITERS[name](tmp_path / name, DRAFTS[:3])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    with pytest.raises((RuntimeError, UserError)):
        WRITERS[name](tmp_path / name, broken())
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_one_mask_is_held_at_a_time(tmp_path, name):
    """Masks are released before the next but one is asked for."""
    alive, most = set(), []

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self) if self.base is None else None)

    def masks():
        for number in range(8):
            mask = np.zeros((30, 40), bool).copy().view(Counted)
            mask[5:20, 5 : 20 + number] = True
            mask = mask.copy()
            alive.add(id(mask))
            most.append(len(alive))
            yield Draft(f"{number}.jpg", (30, 40), mask)

    WRITERS[name](tmp_path / name, masks())
    assert len(most) == 8 and max(most) <= 2


@pytest.mark.parametrize("name", WRITERS)
def test_a_mask_of_another_size_is_a_mistake(tmp_path, name):
    with pytest.raises(ValueError, match=r"a\.jpg: a mask of \(3, 4\), not of \(4, 3\)"):
        WRITERS[name](tmp_path / name, [Draft("a.jpg", (4, 3), np.ones((3, 4), bool))])


@pytest.mark.parametrize("write", [drafts.write_labelme, drafts.write_cvat])
def test_names_that_lead_out_or_clash(tmp_path, write):
    mask = np.ones((2, 2), bool)
    for name in ("../a.jpg", "/a.jpg", "b/../../a.jpg", ""):
        with pytest.raises(UserError, match="leads out of the folder"):
            write(tmp_path / "out", [Draft(name, (2, 2), mask)])
    pair = [Draft("a.jpg", (2, 2), mask), Draft("a.png", (2, 2), mask)]
    with pytest.raises(UserError, match=r"out: a\.png and a\.jpg differ only in their extension"):
        write(tmp_path / "out", pair)
    assert list(tmp_path.iterdir()) == []


def test_labelme_never_overwrites_corrections(tmp_path):
    (tmp_path / "out").mkdir()
    drafts.write_labelme(tmp_path / "out", DRAFTS[:1])  # an empty folder is fine
    with pytest.raises(UserError, match="out: exists already; remove it or give another folder"):
        drafts.write_labelme(tmp_path / "out", DRAFTS[:1])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: exists already"):
        drafts.write_labelme(tmp_path / "file", DRAFTS[:1])


# The tools' own libraries -----------------------------------------------------------------------

# They are not among the requirements; tests/written_by_tools/write.py says why and which versions.


def test_label_studio_reads_it(tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    drafts.write_label_studio(tmp_path, DRAFTS)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for task, draft in zip(tasks, DRAFTS, strict=True):
        for result in task["predictions"][0]["result"]:
            values = brush.decode_rle(result["value"]["rle"]).reshape(*draft.size, 4)
            assert (values == draft.mask[..., None] * 255).all()


def test_labelme_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    labelme = pytest.importorskip("labelme")
    for draft in DRAFTS:
        (tmp_path / "photos" / draft.name).parent.mkdir(parents=True, exist_ok=True)
        photo = Image.new("RGB", draft.size[::-1])
        photo.save(tmp_path / "photos" / draft.name)
    drafts.write_labelme(tmp_path / "out", DRAFTS, tmp_path / "photos")
    for draft in DRAFTS:
        path = (tmp_path / "out" / draft.name).with_suffix(".json")
        shapes = labelme.LabelFile(str(path)).shapes
        mask = labelme.utils.shapes_to_label(draft.size, shapes, {"lesion": 1})[0] > 0
        assert not ((mask != draft.mask) & ~border(draft.mask, 2)).any()


@pytest.mark.parametrize("name", ["a.zip", "a.json"])
def test_datumaro_the_importer_of_cvat_reads_it(tmp_path, name):
    datumaro = pytest.importorskip("datumaro")
    WRITERS[name](tmp_path / name, DRAFTS)
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name) as archive:
            archive.extractall(tmp_path / "cvat")
        dataset = datumaro.Dataset.import_from(str(tmp_path / "cvat"), "voc_segmentation")
    else:
        (tmp_path / "coco/annotations").mkdir(parents=True)
        (tmp_path / "coco/images").mkdir()
        (tmp_path / name).rename(tmp_path / "coco/annotations/instances_default.json")
        dataset = datumaro.Dataset.import_from(str(tmp_path / "coco"), "coco_instances")
    labels = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    items = {item.id: item for item in dataset}
    assert len(items) == len(DRAFTS)
    for draft in DRAFTS:
        item = items[draft.name.removesuffix(".jpg")]
        mask = np.zeros(draft.size, bool)
        for annotation in item.annotations:
            is_mask = annotation.type == datumaro.AnnotationType.mask  # COCO also has boxes
            if is_mask and labels[annotation.label] == "lesion":
                mask |= np.asarray(annotation.image, dtype=bool)
        assert np.array_equal(mask, draft.mask)


# Real masks -------------------------------------------------------------------------------------


def real_masks(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder of real images")
    for path in sorted(Path(folder).glob("*GroundTruth/*.png"))[:2000:160]:
        mask = np.asarray(Image.open(path)) > 127
        yield Draft(re.sub("_segmentation.png$", ".jpg", path.name), mask.shape, mask)


@pytest.mark.parametrize("variable", ["SAAL_ISIC2017", "SAAL_ISIC2017_FULLRES"])
def test_real_masks(tmp_path, variable):
    truth = list(real_masks(variable))
    assert truth
    drafts.write_coco(tmp_path / "a.json", truth)
    drafts.write_cvat(tmp_path / "a.zip", truth)
    drafts.write_label_studio(tmp_path, truth)
    drafts.write_labelme(tmp_path / "labelme", truth)
    export = submitted(tmp_path / "tasks.json", tmp_path / "export.json")
    for path in (tmp_path / "a.json", tmp_path / "a.zip", export):
        found = {Path(name).stem: drawing for name, drawing in read(path).items()}
        for draft in truth:
            assert np.array_equal(found[Path(draft.name).stem].mask(draft.size), draft.mask)
    for draft in truth:
        path = tmp_path / "labelme" / draft.name.replace(".jpg", ".json")
        mask = read(path)[draft.name].mask()
        dice = 2 * (mask & draft.mask).sum() / (mask.sum() + draft.mask.sum())
        shapes = json.loads(path.read_text())["shapes"]
        assert dice > 0.97 and sum(len(shape["points"]) for shape in shapes) < 600
