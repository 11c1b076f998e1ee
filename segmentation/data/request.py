"""Write the images that a person is asked to outline: copies, a list and a sheet of small pictures.

Copies have names that fit into one folder (ids.flat_name), by which preprocess.py finds the outline
of each. A file that annotation tools may not read, or would show turned, is copied as PNG.
"""

import shutil

import numpy as np

from segmentation.common import pictures
from segmentation.common.runfiles import atomic, write_csv
from segmentation.data.ids import flat_name
from segmentation.data.photos import read_photo

READ_BY_TOOLS = {".jpg", ".jpeg", ".png", ".bmp"}
SIDE = 160  # pixels of the small pictures


def copy_image(path, name, folder):
    """Copy an image into `folder` under the flat name of its id: (path of the copy, RGB array)."""
    photo = read_photo(path)
    as_it_is = path.suffix.lower() in READ_BY_TOOLS and not photo.notes
    copy = folder / f"{flat_name(name)}{path.suffix.lower() if as_it_is else '.png'}"
    with atomic(copy) as temporary:
        if as_it_is:
            shutil.copyfile(path, temporary)
        else:
            photo.picture.save(temporary, format="PNG")
    return copy, np.asarray(photo.picture)


def small(image):
    """uint8 H x W x 3 -> SIDE x SIDE x 3: the whole image, with white beside or below it."""
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = pictures.thumbnail(image, *size)
    return canvas


def write_request(folder, rows, path_of, title):
    """Write images/, list.csv and sheet.png to `folder`; returns the copies, in the order of rows.

    `rows` are dicts with `id`, `purpose` and what else the list says of an image; `path_of` maps an
    id to its file. list.csv gets a number and the name of the copy in front.
    """
    copies, shown, listed = [], [], []
    for number, row in enumerate(rows, start=1):
        copy, image = copy_image(path_of(row["id"]), row["id"], folder / "images")
        copies.append(copy)
        shown.append(small(image))
        listed.append({"number": number, "file": copy.name, **row})
    write_csv(folder / "list.csv", listed)
    captions = [f"{row['number']}  {row['file']}\n{row['purpose']}" for row in listed]
    pictures.contact_sheet(folder / "sheet.png", np.stack(shown), captions, title)
    return copies
