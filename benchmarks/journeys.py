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

from segmentation.analysis.estimates import dice_text
from segmentation.analysis.markdown import markdown, p_text
from segmentation.analysis.screening import corrected
from segmentation.analysis.significance import t_interval
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, read_json


def sets_of(folder):
    """dict set -> (dict outlines -> mean Dice, 0..1) of the journeys in a folder."""
    found = {}
    for path in sorted(folder.glob("*/journey.json")):
        rows = read_json(path)["rounds"]
        found[path.parent.name] = {row["outlines"]: row["dice"]["value"] for row in rows}
    if len(found) < 2:
        raise UserError(
            f"{folder} holds {len(found)} journeys; give a folder with two or more that are done"
        )
    return found


def shape(sets):
    """dict set -> list of the numbers of outlines at which it was measured."""
    return {name: list(rounds) for name, rounds in sets.items()}


def main():
    parser = Parser(__doc__)
    parser.add_argument("ways", type=Path, nargs="+", help="folders of journeys")
    args = parser.parse_args()
    ways = {folder.name: sets_of(folder) for folder in args.ways}
    if len(ways) < len(args.ways):
        raise UserError("two folders have the same name; the table needs a name for each")
    first, *others = ways
    for name in others:
        if shape(ways[name]) != shape(ways[first]):
            raise UserError(
                f"{name} and {first} are of different sets of photographs or rounds; run "
                "journey.py for all"
            )
    rows, p_values = [], []
    for outlines in next(iter(ways[first].values())):
        baseline = [rounds[outlines] for rounds in ways[first].values()]
        for name, sets in ways.items():
            dice = [sets[number][outlines] for number in ways[first]]
            row = [outlines, name, len(dice), dice_text(t_interval(dice)), f"{100 * min(dice):.1f}"]
            apart = [own - other for own, other in zip(dice, baseline, strict=True)]
            rows.append([*row, "" if name == first else dice_text(t_interval(apart))])
            p_values.append(
                None if name == first else float(stats.ttest_rel(dice, baseline).pvalue)
            )
    for row, p, adjusted in zip(rows, p_values, corrected(p_values), strict=True):
        row += ["", ""] if p is None else [p_text(p), p_text(adjusted)]
    header = ["outlines", "way", "sets", "Dice % [95 %]", "lowest", f"minus {first} [95 %]"]
    print(markdown([*header, "p", "p (Holm)"], rows), end="")


if __name__ == "__main__":
    run_script(main)
