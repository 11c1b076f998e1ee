"""Read the masks in the files that annotation tools save or export.

- LabelMe: the JSON file of one image. Polygons, masks, rectangles, oriented rectangles and circles
  count. A file without any shape says that the image has no lesion.
- COCO: one JSON file for many images. Polygons and run lengths, compressed or not. An image without
  any annotation was not outlined; this format cannot say that an outlined image has no lesion,
  except by an annotation of no pixels or of the background.
- Label Studio: the export called JSON. Brush strokes and polygons of submitted annotations. A
  submitted annotation without any region says that the image has no lesion. Tasks that were skipped
  or have only predictions or drafts were not outlined.
- CVAT: the zip archive called "Segmentation mask 1.1". An image that is listed but has no picture
  was not outlined; a picture of background alone says that the image has no lesion.

All shapes of an image together are its lesion, except those labelled as skin or background (also
`_background_` and the like, in any case); every other label counts as lesion. Points, lines, the
bounding boxes of COCO, and the rectangles and ellipses of Label Studio, which serve as hints there,
are no outlines. They are left out with a note, and an image with nothing else was not outlined.
Polygons are filled by polygons.py, which says which pixels belong to them.
"""

import base64
import contextlib
import functools
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from segmentation.common.runfiles import UserError
from segmentation.data.polygons import disc, fill, fill_all
from segmentation.data.runlengths import brush_mask, coco_mask

LABELME, COCO, LABEL_STUDIO, CVAT = "LabelMe", "COCO", "Label Studio", "CVAT"
NOT_LESION = {"skin", "background"}


class Drawing(NamedTuple):
    """The outline of the lesion in one image, as a tool stored it."""

    name: str  # of the image file, as the tool knows it; from CVAT without its extension
    size: tuple | None  # (height, width) of the image in the tool, if it is stored
    source: Path  # the file that was read
    paint: Callable  # (height, width) -> bool H x W
    notes: tuple = ()  # of str

    def mask(self, size=None):
        """The lesion: bool H x W of `size`, by default the size of the image in the tool.

        UserError: the two sizes differ, neither is known, or the shapes are damaged.
        """
        if size is not None and self.size is not None and tuple(size) != self.size:
            raise UserError(
                f"{self.source}: {self.name} is {self.size[0]}x{self.size[1]} there, but the image "
                f"is {size[0]}x{size[1]} (height x width); give the image that was outlined"
            )
        size = size or self.size
        if size is None:
            raise UserError(f"{self.source}: has no size for {self.name}; give its image as well")
        with described(self.source, self.name):
            return self.paint(tuple(size))


class Outlines(NamedTuple):
    """What a file of an annotation tool holds."""

    kind: str  # LABELME, COCO, LABEL_STUDIO or CVAT
    drawings: list  # of Drawing: the images that were outlined, also as having no lesion
    missing: list  # names of the images that were not
    notes: list  # of str, on images that were not outlined


def read(path):
    """Read a file of any of these tools -> Outlines.

    UserError: not such a file, damaged, or two outlines of images of the same name.
    """
    path = Path(path)
    kind, content, reason = recognise(path)
    if kind is None:
        raise UserError(f"{path}: {reason}; export LabelMe, COCO, Label Studio or CVAT masks")
    with described(path):
        found = READERS[kind](content, path)
    names = set()
    for drawing in found.drawings:
        if drawing.name in names:
            raise UserError(
                f"{path}: has two outlines of {drawing.name}; "
                "remove one, or rename one of the images in the tool"
            )
        names.add(drawing.name)
    return found._replace(missing=[name for name in found.missing if name not in names])


def kind_of(path):
    """LABELME, COCO, LABEL_STUDIO or CVAT by the content of a file, None for any other file.

    UserError if it looks like JSON or a zip archive but is damaged.
    """
    return recognise(Path(path))[0]


