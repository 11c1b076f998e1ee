"""Write, recognise, replace and verify a data folder.

Its files are `images.npy` (uint8 N x H x W x C), `masks.npy` (uint8 N x H x W in {0,1}, all zeros
for an image without a mask), `manifest.json`, `splits.json`, `inputs.json` (size and modification
time of each input file) and `files.csv` (what became of every file; not with --demo).
"""

import itertools
import math
import os
import shutil
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from segmentation.common import schemas
from segmentation.common.runfiles import UserError, read_json, sha256_file, write_json
from segmentation.common.schemas import read_checked
from segmentation.data.accounting import (
    kind_of,
    read_lines,
    refresh,
    refuse_problems,
    settle,
    write_lines,
)
from segmentation.data.copies import find_copies
from segmentation.data.datafolder import AGAIN, CHECKED, open_data
from segmentation.data.ids import shown
from segmentation.data.lists import few
from segmentation.data.photos import read_photo
from segmentation.data.reading import RESIZE
from segmentation.data.sources import Found, source_hashes
from segmentation.data.splitting import equal_groups, linked, make_splits, merge, originals

FILES = {"images.npy", "masks.npy", "manifest.json", "splits.json", "inputs.json", "files.csv"}
FILES |= {CHECKED}
OTHER_INPUTS = {  # entries of inputs.json beside the files
    "masks_without_image": "the masks without an image",
    "groups": "the groups of --group",
    "test_list": "the images of --test-list",
}


class Plan(NamedTuple):
    """What is known and decided before the images are read."""

    options: dict
    found: Found  # empty with --demo
    inputs: dict  # content of inputs.json
    is_test: dict  # id -> bool; used where the test set is given
    skip_bad: bool  # go on without files that cannot be used
    more: dict  # further entries of the manifest


def write_arrays(folder, prepared, count, size, channels):
    """Write images.npy and masks.npy row by row, without the images that are not readable.

    Return everything that was `prepared`, without the arrays.
    """
    room = count * size[0] * size[1] * (channels + 1)
    if shutil.disk_usage(folder).free < room + (1 << 20):
        raise UserError(f"{folder.parent}: arrays need {room >> 20} MiB of disk; free some space")
    images = new_array(folder / "images.npy", (count, *size, channels))
    masks = new_array(folder / "masks.npy", (count, *size))
    items, row = [], 0
    for item in tqdm(prepared, total=count, unit="image", disable=None):
        if item.image is not None:
            images[row], masks[row] = item.image, item.mask
            row += 1
        items.append(item._replace(image=None, mask=None))
    images.flush()
    masks.flush()
    del images, masks  # closes the files
    if row < count:
        cut_array(folder / "images.npy", (row, *size, channels))
        cut_array(folder / "masks.npy", (row, *size))
    return items


def new_array(path, shape):
    """A new .npy file of uint8, mapped into memory, whose room on the disk is taken beforehand.

    Without that a disk that fills up would end the process by SIGBUS.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        else:  # macOS
            file.seek(-array.nbytes, os.SEEK_END)
            for start in range(0, array.nbytes, 1 << 24):
                file.write(bytes(min(1 << 24, array.nbytes - start)))
    return array


def cut_array(path, shape):
    """Cut a .npy file of uint8 to `shape`, which has fewer rows: no copy, whatever its size."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)  # as long as before: NumPy leaves room
        file.truncate(file.tell() + math.prod(shape))


