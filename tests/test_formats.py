"""formats.py: files of annotation tools, most of them written by the tools' own libraries."""

import base64
import copy
import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from segmentation.common.runfiles import UserError
from segmentation.data import formats, polygons, runlengths
from tests.helpers_outlines import all_masks, border, random_blob, special_masks, star

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # pycocotools

WRITTEN = Path(__file__).parent / "written_by_tools"
TRUTH = dict(np.load(WRITTEN / "truth.npz"))
SIZE = (37, 52)
MASKS = all_masks()


def write(tmp_path, content, name="file.json"):
    """Write JSON and return the path."""
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / name


def only(path):
    """The one Drawing of a file."""
    (drawing,) = formats.read(path).drawings
    assert drawing.source == path
    return drawing


def refusal(path):
    """The message for a file that cannot be read, be it at once or when it is painted."""
    with pytest.raises(UserError) as error:
        for drawing in formats.read(path).drawings:
            drawing.mask()
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value)


# Polygons ---------------------------------------------------------------------------------------


def crossings(points, size):
    """Even-odd rule by counting the edges that a ray from each centre to the left crosses."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        spans = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= spans & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
    return inside


@pytest.mark.parametrize("seed", range(20))
def test_fill_takes_the_pixels_whose_centres_are_inside(seed):
    rng = np.random.default_rng(seed)
    for points in (
        star(seed, SIZE),
        rng.uniform(-20, 70, (7, 2)),  # crosses itself and leaves the image
        rng.integers(-5, 60, (9, 2)) / 2,  # corners on centres and on edges of pixels
    ):
        assert np.array_equal(polygons.fill(points, SIZE), crossings(points, SIZE))


def test_fill_of_whole_pixels_and_neighbours():
    left = polygons.fill([[3, 4], [10, 4], [10, 9], [3, 9]], SIZE)
    assert left.sum() == 35 and left[4:9, 3:10].all()
    right = polygons.fill([[10, 4], [15, 4], [15, 9], [10, 9]], SIZE)
    assert not (left & right).any() and (left | right)[4:9, 3:15].all()
    for points in ([], [[1, 2, 3]], [[0, 0], [np.nan, 5], [5, 5]], [[0, 0], [np.inf, 5], [5, 5]]):
        with pytest.raises(ValueError, match="pairs of finite numbers"):
            polygons.fill(points, SIZE)


def distances(points, size):
    """The distance of each pixel's centre from the nearest edge of a polygon."""
    centres = np.stack(np.mgrid[: size[0], : size[1]][::-1], axis=-1) + 0.5
    nearest = np.full(size, np.inf)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = (centres - start) @ (end - start) / ((end - start) @ (end - start))
        foot = start + np.clip(along, 0, 1)[..., None] * (end - start)
        nearest = np.minimum(nearest, np.linalg.norm(centres - foot, axis=-1))
    return nearest


@pytest.mark.parametrize("seed", range(5))
def test_fill_agrees_with_opencv_and_pillow_but_for_the_border(seed):
    points = star(seed, SIZE)
    ours = polygons.fill(points, SIZE)
    shifted = np.rint((points - 0.5) * 256).astype(np.int32)
    opencv = cv2.fillPoly(np.zeros(SIZE, np.uint8), [shifted], 1, shift=8) > 0
    pillow = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(pillow).polygon([tuple(point) for point in points - 0.5], fill=1)
    for theirs, most in ((opencv, 1), (np.asarray(pillow), 2**0.5)):  # Pillow rounds the corners
        assert distances(points, SIZE)[ours != theirs].max() <= most


@pytest.mark.parametrize("name", MASKS)
def test_outlines_and_back(name):
    mask = MASKS[name]
    parts = polygons.outlines(mask)
    assert np.array_equal(polygons.fill_all(parts, mask.shape), mask)
    assert len(parts) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    for tolerance in (0.5, 1, 2):
        few = polygons.outlines(mask, tolerance)
        assert len(few) == len(parts) and sum(map(len, few)) <= sum(map(len, parts))
        again = polygons.fill_all(few, mask.shape)
        assert not ((again != mask) & ~border(mask, int(np.ceil(tolerance)))).any()


