"""Turn a folder of dermoscopy images and lesion masks into the arrays that every stage reads.

    python preprocess.py --demo 200 --size 64 --out data/demo
    python preprocess.py --download --root downloads/isic2017 --out data/isic2017
    python preprocess.py --root FOLDER --out data/mine --size 192x240 --no-gray
    python preprocess.py --images DIR --masks DIR --test-images DIR --test-masks DIR --out data/x
    python preprocess.py --verify --out data/isic2017 --root downloads/isic2017

FOLDER holds, at most two levels down, an image folder called `images`, `*_Data` or `*_Input`, and
often a mask folder called `masks` or `*_GroundTruth` (names with * are those of ISIC's archives).
If there is no image folder, FOLDER itself is the image folder. --masks names a mask folder
elsewhere.

Image folders are searched through all their sub-folders, such as one for each patient, for .jpg,
.jpeg, .png, .bmp, .tif, .tiff, .webp, .heic and .heif (in any case, 8 bits per channel, one picture
per file). The id of an image is its path below the image folder without the ending: NAME or
PATIENT/NAME (umlauts composed, control characters escaped). Its mask is a picture below the mask
folder called as the id, or called NAME in the mask folder itself if no other image has that name,
or by the flat name of the id, such as PATIENT__NAME (segmentation/data/ids.py); `_segmentation` or
`_mask` may follow. Images without a mask become unlabelled images of the pool.

    python preprocess.py --root FOLDER --out data/mine --group folder
    python preprocess.py --root FOLDER --out data/mine --group patients.csv --test-list test.txt

With --group, the images of a group, such as a patient, are never on both sides of the split: groups
are the folders below the image folder, or those of a table with the columns image and group. Of a
tested group, images without a mask are in neither set. --test-list names the test images once and
for all (ids, one per line, or the splits.json of another data folder). Those without a mask are
listed in splits.json as `waiting`, and images identical to one, or of its group, as `dropped`.
--link-copies searches for copies of one photograph, cut or coloured otherwise
(segmentation/data/copies.py), and treats them as identical.

    python preprocess.py --root FOLDER --out data/redundant --near-copies 0.1x10

--near-copies makes a redundant pool, as a control for rules that choose what to label: each image
of a tenth (drawn with --seed) gets ten near copies, cut, flipped and coloured otherwise
(segmentation/data/nearcopies.py). They are images of the pool called ID~01 to ID~10, which the
manifest lists as copies of their source. None is tested; those of test images are left out.

The output folder contains `images.npy` (uint8 N x H x W x C, C = 1 with --gray), `masks.npy` (uint8
N x H x W in {0,1}, all zeros for an image without a mask), `manifest.json`, `splits.json`,
`inputs.json` (size and modification time of each input file) and `files.csv`: a line for every file
in the folders, with what became of it (image, mask, mask without image, or skipped) and why. Rows
are sorted by id. The folder gets its name only when it is complete. Running the script again with
the same files and options does nothing. Files that cannot be read are reported together, and
nothing is written; with --skip-bad they are left out instead.

Images are resized by anti-aliased cubic interpolation, masks by nearest neighbour
(segmentation/data/reading.py explains why).
"""

import argparse
import functools
import os
import warnings
from pathlib import Path

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import Parser, UserError, natural, positive, read_json
from segmentation.data.accounting import add_note, counts, noted_masks, read_lines, refuse
from segmentation.data.building import Plan, build, check_replaceable, is_done, put_back, verify
from segmentation.data.datafolder import open_data
from segmentation.data.download import ISIC_URL, download
from segmentation.data.lists import (
    FOLDER,
    by_folder,
    digest,
    few,
    read_groups,
    read_test_list,
)
from segmentation.data.nearcopies import amount, with_copies
from segmentation.data.photos import DAMAGED
from segmentation.data.reading import (
    in_order,
    prepare_demo,
    prepare_source,
    resize_mask,
    resize_mask_as_released,
)
from segmentation.data.sizes import image_size
from segmentation.data.sources import (
    MASK_LIKE,
    Found,
    elsewhere,
    find_folders,
    list_inputs,
    survey,
)
from segmentation.data.splitting import originals, resolve_counts


def folders(args):
    """The image folder and the mask folder (or None) that the options name."""
    images, masks = find_folders(args.root) if args.root else (args.images, None)
    return images, args.masks or masks


