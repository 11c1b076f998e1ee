"""Does it matter which images are labelled? Every cold start, screened with a cheap learner.

    python preprocess.py --root isic2017 --no-gray --test-count 0 --out data/isic2017-all
    python cluster.py --data data/isic2017-all --features timm --backbone tf_efficientnet_lite0 \\
        --weights package --out runs/probe/imagenet
    python segmentation/probe.py --data data/isic2017-all --features imagenet=runs/probe/imagenet \\
        --encoder tf_efficientnet_lite0 --encoder-weights package --out runs/probe

Instead of a network, a ridge regression on the features of a frozen --encoder learns to outline
(segmentation/model/probe.py), in milliseconds. Seed s divides all images of the data folder into
pool and test images by split s modulo --splits; each of the --rules chooses --budgets images of the
pool at once, by each of the --features (folders of cluster.py, of the same images; from their
principal features k-means with --k clusters is made anew within each pool). The Dice is that of
cells of 8 x 8 pixels, so it compares rules, not networks. A cell is foreground where the predicted
share is above a half; with --fit-threshold above what suits the labelled images, which objects
smaller than a few cells need.

Near copies (preprocess.py --near-copies) are never tested, and in the pool only if their source is:
the test images of a split are those that it has without copies. `distinct` in probe.csv and
probe.md then counts the images of a choice, an image and its copies as one.

Rules that read what not all features have (pt4al and cscs: pretext_loss; patterns: patterns) are
left out for features without it, which is printed. No pool may have fewer images than the largest
of --budgets, nor than --k if one of the --rules uses clusters.

Writes to --out: `cells.npz` (what the regression sees), `probe.csv` (Dice and mean lesion area of
the choice, for each rule, features, budget and seed) and `probe.md`, a table. If it is interrupted,
call it again: it goes on after the last seed. More --seeds go on as well.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np
from tqdm import tqdm

from segmentation.analysis.screening import COMPARED, screened, screened_markdown
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.precision import Precision
from segmentation.common.runfiles import (
    Parser,
    UserError,
    derived_seed,
    numpy_rng,
    positive,
    read_csv,
    read_npz,
    write_csv,
    write_npz,
    write_text,
)
from segmentation.common.schemas import read_arrays
from segmentation.common.stages import begin_stage, pick_device
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.data.splitting import random_split
from segmentation.model import probe
from segmentation.model.encoders import add_encoder_options, check_encoder_options
from segmentation.model.unet import build, encoder_sha256
from segmentation.selection import geometry
from segmentation.selection.clusterfolder import MADE_WITH, clusters_sha256, places_of
from segmentation.selection.strategies import COLD_STARTS, View, ask

BATCH = 16
ALL = "run cluster.py on a data folder whose pool is all images (preprocess.py --test-count 0)"


def named_folder(text):
    """An argparse type: NAME=FOLDER, which stays a text."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER")
    return text


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--out", type=Path, required=True, help="folder to write to")
    add(
        "--features",
        type=named_folder,
        nargs="+",
        required=True,
        metavar="NAME=FOLDER",
        help="features to choose by: folders written by cluster.py",
    )
    add("--rules", nargs="+", choices=COLD_STARTS, default=list(COLD_STARTS), help="cold starts")
    add("--budgets", type=positive, nargs="+", default=[10, 20, 40], help="numbers of labels")
    add("--seeds", type=positive, default=100, help="number of seeds")
    add("--splits", type=positive, default=10, help="number of splits into pool and test images")
    add("--k", type=positive, default=10, help="clusters of the rules that use clusters")
    help = "choose the share from which a cell is foreground by the labelled images"
    add("--fit-threshold", action="store_true", help=help)
    add_encoder_options(parser)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args()
    check_encoder_options(args)
    if "random" not in args.rules:
        raise UserError("--rules: give random too, which the others are compared with")
    return args


def split_of(data, number):
    """Positions (pool, test) of split `number`, int64 each; a fifth is for testing.

    Near copies do not count, are never tested, and are in the pool only with their sources.
    """
    can_test = {name: name not in data.copy_of for name in data.ids}
    count = sum(can_test.values()) // 5
    pool, test = random_split(can_test, (), None, count, number, data.linked)
    return data.rows(pool), data.rows(test)


def distinct(data, places):
    """How many different images the ones at `places` are, where a near copy is its source."""
    ids = [data.ids[place] for place in places]
    return len({data.copy_of.get(name, name) for name in ids})


def read_features(folder, data):
    """Arrays of a folder of cluster.py in the order of the data's images: a dict."""
    path = folder / "features.npz"
    content = read_arrays(path, "features")
    rows = places_of(data.ids, content, path, ALL)
    return {name: content[name][rows] for name in ("features", *MADE_WITH) if name in content}


