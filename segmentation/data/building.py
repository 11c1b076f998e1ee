"""Write, recognise, replace and verify a data folder.

Its files are `images.npy` (uint8 N x H x W x C), `masks.npy` (uint8 N x H x W in {0,1}, all zeros
for an image without a mask), `manifest.json`, `splits.json` and `inputs.json` (size and
modification time of each input file).
"""

import functools
import shutil

import numpy as np
from tqdm import tqdm

from segmentation.common.runfiles import UserError, read_json, sha256_file, write_json
from segmentation.data.datafolder import open_data
from segmentation.data.reading import RESIZE
from segmentation.data.splitting import equal_groups, make_splits

FILES = {"images.npy", "masks.npy", "manifest.json", "splits.json", "inputs.json"}


def write_arrays(folder, prepared, count, size, channels):
    """Write images.npy and masks.npy row by row; return the rows without their arrays."""
    room = count * size[0] * size[1] * (channels + 1)
    if shutil.disk_usage(folder).free < room + (1 << 20):
        raise UserError(f"{folder.parent}: arrays need {room >> 20} MiB of disk; free some space")
    create = functools.partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    images = create(folder / "images.npy", shape=(count, *size, channels))
    masks = create(folder / "masks.npy", shape=(count, *size))
    rows = []
    for row, item in enumerate(tqdm(prepared, total=count, unit="image", disable=None)):
        images[row], masks[row] = item.image, item.mask
        rows.append(item._replace(image=None, mask=None))
    images.flush()
    masks.flush()
    return rows


def fill(folder, name, options, prepared, count, is_test, inputs):
    """Write all files of a data set into the existing, empty `folder`."""
    channels = 1 if options["gray"] else 3
    rows = write_arrays(folder, prepared, count, options["size"], channels)
    ids = [row.record["id"] for row in rows]
    duplicates = equal_groups(ids, [row.pixels for row in rows])
    mask_of = {row.record["id"]: row.mask_pixels for row in rows}
    differing = [group for group in duplicates if len({mask_of[i] for i in group} - {None}) > 1]
    manifest = {
        "name": name,
        "synthetic": options["demo"] is not None,
        "size": options["size"],
        "channels": channels,
        "resize": RESIZE,
        "options": options,
        "rows": [row.record for row in rows],
        "duplicates": duplicates,
        "duplicates_with_different_masks": differing,
        "masks_without_image": inputs["masks_without_image"],
        "arrays": {file: sha256_file(folder / file) for file in ("images.npy", "masks.npy")},
    }
    write_json(folder / "splits.json", make_splits(rows, duplicates, options, is_test))
    write_json(folder / "inputs.json", inputs)
    write_json(folder / "manifest.json", manifest)


def build(out, *content):
    """Fill a temporary folder beside `out` and rename it to `out` once complete.

    What an interrupted call has left there is removed. An existing `out` is replaced.
    """
    temporary, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
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


def source_hashes(sources):
    """Dict id -> (sha256 of the image file, of the mask file or None)."""
    return {
        source.id: (sha256_file(source.image), source.mask and sha256_file(source.mask))
        for source in sources
    }


def changed_input(out, manifest, inputs, sources):
    """Name of an input file that has changed since `out` was made, or None.

    Sizes and modification times are compared; if only times differ (as in a copy), contents are.
    """
    old = read_json(out / "inputs.json", fix="give --overwrite")
    before, now = ({name: rest for name, *rest in files["files"]} for files in (old, inputs))
    if before == now and old["masks_without_image"] == inputs["masks_without_image"]:
        return None
    sizes_before, sizes_now = ({k: v[0] for k, v in files.items()} for files in (before, now))
    if sizes_before != sizes_now:
        return first_difference(sizes_before, sizes_now)
    if old["masks_without_image"] != inputs["masks_without_image"]:
        return "the masks without an image"
    recorded = {row["id"]: (row["image_sha256"], row["mask_sha256"]) for row in manifest["rows"]}
    changed = first_difference(recorded, source_hashes(sources))
    if changed is None:
        write_json(out / "inputs.json", inputs)
    return changed


def is_done(out, options, inputs, sources):
    """Whether `out` already holds exactly this data set; UserError if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "manifest.json").is_file():
        raise UserError(f"{out}: exists but is not a data folder; give another --out")
    manifest = read_json(out / "manifest.json", fix="give --overwrite")
    fix = "give another --out, or --overwrite to replace it"
    option = first_difference(manifest["options"], options)
    if option:
        raise UserError(
            f"{out}: was made with {option} = "
            f"{manifest['options'].get(option)}, not {options.get(option)}; {fix}"
        )
    changed = changed_input(out, manifest, inputs, sources)
    if changed:
        raise UserError(f"{out}: was made from other files (first difference: {changed}); {fix}")
    open_data(out)
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
    again = "run preprocess.py again with --overwrite"
    for name, expected in manifest["arrays"].items():
        if sha256_file(out / name) != expected:
            raise UserError(f"{out / name}: has changed since it was written; {again}")
    for row, name in enumerate(data.ids):
        top = 1 if data.has_mask[name] else 0
        if data.masks[row].max() > top:
            raise UserError(f"{out / 'masks.npy'}: row {row} ({name}) is not a mask; {again}")
    if sorted(set(data.ids)) != data.ids:
        raise UserError(f"{out / 'manifest.json'}: its ids are not sorted and unique; {again}")
    listed = splits["pool"] + splits["test"] + splits["dropped"]
    if len(set(listed)) < len(listed) or not set(listed) <= set(data.ids):
        raise UserError(f"{out / 'splits.json'}: lists an id twice or an unknown id; {again}")
    if not sources:
        return
    known = {source.id: source for source in sources}
    for row in tqdm(manifest["rows"], unit="image", leave=False, disable=None):
        if row["id"] not in known:
            raise UserError(f"{row['image']}: is no longer in the image folder; put it back")
        source = known[row["id"]]
        for path, expected in (
            (source.image, row["image_sha256"]),
            (source.mask, row["mask_sha256"]),
        ):
            if (path and sha256_file(path)) != expected:
                raise UserError(f"{path or source.image}: does not match the data; {again}")
