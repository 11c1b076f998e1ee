"""Find image and mask files in folders and pair them by id.

Folders are searched through all their sub-folders. segmentation/data/ids.py makes the ids.
"""

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segmentation.common.runfiles import UserError, sha256_file
from segmentation.data import accounting
from segmentation.data.accounting import Line, Problem, refuse
from segmentation.data.formats import Drawing, kind_of, read
from segmentation.data.ids import bare, flat_name, id_of, plain, shown

DRAWN = (".json", ".zip")  # of annotation tools, in mask folders
EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".heic", ".heif"),  # telephones
)
IMAGES = ("images", ("_data", "_input"))  # the name of a folder, and endings of those of ISIC
MASKS = ("masks", ("_groundtruth",))
NO_MASK, MASK_LIKE = "no mask", "named like the mask of"  # notes in files.csv
NO_FOLDER = "no such folder; give the folder with the image or mask files"
MASK_ENDING = re.compile(r"_(segmentation|mask)$", re.IGNORECASE)


class Source(NamedTuple):
    """An image file, its mask file if any, and what is known of it before it is read."""

    id: str
    image: Path
    mask: Path | None
    image_name: str  # the path below the image folder, with /
    mask_name: str | None  # the same of the mask; of one drawing in a file: FILE#IMAGE
    is_test: bool = False  # of an official test set
    group: str | None = None  # of images that stay on one side of the split
    drawing: Drawing | None = None  # where the mask is not a picture, see formats.py
    copy_of: str | None = None  # the id of the image that this is a near copy of, nearcopies.py

    @property
    def image_file(self):
        """The image in files.csv and inputs.json: images/NAME or test-images/NAME."""
        return file_label("images", self.image_name, self.is_test)

    @property
    def mask_file(self):
        """The mask there, or None."""
        return self.mask_name and file_label("masks", self.mask_name, self.is_test)


class Found(NamedTuple):
    """What lies in an image folder and its mask folder."""

    sources: list  # of Source, sorted by id
    strays: list  # ids of masks without an image, sorted
    lines: list  # of accounting.Line, one per file
    problems: list  # of accounting.Problem: masks that fit several images or share one

    def __add__(self, other):
        """Both together."""
        both = [sorted([*mine, *yours]) for mine, yours in zip(self, other, strict=True)]
        return Found(*both)


def file_label(kind, name, is_test):
    """How files.csv and inputs.json call a file; `kind` is images or masks."""
    return f"{'test-' if is_test else ''}{kind}/{shown(name)}"


# Files ------------------------------------------------------------------------------------------


