"""A closer look at cold starts: do near features mean alike masks, and what was labelled first?

    python segmentation/diagnose.py --runs runs/study/seg --arms random saal typicover \\
        --budget 20 --data data/isic2017-48gray --clusters runs/study/cluster \\
        runs/study/cluster-thumbnails --out runs/study/diagnosis

A folder of --clusters is written by cluster.py, or holds such folders: seed0, seed1, ... Writes to
--out, each as .md and .csv:

- `features`, a row per --clusters folder: do images near in its features have similar masks?
- `labels`, a row per arm: how far the pool's images are from the nearest of the arm's first
  --budget labels (in the features of the first --clusters folder), how large the labelled lesions
  are, and the Dice.

It looks at the masks of the whole pool, which no strategy may do.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from segmentation.analysis.markdown import markdown, plus_minus
from segmentation.analysis.runs import by_arm, first_labels, read_runs
from segmentation.analysis.significance import mean_sd
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import (
    Parser,
    UserError,
    numpy_rng,
    positive,
    write_csv,
    write_text,
)
from segmentation.data.datafolder import open_data
from segmentation.selection.clusterfolder import open_clusters

NEIGHBOURS = 5
FEATURES_NOTE = (
    f"For each pool image: the Dice of its mask with the masks of its {NEIGHBOURS} nearest images "
    "in the features (Euclidean), and with those of as many random others, averaged over the pool. "
    "Then Spearman's correlation, over the pool, of the area of an image's lesion with the mean "
    "area of its neighbours' lesions. ± is the standard deviation over seeds."
)
LABELS_NOTE = (
    "Distance: from a pool image to the nearest labelled one, averaged over the pool, in percent "
    "of the root mean square distance between two pool images. Area: of the labelled lesions, in "
    "percent of the image; over the whole pool it is {area:.1f}. Dice is on the test images. ± is "
    "the standard deviation over seeds. Spearman's correlation of distance and Dice over all runs, "
    "each less the mean of its seed: {correlation}."
)


# Measures ---------------------------------------------------------------------------------------


def nearest(features, count):
    """Positions of each row's `count` nearest other rows, int64 N x count; float32 N x D."""
    model = NearestNeighbors(n_neighbors=count).fit(features)
    return model.kneighbors(return_distance=False)


def by_chance(shape, rng):
    """Positions of random other rows of N, int64 of the shape (N, count); N is at least 2."""
    return (np.arange(shape[0])[:, None] + rng.integers(1, shape[0], shape)) % shape[0]


def mask_dice(masks, others):
    """Mean Dice of each mask with its partners: uint8 N x P in {0,1}, int64 N x K -> float."""
    flat = masks.astype(np.float32)
    sizes = flat.sum(axis=1)
    total = 0.0
    for column in others.T:
        common = (flat * flat[column]).sum(axis=1)
        both = sizes + sizes[column]
        total += np.where(both == 0, 1.0, 2 * common / np.maximum(both, 1)).mean()
    return float(total / others.shape[1])


def area_correlation(masks, others):
    """Spearman's correlation of the masks' areas with the mean area of their partners."""
    areas = masks.mean(axis=1)
    return float(spearmanr(areas, areas[others].mean(axis=1)).statistic)


def distance_to_labels(features, places):
    """Mean distance of all rows to the nearest of `places`, over the RMS distance of two rows."""
    model = NearestNeighbors(n_neighbors=1).fit(features[places])
    squared = 2 * features.var(axis=0, dtype=np.float64).sum()  # mean over pairs of rows
    return float(model.kneighbors(features)[0].mean() / np.sqrt(squared))


# Tables -----------------------------------------------------------------------------------------


def of_seed(folder, seed):
    """Where a seed's clustering lies: a folder of its own, or the one that all seeds share."""
    own = folder / f"seed{seed}"
    return own if own.is_dir() else folder


def summed_up(measured, names):
    """Columns NAME_mean and NAME_sd over a list of dicts."""
    columns = {}
    for name in names:
        columns[f"{name}_mean"], columns[f"{name}_sd"] = mean_sd([row[name] for row in measured])
    return columns


def feature_rows(folders, seeds, pool, masks):
    """The rows of features.csv: one per folder."""
    rows = []
    for folder in folders:
        measured = []
        for seed in seeds:
            features = open_clusters(of_seed(folder, seed), pool)["features"]
            near = nearest(features, NEIGHBOURS)
            others = by_chance(near.shape, numpy_rng(seed, "diagnose"))
            measured.append(
                {
                    "neighbours_dice": mask_dice(masks, near),
                    "random_dice": mask_dice(masks, others),
                    "area_correlation": area_correlation(masks, near),
                }
            )
        row = {"features": folder.name, "dimensions": features.shape[1], "seeds": len(seeds)}
        rows.append({**row, **summed_up(measured, measured[0])})
    return rows


