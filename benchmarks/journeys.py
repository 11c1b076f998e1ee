"""Several journeys of journey.py in one table: ways to go, each on several sets of photographs.

    for start in 0 1 2 3; do for rule in typicover kmeans; do
        python benchmarks/journey.py --images isic2017 --start $start --rounds 1 \\
            --options "--folds 0 --cold-start $rule --seed $start" --out runs/journeys/$rule/$start
    done; done
    python benchmarks/journeys.py runs/journeys/typicover runs/journeys/kmeans

Each folder is a way to go and holds one folder for each set of photographs, of the same names in
all. A line per way and number of outlines: the mean, over sets, of the mean Dice of the images that
nobody has outlined, with Student's interval over sets, the lowest, and the paired difference to the
first way, with its interval and p value of the paired t test, Holm's over the table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scipy import stats

from segmentation.analysis.significance import holm, t_interval
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, read_json


def sets_of(folder):
    """dict set -> (dict outlines -> mean Dice in %, 0..100) of the journeys in a folder."""
    found = {}
    for path in sorted(folder.glob("*/journey.json")):
        rows = read_json(path)["rounds"]
        found[path.parent.name] = {row["outlines"]: 100 * row["dice"]["value"] for row in rows}
    if len(found) < 2:
        raise UserError(
            f"{folder} holds {len(found)} journeys; give a folder with two or more that are done"
        )
    return found


def text(interval):
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def main():
    parser = Parser(__doc__)
    parser.add_argument("ways", type=Path, nargs="+", help="folders of journeys")
    args = parser.parse_args()
    ways = {folder.name: sets_of(folder) for folder in args.ways}
    first, *others = ways
    for name in others:
        if ways[name].keys() != ways[first].keys():
            raise UserError(
                f"{name} and {first} are of different sets of photographs; run journey.py for all"
            )
    rows, p_values = [], []
    for outlines in next(iter(ways[first].values())):
        for name, sets in ways.items():
            dice = [sets[number][outlines] for number in sets]
            row = [str(outlines), name, str(len(dice)), text(t_interval(dice)), f"{min(dice):.1f}"]
            if name == first:
                rows.append((row, None))
                continue
            apart = [sets[number][outlines] - ways[first][number][outlines] for number in sets]
            p_values.append(float(stats.ttest_1samp(apart, 0).pvalue))
            rows.append((row, text(t_interval(apart))))
    corrected = iter(zip(p_values, holm(p_values), strict=True))
    print(f"| outlines | way | sets | Dice % [95 %] | lowest | minus {first} [95 %] | p | Holm |")
    print("| --: | :-- | --: | --: | --: | --: | --: | --: |")
    for row, apart in rows:
        tail = ["", "", ""]
        if apart is not None:
            p, adjusted = next(corrected)
            tail = [apart, f"{p:.3f}", f"{adjusted:.3f}"]
        print(f"| {' | '.join(row + tail)} |")


if __name__ == "__main__":
    run_script(main)