def find_sources(args):
    """Everything in the given folders, official test images included, as sources.Found."""
    images, masks = folders(args)
    tests = [folder for folder in (args.test_images, args.test_masks) if folder]
    others = [args.out] if args.out else []
    found = survey(images, masks, leave_out=tests + others)
    if args.test_images:
        test = survey(args.test_images, args.test_masks, True, [images, masks or images, *others])
        check_tests(test.sources, found.sources, args.test_masks)
        found += test
    return found


def check_tests(tests, sources, test_masks):
    """UserError names the official test images that have no mask, or an id of another image."""
    seen = {source.id: source for source in sources}
    wrong = [
        f"{test.image}: has no mask in {test_masks}; add it" for test in tests if not test.mask
    ]
    wrong += [
        f"{test.image}: has the same id as {seen[test.id].image}, but an image cannot be in both "
        "the pool and the test set; rename or remove one"
        for test in tests
        if test.id in seen
    ]
    if wrong:
        refuse("test images do not fit", wrong)


def with_groups(found, group):
    """Found with the groups of --group, and what manifest.json says about them."""
    unknown = []
    if group == FOLDER:
        group_of = by_folder(found.sources)
    else:
        group_of, unknown = read_groups(Path(group), found.sources)
    sources = [source._replace(group=group_of.get(source.id)) for source in found.sources]
    without = [source.id for source in sources if source.group is None]
    alone = {source.image_file for source in sources if source.group is None}
    lines = [add_note(line, "in no group") if line.file in alone else line for line in found.lines]
    return found._replace(sources=sources, lines=lines), {"without": without, "unknown": unknown}


def headline(out):
    """One line that describes a data folder."""
    data = open_data(out)
    kind = "SYNTHETIC images (--demo)" if data.synthetic else "images"
    height, width, channels = data.images.shape[1:]
    return (
        f"{out}: {len(data.ids)} {kind} of {height}x{width}, "
        f"{'gray' if channels == 1 else 'colour'}, {sum(data.has_mask.values())} with masks; "
        f"{len(data.pool)} pool, {len(data.test)} test"
        + (f", {len(data.waiting)} waiting for their masks" if data.waiting else "")
    )


def report(out):
    """Print a summary of the data folder, with anything unusual about the inputs."""
    manifest, splits = read_json(out / "manifest.json"), read_json(out / "splits.json")
    options = manifest["options"]
    print(headline(out))
    unlabelled = [row["id"] for row in manifest["rows"] if row["mask"] is None]
    in_pool = sorted(set(unlabelled).intersection(splits["pool"]))
    print(f"  images without a mask, unlabelled in the pool: {few(in_pool)}")
    print(f"  masks without an image, ignored: {few(manifest['masks_without_image'])}")
    print(f"  groups of identical images: {few(manifest['duplicates'])}")
    if manifest["duplicates_with_different_masks"]:
        print(
            f"  of these, with different masks: {few(manifest['duplicates_with_different_masks'])}"
        )
    first = {row["id"] for row in originals(manifest["rows"])}
    copies = [row for row in manifest["rows"] if row["id"] not in first]
    if copies:
        print(
            f"  near copies: {len(copies)}, of {len({row['copy_of'] for row in copies})} images; "
            f"in the pool: {len(splits['pool']) - len(first.intersection(splits['pool']))}"
        )
    if options.get("link_copies"):
        print(f"  copies of one photograph: {few(manifest['copies'])}")
    grouped = options.get("group")
    if grouped:
        groups = {row["group"] for row in manifest["rows"] if "group" in row}
        without, unknown = manifest["groups"]["without"], manifest["groups"]["unknown"]
        print(
            f"  groups: {len(groups)}; images in none, each a group of its own: {few(without, 20)}"
        )
        if options["group"] != FOLDER:
            print(f"  images in the table of groups but not in the folder: {few(unknown, 20)}")
    if splits["dropped"]:
        why = "identical to a test image" + (" or of its group" if grouped else "")
        why += " or a copy of it" if options.get("link_copies") or copies else ""
        print(f"  left out of the pool, {why}: {few(splits['dropped'])}")
    if splits.get("waiting"):
        print(f"  test images without a mask, in no set yet: {few(splits['waiting'])}")
    if not options["official_test"] and not options.get("test_list"):
        labelled = len(first.difference(unlabelled))
        pool_count, test_count = resolve_counts(
            labelled, options["pool_count"], options["test_count"]
        )
        asked = (labelled - test_count if pool_count is None else pool_count, test_count)
        got = (len(first.intersection(splits["pool"]) - set(unlabelled)), len(splits["test"]))
        if asked != got:
            print(
                f"  {got[0]} labelled images in the pool and {got[1]} in the test set instead of "
                f"{asked[0]} and {asked[1]}, because {'groups' if grouped else 'identical images'} "
                "stay together"
            )
    if manifest.get("skipped"):
        skipped = [bad["file"] for bad in manifest["skipped"]]
        print(f"  left out by --skip-bad, as they cannot be used: {few(skipped)}")
    lines = read_lines(out / "files.csv")
    like = [line.id for line in lines if MASK_LIKE in line.notes]
    if like:
        print(f"  images named like masks; if they are, move them to a folder masks/: {few(like)}")
    damaged = [line.file for line in lines if DAMAGED in line.notes]
    if damaged:
        print(f"  images whose JPEG data are damaged; look at them: {few(damaged)}")
    for note, files in noted_masks(lines).items():
        print(f'  masks noted "{note}": {few(files)}')
    if lines:
        print(f"  files: {counts(lines)}; each with its reasons in {out / 'files.csv'}")
    if manifest["synthetic"]:
        print("  synthetic images: results on them say nothing about real lesions")