def walk(folder, leave_out=()):
    """Every file below `folder`: pairs (path, name below it with `/`), sorted by name.

    Links to folders are followed; one that leads back to a folder above it counts as a file. The
    folders in `leave_out` are not entered. UserError if `folder` does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {NO_FOLDER}")
    leave_out = {other.resolve() for other in leave_out}

    def below(place, prefix, above):
        for path in sorted(place.iterdir()):
            here = path.resolve() if path.is_dir() else None
            if here is None or here in above:
                yield path, prefix + path.name
            elif here not in leave_out:
                yield from below(path, f"{prefix}{path.name}/", above | {here})

    return list(below(folder, "", {folder.resolve()}))


def why_skipped(path, name, of_masks=False):
    """Why the file `path`, called `name` below its folder, is no image (or mask); "" if it is."""
    *folders, _ = name.split("/")
    if any("\ud800" <= sign <= "\udfff" for sign in name):  # how Python reads other bytes
        return f"{accounting.BAD_NAME} (rename it)"
    if any(part.startswith(".") for part in name.split("/")):
        return accounting.HIDDEN
    if not of_masks and any(part.lower() == MASKS[0] for part in folders):
        return f"{accounting.MASK_FOLDER} (inside the image folder; give it as --masks to use it)"
    if path.is_dir():
        return f"{accounting.BROKEN} (a link to a folder above it)"
    if not path.is_file():
        return f"{accounting.BROKEN} (a link that leads nowhere, or a device)"
    if of_masks and path.suffix.lower() in DRAWN:
        return ""
    if path.suffix.lower() not in EXTENSIONS:
        return f"{accounting.NO_PICTURE} ({shown(path.suffix) or 'no ending'})"
    return accounting.SUPERPIXELS if path.stem.lower().endswith("_superpixels") else ""


def pictures(folder, leave_out=(), of_masks=False):
    """The picture files below `folder` as a dict name -> path, and a dict name -> why not one."""
    good, skipped = {}, {}
    for path, name in walk(folder, leave_out):
        reason = why_skipped(path, name, of_masks)
        if reason:
            skipped[name] = reason
        else:
            good[name] = path
    return good, skipped


def picture_files(folder):
    """The picture files in `folder` itself, sorted by name; UserError if it does not exist."""
    if not folder.is_dir():
        raise UserError(f"{folder}: {NO_FOLDER}")
    files = sorted(path for path in folder.iterdir() if not path.is_dir())
    return [path for path in files if not why_skipped(path, path.name)]


# Pairs ------------------------------------------------------------------------------------------


def by_id(names, where):
    """Dict id -> file name. UserError names all files of one id; `where` says in which folder."""
    owners = defaultdict(list)
    for name in names:
        owners[id_of(name)].append(name)
    twins = [files for files in owners.values() if len(files) > 1]
    if twins:
        refuse(
            "ids belong to several images",
            [
                f"{shown(str(where / files[-1]))}: has the same id as "
                f"{' and '.join(map(shown, files[:-1]))} ({id_of(files[0])}); rename or remove one"
                for files in twins
            ],
        )
    return {owner: names[0] for owner, names in owners.items()}


def owners_of(ids):
    """Function: name of a mask without ending -> the set of ids of images that it fits.

    In this order, with the ending _segmentation or _mask or without: the id itself; the flat name
    of an id; the name of an image without its folders, which fits all images of that name. A tool
    may put folders of its own before the name: they are left out, one by one, if nothing fits with
    them. Folders of the images are none of a tool's: what names one fits only images below it, so
    that a mask of one patient's image that is not there fits none of another's. A flat name that
    has the folders of its image fits it anywhere.
    """
    flat = {flat_name(name): name for name in ids}
    short, folders = defaultdict(set), {"."}
    for name in ids:
        short[bare(name)].add(name)
        folders.update(map(str, PurePosixPath(name).parents))

    def owners(stem):
        while True:
            folder = str(PurePosixPath(stem).parent)
            for name in dict.fromkeys((stem, MASK_ENDING.sub("", stem))):
                own = flat.get(bare(name), "")
                fits = {found for found in (name if name in ids else None, flat.get(name)) if found}
                fits |= {own} if "/" in own else set()
                if not fits and folder in folders:
                    below = "" if folder == "." else f"{folder}/"
                    fits = {found for found in short[bare(name)] if found.startswith(below)}
                if fits:
                    return fits
            if folder in folders:
                return set()
            stem = stem.partition("/")[2]

    return owners


class Outline(NamedTuple):
    """A mask before it is paired."""

    stem: str  # `plain` name of the mask without ending, by which its image is found
    name: str  # of the file, below the mask folder; of one drawing in a file: FILE#IMAGE
    path: Path
    drawing: Drawing | None = None  # where the mask is not a picture


def outlines(names, is_test):
    """The masks in the files `names` (dict name -> path) of a mask folder: (list of Outline, list
    of Line about files without a mask, list of Problem about files that cannot be read).

    A picture is one mask; a file of an annotation tool can hold many.
    """
    found, lines, problems = [], [], []
    for name, path in names.items():
        if path.suffix.lower() not in DRAWN:
            found.append(Outline(id_of(name), name, path))
            continue
        label = file_label("masks", name, is_test)
        try:
            if kind_of(path) is None:
                lines.append(Line(label, "skipped", "", f"{accounting.NO_PICTURE} ({path.suffix})"))
                continue
            content = read(path)
        except UserError as error:
            reason = accounting.reason_of(error, path)
            problems.append(Problem(label, shown(str(path)), "", reason))
            continue
        for drawing in content.drawings:
            stem = plain(drawing.name)
            stem = id_of(stem) if PurePosixPath(stem).suffix.lower() in EXTENSIONS else stem
            if "/" not in stem:  # LabelMe writes the name alone of an image beside its file
                stem = str(PurePosixPath(plain(name)).parent / stem)
            found.append(Outline(stem, f"{name}#{drawing.name}", path, drawing))
        notes = [f"not outlined: {image}" for image in content.missing] + content.notes
        if notes or not content.drawings:
            text = "; ".join(notes) or "holds no outline"
            lines.append(Line(label, "skipped", "", f"{content.kind} file, {text}"))
    return found, lines, problems


def survey(image_folder, mask_folder=None, is_test=False, leave_out=()):
    """Found: the images, their masks, and what became of every file in both folders.

    `leave_out` are folders inside them that belong to something else. UserError: missing folder, no
    images, several files with the same id, or no mask fits an image.
    """
    others = [*leave_out, *([mask_folder] if mask_folder else [])]
    images, skipped = pictures(image_folder, others)
    if not images:
        raise UserError(
            f"{image_folder}: has no {', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}; "
            "give another folder"
        )
    files = by_id(images, image_folder)
    masks, strays, lines, problems = {}, {}, [], []
    if mask_folder is not None:
        if mask_folder.resolve() == image_folder.resolve():
            raise UserError(f"{mask_folder}: holds images and masks; move the masks elsewhere")
        found, no_masks = pictures(mask_folder, [*leave_out, image_folder], of_masks=True)
        drawn, drawn_lines, bad_files = outlines(found, is_test)
        masks, strays, problems = assign(drawn, files, is_test)
        problems = bad_files + problems
        if not masks and not problems:
            raise UserError(
                f"{mask_folder}: has no mask for any image in {image_folder}; "
                "name masks after their images, such as ID_segmentation.png for ID.jpg"
            )
        lines += [
            *drawn_lines,
            *(skipped_line("masks", name, no_masks[name], is_test) for name in no_masks),
            *(mask_line(outline, "mask", name, is_test) for name, outline in masks.items()),
            *(mask_line(o, "mask without image", name, is_test) for o, name in strays.items()),
            *(Line(bad.file, "skipped", bad.id, bad.reason) for bad in problems),
        ]
    sources = []
    for name, file in files.items():
        mask = masks.get(name)
        more = (mask.path, file, mask.name) if mask else (None, file, None)
        drawing = mask.drawing if mask else None
        sources.append(Source(name, images[file], *more, is_test, drawing=drawing))
    lines += [skipped_line("images", name, skipped[name], is_test) for name in skipped]
    names = {bare(name) for name in files}
    lines += [image_line(source, names) for source in sources]
    return Found(sorted(sources), sorted(set(strays.values())), lines, problems)


def assign(outlines, ids, is_test):
    """Pair masks with ids: (dict id -> Outline, dict stray Outline -> id, list of Problem)."""
    owners, masks, strays, problems = owners_of(ids), defaultdict(list), {}, []

    def problem(name, reason, *several):
        place = shown(str(several[0].path))
        for outline in several:
            label = file_label("masks", outline.name, is_test)
            problems.append(Problem(label, place, name, reason))

    for outline in outlines:
        fits = sorted(owners(outline.stem))
        if len(fits) > 1:
            of = f"could be the mask of {', '.join(fits[:3])}{', ...' if fits[3:] else ''}"
            fix = f"name it after one, such as {flat_name(fits[0])}.png"
            if outline.drawing:
                folder = next(name.rpartition("/")[0] for name in fits if "/" in name)
                fix = f"put the file into the folder of one, such as {folder}"
            problem("", f"{of}; {fix}", outline)
        elif fits:
            masks[fits[0]].append(outline)
        else:
            strays[outline] = MASK_ENDING.sub("", outline.stem)
    for name, several in masks.items():
        if len(several) > 1:
            files = ", ".join(shown(outline.name) for outline in several)
            reason = f"one of several masks of {name} ({files}); rename or remove all but one"
            problem(name, reason, *several)
    return {name: m[0] for name, m in masks.items() if len(m) == 1}, strays, problems


def skipped_line(kind, name, reason, is_test):
    """The Line of a file that is no picture."""
    return Line(file_label(kind, name, is_test), "skipped", "", reason)


def mask_line(outline, outcome, name, is_test):
    """The Line of a mask."""
    return Line(file_label("masks", outline.name, is_test), outcome, name, "")


def image_line(source, names):
    """The Line of an image; `names` are those of all images, without folders."""
    line = Line(source.image_file, "image", source.id, "" if source.mask else NO_MASK)
    of = mask_like(source.id, names)
    return accounting.add_note(line, f"{MASK_LIKE} {of}") if of else line


def mask_like(name, names):
    """Which of `names`, of images without folders, would have a mask with this id; None if none."""
    own = bare(name)
    of = MASK_ENDING.sub("", own)
    return of if of != own and of in names else None


# Folders ----------------------------------------------------------------------------------------


def find_folders(root):
    """The image folder and the mask folder (or None) of `root`.

    The image folder is called images and has pictures in it or in its sub-folders, or it is called
    *_Data or *_Input and has pictures in it; the same with masks and *_GroundTruth. Both lie at
    most two levels below `root`. If there is no such image folder, it is `root` itself. UserError
    if there is more than one of a kind, or no picture at all.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one with images and masks")

    def subfolders(folder):
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    near = subfolders(root)
    deep = [inner for folder in near for inner in subfolders(folder)]

    def search(what, below, called, endings):
        def fits(folder):
            name = folder.name.lower()
            if name == called:
                return bool(pictures(folder, of_masks=True)[0])
            return name.endswith(endings) and bool(picture_files(folder))

        hits = [folder for folder in below if fits(folder)]
        hits = [folder for folder in hits if folder.parent not in hits]
        if len(hits) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in hits)
            raise UserError(
                f"{root}: has {len(hits)} {what} folders ({names}); rename or move all but one, or "
                "call preprocess.py with --images and --masks"
            )
        return hits[0] if hits else None

    not_of_masks = [folder for folder in deep if folder.parent.name.lower() != MASKS[0]]
    images = search("image", near + not_of_masks, *IMAGES)
    masks = search("mask", near + deep, *MASKS)
    if images is None and not pictures(root, [masks] if masks else [])[0]:
        raise UserError(f"{root}: has no pictures, in it or below it; give another folder")
    return images or root, masks