def recognise(path):
    """(kind, parsed JSON or None, None), or (None, None, why it is none of them)."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            if start.startswith(b"PK"):
                with zipfile.ZipFile(path) as archive:
                    if any(CVAT_PICTURE.match(name) for name in archive.namelist()):
                        return CVAT, None, None
                return None, None, "is a zip archive without a folder SegmentationClass"
            if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
                return None, None, "is neither JSON nor a zip archive"
            file.seek(0)
            content = json.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; give a file of an annotation tool") from None
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable ({error}); export it again") from None
    if isinstance(content, dict):
        if isinstance(content.get("shapes"), list) and "imagePath" in content:
            return LABELME, content, None
        if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
            return COCO, content, None
    elif content and all(isinstance(task, dict) and "data" in task for task in content):
        return LABEL_STUDIO, content, None
    elif content and all(isinstance(task, dict) and "annotation_id" in task for task in content):
        return (
            None,
            None,
            "is the export JSON-MIN of Label Studio, which leaves things out; use JSON",
        )
    return None, None, "is JSON, but not of a known tool"


@contextlib.contextmanager
def described(path, name=None):
    """Turns what malformed content raises into a UserError that names the file and the image."""
    try:
        yield
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OverflowError,
        OSError,
        SyntaxError,
        RuntimeError,  # an encrypted archive
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        place = f"{path}: {name}" if name else f"{path}: its content"
        raise UserError(f"{place} is not as expected ({what}); export it again") from None


def is_lesion(label):
    """Whether a label means lesion: anything but skin and background."""
    return re.sub("[^a-z]", "", str(label).lower()) not in NOT_LESION


def as_size(height, width):
    """(height, width) as integers, None if one is missing. ValueError if one is not positive."""
    if height is None or width is None:
        return None
    size = int(height), int(width)
    if min(size) < 1 or size != (height, width):
        raise ValueError(f"its size is {height}x{width}")
    return size


def union(parts, size):
    """The union of shapes, each a function of the size, as bool H x W of `size`."""
    mask = np.zeros(size, dtype=bool)
    for part in parts:
        mask |= part(size)
    return mask


def drawing_of(name, size, path, shapes, notes=(), left_out=()):
    """A Drawing of lesion shapes, each (label, function of the size).

    None if there is none but `left_out`, kinds that enclose no lesion.
    """
    if left_out and not shapes:
        return None
    paint = functools.partial(union, [part for label, part in shapes if is_lesion(label)])
    return Drawing(name, size, path, paint, (*notes, *note_left_out(left_out)))


def note_left_out(kinds):
    """A list of at most one note on kinds of shapes that were left out."""
    names = ", ".join(sorted({str(kind) for kind in kinds}))
    return [f"{len(kinds)} without an area left out ({names})"] if kinds else []


def png_mask(content, size=None):
    """A PNG as bytes -> bool H x W of what is neither zero nor transparent."""
    with Image.open(io.BytesIO(content)) as picture:
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        values = np.asarray(picture)
        if picture.mode in ("LA", "RGBA"):
            values = values[..., -1]
    mask = values.reshape(*values.shape[:2], -1).max(axis=-1) > 0
    if size is not None and mask.shape != size:
        raise ValueError(f"a mask in it is {mask.shape[0]}x{mask.shape[1]}")
    return mask


# LabelMe ----------------------------------------------------------------------------------------


def read_labelme(content, path):
    """Parsed JSON of LabelMe -> Outlines of one image."""
    name = str(content["imagePath"]).replace("\\", "/")
    size = as_size(content.get("imageHeight"), content.get("imageWidth"))
    shapes, left_out = [], []
    for shape in content["shapes"]:
        kind = shape.get("shape_type") or "polygon"
        part = labelme_part(kind, shape)
        if part is None:
            left_out.append(kind)
        else:
            shapes.append((shape["label"], part))
    drawing = drawing_of(name, size, path, shapes, left_out=left_out)
    if drawing is None:
        notes = [f"{name}: {note}" for note in note_left_out(left_out)]
        return Outlines(LABELME, [], [name], notes)
    return Outlines(LABELME, [drawing], [], [])


def labelme_part(kind, shape):
    """A function of the size that fills a shape, or None for a kind without an area."""
    points = np.asarray(shape["points"], dtype=np.float64).reshape(-1, 2)
    if kind in ("point", "points", "line", "linestrip"):
        return None
    if kind in ("polygon", "oriented_rectangle"):
        return functools.partial(fill, points) if len(points) >= 3 else None
    if kind not in ("mask", "rectangle", "circle"):
        raise ValueError(f"a shape is of the unknown kind {kind}")
    if len(points) != 2 or not np.isfinite(points).all():
        raise ValueError(f"a {kind} does not have two points")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return functools.partial(fill, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if kind == "circle":
        return functools.partial(disc, (x0, y0), np.hypot(x1 - x0, y1 - y0))
    return functools.partial(paste, base64.b64decode(shape["mask"]), int(x0), int(y0))


def paste(content, left, top, size):
    """A PNG in its place in a bool mask of `size`; what lies outside is cut off."""
    part, mask = png_mask(content), np.zeros(size, dtype=bool)
    part = part[max(0, -top) :, max(0, -left) :]
    place = mask[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]]
    place |= part[: place.shape[0], : place.shape[1]]
    return mask


# COCO -------------------------------------------------------------------------------------------


def read_coco(content, path):
    """Parsed JSON of COCO -> Outlines."""
    labels = {row["id"]: row["name"] for row in content.get("categories") or ()}
    images = {row["id"]: row for row in content["images"]}
    if len(images) < len(content["images"]):
        raise ValueError("two images have the same id")
    shapes, left_out = ({key: [] for key in images} for _ in range(2))
    for row in content["annotations"]:
        key = row["image_id"]
        if key not in images:
            raise ValueError(f"an annotation is of image {key}, which is not listed")
        segmentation = row.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = [points for points in segmentation if len(points) >= 6]
        if segmentation:
            label = labels.get(row.get("category_id"), "lesion")
            shapes[key].append((label, functools.partial(coco_part, segmentation)))
        else:
            left_out[key].append("box, line or caption")
    found = Outlines(COCO, [], [], [])
    for key, row in images.items():
        name = str(row["file_name"]).replace("\\", "/")
        drawing = None
        if shapes[key]:
            size = as_size(row.get("height"), row.get("width"))
            drawing = drawing_of(name, size, path, shapes[key], left_out=left_out[key])
        else:
            found.notes.extend(f"{name}: {note}" for note in note_left_out(left_out[key]))
        collect(found, name, drawing)
    return found


def collect(found, name, drawing):
    """Add an image to the drawings of `found`, or to what is missing."""
    if drawing is None:
        found.missing.append(name)
    else:
        found.drawings.append(drawing)


def coco_part(segmentation, size):
    """The `segmentation` of an annotation, polygons or run lengths -> bool H x W of `size`."""
    if isinstance(segmentation, list):
        return fill_all([np.reshape(points, (-1, 2)) for points in segmentation], size)
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"its run lengths are of {segmentation['size']}, not of {list(size)}")
    return coco_mask(segmentation["counts"], size)


# Label Studio -----------------------------------------------------------------------------------

UPLOAD = re.compile(r"(?:^|/)(?:data/upload/(?:\d+/)?|upload/\d+/)(?:[0-9a-f]{8}-)?([^/]+)$")
PICTURE = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp|gif)\b", re.IGNORECASE)


def read_label_studio(content, path):
    """Parsed JSON of Label Studio -> Outlines."""
    found = Outlines(LABEL_STUDIO, [], [], [])
    for task in content:
        name = task_image(task)
        notes = []
        annotation = latest(task, notes)
        drawing = None
        if annotation is not None:
            with described(path, name):
                drawing = label_studio_drawing(name, annotation, path, notes)
        if drawing is None and annotation is not None:
            found.notes.append(f"{name}: nothing but regions without an area")
        collect(found, name, drawing)
    return found


def task_image(task):
    """The name of the image of a task, as it was before the tool took it in."""
    data = task["data"]
    texts = [text for text in data.values() if isinstance(text, str)]
    pictures = [text for text in texts if PICTURE.search(unquote(text))]
    if isinstance(data.get("image"), str):
        pictures = [data["image"]]
    if len(set(pictures)) != 1:
        raise ValueError(f"task {task.get('id')} has {len(set(pictures))} images, not one")
    return image_name(pictures[0])


def image_name(address):
    """The image file behind an address in Label Studio, with its folders where it has them.

    `/data/local-files/?d=FOLDER/NAME` -> FOLDER/NAME; `/data/upload/3/abcdef12-NAME` and
    `upload/3/abcdef12-NAME` -> NAME; `s3://BUCKET/FOLDER/NAME` and `https://HOST/FOLDER/NAME?...`
    -> FOLDER/NAME. Percent signs are decoded.
    """
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    stored = (query.get("d") or query.get("filepath") or [unquote(parts.path)])[-1]
    stored = stored.replace("\\", "/").lstrip("/")
    upload = UPLOAD.search(stored)
    return upload[1] if upload else stored


def latest(task, notes):
    """The submitted annotation of a task that was changed last, or None; several give a note."""
    submitted = [
        annotation
        for annotation in task.get("annotations") or task.get("completions") or ()
        if not (annotation.get("was_cancelled") or annotation.get("skipped"))
    ]
    if not submitted:
        return None
    if len(submitted) > 1:
        notes.append(f"was outlined {len(submitted)} times: the last one counts")

    def changed(annotation):
        return str(annotation.get("updated_at") or annotation.get("created_at") or "")

    return max(submitted, key=changed)


def label_studio_drawing(name, annotation, path, notes):
    """A Drawing, or None if the annotation has only regions without an area."""
    labels, parts, sizes, left_out = {}, {}, set(), []
    for number, result in enumerate(annotation["result"]):
        value = result.get("value") or {}
        region = result.get("id", number)  # one region can have a result for its shape and labels
        for key, names in value.items():
            if key.endswith("labels") and isinstance(names, list):
                labels.setdefault(region, []).extend(names)
        part = label_studio_part(value)
        if part is not None:
            if result.get("image_rotation"):
                raise ValueError("it was turned in the tool; turn it back there")
            size = as_size(result.get("original_height"), result.get("original_width"))
            if size is None:
                raise ValueError("a region does not say how large the image is")
            sizes.add(size)
            parts[region] = part
        elif "x" in value or "points" in value or "vertices" in value:
            left_out.append(result.get("type"))
    if len(sizes) > 1:
        raise ValueError(f"its regions are of images of different sizes, {sorted(sizes)}")
    shapes = [
        ("lesion" if any(map(is_lesion, labels.get(region) or ["lesion"])) else "skin", part)
        for region, part in parts.items()
    ]
    size = sizes.pop() if sizes else None
    return drawing_of(name, size, path, shapes, notes, left_out)


def label_studio_part(value):
    """A function of the size that fills a region, or None if it has no area."""
    if value.get("format") == "rle" or "rle" in value:
        return functools.partial(brush_mask, value["rle"])
    if "imageDataURL" in value:
        content = base64.b64decode(value["imageDataURL"].partition("base64,")[2])
        return functools.partial(png_mask, content)
    points = value.get("points")
    if isinstance(points, list) and len(points) >= 3 and value.get("closed", True):
        return functools.partial(fill_percent, points)
    return None


def fill_percent(points, size):
    """A polygon in percent of width and height -> bool H x W of `size`."""
    return fill(np.asarray(points, dtype=np.float64) * (size[1] / 100, size[0] / 100), size)


# CVAT -------------------------------------------------------------------------------------------

LARGEST = 256 << 20  # bytes of an entry of an archive, unpacked; a large picture has tens of MB
CVAT_PICTURE = re.compile(r"(?!__MACOSX)(.*/)?SegmentationClass/(.+)\.png$", re.IGNORECASE)


def read_entry(archive, name):
    """The bytes of an entry of a ZipFile. ValueError if they are more than LARGEST."""
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise ValueError(f"{name} has {size >> 20} MB unpacked, more than {LARGEST >> 20}")
    with archive.open(name) as file:
        return file.read(max(1, size))  # without a number it unpacks all, whatever the size says


def read_cvat(_, path):
    """A zip archive "Segmentation mask 1.1" of CVAT -> Outlines."""
    found = Outlines(CVAT, [], [], [])
    with zipfile.ZipFile(path) as archive:
        entries = archive.namelist()
        pictures = {m[2]: m[0] for m in map(CVAT_PICTURE.match, entries) if m}
        maps = [entry for entry in entries if PurePosixPath(entry).name == "labelmap.txt"]
        labels = label_map(read_entry(archive, maps[0]).decode("utf-8-sig")) if maps else None
        listed = []
        for entry in entries:
            if "ImageSets/" in entry and entry.endswith(".txt"):
                listed += read_entry(archive, entry).decode("utf-8-sig").splitlines()
        for name, entry in pictures.items():
            with archive.open(entry) as file, described(path, name), Image.open(file) as picture:
                size = (picture.height, picture.width)
            paint = functools.partial(cvat_part, path, entry, labels)
            found.drawings.append(Drawing(name, size, path, paint))
    names = [line.strip().strip('"') for line in listed]
    found.missing.extend(name for name in dict.fromkeys(names) if name and name not in pictures)
    return found


def label_map(text):
    """The lines `name:r,g,b:parts:actions` of labelmap.txt -> list of (name, (r, g, b))."""
    labels = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            label, colour, _, _ = line.strip().rsplit(":", 3)
            labels.append((label, tuple(int(value) for value in colour.split(","))))
    return labels


def cvat_part(path, entry, labels, size):
    """One picture of the archive -> bool H x W: the colours of all labels that mean lesion.

    Black means background if no label has it. Without labelmap.txt everything else is lesion. A
    picture of one channel can hold the numbers of the labels in place of their colours.
    """
    with zipfile.ZipFile(path) as archive:
        content = read_entry(archive, entry)
    with Image.open(io.BytesIO(content)) as picture:
        values = np.asarray(picture.convert("RGB"))
        numbers = np.asarray(picture) if picture.mode in ("L", "1") else None
    if values.shape[:2] != size:
        raise ValueError(f"its picture is {values.shape[0]}x{values.shape[1]}")
    if labels is None:
        return values.any(axis=-1)
    known = [(np.array(colour), label) for label, colour in labels]
    if numbers is not None and numbers.max() < len(labels):
        values, known = numbers[..., None], [(i, label) for i, (label, _) in enumerate(labels)]
    elif all(np.any(colour) for colour, _ in known):
        known.append((np.zeros(3, int), "background"))
    rest, lesion = np.ones(size, dtype=bool), np.zeros(size, dtype=bool)
    for value, label in known:
        here = (values == value).all(axis=-1)
        rest &= ~here
        if is_lesion(label):
            lesion |= here
    if rest.any():
        raise ValueError(f"{rest.sum()} pixels have a colour that is not in labelmap.txt")
    return lesion


READERS = {
    LABELME: read_labelme,
    COCO: read_coco,
    LABEL_STUDIO: read_label_studio,
    CVAT: read_cvat,
}
