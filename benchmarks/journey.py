"""A lab's whole journey on photographs whose true outlines are known, with a person played by them.

    python benchmarks/journey.py --images isic2017 --more isic2017_fullres --out runs/journey

Copies 60 images of the first folder and all of the second into OUT/my_images, three to a patient,
in sub-folders and formats as labs have them. Then it gives the commands of the README, saves the
true masks of the images that are asked for, and measures after each round, at original size, the
masks of all images that nobody has outlined. Writes OUT/journey.json and OUT/journey.md.
"""

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from scipy import stats

from segmentation.analysis.estimates import mean_dice
from segmentation.common.door import run_script
from segmentation.common.runfiles import (
    Parser,
    positive,
    read_csv,
    read_json,
    round_name,
    write_json,
    write_text,
)
from segmentation.common.stages import environment
from segmentation.data.ids import id_of
from segmentation.data.photos import register_heif
from segmentation.data.reading import mask_of
from segmentation.data.sources import find_folders, pair
from segmentation.model.metrics import per_image

ROOT = Path(__file__).resolve().parents[1]
COUNT, PATIENT = 60, 3  # images of the first folder; images of a patient
FORMATS = (".JPG", ".png", ".tif", ".webp", ".heic", ".jpeg")
AWAITING = 3  # exit code of annotate.py


def build(args):
    """Fill OUT/my_images; returns a dict id -> Source of the original."""
    first, _ = pair(*find_folders(args.images))
    chosen = first[args.start :: len(first) // COUNT][:COUNT]
    if args.more:
        chosen += pair(*find_folders(args.more))[0]
    register_heif()
    truth = {}
    for number, source in enumerate(chosen):
        ending = FORMATS[number % len(FORMATS)]
        patient = f"Müller {number // PATIENT:02d}"
        path = args.out / "my_images" / patient / f"Foto {number % PATIENT + 1}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.image.suffix.lower() in (".jpg", ".jpeg") and ending in (".JPG", ".jpeg"):
            shutil.copyfile(source.image, path)
        else:
            how = {"quality": 95} if ending in (".webp", ".heic", ".JPG", ".jpeg") else {}
            Image.open(source.image).convert("RGB").save(path, **how)
        truth[id_of(f"{patient}/{path.name}")] = source
    return truth


def true_mask(source):
    """bool H x W at original size."""
    with Image.open(source.image) as picture:
        return mask_of(source, (picture.height, picture.width))[0]


def timed(script, *words):
    """Call a script as a user would: (exit code, seconds)."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, words)], check=False)
    return done.returncode, time.perf_counter() - start


def answer(args, number, truth):
    """Save the true mask of each image that round `number` asks for; returns their number."""
    masks = args.out / "my_images" / "masks"
    masks.mkdir(exist_ok=True)
    rows = read_csv(args.out / "mine" / "to_annotate" / round_name(number) / "list.csv")
    for row in rows:
        mask = Image.fromarray(true_mask(truth[row["id"]]))
        mask.save(masks / f"{Path(row['file']).stem}.png")
    return len(rows)


def judge(folder, truth, known):
    """What predictions.csv and the masks are worth on the images that nobody has outlined."""
    rows = read_csv(folder / "predictions.csv")
    dice, expected, review = [], [], []
    for row in rows:
        name = id_of(row["image"])
        if name in known:
            continue
        with Image.open(folder / "masks" / f"{name}.png") as picture:
            predicted = np.asarray(picture) > 0
        dice.append(per_image(predicted[None], true_mask(truth[name])[None])[0]["dice"])
        expected.append(float(row["expected_dice"]))
        review.append(row["needs_review"] == "yes")
    return {
        "images": len(dice),
        "dice": mean_dice(dice)._asdict(),
        "expected": float(np.mean(expected)),
        "spearman": float(stats.spearmanr(expected, dice).statistic),
        "review": sum(review),
        "below_0.7": sum(value < 0.7 for value in dice),
        "below_0.7_in_review": sum(v < 0.7 and r for v, r in zip(dice, review, strict=True)),
    }


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder with images and masks")
    add("--more", type=Path, help="another one, of which all images are taken")
    add("--out", type=Path, required=True, help="folder to write to")
    help = "which image of the first folder to begin with, for other photographs"
    add("--start", type=int, default=0, help=help)
    add("--rounds", type=positive, default=2, help="rounds to outline")
    add("--options", type=shlex.split, default=[], help="further options of annotate.py, in quotes")
    args = parser.parse_args()
    truth = build(args)
    photos, mine = args.out / "my_images", args.out / "mine"
    words = ["--root", photos, "--out", mine, "--group", "folder", *args.options]
    code, seconds = timed("segmentation/annotate.py", *words)
    rows, seconds_of_list = [], seconds
    for number in range(args.rounds):
        assert code == AWAITING, f"annotate.py ended with exit code {code}"
        answer(args, number, truth)
        code, seconds = timed("segmentation/annotate.py", *words)
        folder = args.out / "masks" / round_name(number)
        weights = mine / "model" / round_name(number) / "weights.pt"
        given = ["--weights", weights, photos, "--out", folder]
        _, predicting = timed("segmentation/predict.py", *given)
        state, hint = read_json(mine / "annotate.json"), read_json(mine / "hint.json")
        labelled = [name for entry in state["rounds"] for name in entry["labelled"] or ()]
        row = {"round": number, "outlines": len(labelled), "seconds": seconds}
        row |= {"seconds_of_predict": predicting, "hint": hint}
        rows.append(row | judge(folder, truth, {*labelled, *state["test"]}))
    content = {"photographs": len(truth), "seconds_of_list": seconds_of_list, "rounds": rows}
    write_json(args.out / "journey.json", {**content, "environment": environment()})
    lines = [
        f"List of the first {len(state['rounds'][0]['asked'])} of {len(truth)} photographs to "
        f"outline, and of {len(state['test'])} for measuring: {seconds_of_list:.0f} s.",
        "",
        "| outlines | round, s | masks of all, s | measured by annotate.py | other images "
        "| their Dice % [95 %] | expected Dice % | Spearman | need review | Dice below 70 %, "
        "of these in review |",
        "| --: | --: | --: | :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        dice = row["dice"]
        lines.append(
            f"| {row['outlines']} | {row['seconds']:.0f} | {row['seconds_of_predict']:.0f} | "
            f"{'; '.join(row['hint']['measured'])} | {row['images']} | {100 * dice['value']:.1f} "
            f"[{100 * dice['low']:.1f}, {100 * dice['high']:.1f}] | {100 * row['expected']:.1f} | "
            f"{row['spearman']:.2f} | {row['review']} | {row['below_0.7']}, "
            f"{row['below_0.7_in_review']} |"
        )
    lines += ["", *(f"After {row['outlines']}: {row['hint']['advice']}" for row in rows), ""]
    write_text(args.out / "journey.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    run_script(main)
