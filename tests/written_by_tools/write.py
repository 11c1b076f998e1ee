"""Write the files in this folder with the libraries of the annotation tools themselves.

    pip install labelme==6.3.1 label-studio-sdk==2.1.2 datumaro==1.13.12
    QT_QPA_PLATFORM=offscreen python -m tests.written_by_tools.write

These libraries bring Qt, or need older versions of NumPy, OpenCV and Pillow, so that they are not
among the requirements of the tests: the files were written once, with the versions above, and are
kept. Where the libraries are installed, test_drafts.py also lets them read what the project writes.
"""

import json
import shutil
import tempfile
from pathlib import Path

import datumaro
import numpy as np
from datumaro.components.annotation import (
    AnnotationType,
    LabelCategories,
    Mask,
    MaskCategories,
)
from datumaro.components.media import Image as Media
from label_studio_sdk.converter import brush
from labelme._label_file import write_label_file
from labelme.utils import img_arr_to_b64, shapes_to_label

from tests.helpers_outlines import random_blob, special_masks, star

HERE = Path(__file__).parent
SIZE = (37, 52)


def shape(kind, points, label="nevus", mask=None):
    """A shape as LabelMe's window stores it."""
    return {
        "label": label,
        "points": np.asarray(points, dtype=float).tolist(),
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None if mask is None else img_arr_to_b64(mask.astype(np.uint8)),
    }


def labelme(truth):
    """One file per kind of shape, with the mask that LabelMe makes of it."""
    part = random_blob(3, (12, 20))
    shapes = {
        "polygon": [shape("polygon", star(1, SIZE))],
        "rectangle": [shape("rectangle", [[30.4, 20.2], [7.1, 5.7]])],
        "circle": [shape("circle", [[25.3, 18.8], [33.1, 25.0]])],
        "oriented_rectangle": [shape("oriented_rectangle", [[10, 5], [40, 15], [36, 27], [6, 17]])],
        "mask": [shape("mask", [[9, 4], [28, 15]], mask=part)],
        "several": [
            shape("mask", [[9, 4], [28, 15]], mask=part),
            shape("polygon", star(2, SIZE) / 2 + [20, 15]),
            shape("rectangle", [[0, 0], [51, 36]], label="_background_"),
            shape("point", [[3, 3]]),
            shape("line", [[3, 3], [30, 30]]),
        ],
        "nothing": [],
        "only_points": [shape("point", [[3, 3]]), shape("linestrip", [[3, 3], [9, 9], [9, 3]])],
    }
    for name, items in shapes.items():
        write_label_file(
            str(HERE / f"labelme_{name}.json"),
            shapes=items,
            image_path=f"../photos/{name}.jpg",
            image_height=SIZE[0],
            image_width=SIZE[1],
        )
        lesion = [
            {**item, "mask": part if item["shape_type"] == "mask" else None}
            for item in items
            if item["label"] == "nevus" and "point" not in item["shape_type"]
            if "line" not in item["shape_type"]
        ]
        truth[f"labelme_{name}"] = shapes_to_label(SIZE, lesion, {"nevus": 1})[0] > 0


def packed(values, rng):
    """Values packed as the browser packs them, with lists besides runs, as a list of bytes."""
    sizes = (3, 4, 8, 16)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    place = 0
    while place < len(values):
        same = 1
        while place + same < len(values) and values[place + same] == values[place]:
            same += 1
        run = same > 1
        choice = int(rng.integers(4))
        length = min(2 ** sizes[choice], same if run else int(rng.integers(1, 12)))
        length = min(length, len(values) - place)
        bits += f"{run:b}{choice:02b}{length - 1:0{sizes[choice]}b}"
        for value in values[place : place + (1 if run else length)]:
            bits += f"{value:08b}"
        place += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def label_studio(truth):
    """Brush strokes from label-studio-sdk, and strokes with soft edges that it reads."""
    strokes = {}
    for name, mask in {**special_masks(), "blob": random_blob(5)}.items():
        strokes[name] = brush.mask2rle(mask.astype(np.uint8) * 255)
        truth[f"label_studio_{name}"] = mask
    rng = np.random.default_rng(0)
    for number in range(4):
        alpha = np.where(random_blob(number), 255, 0)
        soft = rng.random(SIZE) < 0.2
        alpha[soft] = rng.integers(0, 256, soft.sum())
        content = packed(np.repeat(alpha, 4), rng)
        read = brush.decode_rle(content).reshape(*SIZE, 4)[..., 3]
        assert np.array_equal(read, alpha)
        strokes[f"soft{number}"] = content
        truth[f"label_studio_soft{number}"] = read >= read.max() / 2
    (HERE / "label_studio_brush.json").write_text(json.dumps(strokes, separators=(",", ":")))


def cvat(truth):
    """The archive of CVAT, which writes it with Datumaro's exporter voc_segmentation."""
    labels, colours = LabelCategories(), MaskCategories()
    for number, (name, colour) in enumerate(
        {"background": (0, 0, 0), "lesion": (250, 50, 83), "skin": (0, 128, 0)}.items()
    ):
        labels.add(name)
        colours.colormap[number] = colour
    items = []
    masks = {"deep/blob": random_blob(7), "two words": random_blob(8), "ring": None}
    masks["ring"] = special_masks()["ring"]
    for number, (name, mask) in enumerate(masks.items()):
        skin = random_blob(50 + number) & ~mask
        items.append(
            datumaro.DatasetItem(
                name,
                subset="default",
                media=Media.from_numpy(np.zeros((*SIZE, 3), np.uint8)),
                annotations=[
                    Mask(mask, label=1, group=1, z_order=1),
                    Mask(skin, label=2, group=2),
                ],
            )
        )
        truth[f"cvat_{name}"] = mask
    dataset = datumaro.Dataset.from_iterable(
        items, categories={AnnotationType.label: labels, AnnotationType.mask: colours}
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset.export(folder, "voc_segmentation", save_media=False, label_map="source")
        shutil.make_archive(str(HERE / "cvat"), "zip", folder)


if __name__ == "__main__":
    truth = {}
    labelme(truth)
    label_studio(truth)
    cvat(truth)
    np.savez_compressed(HERE / "truth.npz", **truth)