def left_out(rules, features):
    """Lines that say which `rules` the arrays of which `features` (name -> arrays) do not allow."""
    for name, arrays in features.items():
        for array, options in MADE_WITH.items():
            without = [rule for rule in rules if array in COLD_STARTS[rule].reads]
            if without and array not in arrays:
                why = f"as it has no {array}; cluster.py makes it with {options}"
                yield f"{name}: without {' and '.join(without)}, {why}"


def uses_clusters(args):
    """Whether one of the --rules uses clusters."""
    return any({"cluster", "distance"} & COLD_STARTS[rule].reads for rule in args.rules)


def check_sizes(args, data):
    """UserError if --budgets, or a --k that is used, is too large for the pool of a split."""
    splits = range(min(args.splits, args.seeds))
    least = min(len(split_of(data, number)[0]) for number in splits)
    for name, value in (("budgets", max(args.budgets)), ("k", args.k * uses_clusters(args))):
        if value > least:
            raise UserError(
                f"--{name} {value}: the pool of a split of {args.data} has only {least} images; "
                "give fewer"
            )


def readers(args, features, pool, seed):
    """What View.read gives of each of the `features` (name -> arrays) in a pool: by name."""
    found: dict[str, Callable] = {"": lambda name: None}
    for name, arrays in features.items():
        own = {key: array[pool] for key, array in arrays.items()}
        if uses_clusters(args):
            number = derived_seed(seed, "cluster") % 2**32
            own |= vars(geometry.kmeans(own["features"], args.k, number))
        found[name] = own.get
    return found


def choices(args, features, pool, seed):
    """Each (rule, name of features, budget) and the positions that it chooses in the data."""
    nothing = np.zeros(len(pool), dtype=bool)
    for name, read in readers(args, features, pool, seed).items():
        for rule in args.rules:
            strategy = COLD_STARTS[rule]
            if bool(strategy.reads) != bool(name) or any(read(r) is None for r in strategy.reads):
                continue
            for budget in args.budgets:
                drawn = View(nothing, numpy_rng(seed, "cold start"), read)
                yield (rule, name, budget), pool[ask(strategy, drawn, budget).places]


def rows_of(args, data, features, cells, sums, seed):
    """The rows of probe.csv of one seed."""
    pool, test = split_of(data, seed % args.splits)
    chosen = list(choices(args, features, pool, seed))
    seen = cells if args.fit_threshold else None
    weights = np.stack([probe.fit(sums, places, seen) for _, places in chosen])
    means = probe.dice(cells, test, weights).mean(axis=1)
    area = cells.shares.mean(axis=1)
    return [
        {
            "rule": rule,
            "features": name,
            "labels": budget,
            "seed": seed,
            "split": seed % args.splits,
            "dice": float(dice),
            "area": float(area[places].mean()),
            **({"distinct": distinct(data, places)} if data.copy_of else {}),
        }
        for ((rule, name, budget), places), dice in zip(chosen, means, strict=True)
    ]


def load_cells(args, data, model, path, origin):
    """The Cells of all images, from `path` if they were made by the same `origin`."""
    if path.exists():
        content = read_npz(path, f"delete {path}")
        if {"x", "shares"} <= content.keys() and str(content.get("origin")) == origin:
            return probe.Cells(content["x"], content["shares"])
    device = pick_device(args.device)
    images = Images(data, data.ids, device)
    with tqdm(total=len(images), desc="features", disable=None) as bar:
        how = BATCH, Precision(device), bar.update
        cells = probe.cells_of(model, images, data.load_masks(data.ids), *how)
    write_npz(path, x=cells.x, shares=cells.shares, origin=origin)
    return cells


def main():
    args = parse_args()
    claim(args.out)
    data = open_data(args.data)
    data.need_masks(data.ids)
    check_sizes(args, data)
    model, _ = build(args, data, 1, frozen=True)
    folders = dict(text.split("=", 1) for text in args.features)
    features = {name: read_features(Path(folder), data) for name, folder in folders.items()}
    for line in left_out(args.rules, features):
        print(line)
    origin = f"{data.fingerprint} {encoder_sha256(model)}"
    inputs = {"data": data.fingerprint, "encoder": encoder_sha256(model)}
    inputs |= {
        f"features {name}": clusters_sha256(Path(folder)) for name, folder in folders.items()
    }
    begin_stage(args.out, args, inputs, free=("seeds", "features"))
    cells = load_cells(args, data, model, args.out / "cells.npz", origin)
    sums = probe.sums_of(cells)
    path = args.out / "probe.csv"
    rows = read_csv(path) if path.exists() else []
    done = {int(row["seed"]) for row in rows}
    for seed in tqdm([s for s in range(args.seeds) if s not in done], desc="seeds", disable=None):
        rows += rows_of(args, data, features, cells, sums, seed)
        write_csv(path, rows)
    text = f"{screened_markdown(screened(read_csv(path)))}\n{COMPARED}\n"
    write_text(args.out / "probe.md", text)
    print(text)


if __name__ == "__main__":
    run_script(main)