def pair(image_folder, mask_folder=None, leave_out=()):
    """The sources of a folder of images and one of masks, and the ids of masks without an image.

    UserError as in `survey`, and for masks that fit several images or share one.
    """
    found = survey(image_folder, mask_folder, leave_out=leave_out)
    if found.problems:
        accounting.refuse_problems(found.problems)
    return found.sources, found.strays


def elsewhere(root, folders):
    """Names of the pictures below `root` that lie outside these folders."""
    if root.resolve() in {folder.resolve() for folder in folders}:
        return []
    try:
        return list(pictures(root, folders, of_masks=True)[0])
    except PermissionError:  # of a folder that is none of our business
        return []


# Changes ----------------------------------------------------------------------------------------


def list_inputs(sources, strays, **given):
    """Role, name, size and modification time of each file, to detect changes without reading it.

    `given` are hashes of what else decides what becomes of the files.
    """
    files = []
    for source in sources:
        for label, path in ((source.image_file, source.image), (source.mask_file, source.mask)):
            if path is not None:
                info = path.stat()
                files.append([label, info.st_size, info.st_mtime_ns])
    return {"files": sorted(files), "masks_without_image": strays, **given}


def source_hashes(sources):
    """Dict (id, "images" or "masks") -> sha256 of the file; None for an image without a mask."""
    return {
        (source.id, kind): path and sha256_file(path)
        for source in sources
        for kind, path in (("images", source.image), ("masks", source.mask))
    }
