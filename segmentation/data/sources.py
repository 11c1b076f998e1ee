"""Find image and mask files in folders and pair them by id."""

import re
from pathlib import Path
from typing import NamedTuple

from segmentation.common.runfiles import UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp"}
MASK_ENDING = re.compile(r"_(segmentation|mask)$", re.IGNORECASE)


class Source(NamedTuple):
    """An image file, its mask file if any, and whether it belongs to the official test set."""

    id: str
    image: Path
    mask: Path | None
    is_test: bool = False


def picture_files(folder):
    """The picture files in `folder`, sorted by name; UserError if the folder does not exist."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder with the image or mask files")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS
        and not path.name.startswith(".")
        and not path.stem.lower().endswith("_superpixels")
        and path.is_file()
    )


def by_id(paths, id_of):
    """Dict id -> path; UserError if two files have the same id."""
    found = {}
    for path in paths:
        first = found.setdefault(id_of(path), path)
        if first is not path:
            raise UserError(
                f"{path}: has the same id as {first.name} ({id_of(path)}); rename or remove one"
            )
    return found


def pair(image_folder, mask_folder=None, is_test=False):
    """Sources of a folder of images and one of masks, and the ids of masks without an image.

    UserError: missing folder, no images, two files with the same id, or no mask fits an image.
    """
    images = by_id(picture_files(image_folder), lambda path: path.stem)
    if not images:
        raise UserError(f"{image_folder}: has no .jpg, .jpeg, .png or .bmp; give another folder")
    masks = {}
    if mask_folder is not None:
        if mask_folder.resolve() == image_folder.resolve():
            raise UserError(f"{mask_folder}: holds images and masks; move the masks elsewhere")

        def owner(path):
            return path.stem if path.stem in images else MASK_ENDING.sub("", path.stem)

        masks = by_id(picture_files(mask_folder), owner)
        if not masks.keys() & images.keys():
            raise UserError(
                f"{mask_folder}: has no mask for any image in {image_folder}; "
                "name masks after their images, such as ID_segmentation.png for ID.jpg"
            )
    sources = [Source(name, path, masks.get(name), is_test) for name, path in images.items()]
    return sources, sorted(masks.keys() - images.keys())


def subfolders(folder):
    """The folders in `folder` that are not hidden, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def find_folders(root):
    """The image folder and the mask folder (or None) at most two levels below `root`.

    UserError unless exactly one image folder and at most one mask folder have pictures in them.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one with images and masks")
    near = subfolders(root)
    below = near + [inner for folder in near for inner in subfolders(folder)]

    def search(what, name, endings):
        hits = [f for f in below if f.name.lower() == name or f.name.lower().endswith(endings)]
        hits = [folder for folder in hits if picture_files(folder)]
        if len(hits) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in hits)
            raise UserError(
                f"{root}: has {len(hits)} {what} folders ({names}); give --images and --masks"
            )
        return hits[0] if hits else None

    images = search("image", "images", ("_data", "_input"))
    if images is None:
        raise UserError(f"{root}: has no folder images/ or *_Data with pictures; give --images")
    return images, search("mask", "masks", ("_groundtruth",))


def list_inputs(sources, strays):
    """Role, name, size and modification time of each file, to detect changes without reading it."""
    files = []
    for source in sources:
        for role, path in (("images", source.image), ("masks", source.mask)):
            if path is not None:
                info = path.stat()
                role = f"test-{role}" if source.is_test else role
                files.append([f"{role}/{path.name}", info.st_size, info.st_mtime_ns])
    return {"files": sorted(files), "masks_without_image": strays}