def test_disc():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert np.array_equal(polygons.disc((20.3, 11), 7.7, SIZE), np.hypot(x - 20.3, y - 11) <= 7.7)


# Run lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKS)
def test_coco_run_lengths(name):
    mask = MASKS[name]
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = runlengths.coco_counts(mask)
    text = runlengths.counts_to_text(counts)
    assert text == theirs["counts"].decode() and runlengths.text_to_counts(text) == counts
    plain = coco.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
    assert np.array_equal(coco.decode(plain), mask)
    for form in (counts, text):
        assert np.array_equal(runlengths.coco_mask(form, mask.shape), mask)


@pytest.mark.parametrize("counts", ["", "0", "zzz", "PP", "1é", "1 ", [3, 4], [-1, 1925], [[5]]])
def test_damaged_run_lengths(counts):
    with pytest.raises(ValueError, match=r"its (compressed )?runs "):
        runlengths.coco_mask(counts, SIZE)


STROKES = json.loads((WRITTEN / "label_studio_brush.json").read_text())


@pytest.mark.parametrize("name", STROKES)
def test_brush_strokes_of_label_studio(name):
    truth = TRUTH[f"label_studio_{name}"]
    assert np.array_equal(runlengths.brush_mask(STROKES[name], SIZE), truth)
    if "soft" not in name:  # the converter may end with an empty byte
        ours = runlengths.brush_bytes(truth)
        assert STROKES[name][: len(ours)] == ours and not any(STROKES[name][len(ours) :])


@pytest.mark.parametrize("name", MASKS)
def test_brush_strokes_and_back(name):
    mask = MASKS[name]
    assert np.array_equal(runlengths.brush_mask(runlengths.brush_bytes(mask), mask.shape), mask)


def test_long_brush_strokes():
    mask = np.zeros((300, 700), bool)  # runs of more than 2 ** 16 values
    mask[100:180] = True
    assert np.array_equal(runlengths.brush_mask(runlengths.brush_bytes(mask), mask.shape), mask)


def test_a_brush_stroke_half_transparent_everywhere():
    stroke = STROKES["ring"]
    bits = "".join(f"{byte:08b}" for byte in stroke)
    assert "11111111" in bits[53:]
    faint = []
    place = 53  # after the head
    while place < len(bits) - 14:
        choice = int(bits[place + 1 : place + 3], 2)
        end = place + 3 + (3, 4, 8, 16)[choice]
        value = "01100110" if bits[end : end + 8] == "11111111" else bits[end : end + 8]
        faint.append(bits[place:end] + value)
        place = end + 8
    bits = (bits[:53] + "".join(faint)).ljust(len(bits), "0")
    content = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert np.array_equal(runlengths.brush_mask(content, SIZE), TRUTH["label_studio_ring"])


@pytest.mark.parametrize("cut", [0, 5, 8, 30])
def test_damaged_brush_strokes(cut):
    with pytest.raises(ValueError, match="its brush is cut off"):
        runlengths.brush_mask(STROKES["blob"][:cut], SIZE)
    with pytest.raises(ValueError, match="does not have the 52x36 pixels of the image"):
        runlengths.brush_mask(STROKES["blob"], (52, 36))


# LabelMe ----------------------------------------------------------------------------------------


KINDS = ("polygon", "rectangle", "circle", "oriented_rectangle", "mask", "several")


@pytest.mark.parametrize("kind", KINDS)
def test_labelme(kind):
    """LabelMe draws borders as well, which makes its masks up to one pixel larger."""
    path, truth = WRITTEN / f"labelme_{kind}.json", TRUTH[f"labelme_{kind}"]
    assert formats.kind_of(path) == formats.LABELME
    drawing = only(path)
    assert drawing.name == f"../photos/{kind}.jpg" and drawing.size == SIZE
    mask = drawing.mask()
    assert mask.dtype == bool and np.array_equal(mask, drawing.mask(SIZE))
    assert np.array_equal(mask, truth) == (kind == "mask")
    assert not ((mask != truth) & ~border(truth)).any()
    assert drawing.notes == (("2 without an area left out (line, point)",) * (kind == "several"))