def fill(folder, name, plan, prepared, count):
    """Write all files of a data set into the existing, empty `folder`.

    UserError if files cannot be used, unless plan.skip_bad.
    """
    options, found, inputs = plan.options, plan.found, plan.inputs
    channels = 1 if options["gray"] else 3
    items = write_arrays(folder, prepared, count, options["size"], channels)
    problems = found.problems + [bad for item in items for bad in item.problems]
    if problems and not plan.skip_bad:
        refuse_problems(problems)
    rows = [item for item in items if item.record]
    if not rows:
        raise UserError(f"{problems[0].place}: {problems[0].reason}; no image is left without it")
    lines = settle(found.lines, [note for item in items for note in item.notes], problems)
    records = [row.record for row in rows]
    duplicates = equal_groups([record["id"] for record in records], [row.pixels for row in rows])
    copies = copies_of(folder, records, duplicates, found) if options.get("link_copies") else []
    mask_of = {row.record["id"]: row.mask_pixels for row in rows}
    differing = [group for group in duplicates if len({mask_of[i] for i in group} - {None}) > 1]
    skipped = [
        {"file": bad.file, "id": bad.id, "reason": bad.reason, "sha256": bad.sha256}
        for bad in sorted(problems)
    ]
    manifest = {
        "name": name,
        "synthetic": options["demo"] is not None,
        "size": options["size"],
        "channels": channels,
        "resize": RESIZE,
        "options": options,
        "rows": records,
        "duplicates": duplicates,
        "duplicates_with_different_masks": differing,
        **({"copies": copies} if options.get("link_copies") else {}),
        "masks_without_image": inputs["masks_without_image"],
        **plan.more,
        **({"skipped": skipped} if skipped else {}),
        "arrays": {file: sha256_file(folder / file) for file in ("images.npy", "masks.npy")},
    }
    same = merge(duplicates, copies)
    write_json(folder / "splits.json", make_splits(records, same, options, plan.is_test))
    write_json(folder / "inputs.json", inputs)
    write_lines(folder / "files.csv", lines)
    write_json(folder / "manifest.json", manifest)


def copies_of(folder, records, duplicates, found):
    """Pairs of ids of copies.find_copies, without those of one group of `duplicates`.

    Near copies, which were made on purpose, are not searched.
    """
    path = {source.id: source.image for source in found.sources}
    row_of = {record["id"]: row for row, record in enumerate(records)}
    ids = [record["id"] for record in originals(records)]
    arrays = np.load(folder / "images.npy", "r")
    images = [arrays[row_of[name]] for name in ids]
    known = {frozenset(pair) for group in duplicates for pair in itertools.combinations(group, 2)}

    def gray_of(place):
        return np.asarray(read_photo(path[ids[place]]).picture.convert("L"))

    pairs = ([ids[i], ids[j]] for i, j in find_copies(images, gray_of))
    return [pair for pair in pairs if frozenset(pair) not in known]


def aside(out, state):
    """The hidden folder beside `out` that is being filled (partial) or replaced (old)."""
    return out.with_name(f".{out.name}.{state}")


def put_back(out):
    """Give a data folder its name again if a call was killed while it replaced the folder."""
    if aside(out, "old").exists() and not out.exists():
        aside(out, "old").rename(out)


def build(out, *content):
    """Fill a temporary folder beside `out` and rename it to `out` once complete.

    What an interrupted call has left there is removed. An existing `out` is replaced.
    """
    temporary, old = aside(out, "partial"), aside(out, "old")
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary, out.name, *content)
        if out.exists():
            out.rename(old)
        temporary.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def first_difference(old, new):
    """The first key, in sorted order, whose value differs between two dicts, or None."""
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), None)


def recorded_hashes(manifest):
    """Dict (id, "images" or "masks") -> sha256 of the file, as sources.source_hashes finds them."""
    known = {}
    for row in originals(manifest["rows"]):
        known[row["id"], "images"], known[row["id"], "masks"] = (
            row["image_sha256"],
            row["mask_sha256"],
        )
    for bad in manifest.get("skipped", ()):
        if bad["sha256"]:
            known[bad["id"], kind_of(bad["file"])] = bad["sha256"]
    return known


def changed_input(out, manifest, inputs, sources):
    """Name of an input file that has changed since `out` was made, or None.

    Sizes and modification times are compared; if only times differ (as in a copy), contents are.
    """
    old = read_json(out / "inputs.json", fix="give --overwrite")
    before, now = ({name: rest for name, *rest in files["files"]} for files in (old, inputs))
    sizes_before, sizes_now = ({k: v[0] for k, v in files.items()} for files in (before, now))
    if sizes_before != sizes_now:
        return first_difference(sizes_before, sizes_now)
    others = [{k: v for k, v in i.items() if k not in ("schema", "files")} for i in (old, inputs)]
    other = first_difference(*others)
    if other:
        return OTHER_INPUTS[other]
    if before == now:
        return None
    recorded, hashes = recorded_hashes(manifest), source_hashes(sources)
    changed = first_difference(recorded, {key: hashes.get(key) for key in recorded})
    if changed is None:
        write_json(out / "inputs.json", inputs)
        return None
    name, kind = changed
    return f"the {'image' if kind == 'images' else 'mask of'} {name}"


