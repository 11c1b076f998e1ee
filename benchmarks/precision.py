"""Is Dice the same in float32 and in mixed precision? Two run folders, compared run by run.

    DATA=isic2017 PRESET=cpu bash run.sh
    mkdir runs/bf16 && cp -r runs/cpu/pretrain runs/cpu/cluster runs/bf16
    AMP=bf16 RUN=runs/bf16 ARMS="random random+scratch" DATA=isic2017 PRESET=cpu \\
        bash run.sh train
    python benchmarks/precision.py --one runs/cpu/seg --other runs/bf16/seg

For each arm in both folders: mean ± sd over the common seeds of Dice and of its paired difference,
and the median training time in seconds.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import save
from segmentation.analysis.markdown import plus_minus
from segmentation.analysis.runs import by_arm, read_runs
from segmentation.analysis.significance import mean_sd
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, read_csv


def training_seconds(folder, arm, seed):
    """Seconds of all epochs of a run together."""
    logs = (folder / arm / f"seed{seed}").glob("round_*/log.csv")
    return sum(float(row["seconds"]) for log in logs for row in read_csv(log))


def main():
    parser = Parser(__doc__)
    parser.add_argument("--one", type=Path, required=True, help="folder of runs, ARM/seedS")
    parser.add_argument("--other", type=Path, required=True, help="these in another precision")
    parser.add_argument("--out", type=Path, help="folder for precision.json")
    args = parser.parse_args()
    folders = (args.one, args.other)
    groups = [by_arm(read_runs(folder)[0]) for folder in folders]
    rows = []
    for arm in sorted(set(groups[0]) & set(groups[1])):
        runs = [{run.seed: run for run in group[arm]} for group in groups]
        seeds = sorted(set(runs[0]) & set(runs[1]))
        labels = [runs[0][seed].labels for seed in seeds]
        times = [
            statistics.median(training_seconds(folder, arm, seed) for seed in seeds)
            for folder in folders
        ]
        for number in (0, len(labels[0]) - 1):
            dice = [[own[seed].means[number]["dice"] for seed in seeds] for own in runs]
            differences = [other - one for one, other in zip(*dice, strict=True)]
            rows.append(
                {
                    "arm": arm,
                    "labels": labels[0][number],
                    "seeds": seeds,
                    "dice": dice,
                    "difference": mean_sd(differences),
                    "training_seconds": times,
                }
            )
            one, other = (plus_minus(*mean_sd(values)) for values in dice)
            seconds = " and ".join(f"{value:.0f} s" for value in times)
            print(
                f"{arm}, {labels[0][number]} labels, {len(seeds)} seeds: Dice {one} and {other} %, "
                f"difference {100 * rows[-1]['difference'][0]:+.2f} ± "
                f"{100 * (rows[-1]['difference'][1] or 0):.2f} points; {seconds} of training"
            )
    if not rows:
        raise UserError(f"{args.one} and {args.other}: no arm in common; finish one in both")
    save(args.out, "precision", {"rows": rows})


if __name__ == "__main__":
    run_script(main)
