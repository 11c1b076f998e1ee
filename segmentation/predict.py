"""Make a mask for every image of a folder, at its original size, and say how far to trust each.

    python segmentation/predict.py --weights runs/mine/model/round_00/weights.pt photographs \\
        --out predictions
    python segmentation/predict.py --weights seed0/round_00/weights.pt seed1/round_00/weights.pt \\
        --views --largest photographs --out predictions

The folder is searched with its sub-folders, for pictures as preprocess.py reads them; files named
as masks (`*_segmentation`, `*_mask`) are left out. Several --weights predict together: the mean of
their probabilities counts. --weights also takes the ONNX files of segmentation/export.py.

Writes to --out, under the names of the images in their sub-folders: `masks/` (PNG of 0 and 255, at
the size of the image), `overlays/` (JPEG, the outline on the image, at most 1024 pixels), with
--probabilities also `probabilities/` (16-bit PNG: the lesion probability times 65535, at the size
of the image), with --drafts `drafts/`, files for annotation tools in which the masks can be
corrected (segmentation/data/drafts.py). `predictions.csv` has a line for each mask:

- `area` in pixels, `share` of the image, and the box around the mask (`box_left`, `box_top`,
  `box_width`, `box_height` in pixels);
- `expected_dice`: what the Dice with an expert's mask is expected to be. The network's own
  confidence is made an expected Dice by the test images and cross-validated images of its training
  (metrics.csv and folds.csv beside the weights), that is, for images like those. `calibration.json`
  says how. With less than 10 of these, `calibrated` is "no", and it is the confidence itself, which
  is too high as a rule. Of several networks it is the mean of what each expects of its own mask,
  which is a little less than the Dice of the mask that they make together;
- `likeness`: the share of training images that are farther from the other training images than this
  image is, by features of the network (from reference.npz beside the weights; else empty);
- `warnings`: touches the border, several parts, nothing found, unlike the training images (likeness
  below 0.01, as one in a hundred images of the same kind has);
- `needs_review`: "yes" if expected_dice is below 0.8 (but no more than a fifth of the images that
  it was calibrated by: with many such images the limit is lower), if nothing was found, or if the
  image is unlike the training images;
- `sha256` of the image file.

A file that cannot be read is listed at the end and in `errors.csv`; the rest is done, and the exit
code is 1. Called again, the script makes only what is missing, and masks of images that are others
than before; of images that are gone, the masks stay and the rows go.
"""

import csv
import io
import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import (
    Parser,
    UserError,
    atomic,
    positive,
    sha256_file,
    write_csv,
    write_json,
    write_text,
)
from segmentation.common.stages import begin_stage, pick_device, sha256_tensors
from segmentation.data import sources
from segmentation.data.drafts import KINDS, Draft, write_drafts
from segmentation.data.ids import bare, id_of, shown
from segmentation.data.photos import read_photo
from segmentation.data.reading import in_order, resize_image
from segmentation.data.sizes import image_size
from segmentation.model.confidence import (
    MIN_PAIRS,
    UNLIKE,
    calibrate,
    describe,
    likeness,
)
from segmentation.model.encoders import folded
from segmentation.model.finish import Finish, add_finish_options, largest_region, united
from segmentation.model.inference import enlarged
from segmentation.model.trained import open_trained