def test_labelme_rectangles_are_exact(tmp_path):
    content = json.loads((WRITTEN / "labelme_rectangle.json").read_text())
    content["shapes"][0]["points"] = [[30, 20], [7, 5]]
    truth = np.zeros(SIZE, bool)
    truth[5:20, 7:30] = True
    assert np.array_equal(only(write(tmp_path, content)).mask(), truth)


def test_labelme_without_a_lesion_and_without_an_outline():
    drawing = only(WRITTEN / "labelme_nothing.json")
    assert not drawing.mask().any() and drawing.mask().shape == SIZE
    found = formats.read(WRITTEN / "labelme_only_points.json")
    assert found.drawings == [] and found.missing == ["../photos/only_points.jpg"]
    assert found.notes == [
        "../photos/only_points.jpg: 2 without an area left out (linestrip, point)"
    ]


@pytest.mark.parametrize("label", ["skin", "Background", "_background_", "__SKIN__", "back-ground"])
def test_labels_of_the_background_do_not_count(tmp_path, label):
    content = json.loads((WRITTEN / "labelme_polygon.json").read_text())
    content["shapes"][0]["label"] = label
    assert not only(write(tmp_path, content)).mask().any()
    content["shapes"][0]["label"] = f"not {label}"
    assert only(write(tmp_path, content)).mask().any()


def test_labelme_masks_over_the_edge_are_cut_off(tmp_path):
    content = json.loads((WRITTEN / "labelme_mask.json").read_text())
    part = TRUTH["labelme_mask"][4:16, 9:29]
    padded = np.zeros((130, 130), bool)
    for left, top in ((-5, -3), (45, 30), (-30, 5), (70, 70), (3.7, 2.9)):
        content["shapes"][0]["points"] = [[left, top], [left + 19, top + 11]]
        padded[:] = False
        padded[int(top) + 30 :, int(left) + 30 :][:12, :20] |= part
        expected = padded[30:67, 30:82]
        assert np.array_equal(only(write(tmp_path, content)).mask(), expected)


def test_labelme_from_windows_with_a_byte_order_mark_and_without_a_size(tmp_path):
    content = json.loads((WRITTEN / "labelme_polygon.json").read_text())
    content |= {"imagePath": "..\\photos\\a b.jpg", "imageHeight": None, "imageWidth": None}
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8-sig")
    drawing = only(tmp_path / "a.json")
    assert drawing.name == "../photos/a b.jpg" and drawing.size is None
    assert np.array_equal(drawing.mask(SIZE), only(WRITTEN / "labelme_polygon.json").mask())
    with pytest.raises(UserError, match=r"a\.json: has no size for .*a b\.jpg; give its image"):
        drawing.mask()


def test_another_size_than_that_of_the_image():
    path = WRITTEN / "labelme_polygon.json"
    with pytest.raises(UserError) as error:
        only(path).mask((52, 37))
    assert str(error.value) == (
        f"{path}: ../photos/polygon.jpg is 37x52 there, but the image is 52x37 (height x width); "
        "give the image that was outlined"
    )


# COCO -------------------------------------------------------------------------------------------