def label_rows(groups, folder, budget, pool, masks, runs):
    """The rows of labels.csv, one per arm, and (text) the correlation of distance and Dice."""
    place = {name: row for row, name in enumerate(pool)}
    seeds = {run.seed for group in groups.values() for run in group}
    features = {seed: open_clusters(of_seed(folder, seed), pool)["features"] for seed in seeds}
    measured = []
    for arm, group in groups.items():
        for run in group:
            if budget not in run.labels:
                raise UserError(f"{arm}: was not measured at {budget} labels; leave it out")
            chosen = [place[name] for name in first_labels(runs / arm / f"seed{run.seed}", budget)]
            values = {
                "distance": distance_to_labels(features[run.seed], chosen),
                "area": float(masks[chosen].mean()),
                "dice": run.means[run.labels.index(budget)]["dice"],
            }
            measured.append({"arm": arm, "seed": run.seed, **values})
    rows = []
    for arm in groups:
        of_arm = [values for values in measured if values["arm"] == arm]
        row = {"arm": arm, "labels": budget, "seeds": len(of_arm)}
        rows.append({**row, **summed_up(of_arm, ("distance", "area", "dice"))})
    distance, dice = (
        np.concatenate([centred(measured, seed, name) for seed in seeds])
        for name in ("distance", "dice")
    )
    return rows, "not defined" if len(rows) < 2 else f"{spearmanr(distance, dice).statistic:+.2f}"


def centred(measured, seed, name):
    """The values of one seed's runs, less their mean."""
    values = np.array([row[name] for row in measured if row["seed"] == seed])
    return values - values.mean()


def table(rows, titles, measures):
    """Markdown of rows: columns `titles` as they are, then `measures` (a dict) as mean ± sd."""
    lines = [
        [
            *(row[name] for name in titles),
            *(plus_minus(row[f"{name}_mean"], row[f"{name}_sd"]) for name in measures),
        ]
        for row in rows
    ]
    return markdown([*titles, *measures.values()], lines)


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, required=True, help="folder of ARM/seedS folders")
    add("--arms", nargs="+", required=True, help="which, in this order")
    add("--clusters", type=Path, nargs="+", required=True, help="folders written by cluster.py")
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--budget", type=positive, default=20, help="how many labels")
    add("--partial", action="store_true", help="leave out arms without a finished run")
    add("--mixed", action="store_true", help="also runs that different code has made")
    return parser.parse_args()


def main():
    args = parse_args()
    claim(args.out)
    data = open_data(args.data)
    pool = [name for name in data.pool if data.has_mask[name]]
    if len(pool) <= NEIGHBOURS:
        raise UserError(f"{args.data}: has {len(pool)} pool images with masks, too few")
    masks = data.load_masks(pool).reshape(len(pool), -1)
    runs, notes = read_runs(args.runs, args.arms, args.partial, args.mixed)
    groups = by_arm(runs, args.arms)
    seeds = sorted({run.seed for run in runs})
    known = feature_rows(args.clusters, seeds, pool, masks)
    labelled, correlation = label_rows(
        groups, args.clusters[0], args.budget, pool, masks, args.runs
    )
    features_table = table(
        known,
        ["features", "dimensions", "seeds"],
        {
            "neighbours_dice": "Dice with neighbours %",
            "random_dice": "with random images %",
            "area_correlation": "correlation of area %",
        },
    )
    labels_table = table(
        labelled,
        ["arm", "labels", "seeds"],
        {"distance": "distance %", "area": "area %", "dice": "Dice %"},
    )
    note = LABELS_NOTE.format(area=100 * masks.mean(), correlation=correlation)
    note = "\n\n".join([note, *notes])
    heading = "**Synthetic demo data: these numbers say nothing about skin.**\n\n" * data.synthetic
    for name, rows, text in (
        ("features", known, f"{features_table}\n{FEATURES_NOTE}\n"),
        ("labels", labelled, f"{labels_table}\n{note}\n"),
    ):
        write_csv(args.out / f"{name}.csv", rows)
        write_text(args.out / f"{name}.md", f"{heading}{text}")
        print(text)


if __name__ == "__main__":
    run_script(main)
