"""Arms compared over several splits of the same images into pool and test set.

    for split in 0 1 2 3 4; do SPLIT_SEED=$split SEEDS="0 1 2 3" RUN=runs/split$split \
        DATA=isic2017 PRESET=encoders ARMS="random saal kmeans+imagenet" bash run.sh; done
    python segmentation/splits.py --runs runs/split*/seg --baseline random --margin 1 \
        --out runs/splits

Each of --runs holds the finished runs ARM/seedS of one split. An arm is compared with --baseline by
the mean Dice of the same seed on the same test images. Writes `splits.csv`, a row per run and
number of labels, and `splits.md`: a line per arm and number of labels, with the difference, its
interval and its p value over the splits, which share their images, corrected for all lines. With
--margin also whether the difference is shown to be smaller than that. A second table says how far
apart the seeds of a split are, and whether an arm is shown to lie closer together than --baseline.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.analysis.runs import check_code, read_runs, read_state
from segmentation.analysis.screening import (
    COMPARED,
    EQUAL,
    NARROWER,
    TESTED,
    screened,
    screened_markdown,
    spreads,
    spreads_markdown,
)
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import Parser, UserError, real, write_csv, write_text


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", required=True, help="a folder of runs for each split")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--baseline", required=True, help="arm with which the others are compared")
    add("--arms", nargs="+", help="only these arms and the baseline")
    add("--margin", type=real(0, 100, without=(0,)), help="Dice points that do not matter")
    share = "test images for each image of the pool, in every split"
    add("--tested", type=real(0, without=(0,)), default=TESTED, help=f"{share} (default: {TESTED})")
    add("--mixed", action="store_true", help="runs of different code, too")
    return parser.parse_args()


def read_splits(args):
    """The runs of each folder, and notes. UserError as by read_runs, or for one split twice."""
    splits, notes, paths, folder_of = [], [], [], {}
    for folder in args.runs:
        arms = None if args.arms is None else list({*args.arms, args.baseline})
        runs, told = read_runs(folder, arms, mixed=args.mixed)
        if args.baseline not in {run.arm for run in runs}:
            raise UserError(f"{folder}: has no finished run of --baseline {args.baseline}")
        data = read_state(path_of(folder, runs[0]) / "state.json").get("data")
        if folder_of.setdefault(data, folder) != folder:
            raise UserError(
                f"{folder}: is of the same split as {folder_of[data]}; give a folder for each split"
            )
        splits.append(runs)
        notes += [f"{folder}: {note}" for note in told]
        paths += [path_of(folder, run) for run in runs]
    where = " ".join(map(str, args.runs))
    return splits, notes + check_code(where, paths, args.mixed)


def path_of(folder, run):
    """The folder of a run."""
    return folder / run.arm / f"seed{run.seed}"


def rows_of(splits):
    """The rows of splits.csv from the runs of each split."""
    return [
        {
            "rule": run.arm,
            "features": "",
            "labels": labels,
            "split": number,
            "seed": run.seed,
            "dice": means["dice"],
        }
        for number, runs in enumerate(splits)
        for run in runs
        for labels, means in zip(run.labels, run.means, strict=True)
    ]


def main():
    args = parse_args()
    if len(args.runs) != len(set(args.runs)):
        raise UserError("--runs: names a folder twice; give a folder for each split")
    claim(args.out)
    splits, notes = read_splits(args)
    rows = rows_of(splits)
    margin = args.margin and args.margin / 100
    found = screened(rows, args.baseline, margin, args.tested)
    synthetic = any(run.synthetic for runs in splits for run in runs)
    told = ["**Synthetic demo data: these numbers say nothing about skin.**"] * synthetic
    told += [screened_markdown(found, args.baseline, margin), *notes, COMPARED]
    told += [EQUAL.format(margin=args.margin)] if margin else []
    told += [
        spreads_markdown(spreads(rows, args.baseline)),
        NARROWER.format(baseline=args.baseline),
    ]
    command = shlex.join(["python", "segmentation/splits.py", *sys.argv[1:]])
    text = "\n\n".join([*told, f"Made with `{command}`"]) + "\n"
    write_csv(args.out / "splits.csv", rows)
    write_text(args.out / "splits.md", text)
    print(text)


if __name__ == "__main__":
    run_script(main)
