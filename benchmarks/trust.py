"""How well predict.py knows which masks to trust, on test images whose true masks are known.

    python benchmarks/trust.py runs/trust/seed0/round_00 runs/trust/seed1/round_00

Each folder is a round of active_learning.py. The test images in its metrics.csv are divided at
random into two halves; expected Dice is calibrated on one and judged on the other, then the other
way round. A line per folder: Dice, Spearman's correlation of expected and true Dice, the part of
the images that needs review, and how many of those with a Dice below 0.7 are in it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import stats

from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, numpy_rng, read_csv
from segmentation.model.confidence import calibrate

FAILED = 0.7  # Dice of a mask that is of no use


def judge(confidence, dice):
    """(expected Dice, whether each needs review) of images by the calibration on the other half."""
    order = numpy_rng(0, "halves").permutation(len(dice))
    expected, review = np.zeros(len(dice)), np.zeros(len(dice), dtype=bool)
    for start in (0, 1):
        own, other = order[start::2], order[1 - start :: 2]
        fit = calibrate(confidence[other], dice[other])
        expected[own] = fit.expected(confidence[own])
        review[own] = (expected[own] < fit.threshold) | (confidence[own] == 0)
    return expected, review


def main():
    parser = Parser(__doc__)
    parser.add_argument("rounds", type=Path, nargs="+", help="folders with a metrics.csv")
    args = parser.parse_args()
    print("| round | images | Dice % | Spearman | need review % | Dice below 70 %, in review |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for folder in args.rounds:
        rows = read_csv(folder / "metrics.csv")
        confidence, dice = (
            np.array([float(row[name]) for row in rows]) for name in ("confidence", "dice")
        )
        expected, review = judge(confidence, dice)
        failed = dice < FAILED
        print(
            f"| {folder} | {len(rows)} | {100 * dice.mean():.1f} "
            f"| {stats.spearmanr(expected, dice).statistic:.2f} | {100 * review.mean():.1f} "
            f"| {failed.sum()}, {(failed & review).sum()} |"
        )


if __name__ == "__main__":
    run_script(main)
