"""Write drafts of masks into files that annotation tools open, for a person to correct.

| tool | file | what it holds |
|---|---|---|
| LabelMe | a folder of JSON files | polygons, whose corners can be moved |
| COCO | one JSON file | run lengths: exact |
| Label Studio | tasks.json and config.xml | brush strokes: exact, painted on or erased |
| CVAT | zip "Segmentation mask 1.1" | pictures: exact, painted on or erased, or made polygons |

LabelMe could hold exact masks as well, but cannot change them. Its polygons may therefore differ
from the mask by `tolerance` pixels, so that they have tens of corners instead of thousands; on 12
ISIC masks at camera resolution a tolerance of 1 leaves 14 to 209 corners at a Dice of 99.9 % or
more. With a tolerance of 0 formats.py reads exactly the mask. A hole is joined to the outline by a
cut of no width.

Without masks, `write_label_studio` and `write_coco` list the images to be outlined.

The drafts are an iterable and only one of their masks is held at a time. Each file or folder gets
its name only when it is complete.
"""

import contextlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from segmentation.common.runfiles import UserError, atomic, write_text
from segmentation.data.polygons import outlines
from segmentation.data.runlengths import brush_bytes, coco_counts, counts_to_text

LABEL = "lesion"
LOCAL_FILES = "/data/local-files/?d="  # how Label Studio addresses files of its own disk
FROM_NAME, TO_NAME = "lesion_mask", "image"
MODEL = "SAAL"  # whose predictions drafts are
CONFIG = f"""<View>
  <Image name="{TO_NAME}" value="$image" zoom="true"/>
  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">
    <Label value="{LABEL}" background="rgba(255, 0, 0, 0.7)"/>
  </BrushLabels>
</View>
"""
COLOURS = {"SegmentationClass": (250, 50, 83), "SegmentationObject": (128, 0, 0)}
CLASS_COLOUR = ",".join(map(str, COLOURS["SegmentationClass"]))
LABELMAP = f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{LABEL}:{CLASS_COLOUR}::\n"


class Draft(NamedTuple):
    """An image and a draft of its mask; for LabelMe and CVAT there must be one."""

    name: str  # of the image file, with its folders if any, divided by /
    size: tuple  # (height, width)
    mask: np.ndarray | None = None  # bool H x W


def checked(drafts):
    """Yield the drafts; ValueError if a mask does not have the size of its image."""
    for draft in drafts:
        if draft.mask is not None and draft.mask.shape != tuple(draft.size):
            raise ValueError(f"{draft.name}: a mask of {draft.mask.shape}, not of {draft.size}")
        yield draft


def stems(drafts, path):
    """Yield the drafts with their names without the extension.

    UserError: two have the same, or one leads out of the folder.
    """
    seen = {}
    for draft in checked(drafts):
        name = PurePosixPath(draft.name)
        if name.is_absolute() or ".." in name.parts or not name.name:
            raise UserError(f"{draft.name}: leads out of the folder; give names below one folder")
        stem = str(name.with_suffix(""))
        if stem in seen:
            raise UserError(
                f"{path}: {draft.name} and {seen[stem]} differ only in their extension; rename one"
            )
        seen[stem] = draft.name
        yield stem, draft


# LabelMe ----------------------------------------------------------------------------------------


def write_labelme(folder, drafts, images=None, tolerance=1.0):
    """Write a JSON file for each draft, NAME.json, into a new folder.

    `images` is the folder of the images, by default `folder` itself: copy the files there then. In
    LabelMe open the folder of images, and with "Change Output Dir" the one of these files, or
    start it as `labelme IMAGES --output FOLDER` (this finds images in subfolders by their last
    name only). `tolerance` in pixels: see above. UserError if the folder exists and is not empty,
    and as in `stems`.
    """
    folder = Path(folder)
    with new_folder(folder) as temporary:
        for stem, draft in stems(drafts, folder):
            place = temporary / f"{stem}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            home = (folder / stem).parent  # where the file will lie
            image = os.path.relpath(Path(images or folder) / draft.name, home)
            shapes = [
                {
                    "label": LABEL,
                    "points": points.tolist(),
                    "group_id": None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
                for points in outlines(draft.mask, tolerance)
            ]
            content = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": Path(image).as_posix(),
                "imageData": None,
                "imageHeight": draft.size[0],
                "imageWidth": draft.size[1],
            }
            place.write_text(json.dumps(content, indent=2), encoding="utf-8")


