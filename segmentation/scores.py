"""Does an uncertainty find poor masks, or only large lesions?

    python segmentation/scores.py --data data/isic2017-128colour --out runs/scores \
        --weights runs/lab/seg/random+trained/seed*/round_00/weights.pt

For each of --weights and each uncertainty by which images can be queried, three rank correlations
(Spearman's) over the test images: with 1 - Dice, which a good score has high; with the area of the
true lesion and with that of the predicted one, which it has near 0. Writes to --out `scores.csv`, a
row per weights and score, and `scores.md`, means over the weights. The test images have to be
others than those that the weights have learned from. Where a network has no dropout, as those of
--frozen, bald and ceal are left out, and dsal where it has no --heads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import numpy as np
from tqdm import tqdm

from segmentation.analysis.estimates import spearman
from segmentation.analysis.markdown import markdown
from segmentation.analysis.significance import mean_sd
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.precision import Precision
from segmentation.common.runfiles import Parser, UserError, positive, write_csv, write_text
from segmentation.common.stages import pick_device
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model.engine import evaluate
from segmentation.model.trained import finish_of, segmenter_for
from segmentation.model.unet import read_extra
from segmentation.selection import sizefree, uncertainty

SCORES = {
    "entropy": uncertainty.score_entropy,
    "margin": uncertainty.score_margin,
    "bald": uncertainty.score_bald,
    "ceal": uncertainty.score_ceal,
    "dsal": uncertainty.score_dsal,
    "border": sizefree.score_border,
    "foreground": sizefree.score_foreground,
    "threshold": sizefree.score_threshold,
}
BY_DROPOUT = ("bald", "ceal")
AGAINST = {"error": "1 - Dice", "area": "true area", "predicted_area": "predicted area"}


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder made by preprocess.py")
    add("--weights", type=Path, nargs="+", required=True, help="weights.pt of rounds")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--passes", type=positive, default=20, help="Monte Carlo passes of bald and ceal")
    add("--batch", type=positive, default=16, help="images per pass")
    add("--seed", type=int, default=0, help="seed of the dropout masks")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args()


def scores_of(args, model, images, precision):
    """Each score that the model allows for some images: a dict from its name to float64 N."""
    how, found = (args.batch, precision), {}
    for name, function in SCORES.items():
        if (name == "dsal" and not model.heads) or (name in BY_DROPOUT and not model.dropout):
            continue
        drawn = (args.passes, (args.seed, "scores")) if name in BY_DROPOUT else ()
        found[name] = function(model, images, *drawn, *how)
    return found


def rows_of(args, data, path):
    """The rows of scores.csv for one file of weights."""
    model, precision = segmenter_for(path, data), Precision(pick_device(args.device))
    if not model.dropout:
        tqdm.write(f"{path}: has no dropout, so {' and '.join(BY_DROPOUT)} are left out")
    images = Images(data, data.test, precision.device)
    how = args.batch, precision.device, finish_of(read_extra(path))
    measured = evaluate(model, data, images, *how)
    shares = sizefree.predicted_shares(model, images, args.batch, precision)
    others = {
        "error": 1 - np.array([row["dice"] for row in measured]),
        "area": data.load_masks(data.test).mean(axis=(1, 2)),
        "predicted_area": shares,
    }
    return [
        {"weights": str(path), "score": name}
        | {key: together(values, other) for key, other in others.items()}
        for name, values in scores_of(args, model, images, precision).items()
    ]


def together(x, y):
    """Spearman's correlation, None where one of the two has a single value."""
    found = spearman(x, y)
    return found and found.value


def correlation(values):
    """`+0.51 ± 0.02` of floats; – of none, and in place of the deviation of one."""
    if not values:
        return "–"
    middle, sd = mean_sd(values)
    return f"{middle:+.2f} ± " + ("–" if sd is None else f"{sd:.2f}")


def table(rows):
    """The text of scores.md: for each score the mean correlations over the weights."""
    lines = []
    for name in dict.fromkeys(row["score"] for row in rows):
        mine = [row for row in rows if row["score"] == name]
        cells = [correlation([row[k] for row in mine if row[k] is not None]) for k in AGAINST]
        lines.append([name, len(mine), *cells])
    note = (
        "Spearman's correlation over the test images, mean ± standard deviation over the weights. "
        "A score that finds poor masks has the first high, one that only finds large lesions the "
        "others."
    )
    return f"{markdown(['score', 'weights', *AGAINST.values()], lines)}\n{note}\n"


def main():
    args = parse_args()
    claim(args.out)
    data = open_data(args.data)
    data.need_masks(data.test)
    if len(data.test) < 3:
        raise UserError(f"{args.data}: has {len(data.test)} test images, too few to correlate")
    rows = []
    for path in tqdm(args.weights, desc="weights", disable=None):
        rows += rows_of(args, data, path)
    write_csv(args.out / "scores.csv", rows)
    text = table(rows)
    write_text(args.out / "scores.md", text)
    print(text)


if __name__ == "__main__":
    run_script(main)
