"""Which batch size and learning rate reach the validation loss of batch 1 in fewer seconds?

    python benchmarks/recipes.py --data data/isic2017-64gray --seconds 300 -- --width 12

Runs self_supervised/pretrain.py with the paper's recipe (batch 1, SGD 0.01 with momentum) and with
larger batches, one after the other, each for the same time (options after `--` go to all of them).
Prints for each the best validation loss and the seconds it took to reach the paper recipe's best,
and draws the loss against wall time. Times include only the epochs, not the start of Python.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import save
from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, read_csv

ROOT = Path(__file__).resolve().parents[1]
PAPER = (1, "sgd", 0.01)
OTHERS = [
    (32, "sgd", 0.1),
    (32, "adam", 0.001),
    (32, "adam", 0.003),
    (64, "adam", 0.003),
    (128, "adam", 0.003),
    (128, "adam", 0.01),
]


def title(recipe):
    batch, optimizer, lr = recipe
    return f"batch {batch}, {optimizer} {lr}"


def curve(recipe, data, seconds, options):
    """(seconds so far, best validation loss so far) after each epoch within `seconds`."""
    batch, optimizer, lr = recipe
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "self_supervised/pretrain.py", "--data", str(data)]
        command += ["--out", folder, "--batch", str(batch), "--optimizer", optimizer]
        command += ["--lr", str(lr), *options]
        log = Path(folder) / "log.csv"
        points, best = [], float("inf")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if not line.startswith("epoch") or not log.exists():
                    continue
                rows = read_csv(log)
                if sum(float(row["seconds"]) for row in rows) > seconds:
                    break
            process.kill()
        spent = 0.0
        for row in read_csv(log) if log.exists() else []:
            spent += float(row["seconds"])
            best = min(best, float(row["validation_loss"]))
            if spent <= seconds:
                points.append((spent, best))
    return points


def draw(path, curves):
    """Loss against wall time, the paper's recipe in black."""
    figure = pictures.new_figure(8, 5)
    axes = figure.subplots()
    styles = {1: "-", 32: "-", 64: "--", 128: ":"}  # by batch
    for number, (recipe, points) in enumerate(curves.items()):
        x, y = zip(*points, strict=True)
        colour, wide = ("black", 2.5) if recipe == PAPER else (f"C{number - 1}", 1.5)
        axes.plot(x, y, styles[recipe[0]], color=colour, lw=wide, label=title(recipe))
    axes.set(xlabel="seconds of training", ylabel="best validation loss so far (MSE)")
    axes.set_yscale("log")
    axes.legend(fontsize=8, loc="center right")
    axes.grid(alpha=0.3, which="both")
    pictures.save(figure, path)


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder written by preprocess.py")
    parser.add_argument("--seconds", type=float, default=300, help="time for each recipe")
    parser.add_argument("--out", type=Path, help="folder for recipes.json and recipes.png")
    parser.add_argument("options", nargs="*", help="after --: options of pretrain.py")
    args = parser.parse_args()
    curves = {}
    for recipe in [PAPER, *OTHERS]:
        curves[recipe] = curve(recipe, args.data.resolve(), args.seconds, args.options)
        print(f"{title(recipe)}: {len(curves[recipe])} epochs", file=sys.stderr, flush=True)
        if not curves[recipe]:
            raise UserError(
                f"--seconds {args.seconds}: too short for an epoch of {title(recipe)}; give more"
            )
    goal = curves[PAPER][-1][1]
    rows = []
    for recipe, points in curves.items():
        reached = next((spent for spent, best in points if best <= goal), None)
        rows.append(
            {
                "recipe": title(recipe),
                "epochs": len(points),
                "best_validation_loss": points[-1][1],
                "seconds_to_the_paper_recipes_best": reached,
                "curve": points,
            }
        )
        shown = "not reached" if reached is None else f"{reached:.0f} s"
        print(f"{title(recipe):24} best {points[-1][1]:.5f}   {goal:.5f} after {shown}")
    content = {"seconds": args.seconds, "options": args.options, "rows": rows}
    save(args.out, "recipes", content)
    if args.out:
        draw(args.out / "recipes.png", curves)


if __name__ == "__main__":
    run_script(main)
