"""From a folder of photographs to outlines, round by round, with a person who draws them.

    python segmentation/annotate.py --root my_images --out runs/mine

Call it again whenever outlines have been added to my_images/masks/. Each call does what is next:

1. The first one reads the photographs, sets images aside that are for measuring only, and chooses
   which others to outline first.
2. When these have outlines, it trains a network on them and, by its own masks, on all other images,
   measures it, says whether another round is likely to pay, and chooses the next images among all
   that have no outline. It outlines them, too, as drafts to be corrected.

It ends with a line that says what is awaited and the next command, with exit code 3. Images may be
added at any time. An image is asked for once; outlines of others are welcome. With --allow-partial
it goes on with the outlines that there are.

Writes to --out:

    to_annotate/round_RR/images/     copies of the images to outline, with names that fit one folder
    to_annotate/round_RR/list.csv    each with its id, what it is for, why it was chosen
    to_annotate/round_RR/sheet.png   small pictures of all of them
    to_annotate/round_RR/...         in round 0 files to import into Label Studio and CVAT (COCO);
                                     later predicted/: masks of the model, and drafts to correct
    model/                           the rounds, as active_learning.py writes them
    hint.json                        the numbers behind the hint
    annotate.json                    what was asked for and answered in each round
    data/, cluster/                  what preprocess.py and cluster.py write
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from PIL import Image

from segmentation.analysis import hint
from segmentation.analysis.estimates import dice_text, mean_dice
from segmentation.common import door
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import (
    Parser,
    UserError,
    atomic,
    natural,
    positive,
    read_csv,
    read_json,
    round_name,
    write_csv,
    write_json,
    write_text,
)
from segmentation.common.schemas import Annotation, read_arrays, read_checked
from segmentation.common.stages import pick_device
from segmentation.data.datafolder import open_data
from segmentation.data.drafts import KINDS, Draft, write_coco, write_label_studio
from segmentation.data.ids import id_of
from segmentation.data.images import Images
from segmentation.data.lists import few
from segmentation.data.originals import Originals
from segmentation.data.request import write_request
from segmentation.data.sources import find_folders, pictures
from segmentation.data.splitting import random_split
from segmentation.model.encoders import PACKAGED
from segmentation.model.engine import evaluate
from segmentation.model.inference import segment
from segmentation.model.trained import open_trained
from segmentation.selection.strategies import COLD_STARTS, QUERIES

AWAITING = 3  # exit code: a person has to do something
HERE = Path(__file__).resolve().parents[1]
NETWORK = ["--width", "8", "--encoder", PACKAGED, "--encoder-weights", "package"]
RECIPE = ["--recipe", "pretrained", "--encoder-rate", "0.1", "--self-train", "--largest"]
FEATURES = ["--features", "timm", "--backbone", PACKAGED, "--weights", "package", "--pooling", "1"]
BATCH = 16  # images at a time in prediction
AGAIN = "run annotate.py again"
SEEN = "images.sha256"  # beside features.npz, the hash of the array of images
STOPPED = (130, 143)  # exit codes of a script that a signal has stopped
LEAST = 2  # outlines of the first round, to train on


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the photographs, and masks/ in it")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--per-round", type=positive, default=20, help="images to outline in each round")
    add("--test", type=natural, default=8, help="images to outline for measuring only")
    add("--folds", type=natural, default=5, help="also measure by cross-validation, N parts; 0: no")
    add("--group", help="folder (of each patient) or a CSV file: see preprocess.py")
    add("--size", default="128", help="pixels that the network sees: see preprocess.py")
    add(
        "--cold-start", choices=COLD_STARTS, default="typicover", help="strategy of the first round"
    )
    add("--query", choices=QUERIES, default="typicover", help="strategy of later rounds")
    help = "optimizer steps of each round from now on; give 1600 with some 100 outlines"
    add("--steps", type=positive, default=400, help=help)
    add("--allow-partial", action="store_true", help="go on with the outlines that there are")
    add("--skip-bad", action="store_true", help="go on without files that cannot be used")
    add("--seed", type=int, default=0, help="seed of all draws and of the training")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--deterministic", action="store_true", help="see active_learning.py")
    args = parser.parse_args()
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such folder; give the one with the photographs")
    if args.out.resolve().is_relative_to(args.root.resolve()):
        raise UserError(f"--out {args.out}: is inside of --root; give a folder elsewhere")
    if not args.test and not args.folds:
        raise UserError("nothing to measure by: give --test or --folds")
    if args.folds == 1:
        raise UserError(
            "--folds 1: one part cannot be measured by the others; give 0, or 2 or more"
        )
    return args


def call(script, *words, quiet=False):
    """Run a script of this project; if it fails it has said why, and this one ends as it did."""
    out = subprocess.DEVNULL if quiet else None
    words = [sys.executable, str(HERE / script), *map(str, words)]
    code = door.call(words, stdout=out, env={**os.environ, "QUIET_STOP": "1"})
    if code in STOPPED:
        door.say(code - 128)
    if code:
        sys.exit(code)


def own_command():
    """The command that this is, without --allow-partial, to be given again."""
    words = [word for word in sys.argv if word != "--allow-partial"]
    return f"python {shlex.join(words)}"


def predict_command(args, number):
    """The command that makes masks of all images by the model of a round."""
    weights = folder_of(args, number) / "weights.pt"
    out = args.out / "masks" / round_name(number)
    words = ["--weights", weights, args.root, "--out", out]
    return f"python segmentation/predict.py {shlex.join(map(str, words))}"


def folder_of(args, number):
    """Of the model of a round."""
    return args.out / "model" / round_name(number)


# What was asked and answered --------------------------------------------------------------------


def open_state(args):
    """What was asked for and answered before; at first nothing."""
    path = args.out / "annotate.json"
    state = {"root": str(args.root.resolve()), "seed": args.seed, "test": [], "rounds": []}
    if not path.exists():
        return state
    old = read_checked(path, Annotation, f"give another --out, or delete {args.out}")
    for name in ("root", "seed"):
        if old[name] != state[name]:
            raise UserError(
                f"{path}: was made with --{name} {old[name]}; give the same, or another --out"
            )
    return {name: old[name] for name in state}


def save_state(args, state):
    """Write annotate.json; the command in it is for report.py to name."""
    write_json(args.out / "annotate.json", {**state, "command": own_command()})


def answered(state):
    """Ids that were labelled in a round, in order."""
    return [name for entry in state["rounds"] for name in entry["labelled"] or ()]


def answers(state, data):
    """Ids of the pool that have an outline and are in no round yet, those asked for first."""
    old, asked = set(answered(state)), state["rounds"][-1]["asked"]
    new = [name for name in data.pool if data.has_mask[name] and name not in old]
    return [name for name in asked if name in new] + [name for name in new if name not in asked]


def waiting(state, data):
    """(ids of the last round, ids for measuring) that were asked for and have no outline yet."""
    asked = state["rounds"][-1]["asked"], state["test"]
    return tuple([name for name in names if not data.has_mask.get(name, True)] for names in asked)


def write_labels(args, state):
    """labelled.csv for active_learning.py: what was answered, and what was only asked for."""
    path, old = args.out / "labelled.csv", set(answered(state))
    rounds = list(enumerate(state["rounds"]))
    rows = [{"id": name, "round": number} for number, entry in rounds for name in entry["labelled"]]
    asked = [name for _, entry in rounds for name in entry["asked"] if name not in old]
    rows += [{"id": name, "round": ""} for name in asked]
    if rows:
        write_csv(path, rows)
    else:
        write_text(path, "id,round\n")
    return path


# Steps ------------------------------------------------------------------------------------------


def prepare(args, state):
    """Read photographs and masks into OUT/data; the images for measuring stay what they are."""
    out = args.out / "data"
    words = ["--root", args.root, "--out", out, "--size", args.size, "--no-gray", "--update"]
    words += ["--link-copies"]  # of an image that is for measuring
    words += ["--group", args.group] if args.group else []
    words += ["--skip-bad"] if args.skip_bad else []
    there = ids_below(args.root) if state["test"] else set()
    test = [name for name in state["test"] if name in there]
    if len(test) < len(state["test"]):
        gone = [name for name in state["test"] if name not in there]
        print(f"gone, so measured without: {few(gone)}")
    if test:
        listed = args.out / "measuring.txt"
        write_text(listed, "\n".join([*test, ""]))
        words += ["--test-list", listed]
    else:
        words += ["--test-count", 0]
    call("preprocess.py", *words)
    data = open_data(out)
    check_learned(args, state, data)
    return data


def ids_below(root):
    """The ids of the photographs in `root`."""
    images, masks = find_folders(root)
    return set(map(id_of, pictures(images, [masks] if masks else [])[0]))


def check_learned(args, state, data):
    """UserError unless all images that a round has learned from are there, with their outlines."""
    for name in answered(state):
        why = None
        if name not in data.has_mask:
            why = "is gone, or cannot be used"
        elif not data.has_mask[name]:
            why = "has no outline any more"
        elif name not in data.pool:
            why = "is now of a group with an image for measuring"
        if why:
            raise UserError(
                f"{args.root}: {name}, from which a round has learned, {why}; put it back as it "
                "was, or give another --out, where the outlines count too"
            )


def draw_measuring(args, data):
    """Ids of the images that are for measuring only: at random, whole groups, once for all."""
    if 2 * args.test > len(data.ids):
        raise UserError(
            f"{args.root}: has {len(data.ids)} images, too few to set {args.test} aside for "
            "measuring; give a smaller --test, or --test 0 --folds 5"
        )
    everything = dict.fromkeys(data.ids, True)
    drawn = random_split(everything, data.linked, None, args.test, args.seed)[1]
    if not drawn:
        raise UserError(
            f"{args.root}: no {args.test} images can be set aside for measuring, as their groups "
            "are too large; add images of others, or give --test 0 --folds 5"
        )
    return drawn


def cluster(args, data, number):
    """The features and clusters of the pool, for the choice of round `number`: their folder."""
    out, before = (args.out / "cluster" / round_name(n) for n in (number, number - 1))
    for name in ("args.json", "clusters.npz", "selection.json"):
        (out / name).unlink(missing_ok=True)  # of a call that was interrupted, on older data
    images = read_json(data.folder / "manifest.json", AGAIN)["arrays"]["images.npy"]
    wanted = images, data.pool  # the same images have the same features
    if seen_by(out) != wanted:
        (out / "features.npz").unlink(missing_ok=True)
        if seen_by(before) == wanted:
            with atomic(out / "features.npz") as temporary:
                shutil.copyfile(before / "features.npz", temporary)
        write_text(out / SEEN, images)
    words = ["--data", data.folder, "--out", out, *FEATURES, "--k", min(10, len(data.pool))]
    call("cluster.py", *words, "--budget", 1, "--seed", args.seed, quiet=True)
    return out


def seen_by(folder):
    """(hash of the images, ids) that a folder of cluster.py has features of; None without."""
    features, images = folder / "features.npz", folder / SEEN
    if not (features.exists() and images.exists()):
        return None
    return images.read_text(encoding="utf-8"), read_arrays(features, fix=AGAIN)["ids"].tolist()


def train(args, state, data, number, count):
    """Train on what is labelled before round `number`, and choose `count` images for it."""
    words = ["--data", data.folder, "--out", args.out / "model", *NETWORK, *RECIPE]
    words += ["--cold-start", args.cold_start, "--query", args.query, "--seed", args.seed]
    words += ["--labelled", write_labels(args, state), "--suggest", count, "--keep-weights"]
    words += ["--clusters", cluster(args, data, number), "--device", args.device]
    words += ["--steps", args.steps, "--folds", args.folds]
    words += ["--deterministic"] if args.deterministic else []
    call("segmentation/active_learning.py", *words)


def look_back(args, state, data, number):
    """Print how good the model of a round is, and whether another is likely to pay: hint.json."""
    lines, gained = [], None
    models = [trained_of(args, n) for n in (number - 1, number) if n >= 0]
    for file, name in (("metrics.csv", "images for measuring"), ("folds.csv", "cross-validation")):
        before, now = (dice_of(folder_of(args, n) / file) for n in (number - 1, number))
        if before and file == "metrics.csv":  # by the masks as they are now
            before = dice_again(args, data, list(now), models[0])
        if now:
            lines.append(measured(name, list(now.values())))
            gained = gained or hint.gain(before, now)
    old = set(answered(state))
    rest, agreed = [name for name in data.pool if name not in old], None
    if number and rest and models[0].size == models[1].size:
        agreed = hint.agreement(*(masks_of(args, data, rest, model) for model in models))
    advice = hint.advice(gained, agreed) if rest else hint.ALL
    content = {"round": number, "labels": len(old), "measured": lines, "advice": advice}
    content |= {"gain": gained and gained._asdict(), "agreement": agreed}
    content |= {"masks": predict_command(args, number)}
    write_json(args.out / "hint.json", content)
    print("\n".join([f"{len(old)} outlines to learn from", *lines, advice]))
    print(f"masks of all images: {content['masks']}")


def dice_of(path):
    """Dice of each image in a metrics.csv or folds.csv: a dict by id, empty if there is no file."""
    return {row["id"]: float(row["dice"]) for row in read_csv(path)} if path.exists() else {}


def measured(name, dice):
    """A line about the Dice of some images, with n and interval."""
    return f"{name}: Dice {dice_text(mean_dice(dice))} %, n = {len(dice)}"


def trained_of(args, number):
    """The Trained of a round."""
    return open_trained(folder_of(args, number) / "weights.pt")


def dice_again(args, data, ids, trained):
    """Dice of images by a Trained: a dict by id, empty if it was made for images of another size.

    Unlike that in its metrics.csv it is of the masks of today, which a person may have corrected.
    """
    if trained.size != data.images.shape[1:3]:
        return {}
    device = pick_device(args.device)
    how = Images(data, ids, device), BATCH, device, trained.finish
    return {row["id"]: row["dice"] for row in evaluate(trained.network, data, *how)}


def masks_of(args, data, ids, trained):
    """The masks of some images by a Trained as its user gets them, but for their size.

    They have that of the network.
    """
    device = pick_device(args.device)
    images = Images(data, ids, device)
    return segment(trained.network, images, BATCH, device, trained.finish)


def ask(args, state, data, number, count):
    """Write the request of round `number`, for `count` images, and take it down as asked."""
    folder = args.out / "to_annotate" / round_name(number)
    chosen = read_csv(folder_of(args, number) / "suggestion.csv") if count else []
    path = args.out / "cluster" / round_name(number) / "clusters.npz"
    clusters = read_arrays(path, "cluster", fix=AGAIN)
    cluster_of = dict(zip(clusters["ids"].tolist(), clusters["cluster"].tolist(), strict=True))
    sizes = Counter(cluster_of.values())
    rows = [
        {
            "id": row["id"],
            "purpose": "training",
            "reason": QUERIES[row["source"]].help if row["source"] in QUERIES else row["source"],
            "cluster": cluster_of[row["id"]],
            "cluster_size": sizes[cluster_of[row["id"]]],
            "score": row["score"],
        }
        for row in chosen
    ]
    if number == 0:
        blank = {"reason": "drawn at random", "cluster": "", "cluster_size": "", "score": ""}
        rows += [{"id": name, "purpose": "measuring", **blank} for name in state["test"]]
    rows = [row for row in rows if not data.has_mask.get(row["id"], True)]
    if rows:
        shutil.rmtree(folder / "images", ignore_errors=True)  # of a call that was interrupted
        title = f"Round {number}: {len(rows)} images to outline{data.note}"
        copies = write_request(folder, rows, Originals(args.root, data).image, title)
        drafts(args, folder, copies, number)
    state["rounds"].append({"asked": [row["id"] for row in chosen], "labelled": None})
    save_state(args, state)


def drafts(args, folder, copies, number):
    """Files to import into annotation tools: in the first round without, then with drafts."""
    if number:
        weights = folder_of(args, number - 1) / "weights.pt"
        words = ["--weights", weights, folder / "images", "--out", folder / "predicted"]
        call("segmentation/predict.py", *words, "--drafts", *KINDS, "--device", args.device)
        return
    empty = []
    for copy in copies:
        with Image.open(copy) as picture:
            empty.append(Draft(copy.name, (picture.height, picture.width)))
    write_coco(folder / "coco.json", empty)
    write_label_studio(folder / "label_studio", empty)


# The loop ---------------------------------------------------------------------------------------


def least_of(args):
    """How many outlines the first round needs: to train on, and one for each part of --folds."""
    return max(LEAST, args.folds)


def check_first(args, count, fix):
    """UserError if `count` outlines are too few for the first round."""
    least = least_of(args)
    if count < least:
        what = f"--folds {args.folds}" if least > LEAST else "training"
        raise UserError(f"{args.root}: too few outlines: {count}, but {what} needs {least}; {fix}")


def take_answers(args, state, data, allow_partial):
    """Take down the outlines of the last round; say what is missing, and end, if not enough."""
    asked, measuring = waiting(state, data)
    new = answers(state, data)
    count = len(answered(state)) + len(new)
    enough = count >= least_of(args) and (data.test or args.folds)
    if not (asked or measuring or new):
        print("all images have been asked for")
        sys.exit()
    if (asked or measuring) and not (allow_partial and new and enough):
        number = len(state["rounds"]) - 1
        folder = args.out / "to_annotate" / round_name(number)
        names = [f"{len(asked)} of {len(state['rounds'][-1]['asked'])} outlines"]
        if measuring and number:
            names[0] += f" of the images in {folder}"
            folder = folder.with_name(round_name(0))
        names += (
            [f"{len(measuring)} of {len(state['test'])} for measuring only"] if measuring else []
        )
        print(
            f"awaited: {' and '.join(names)} of the images in {folder}, as masks in "
            f"{args.root / 'masks'}; then: {own_command()}"
        )
        sys.exit(AWAITING)
    check_first(args, count, "outline other images, or add some")
    state["rounds"][-1]["labelled"] = new
    save_state(args, state)


def main():
    args = parse_args()
    claim(args.out)
    state = open_state(args)
    if args.test and state["rounds"] and not state["test"]:
        raise UserError(
            f"--test {args.test}: {args.out} was begun without images for measuring only, and has "
            "learned from others since; give --test 0, or another --out"
        )
    data = prepare(args, state)
    if args.test and not state["test"]:
        state["test"] = draw_measuring(args, data)
        save_state(args, state)
        data = prepare(args, state)
    partial = args.allow_partial
    while True:  # until an outline is awaited
        number = len(state["rounds"])  # of the round to ask for
        if number and state["rounds"][-1]["labelled"] is None:
            take_answers(args, state, data, partial)
            partial = False
        taken = {name for entry in state["rounds"] for name in entry["asked"] + entry["labelled"]}
        count = min(args.per_round, len(set(data.pool) - taken))
        if not number:
            there = sum(data.has_mask[name] for name in data.pool)
            fix = "give a larger --per-round, a smaller --folds, or more images"
            check_first(args, there + count, fix)
        train(args, state, data, number, count)
        if number:
            look_back(args, state, data, number - 1)
        ask(args, state, data, number, count)


if __name__ == "__main__":
    run_script(main)