def near_copies(text):
    """An argparse type: SHARExTIMES, which stays a text."""
    try:
        amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse(argv):
    """Parse and check the options. UserError names options that cannot be combined."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, help="data folder to write, such as data/NAME")
    add("--root", type=Path, help="folder that contains the image folder and the mask folder")
    add("--images", type=Path, help="folder of images, instead of --root")
    add("--masks", type=Path, help="folder of masks, with --images or --root")
    add("--test-images", type=Path, help="images of an official test set (no random split then)")
    add("--test-masks", type=Path, help="masks of --test-images")
    add("--test-root", type=Path, help="folder that contains both of these folders")
    add("--demo", type=positive, metavar="N", help="draw N synthetic images instead")
    add("--size", type=image_size, default="256", help="pixels: 256 or 192x240 (height x width)")
    add("--gray", action=argparse.BooleanOptionalAction, default=True, help="grayscale or RGB")
    add("--seed", type=int, default=0, help="seed of the split, --demo and --near-copies")
    add("--released-masks", action="store_true", help="resize masks with the released code's bug")
    add("--pool-count", type=positive, help="labelled images in the pool (default: the rest)")
    add("--test-count", type=natural, help="images in the test set (default: one in five)")
    help = "keep each group on one side of the split: folder, or a .csv with columns image,group"
    add("--group", metavar="folder|FILE", help=help)
    help = "find copies of one photograph, cut or coloured otherwise; keep them on one side too"
    add("--link-copies", action="store_true", help=help)
    help = "near copies of a share of the images, made on purpose, such as 0.1x10: ten of a tenth"
    add("--near-copies", type=near_copies, metavar="SHARExTIMES", help=help)
    help = "file with the ids of the test images (instead of a random split)"
    add("--test-list", type=Path, metavar="FILE", help=help)
    add("--skip-bad", action="store_true", help="go on without files that cannot be used")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="number of threads")
    add("--overwrite", action="store_true", help="replace an existing data folder")
    help = "replace an existing data folder if files or options have changed"
    add("--update", action="store_true", help=help)
    add("--verify", action="store_true", help="only check the data folder --out")
    add("--download", action="store_true", help="download the ISIC 2017 training set into --root")
    add("--url", default=ISIC_URL, help="address of the archives for --download")
    add("--expect", type=positive, default=2000, help="expected number of images and of masks")
    args = parser.parse_args(argv)
    if args.test_root:
        if args.test_images or args.test_masks:
            parser.error("--test-root is both folders; leave out --test-images and --test-masks")
        args.test_images, args.test_masks = find_folders(args.test_root)
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    inputs = given & {"root", "images", "demo"}
    wrong = None
    if len(inputs) > 1:
        wrong = f"--{' and --'.join(sorted(inputs))} cannot be combined; give one of them"
    elif not inputs and not args.verify:
        wrong = "there is no input; give --root, --images or --demo"
    elif args.masks and not given & {"images", "root"}:
        wrong = "--masks needs --images or --root"
    elif (args.test_images is None) != (args.test_masks is None):
        wrong = "give both --test-images and --test-masks, or neither"
    elif args.test_images and ("demo" in given or not inputs):
        wrong = "--test-images needs --root or --images"
    elif args.test_images and given & {"pool_count", "test_count"}:
        wrong = "--test-images sets the split; leave out --pool-count and --test-count"
    elif args.demo and given & {"group", "link_copies", "near_copies", "test_list", "skip_bad"}:
        wrong = (
            "--group, --link-copies, --near-copies, --test-list and --skip-bad cannot be combined "
            "with --demo"
        )
    elif args.near_copies and args.pool_count:
        wrong = "--near-copies cannot be combined with --pool-count"
    elif args.test_list and given & {"test_images", "pool_count", "test_count"}:
        wrong = "--test-list sets the split; leave out --test-images, --pool-count, --test-count"
    elif args.verify and args.demo:
        wrong = "--verify cannot be combined with --demo"
    elif args.download and (args.root is None or args.verify):
        wrong = "--download needs --root and cannot be combined with --verify"
    elif args.out is None and not args.download:
        wrong = "no data folder is given; give --out"
    elif args.out and not args.verify and Path.cwd().is_relative_to(args.out.resolve()):
        wrong = f"--out {args.out}: is where you are; give a folder of its own, such as data/NAME"
    if wrong:
        parser.error(wrong)
    return args


def make_plan(args):
    """Look at the folders and lists that the options name -> building.Plan."""
    options = {
        "size": list(args.size),
        "gray": args.gray,
        "seed": args.seed,
        "pool_count": args.pool_count,
        "test_count": args.test_count,
        "official_test": args.test_images is not None,
        "demo": args.demo,
        **({"released_masks": True} if args.released_masks else {}),
        **({"link_copies": True} if args.link_copies else {}),
        **({"near_copies": args.near_copies} if args.near_copies else {}),
    }
    found = Found([], [], [], []) if args.demo else find_sources(args)
    given, more, test = {}, {}, set()
    if args.group:
        found, more["groups"] = with_groups(found, args.group)
        options["group"] = FOLDER if args.group == FOLDER else "file"
        groups = {source.id: source.group for source in found.sources}
        given["groups"] = digest([groups, more["groups"]["unknown"]])
    if args.test_list:
        test = read_test_list(args.test_list, found.sources)
        options["test_list"] = True
        given["test_list"] = digest(sorted(test))
    is_test = {source.id: source.is_test or source.id in test for source in found.sources}
    inputs = list_inputs(found.sources, found.strays, **given)
    return Plan(options, found, inputs, is_test, args.skip_bad, more)


def is_current(out, plan):
    """Whether `out` already holds exactly this data set."""
    try:
        return is_done(out, plan)
    except UserError:
        return False


def preprocess(args):
    """Make the data folder `args.out`, unless it is complete already."""
    put_back(args.out)
    plan = make_plan(args)
    sources = plan.found.sources
    if not args.test_images and not args.test_list:
        labelled = args.demo or sum(source.mask is not None for source in sources)
        resolve_counts(labelled, args.pool_count, args.test_count)
    if args.overwrite or (args.update and not is_current(args.out, plan)):
        check_replaceable(args.out)
    elif is_done(args.out, plan):
        print(f"already done: {headline(args.out)}")
        return
    how = {
        "size": args.size,
        "gray": args.gray,
        "resize_mask": resize_mask_as_released if args.released_masks else resize_mask,
    }
    if args.demo:
        items, function = range(args.demo), functools.partial(prepare_demo, seed=args.seed, **how)
    else:
        items = sources
        if args.near_copies:
            items = with_copies(sources, amount(args.near_copies), args.seed, plan.is_test)
        function = functools.partial(prepare_source, seed=args.seed, **how)
    build(args.out, plan, in_order(function, items, args.workers), len(items))
    report(args.out)
    if args.root:
        read = [*folders(args), args.test_images, args.test_masks, args.out]
        others = elsewhere(args.root, [folder for folder in read if folder])
        if others:
            print(f"  pictures elsewhere in {args.root}, not looked at: {few(others)}")


def run(args):
    """Verify, download or preprocess, depending on the parsed options."""
    if args.verify:
        sources = find_sources(args).sources if args.root or args.images else []
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
    for folder in (args.out, args.root if args.download else None):
        if folder is not None and not args.verify:
            claim(folder)
    run(args)


if __name__ == "__main__":
    run_script(main)