def coco_file(*annotations, images=("photos/a.jpg", "b.png")):
    """COCO JSON of two images of SIZE."""
    rows = [
        {"id": 5 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for i, name in enumerate(images)
    ]
    labels = [{"id": 1, "name": "melanoma"}, {"id": 2, "name": "Skin"}]
    return {
        "images": rows,
        "categories": labels,
        "annotations": [
            {"id": i, "image_id": 5, "category_id": 1, **rest} for i, rest in enumerate(annotations)
        ],
    }


def compressed(mask):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def plain(mask):
    return {"size": list(mask.shape), "counts": runlengths.coco_counts(mask)}


@pytest.mark.parametrize("form", [compressed, plain])
def test_coco_run_lengths_of_several_annotations(tmp_path, form):
    one, two, skin = (random_blob(seed, SIZE) for seed in range(3))
    content = coco_file(
        {"segmentation": form(one)},
        {"segmentation": form(two), "iscrowd": 1},
        {"segmentation": form(skin), "category_id": 2},
    )
    path = write(tmp_path, content)
    assert formats.kind_of(path) == formats.COCO
    found = formats.read(path)
    (drawing,) = found.drawings
    assert drawing.name == "photos/a.jpg" and drawing.size == SIZE and drawing.notes == ()
    assert np.array_equal(drawing.mask(), one | two)
    assert found.missing == ["b.png"] and found.notes == []


@pytest.mark.parametrize("seed", range(5))
def test_coco_polygons(tmp_path, seed):
    parts = [star(seed, SIZE).ravel().tolist(), [40, 1, 51, 1, 51, 9, 40, 9]]
    mask = only(write(tmp_path, coco_file({"segmentation": parts}))).mask()
    theirs = coco.decode(coco.merge(coco.frPyObjects(parts, *SIZE))) > 0
    assert mask[1:9, 40:51].all() and not ((mask != theirs) & ~border(theirs)).any()


def test_coco_without_a_lesion_and_without_an_outline(tmp_path):
    nothing = np.zeros(SIZE, bool)
    for annotation in (
        {"segmentation": compressed(nothing)},
        {"segmentation": compressed(~nothing), "category_id": 2},
    ):
        assert not only(write(tmp_path, coco_file(annotation))).mask().any()
    boxes = coco_file({"segmentation": [], "bbox": [1, 2, 3, 4]}, {"segmentation": [[1, 2, 3, 4]]})
    found = formats.read(write(tmp_path, boxes))
    assert found.drawings == [] and found.missing == ["photos/a.jpg", "b.png"]
    assert found.notes == ["photos/a.jpg: 2 without an area left out (box, line or caption)"]


def test_coco_of_images_to_be_outlined_and_without_categories(tmp_path):
    content = coco_file({"segmentation": compressed(random_blob(0, SIZE))})
    del content["categories"], content["images"][0]["height"]
    drawing = only(write(tmp_path, content))
    assert drawing.size is None and np.array_equal(drawing.mask(SIZE), random_blob(0, SIZE))
    content["annotations"] = []
    assert formats.read(write(tmp_path, content)).missing == ["photos/a.jpg", "b.png"]


# Label Studio -----------------------------------------------------------------------------------


def region(kind="brushlabels", name="ring", label="Melanoma", **value):
    """A result of the export JSON; `value` in place of a brush stroke."""
    value = value or {"format": "rle", "rle": STROKES[name]}
    return {
        "id": f"{kind}{name}",
        "type": kind,
        "from_name": "tag",
        "to_name": "image",
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
        "value": {**value, "brushlabels": [label]} if label else value,
    }


def annotation(*results, day=1, **rest):
    return {
        "result": list(results),
        "was_cancelled": False,
        "updated_at": f"2026-03-{day:02}",
        **rest,
    }


def task(*annotations, image="/data/upload/3/0a1b2c3d-ISIC_1.jpg", **rest):
    return {"id": 7, "data": {"image": image}, "annotations": list(annotations), **rest}


def test_label_studio_regions_are_united(tmp_path):
    points = star(1, SIZE) / SIZE[::-1] * 100
    content = [
        task(
            annotation(
                region(),
                region(name="blob"),
                region("polygonlabels", "p", points=points.tolist(), closed=True),
                region(name="full", label="background"),
                region("rectanglelabels", "r", x=1, y=2, width=50, height=60, rotation=0),
                {"type": "choices", "value": {"choices": ["good"]}, "id": "c"},
            )
        )
    ]
    path = write(tmp_path, content)
    assert formats.kind_of(path) == formats.LABEL_STUDIO
    drawing = only(path)
    assert drawing.name == "ISIC_1.jpg" and drawing.size == SIZE
    assert drawing.notes == ("1 without an area left out (rectanglelabels)",)
    truth = TRUTH["label_studio_ring"] | TRUTH["label_studio_blob"]
    assert np.array_equal(drawing.mask(), truth | polygons.fill(star(1, SIZE), SIZE))


def test_label_studio_labels_beside_shapes(tmp_path):
    """With the tags Brush and Labels, a region has one result for its shape and one for labels."""
    for label, lesion in (("nevus", True), ("skin", False)):
        shape = region("brush", label=None)
        labels = {**copy.deepcopy(shape), "type": "labels"}
        labels["value"]["labels"] = [label]
        content = [task(annotation(shape, labels))]
        assert only(write(tmp_path, content)).mask().any() == lesion


def test_label_studio_bitmasks(tmp_path):
    file = io.BytesIO()
    truth = random_blob(4, SIZE)
    alpha = truth.astype(np.uint8) * 255
    Image.fromarray(np.dstack([0 * alpha] * 3 + [alpha])).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    drawing = only(write(tmp_path, [task(annotation(region("bitmasklabels", imageDataURL=url)))]))
    assert np.array_equal(drawing.mask(), truth)


def test_label_studio_tasks_that_were_not_outlined(tmp_path):
    results = [region()]
    content = [
        task(image="a.jpg"),
        task(annotation(*results, was_cancelled=True), image="b.jpg"),
        task(annotation(*results, skipped=True), image="c.jpg"),
        task(image="d.jpg", predictions=[{"result": results}], drafts=[{"result": results}]),
        task(annotation(region("keypointlabels", x=1, y=2)), image="e.jpg"),
        task(annotation(), image="f.jpg"),
    ]
    found = formats.read(write(tmp_path, content))
    assert found.missing == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert found.notes == ["e.jpg: nothing but regions without an area"]
    (drawing,) = found.drawings
    assert drawing.name == "f.jpg" and drawing.size is None and not drawing.mask(SIZE).any()


def test_label_studio_takes_the_last_of_several_annotations(tmp_path):
    content = [
        task(
            annotation(region(name="blob"), day=3, completed_by=1),
            annotation(region(name="ring"), day=20, completed_by=2),
            annotation(region(name="pixel"), day=4, completed_by=3),
            annotation(region(name="full"), day=28, was_cancelled=True),
        )
    ]
    drawing = only(write(tmp_path, content))
    assert np.array_equal(drawing.mask(), TRUTH["label_studio_ring"])
    assert drawing.notes == ("was outlined 3 times: the last one counts",)


@pytest.mark.parametrize(
    "address, name",
    [
        ("/data/upload/12/0a1b2c3d-ISIC_1.jpg", "ISIC_1.jpg"),
        ("/data/upload/0a1b2c3d-a-b.jpg", "a-b.jpg"),
        ("upload/3/0a1b2c3d-%C3%A4%20b.jpg", "ä b.jpg"),
        ("/storage-data/uploaded/?filepath=upload/3/0a1b2c3d-x.png", "x.png"),
        ("https://host.org/data/upload/3/deadbeef-x.png", "x.png"),
        ("/data/local-files/?d=photos/2024/a%20b%2Bc.jpg", "photos/2024/a b+c.jpg"),
        ("/data/local-files/?d=photos%5Ca.jpg", "photos/a.jpg"),
        ("/data/local-files/?d=0a1b2c3d-kept.jpg", "0a1b2c3d-kept.jpg"),
        ("s3://bucket/photos/a%20b.jpg", "photos/a b.jpg"),
        ("https://host.org/photos/a.jpg?sig=1%2F2", "photos/a.jpg"),
        ("plain name.jpg", "plain name.jpg"),
    ],
)
def test_label_studio_image_names(tmp_path, address, name):
    assert formats.image_name(address) == name
    found = formats.read(write(tmp_path, [{"data": {"photo": address, "note": "x"}}]))
    assert found.missing == [name]


# CVAT -------------------------------------------------------------------------------------------


def repacked(tmp_path, change=lambda name, content: content, add=None):
    """The archive of CVAT with changed entries: `change` returns new content, or None to drop."""
    path = tmp_path / "cvat.zip"
    with zipfile.ZipFile(WRITTEN / "cvat.zip") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (add or {}).items():
            new.writestr(name, content)
    return path


def test_cvat():
    path = WRITTEN / "cvat.zip"
    assert formats.kind_of(path) == formats.CVAT
    found = formats.read(path)
    assert {drawing.name for drawing in found.drawings} == {"deep/blob", "two words", "ring"}
    assert found.missing == [] and found.notes == []
    for drawing in found.drawings:
        assert drawing.size == SIZE
        assert np.array_equal(drawing.mask(), TRUTH[f"cvat_{drawing.name}"])


def picture(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_cvat_images_that_were_not_outlined_or_have_no_lesion(tmp_path):
    def change(name, content):
        if name.endswith("SegmentationClass/ring.png"):
            return None
        if name.endswith("default.txt"):
            return content + b'other\n"third"\n\n'
        return content

    extra = {
        "SegmentationClass/empty.png": picture(np.zeros((*SIZE, 3), np.uint8)),
        "__MACOSX/SegmentationClass/._empty.png": b"junk",
    }
    found = formats.read(repacked(tmp_path, change, extra))
    assert found.missing == ["ring", "other", "third"]
    (empty,) = [drawing for drawing in found.drawings if drawing.name == "empty"]
    assert len(found.drawings) == 3 and not empty.mask().any()


def test_cvat_without_a_label_map_and_with_numbers_of_labels(tmp_path):
    path = repacked(tmp_path, lambda name, content: None if "labelmap" in name else content)
    for drawing in formats.read(path).drawings:
        with zipfile.ZipFile(path) as archive:
            values = Image.open(archive.open(f"SegmentationClass/{drawing.name}.png"))
            assert np.array_equal(drawing.mask(), np.asarray(values).any(axis=-1))
    numbers = np.array(random_blob(0, SIZE) + 2 * (random_blob(1, SIZE) & ~random_blob(0, SIZE)))
    extra = {"SegmentationClass/numbers.png": picture(numbers.astype(np.uint8))}
    found = formats.read(repacked(tmp_path, add=extra))
    (drawing,) = [drawing for drawing in found.drawings if drawing.name == "numbers"]
    assert np.array_equal(drawing.mask(), random_blob(0, SIZE))


def test_cvat_background_need_not_be_in_the_label_map(tmp_path):
    def change(name, content):
        return content.replace(b"background:0,0,0::\n", b"") if "labelmap" in name else content

    for drawing in formats.read(repacked(tmp_path, change)).drawings:
        assert np.array_equal(drawing.mask(), TRUTH[f"cvat_{drawing.name}"])


# Refused ----------------------------------------------------------------------------------------


def test_kind_of_other_files(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("ISIC_1")
    (tmp_path / "empty.json").write_bytes(b"")
    others = [tmp_path / "a.png", tmp_path / "a.txt", tmp_path / "empty.json"]
    for i, content in enumerate(({}, [], [1], {"images": []}, [{"image_id": 1}], {"shapes": []})):
        others.append(write(tmp_path, content, f"{i}.json"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    for path in [*others, tmp_path / "a.zip"]:
        assert formats.kind_of(path) is None
        assert "export LabelMe, COCO, Label Studio or CVAT masks" in refusal(path)
    minimal = write(tmp_path, [{"image": "a.jpg", "annotation_id": 3, "id": 1}])
    assert "is the export JSON-MIN of Label Studio" in refusal(minimal)


def test_damaged_files(tmp_path):
    for name in ("labelme_polygon.json", "cvat.zip"):
        content = (WRITTEN / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert "not readable (" in refusal(tmp_path / name)
        with pytest.raises(UserError, match="export it again"):
            formats.kind_of(tmp_path / name)
    with pytest.raises(UserError, match="not found"):
        formats.kind_of(tmp_path / "missing.json")


def changed(content, *path, value):
    """A copy of parsed JSON with one value changed; `...` as value removes it."""
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


LABELME_FILE = json.loads((WRITTEN / "labelme_mask.json").read_text())
COCO_FILE = coco_file({"segmentation": compressed(random_blob(0, SIZE))})
STUDIO_FILE = [task(annotation(region(), region(name="blob")))]
FIRST = (0, "annotations", 0, "result", 0)
MALFORMED = {
    "kind": (LABELME_FILE, ("shapes", 0, "shape_type"), "star", "of the unknown kind star"),
    "no label": (LABELME_FILE, ("shapes", 0, "label"), ..., "has no 'label'"),
    "no PNG": (LABELME_FILE, ("shapes", 0, "mask"), "AAAA", "cannot identify image"),
    "no mask": (LABELME_FILE, ("shapes", 0, "mask"), None, "not as expected"),
    "one point": (LABELME_FILE, ("shapes", 0, "points"), [[1, 2]], "does not have two points"),
    "NaN": (LABELME_FILE, ("shapes", 0, "points"), [[1, 2], [1, float("nan")]], "two points"),
    "size": (LABELME_FILE, ("imageHeight",), -3, "its size is -3x52"),
    "text as size": (LABELME_FILE, ("imageHeight",), "37", "its size is 37x52"),
    "counts": (COCO_FILE, ("annotations", 0, "segmentation", "counts"), "12", "do not add up"),
    "other size": (COCO_FILE, ("annotations", 0, "segmentation", "size"), [52, 37], "[52, 37]"),
    "odd": (COCO_FILE, ("annotations", 0, "segmentation"), [[0] * 7], "not as expected"),
    "flat": (COCO_FILE, ("annotations", 0, "segmentation"), [0, 0, 9, 0, 9, 9], "as expected"),
    "image": (COCO_FILE, ("annotations", 0, "image_id"), 9, "image 9, which is not listed"),
    "same id": (COCO_FILE, ("images", 1, "id"), 5, "two images have the same id"),
    "no name": (COCO_FILE, ("images", 0, "file_name"), ..., "has no 'file_name'"),
    "no result": (STUDIO_FILE, (0, "annotations", 0, "result"), ..., "has no 'result'"),
    "turned": (STUDIO_FILE, (*FIRST, "image_rotation"), 90, "turned in the tool"),
    "no size": (STUDIO_FILE, (*FIRST, "original_width"), ..., "how large the image is"),
    "sizes": (STUDIO_FILE, (*FIRST, "original_width"), 99, "different sizes, [(37, 52), (37, 99)"),
    "stroke": (STUDIO_FILE, (*FIRST, "value", "rle"), [0] * 9, "does not have the 37x52 pixels"),
    "no bytes": (STUDIO_FILE, (*FIRST, "value", "rle"), "abc", "not as expected"),
    "large bytes": (STUDIO_FILE, (*FIRST, "value", "rle"), [300], "not as expected"),
    "images": (STUDIO_FILE, (0, "data"), {"a": "1.jpg", "b": "2.jpg"}, "has 2 images, not one"),
    "no image": (STUDIO_FILE, (0, "data"), {"text": "x"}, "has 0 images, not one"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files(tmp_path, kind):
    content, place, value, reason = MALFORMED[kind]
    line = refusal(write(tmp_path, changed(content, *place, value=value)))
    assert reason in line and line.endswith("; export it again")


def test_two_outlines_of_one_name(tmp_path):
    twice = [task(annotation(region()), id=1), task(annotation(region()), id=2)]
    assert "two outlines of ISIC_1.jpg" in refusal(write(tmp_path, twice))
    once = [task(annotation(region()), id=1), task(id=2)]
    found = formats.read(write(tmp_path, once))
    assert len(found.drawings) == 1 and found.missing == []


def test_malformed_cvat_archives(tmp_path, monkeypatch):
    def colour(name, content):
        return content.replace(b"lesion:250,50,83", b"lesion:1,2,3") if "map" in name else content

    def junk(name, content):
        return b"junk" if "SegmentationClass/ring" in name else content

    def labels(name, content):
        return b"lesion\n" if "labelmap" in name else content

    assert "colour that is not in labelmap.txt" in refusal(repacked(tmp_path, colour))
    assert ": ring is not as expected (cannot identify" in refusal(repacked(tmp_path, junk))
    assert "its content is not as expected" in refusal(repacked(tmp_path, labels))
    monkeypatch.setattr(formats, "LARGEST", 10)  # what a bomb is, which is small while packed
    assert "labelmap.txt has 0 MB unpacked, more than" in refusal(repacked(tmp_path))


def test_special_masks_are_what_they_say():
    """The masks of these tests have holes, several parts and diagonal neighbours."""
    masks = special_masks()
    assert len(polygons.outlines(masks["diagonal"])) == 20 and masks["full"].all()
    assert len(polygons.outlines(masks["rings"])) == 2