@contextlib.contextmanager
def new_folder(folder):
    """Yield a temporary folder beside `folder`: it gets that name on success, else is deleted.

    UserError if `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; remove it or give another folder")
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# COCO -------------------------------------------------------------------------------------------


def write_coco(path, drafts):
    """Write one JSON file of all images, and an annotation for each that has a mask.

    An empty mask gets an annotation of no pixels. Each is written as compressed run lengths.
    """
    images = []
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        first = True
        for number, (name, size, mask) in enumerate(checked(drafts), start=1):
            height, width = (int(side) for side in size)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            if mask is not None:
                file.write("\n" if first else ",\n")
                file.write(json.dumps(coco_annotation(number, mask)))
                first = False
        categories = [{"id": 1, "name": LABEL, "supercategory": ""}]
        file.write(f'],\n"images": {json.dumps(images)},\n')
        file.write(f'"categories": {json.dumps(categories)},\n"info": {{}}, "licenses": []}}\n')


def coco_annotation(number, mask):
    """The annotation of image `number`, which has the same number."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = [0, 0, 0, 0]
    if len(rows):
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    counts = counts_to_text(coco_counts(mask))
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "segmentation": {"size": list(mask.shape), "counts": counts},
        "area": int(np.count_nonzero(mask)),
        "bbox": [int(value) for value in box],
        "iscrowd": 0,
    }


# Label Studio -----------------------------------------------------------------------------------


def write_label_studio(folder, drafts):
    """Write tasks.json, to be imported, and config.xml, the labelling set-up that belongs to it.

    The folder of the images is Label Studio's LOCAL_FILES_DOCUMENT_ROOT. Drafts appear as
    predictions; a person's submitted annotation starts from a copy of one.
    """
    folder = Path(folder)
    with atomic(folder / "tasks.json") as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, draft in enumerate(checked(drafts)):
            task: dict = {"data": {"image": LOCAL_FILES + quote(draft.name)}}
            if draft.mask is not None:
                task["predictions"] = [{"model_version": MODEL, "result": brush_result(draft.mask)}]
            file.write((",\n" if number else "\n") + json.dumps(task, separators=(",", ":")))
        file.write("\n]\n")
    write_text(folder / "config.xml", CONFIG)


def brush_result(mask):
    """The list of regions of a mask: one brush stroke, or none if it is empty."""
    if not mask.any():
        return []
    return [
        {
            "id": "draft",
            "type": "brushlabels",
            "from_name": FROM_NAME,
            "to_name": TO_NAME,
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_bytes(mask), "brushlabels": [LABEL]},
        }
    ]


# CVAT -------------------------------------------------------------------------------------------


def write_cvat(path, drafts):
    """Write a zip archive for "Upload annotations" of a task with the label `lesion`.

    All images must be in the task. The same drafts give the same bytes. UserError as in `stems`.
    """
    names = []
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:

        def add(name, content):
            entry = zipfile.ZipInfo(name)  # dated 1980, not now
            entry.external_attr = 0o644 << 16  # may be read once it is unpacked
            archive.writestr(entry, content)

        add("labelmap.txt", LABELMAP)
        for stem, draft in stems(drafts, path):
            names.append(stem)
            for folder, colour in COLOURS.items():
                add(f"{folder}/{stem}.png", png(draft.mask, colour))
        add("ImageSets/Segmentation/default.txt", "".join(f"{n}\n" for n in names))


def png(mask, colour):
    """A PNG in RGB, as bytes: `colour` where the mask is true, else black."""
    file = io.BytesIO()
    values = np.asarray(mask, dtype=np.uint8)[..., None] * np.array(colour, dtype=np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


# All of them ------------------------------------------------------------------------------------

KINDS = {  # as --drafts names them -> the name of what is written, and how
    "labelme": ("labelme", write_labelme),
    "coco": ("coco.json", lambda path, drafts, _: write_coco(path, drafts)),
    "label-studio": ("label_studio", lambda path, drafts, _: write_label_studio(path, drafts)),
    "cvat": ("cvat.zip", lambda path, drafts, _: write_cvat(path, drafts)),
}


def write_drafts(folder, kinds, drafts, images):
    """Write drafts of these KINDS to `folder`; returns the paths that were there already.

    Those stay as they are: a person may have worked on them. `drafts` is a function that gives an
    iterable of Draft, `images` the folder of the images. UserError as in `stems`.
    """
    old = []
    for kind in kinds:
        name, write = KINDS[kind]
        if (folder / name).exists():
            old.append(folder / name)
        else:
            write(folder / name, drafts(), images)
    return old
