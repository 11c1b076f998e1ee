"""Turn a folder of dermoscopy images and lesion masks into the arrays that every stage reads.

    python preprocess.py --demo 200 --size 64 --out data/demo
    python preprocess.py --download --root downloads/isic2017 --out data/isic2017
    python preprocess.py --root FOLDER --out data/mine --size 192x240 --no-gray
    python preprocess.py --images DIR --masks DIR --test-images DIR --test-masks DIR --out data/x
    python preprocess.py --verify --out data/isic2017 --root downloads/isic2017

FOLDER contains, directly or one level further down, either the folders of an official ISIC archive
(`*_Data` or `*_Input`, and `*_GroundTruth`), or `images/` and optionally `masks/`. Files with the
extension .jpg, .jpeg, .png or .bmp (in any case) are read; superpixels, tables and hidden files are
skipped. The id of an image is its file name without the extension. The mask of `ID.jpg` is
`ID_segmentation`, `ID_mask` or `ID`, plus one of these extensions. Images without a mask become
unlabelled images of the pool.

The output folder contains `images.npy` (uint8 N x H x W x C, C = 1 with --gray), `masks.npy` (uint8
N x H x W in {0,1}, all zeros for an image without a mask), `manifest.json`, `splits.json` and
`inputs.json` (size and modification time of each input file). Rows are sorted by id. The folder
gets its name only when it is complete. Running the script again with the same files and options
does nothing.

Images are resized by anti-aliased cubic interpolation, masks by nearest neighbour
(segmentation/data/reading.py explains why).
"""

import argparse
import functools
import os
import re
import warnings
from pathlib import Path

from segmentation.common.runfiles import Parser, UserError, positive, read_json, run_script
from segmentation.data.building import build, check_replaceable, is_done, verify
from segmentation.data.datafolder import open_data
from segmentation.data.download import ISIC_URL, download
from segmentation.data.reading import (
    in_order,
    prepare_demo,
    prepare_source,
    resize_mask,
    resize_mask_as_released,
)
from segmentation.data.sources import find_folders, list_inputs, pair
from segmentation.data.splitting import resolve_counts


def find_sources(args):
    """All sources sorted by id, and the ids of masks without an image, from the given folders."""
    images, masks = find_folders(args.root) if args.root else (args.images, args.masks)
    sources, strays = pair(images, masks)
    if args.test_images:
        tests, test_strays = pair(args.test_images, args.test_masks, is_test=True)
        seen = {source.id: source for source in sources}
        for source in tests:
            if source.mask is None:
                raise UserError(f"{source.image}: has no mask in {args.test_masks}; add it")
            if source.id in seen:
                raise UserError(
                    f"{source.image}: has the same id as {seen[source.id].image}, but an image "
                    "cannot be in both the pool and the test set; rename or remove one"
                )
        sources, strays = sources + tests, strays + test_strays
    return sorted(sources), sorted(strays)


def few(names):
    """The length of a list and its first three entries, as text."""
    if not names:
        return "none"
    first = ", ".join(name if isinstance(name, str) else " = ".join(name) for name in names[:3])
    return f"{len(names)} ({first}{', ...' if len(names) > 3 else ''})"


def headline(out):
    """One line that describes a data folder."""
    data = open_data(out)
    kind = "SYNTHETIC images (--demo)" if data.synthetic else "images"
    height, width, channels = data.images.shape[1:]
    return (
        f"{out}: {len(data.ids)} {kind} of {height}x{width}, "
        f"{'gray' if channels == 1 else 'colour'}, {sum(data.has_mask.values())} with masks; "
        f"{len(data.pool)} pool, {len(data.test)} test"
    )


def report(out):
    """Print a summary of the data folder, with anything unusual about the inputs."""
    manifest, splits = read_json(out / "manifest.json"), read_json(out / "splits.json")
    options = manifest["options"]
    print(headline(out))
    unlabelled = [row["id"] for row in manifest["rows"] if row["mask"] is None]
    print(f"  images without a mask, unlabelled in the pool: {few(unlabelled)}")
    print(f"  masks without an image, ignored: {few(manifest['masks_without_image'])}")
    print(f"  groups of identical images: {few(manifest['duplicates'])}")
    if manifest["duplicates_with_different_masks"]:
        print(
            f"  of these, with different masks: {few(manifest['duplicates_with_different_masks'])}"
        )
    if splits["dropped"]:
        print(f"  left out of the pool, identical to a test image: {few(splits['dropped'])}")
    if not options["official_test"]:
        labelled = len(manifest["rows"]) - len(unlabelled)
        pool_count, test_count = resolve_counts(
            labelled, options["pool_count"], options["test_count"]
        )
        asked = (labelled - test_count if pool_count is None else pool_count, test_count)
        got = (len(set(splits["pool"]) - set(unlabelled)), len(splits["test"]))
        if asked != got:
            print(
                f"  {got[0]} labelled images in the pool and {got[1]} in the test set instead of "
                f"{asked[0]} and {asked[1]}, because identical images stay together"
            )
    if manifest["synthetic"]:
        print("  synthetic images: results on them say nothing about real lesions")