SHOWN = 1024  # pixels of the longer side of an overlay, at most
COLUMNS = (
    *("image", "height", "width", "area", "share"),
    *("box_left", "box_top", "box_width", "box_height"),
    *("expected_dice", "calibrated", "needs_review", "likeness", "warnings"),
    "sha256",
)


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    help = "weights.pt of a round, or .onnx; several: the mean of their probabilities"
    add("--weights", type=Path, nargs="+", required=True, metavar="WEIGHTS", help=help)
    help = "folder with images, searched with sub-folders"
    add("folder", type=Path, nargs="?", metavar="FOLDER", help=help)
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    help = "HEIGHTxWIDTH of the training images, only for old weights that do not have it"
    add("--size", type=image_size, help=help)
    add_finish_options(parser)
    add("--probabilities", action="store_true", help="also write the lesion probabilities")
    help = "also write the masks as drafts for these annotation tools"
    add("--drafts", nargs="+", choices=KINDS, default=[], help=help)
    add("--batch", type=positive, default=16, help="images per pass")
    add(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        help="threads, each holds a full-size image",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; ONNX runs on the CPU")
    args = parser.parse_args()
    if args.folder is None and len(args.weights) > 1:  # --weights took the folder after them
        *args.weights, args.folder = args.weights
    if args.folder is None:
        parser.error("there is no FOLDER; give the folder with the images")
    return args


# Files ------------------------------------------------------------------------------------------


def find_images(folder):
    """The photographs of `folder`, found as preprocess.py does: dict name -> path, sorted.

    Names are paths below the image folder, such as A/B.jpg. Prints how many other files there are.
    UserError if there is none, or if two would have the same mask file.
    """
    images, masks = sources.find_folders(folder)
    good, skipped = sources.pictures(images, [masks] if masks else [])
    names = {bare(id_of(name)) for name in good}
    found = {n: path for n, path in good.items() if not sources.mask_like(id_of(n), names)}
    others = len(good) - len(found), len(skipped)
    if any(others):
        print(f"left out: {others[0]} files named as masks, {others[1]} that are no photographs")
    if not found:
        raise UserError(f"{images}: holds only files named as masks; give the folder of the images")
    twins = {}
    for name in sorted(found):
        other = twins.setdefault(id_of(name), name)
        if other != name:
            raise UserError(
                f"{images / shown(name)}: would have the same mask as {shown(other)}; "
                "rename or move one"
            )
    return dict(sorted(found.items()))


class Out:
    """The folder to write to: where its files are, and what is in it from earlier calls."""

    def __init__(self, folder):
        self.folder, self.table = folder, folder / "predictions.csv"

    def path(self, kind, name, ending):
        """masks, overlays or probabilities of an image."""
        return self.folder / kind / f"{id_of(name)}{ending}"

    def rows(self):
        """The rows of predictions.csv, by image; a last line that was cut off does not count."""
        try:
            text = self.table.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        whole = text[: text.rfind("\n") + 1]
        return {row["image"]: row for row in csv.DictReader(io.StringIO(whole, newline=""))}

    def is_done(self, name, path, rows):
        """Whether an image has a mask, and a row that is of the file as it is.

        Times do not tell: a copy can keep that of its original, and folders can swap their names.
        """
        if name not in rows or not self.path("masks", name, ".png").exists():
            return False
        return rows[name].get("sha256") == sha256_file(path)


# One image --------------------------------------------------------------------------------------


class Item(NamedTuple):
    """An image that was read; of its full-size pixels only these are kept."""

    name: str
    sha256: str  # of the file
    size: tuple  # (height, width) of the original
    pixels: np.ndarray  # uint8 C x H x W, the input of the network
    shown: np.ndarray  # uint8 h x w x 3, for the overlay


class Failure(NamedTuple):
    """An image that could not be read: a row of errors.csv."""

    image: str
    reason: str


class Predicted(NamedTuple):
    """What the networks say about an Item."""

    item: Item
    probability: np.ndarray  # float32 H x W
    expected: float  # Dice
    likeness: float | None


def read(name, path, size, gray):
    """The Item of a file, or a Failure."""
    try:
        sha256, picture = sha256_file(path), read_photo(path).picture
    except UserError as error:
        return Failure(name, str(error))
    original = picture.height, picture.width
    pixels = np.ascontiguousarray(resize_image(picture, size, gray).transpose(2, 0, 1))
    picture.thumbnail((SHOWN, SHOWN))
    return Item(name, sha256, original, pixels, np.asarray(picture))


class Ensemble:
    """One or several networks that predict together."""

    def __init__(self, paths, size, finish):
        """UserError if the networks are not for images of the same size and kind."""
        self.members = [open_trained(path, size) for path in paths]
        self.size, self.channels = self.members[0].size, self.members[0].channels
        for path, member in zip(paths, self.members, strict=True):
            if (member.size, member.channels) != (self.size, self.channels):
                raise UserError(
                    f"{path}: is for images of {kind_of(member)}, but {paths[0]} for "
                    f"{kind_of(self)}; give --weights that were trained on the same data folder"
                )
        self.finish = united(finish, *(m.finish for m in self.members))
        fits = [calibrate(*np.reshape(m.pairs, (-1, 2)).T) for m in self.members]
        self.fits = dict(enumerate(fits))  # number of a member -> Calibration
        self.calibrated = any(fit.kind != "none" for fit in fits)
        if self.calibrated:
            self.fits = {n: fit for n, fit in self.fits.items() if fit.kind != "none"}
        self.threshold = float(np.mean([fit.threshold for fit in self.fits.values()]))

    def sha256(self):
        """Hash of all that the results depend on."""
        parts = {}
        for number, member in enumerate(self.members):
            parts[f"{number} {member.sha256}"] = torch.tensor(member.pairs)
            if member.reference is not None:
                parts[f"{number} reference"] = torch.from_numpy(member.reference)
        return sha256_tensors(parts)

    def predict(self, items, device):
        """The Predicted of each item of a list; the networks are on `device`."""
        images = torch.from_numpy(np.stack([item.pixels for item in items]))
        seen, dice, likes = [], [], []
        for number, member in enumerate(self.members):
            p, confidences, features = member.predict(images, device, self.finish.views)
            seen.append(p)
            if number in self.fits:
                dice.append(self.fits[number].expected(confidences))
            if member.reference is not None:
                likes.append(likeness(features, member.reference))
        p, expected = reduce(np.add, seen) / len(seen), np.mean(dice, axis=0).tolist()
        like = np.mean(likes, axis=0).tolist() if likes else [None] * len(items)
        return [Predicted(*parts) for parts in zip(items, p, expected, like, strict=True)]

    def record(self):
        """The content of calibration.json."""
        fits = [
            {"weights_sha256": self.members[number].sha256, **fit._asdict()}
            for number, fit in self.fits.items()
        ]
        return {"calibrated": self.calibrated, "threshold": self.threshold, "fits": fits}

    def stream(self, found, batch, device):
        """For Items and Failures, in order: Predicted and Failures; holds `batch` Items."""
        with ExitStack() as stack:
            for member in self.members:
                member.network.to(device)
                stack.enter_context(folded(member.network))
            waiting = []
            for one in found:
                if isinstance(one, Failure):
                    yield one
                    continue
                waiting.append(one)
                if len(waiting) == batch:
                    yield from self.predict(waiting, device)
                    waiting = []
            if waiting:
                yield from self.predict(waiting, device)


def kind_of(network):
    """`96x96 in colour`"""
    height, width = network.size
    return f"{height}x{width} in {'gray' if network.channels == 1 else 'colour'}"


def write(predicted, out, ensemble, probabilities):
    """Write the pictures of a Predicted; returns its row. A Failure is returned as it is."""
    if isinstance(predicted, Failure):
        return predicted
    item, expected = predicted.item, predicted.expected
    p = enlarged(predicted.probability, item.size)
    mask = largest_region(p > 0.5) if ensemble.finish.largest else p > 0.5
    if probabilities:
        deep = np.rint(p * 65535).astype(np.uint16)
        save(out.path("probabilities", item.name, ".png"), deep)
    del p
    small = Image.fromarray(mask).resize(item.shown.shape[1::-1], Image.Resampling.NEAREST)
    shown = pictures.outlined(item.shown, np.asarray(small))
    save(out.path("overlays", item.name, ".jpg"), shown, quality=85)
    save(out.path("masks", item.name, ".png"), mask.astype(np.uint8) * 255)
    columns, warnings = describe(mask)
    unlike = predicted.likeness is not None and predicted.likeness < UNLIKE
    warnings += ["unlike the training images"] if unlike else []
    doubtful = expected < ensemble.threshold or unlike or not columns["area"]
    row = {
        "image": item.name,
        "height": item.size[0],
        "width": item.size[1],
        **columns,
        "share": round(columns["share"], 6),
        "expected_dice": round(expected, 4),
        "calibrated": "yes" if ensemble.calibrated else "no",
        "needs_review": "yes" if doubtful else "no",
        "likeness": "" if predicted.likeness is None else round(predicted.likeness, 4),
        "warnings": "; ".join(warnings),
        "sha256": item.sha256,
    }
    return {name: row[name] for name in COLUMNS}


def save(path, array, **options):
    """Write an array as a picture, atomically."""
    with atomic(path) as temporary:
        Image.fromarray(array).save(temporary, **options)


# All images -------------------------------------------------------------------------------------


def notes(ensemble, given):
    """Lines to print about what the results can and cannot say."""
    lines = []
    for fit in ensemble.fits.values() if ensemble.calibrated else ():
        errors = ", ".join(f"{kind} {error:.3f}" for kind, error in fit.errors.items())
        lines.append(
            f"expected Dice: {fit.kind} fit to {fit.pairs} images with known masks "
            f"(error on images left out: {errors})"
        )
    if not ensemble.calibrated:
        lines.append(
            "note: expected Dice is not calibrated and too high as a rule: metrics.csv and "
            f"folds.csv beside the weights have less than {MIN_PAIRS} images with a column "
            "confidence; run active_learning.py again with --folds 5"
        )
    elif len(ensemble.fits) < len(ensemble.members):
        lines.append(
            f"note: expected Dice is that of {len(ensemble.fits)} of {len(ensemble.members)} "
            f"networks; for the others less than {MIN_PAIRS} images are known"
        )
    if any(member.finish != ensemble.finish for member in ensemble.members):
        lines.append(
            "note: expected Dice is that without the --views or --largest given here, which the "
            "training did not have"
        )
    if ensemble.finish != given:
        used = " and ".join(f"--{name}" for name, on in ensemble.finish._asdict().items() if on)
        lines.append(f"{used}: as in the training of these weights")
    if all(member.reference is None for member in ensemble.members):
        lines.append(
            "note: there is no reference.npz beside the weights, so nothing is said about "
            "likeness; run active_learning.py again"
        )
    return lines


def predict(args, out, ensemble, todo, rows):
    """Make the masks of `todo`, a dict as of find_images, and add their rows; list of Failures."""
    gray, device = ensemble.channels == 1, pick_device(args.device)
    how = out, ensemble, args.probabilities
    size = ensemble.size
    found = in_order(lambda it: read(it[0], it[1], size, gray), todo.items(), args.workers)
    predicted = ensemble.stream(found, args.batch, device)
    failures = []
    write_text(out.table, table(rows.values()))
    with (
        open(out.table, "a", newline="", encoding="utf-8") as file,
        tqdm(total=len(todo), desc="images", unit="image", leave=False, disable=None) as bar,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for one in in_order(lambda it: write(it, *how), predicted, args.workers):
            if isinstance(one, Failure):
                failures.append(one)
            else:
                rows[one["image"]] = one
                writer.writerow(one)
                file.flush()
            bar.update()
    write_text(out.table, table(rows[name] for name in sorted(rows)))
    return failures


def draw_drafts(args, out, names):
    """Write the masks of these images as --drafts says."""

    def drafts():
        for name in names:
            with Image.open(out.path("masks", name, ".png")) as picture:
                mask = np.asarray(picture) > 0
            yield Draft(name, mask.shape, mask)

    images, _ = sources.find_folders(args.folder)
    for path in write_drafts(out.folder / "drafts", args.drafts, drafts, images):
        print(f"{path}: is there already and stays as it is; delete it to write it again")


def table(rows):
    """The text of predictions.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main():
    args = parse_args()
    claim(args.out)
    if args.out.resolve().is_relative_to(args.folder.resolve()):
        raise UserError(
            f"--out {args.out}: lies inside {args.folder}, where its masks would be taken for "
            "images the next time; give a folder elsewhere"
        )
    given = Finish.of(args)
    ensemble = Ensemble(args.weights, args.size, given)
    images, out = find_images(args.folder), Out(args.out)
    settings = Namespace(
        folder=args.folder.resolve(),
        size=list(ensemble.size),
        probabilities=args.probabilities,
        **ensemble.finish._asdict(),
    )
    begin_stage(args.out, settings, {"weights": ensemble.sha256()})
    write_json(args.out / "calibration.json", ensemble.record())
    print("\n".join(notes(ensemble, given)), flush=True)
    rows = out.rows()
    todo = {name: path for name, path in images.items() if not out.is_done(name, path, rows)}
    rows = {name: row for name, row in rows.items() if name in images and name not in todo}
    try:
        failures = predict(args, out, ensemble, todo, rows)
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or out.table  # which is written row by row
        raise
    if failures:
        write_csv(args.out / "errors.csv", [failure._asdict() for failure in failures])
    else:
        (args.out / "errors.csv").unlink(missing_ok=True)
    if args.drafts:
        draw_drafts(args, out, sorted(rows))
    for failure in failures:
        print(f"error: {failure.reason}", file=sys.stderr)
    review = sum(row["needs_review"] == "yes" for row in rows.values())
    lost = f", {len(failures)} images could not be read" if failures else ""
    print(
        f"{len(rows)} masks in {args.out / 'masks'} ({len(todo) - len(failures)} of them new), "
        f"{review} need review (expected Dice below {ensemble.threshold:.2f}, "
        f"nothing found, or unlike the training images){lost}: see {out.table}"
    )
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