def is_done(out, plan):
    """Whether `out` already holds exactly this data set; UserError if it holds something else.

    If other files have come or gone in the folders, files.csv is brought up to date.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "manifest.json").is_file():
        raise UserError(f"{out}: exists but is not a data folder; give another --out")
    manifest = read_checked(out / "manifest.json", schemas.Manifest, "give --overwrite")
    fix = "give another --out, or --overwrite to replace it"
    option = first_difference(manifest["options"], plan.options)
    if option:
        raise UserError(
            f"{out}: was made with {option} = "
            f"{manifest['options'].get(option)}, not {plan.options.get(option)}; {fix}"
        )
    changed = changed_input(out, manifest, plan.inputs, plan.found.sources)
    if changed:
        raise UserError(f"{out}: was made from other files (first difference: {changed}); {fix}")
    if manifest.get("skipped") and not plan.skip_bad:
        raise UserError(
            f"{out}: was made by --skip-bad without {len(manifest['skipped'])} files "
            f"({manifest['skipped'][0]['file']} first); give --skip-bad again, or mend them"
        )
    if plan.found.problems and not plan.skip_bad:
        refuse_problems(plan.found.problems)
    open_data(out)
    refresh(out / "files.csv", plan.found.lines)
    return True


def check_replaceable(out):
    """UserError if --overwrite would delete something that this script did not write."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give another --out")
    foreign = {path.name for path in out.iterdir()} - FILES if out.exists() else ()
    if foreign:
        raise UserError(
            f"{out / min(foreign)}: is not part of a data folder and would be deleted; "
            "move it away or give another --out"
        )


def verify(out, sources):
    """Re-hash a data folder and, if given, its sources; UserError names the first mismatch."""
    data = open_data(out)
    manifest, splits = read_json(out / "manifest.json"), read_json(out / "splits.json")
    for name, expected in manifest["arrays"].items():
        if sha256_file(out / name) != expected:
            raise UserError(f"{out / name}: has changed since it was written; {AGAIN}")
    for row, name in enumerate(data.ids):
        top = 1 if data.has_mask[name] else 0
        if data.masks[row].max() > top:
            raise UserError(f"{out / 'masks.npy'}: row {row} ({name}) is not a mask; {AGAIN}")
    verify_splits(out, manifest, splits)
    verify_lines(out, manifest)
    if not sources:
        return
    known, recorded = {source.id: source for source in sources}, recorded_hashes(manifest)
    for row in tqdm(originals(manifest["rows"]), unit="image", leave=False, disable=None):
        if row["id"] not in known:
            raise UserError(f"{row['image']}: is no longer in the image folder; put it back")
        source = known[row["id"]]
        for path, kind in ((source.image, "images"), (source.mask, "masks")):
            if (path and sha256_file(path)) != recorded[source.id, kind]:
                raise UserError(f"{path or source.image}: does not match the data; {AGAIN}")


def verify_splits(out, manifest, splits):
    """UserError if linked images are on both sides, or if a near copy is tested."""
    path = out / "splits.json"
    pool, test = set(splits["pool"]), {*splits["test"], *splits.get("waiting", [])}
    for unit in linked(manifest):
        if pool.intersection(unit) and test.intersection(unit):
            names = ", ".join(unit[:3])
            raise UserError(f"{path}: has linked images on both sides ({names}); {AGAIN}")
    tested = [row["id"] for row in manifest["rows"] if "copy_of" in row and row["id"] in test]
    if tested:
        raise UserError(f"{path}: has near copies among the test images ({few(tested)}); {AGAIN}")


def verify_lines(out, manifest):
    """UserError if files.csv does not list the image and mask files of the manifest."""
    lines = read_lines(out / "files.csv")
    for outcome in ("image", "mask") if lines else ():
        files = {shown(row[outcome]) for row in manifest["rows"] if row[outcome]}
        if {line.file.partition("/")[2] for line in lines if line.outcome == outcome} != files:
            raise UserError(f"{out / 'files.csv'}: lists another set of {outcome} files; {AGAIN}")