def image_size(text):
    """An argparse type: `256` or `192x240` (height x width) -> [height, width].

    The U-Net halves its input four times, so each side must be a multiple of 16. The minimum is 32,
    because at 16 only one cell would be left at the bottleneck.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a size; give one such as 256 or 192x240")
    size = [int(match[1]), int(match[2] or match[1])]
    if any(side % 16 or side < 32 for side in size):
        raise argparse.ArgumentTypeError(
            f"{text}: each side must be a multiple of 16 and at least 32, "
            "because the U-Net halves its input four times"
        )
    return size


def natural(text):
    """An argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative; give 0 or more")
    return value


def parse(argv):
    """Parse and check the options. UserError names options that cannot be combined."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, help="data folder to write, such as data/NAME")
    add("--root", type=Path, help="folder that contains the image folder and the mask folder")
    add("--images", type=Path, help="folder of images, instead of --root")
    add("--masks", type=Path, help="folder of masks, with --images")
    add("--test-images", type=Path, help="images of an official test set (no random split then)")
    add("--test-masks", type=Path, help="masks of --test-images")
    add("--test-root", type=Path, help="folder that contains both of these folders")
    add("--demo", type=positive, metavar="N", help="draw N synthetic images instead")
    add("--size", type=image_size, default="256", help="pixels: 256 or 192x240 (height x width)")
    add("--gray", action=argparse.BooleanOptionalAction, default=True, help="grayscale or RGB")
    add("--seed", type=int, default=0, help="random seed of the split and of --demo")
    add("--released-masks", action="store_true", help="resize masks with the released code's bug")
    add("--pool-count", type=positive, help="labelled images in the pool (default: the rest)")
    add("--test-count", type=natural, help="images in the test set (default: one in five)")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="number of threads")
    add("--overwrite", action="store_true", help="replace an existing data folder")
    add("--verify", action="store_true", help="only check the data folder --out")
    add("--download", action="store_true", help="download the ISIC 2017 training set into --root")
    add("--url", default=ISIC_URL, help="address of the archives for --download")
    add("--expect", type=positive, default=2000, help="expected number of images and of masks")
    args = parser.parse_args(argv)
    if args.test_root and not args.test_images:
        args.test_images, args.test_masks = find_folders(args.test_root)
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    inputs = given & {"root", "images", "demo"}
    wrong = None
    if len(inputs) > 1:
        wrong = f"--{' and --'.join(sorted(inputs))} cannot be combined; give one of them"
    elif not inputs and not args.verify:
        wrong = "there is no input; give --root, --images or --demo"
    elif args.masks and not args.images:
        wrong = "--masks needs --images"
    elif (args.test_images is None) != (args.test_masks is None):
        wrong = "give both --test-images and --test-masks, or neither"
    elif args.test_images and ("demo" in given or not inputs):
        wrong = "--test-images needs --root or --images"
    elif args.test_images and given & {"pool_count", "test_count"}:
        wrong = "--test-images sets the split; leave out --pool-count and --test-count"
    elif args.verify and args.demo:
        wrong = "--verify cannot be combined with --demo"
    elif args.download and (args.root is None or args.verify):
        wrong = "--download needs --root and cannot be combined with --verify"
    elif args.out is None and not args.download:
        wrong = "no data folder is given; give --out"
    if wrong:
        parser.error(wrong)
    return args


def preprocess(args):
    """Make the data folder `args.out`, unless it is complete already."""
    options = {
        "size": args.size,
        "gray": args.gray,
        "seed": args.seed,
        "pool_count": args.pool_count,
        "test_count": args.test_count,
        "official_test": args.test_images is not None,
        "demo": args.demo,
        **({"released_masks": True} if args.released_masks else {}),
    }
    sources, strays = ([], []) if args.demo else find_sources(args)
    labelled = args.demo or sum(source.mask is not None for source in sources)
    if not args.test_images:
        resolve_counts(labelled, args.pool_count, args.test_count)
    inputs = list_inputs(sources, strays)
    if args.overwrite:
        check_replaceable(args.out)
    elif is_done(args.out, options, inputs, sources):
        print(f"already done: {headline(args.out)}")
        return
    how = {
        "size": tuple(args.size),
        "gray": args.gray,
        "resize_mask": resize_mask_as_released if args.released_masks else resize_mask,
    }
    if args.demo:
        items, function = range(args.demo), functools.partial(prepare_demo, seed=args.seed, **how)
    else:
        items, function = sources, functools.partial(prepare_source, **how)
    is_test = {source.id: source.is_test for source in sources}
    prepared = in_order(function, items, args.workers)
    build(args.out, options, prepared, len(items), is_test, inputs)
    report(args.out)


def run(args):
    """Verify, download or preprocess, depending on the parsed options."""
    if args.verify:
        sources = find_sources(args)[0] if args.root or args.images else []
        verify(args.out, sources)
        print(f"OK {headline(args.out)}" + ("" if sources else " (original files not checked)"))
        return
    if args.download:
        download(args.url, args.root, args.expect)
    if args.out is not None:
        preprocess(args)


def main(argv=None):
    """Run the command line, or `argv` if given. UserError if an option or a file is wrong."""
    args = parse(argv)
    warnings.filterwarnings("ignore", module="PIL")  # about unusual metadata; errors still raise
    try:
        run(args)
    except OSError as error:
        place = error.filename or args.out or args.root
        reason = error.strerror or error
        raise UserError(f"{place}: {reason}; fix that and run again") from None


if __name__ == "__main__":
    run_script(main)
