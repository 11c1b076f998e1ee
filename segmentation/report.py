"""One HTML page about what a run holds: settings, data, chosen images, Dice, best and worst cases.

    python segmentation/report.py runs/demo
    python segmentation/report.py runs/demo --arm saal --out saal.html
    python segmentation/report.py runs/demo --tensorboard runs/demo-events

The folder is that of run.sh (RUN), or one in which pretrain.py, cluster.py or active_learning.py
have written. What it does not hold is named on the page. All arms are in the learning curve; the
images, the cases and the groups are of one training, the first seed of --arm. Writes --out, or
RUN/report.html: a single file with all pictures inside, which loads nothing from the network.

--tensorboard also writes the losses and metrics as events for TensorBoard, in a folder per stage.
"""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.analysis.estimates import dice_text, mean_dice
from segmentation.analysis.events import check_events, write_events
from segmentation.analysis.page import element, page, paragraph
from segmentation.analysis.page_cases import by_size, cases
from segmentation.analysis.page_choices import chosen_images, pool_map
from segmentation.analysis.page_data import data_overview
from segmentation.analysis.page_measures import calibration, learning_curve
from segmentation.analysis.page_run import pretraining, what_was_run
from segmentation.analysis.page_steps import next_steps
from segmentation.analysis.page_words import count_of, last_measured
from segmentation.analysis.runfolder import open_run
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, write_text


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, help="folder of a run, such as runs/demo")
    add("--out", type=Path, help="file to write; else report.html in the folder of the run")
    add("--arm", help="the arm to look at closely; else one that chooses by scores")
    add("--data", type=Path, help="the data folder, if it is not where the run says")
    add("--tensorboard", type=Path, metavar="DIR", help="also write events to this new folder")
    return parser.parse_args()


def closer_look(run, arm):
    """The training to look at closely: the first seed of `arm`. None if there is no training.

    Without an `arm` it is one of those with most rounds; if it can, one whose choices have scores.
    """
    if arm is None:
        return max(run.trainings, key=interest, default=None)
    for training in run.trainings:
        if training.arm == arm:
            return training
    arms = ", ".join(dict.fromkeys(training.arm for training in run.trainings)) or "none"
    raise UserError(f"--arm {arm}: not in {run.path}; it has {arms}")


def interest(training):
    """How much a training has to show; of equal ones `max` takes the first."""
    rounds = training.rounds
    scored = any(one["score"] is not None for entry in rounds for one in entry.chosen)
    return len(rounds) > 1, any(entry.metrics for entry in rounds), scored, len(rounds)


def lead(run, closer):
    """What stands above the contents: the most important numbers, and what is missing."""
    facts = []
    if run.manifest:
        pool, test = (len((run.splits or {}).get(name, [])) for name in ("pool", "test"))
        facts.append(
            ("images", len(run.manifest["rows"]), f"{pool} in the pool, {test} for testing")
        )
    if run.trainings:
        arms = len({training.arm for training in run.trainings})
        seeds = len({training.seed for training in run.trainings})
        what = f"{count_of(arms, 'arm')}, {count_of(seeds, 'seed')}"
        facts.append(("trainings", len(run.trainings), what))
    last = last_measured(closer)
    if last:
        interval, n = mean_dice(last.metrics["dice"]), len(last.metrics["id"])
        value, ends = dice_text(interval).split(" ", 1)
        what = f"{ends}, n\u00a0=\u00a0{n} {closer.measured} images, seed {closer.seed}"
        title = f"Dice of {closer.arm} with {count_of(last.labels, 'label')}"
        facts.append((title, f"{value} %", what))
    items = [
        element("div", element("dt", title), element("dd", value, element("small", more)))
        for title, value, more in facts
    ]
    parts = []
    if run.is_synthetic():
        warning = (
            "Synthetic demo data: the images are drawn, and no number says anything about skin."
        )
        parts.append(paragraph(warning, class_="warning"))
    parts.append(element("dl", items, class_="facts") if items else None)
    if closer and len(run.trainings) > 1:
        parts.append(
            paragraph(
                f"The closer look below is at {closer.arm}, seed {closer.seed}; the option --arm "
                "shows another arm.",
                class_="lead",
            )
        )
    notes = list(dict.fromkeys(run.notes))
    if notes:
        listed = element("ul", [element("li", note) for note in notes])
        parts.append(element("div", "Not there, or not readable:", listed, class_="missing gaps"))
    return parts


def report(run, closer, command):
    """The page as text."""
    parts = [
        ("run", "What was run", what_was_run(run)),
        ("data", "Data", data_overview(run)),
        ("pretraining", "Pretraining", pretraining(run)),
        ("map", "Map of the pool", pool_map(run, closer)),
        ("chosen", "Chosen images", chosen_images(run, closer)),
        ("curve", "Learning curve", learning_curve(run, closer)),
        ("calibration", "Expected and true Dice", calibration(closer)),
        ("cases", "Best, median and worst", cases(run, closer)),
        ("sizes", "Small and large lesions", by_size(run, closer)),
        ("next", "Next steps", next_steps(run, closer)),
    ]
    ending = paragraph("Made with ", element("code", command))
    title = f"Run {run.path.resolve().name}"
    return page(title, element("div", lead(run, closer)), parts, ending)


def main():
    args = parse_args()
    run = open_run(args.run, args.data)
    closer = closer_look(run, args.arm)
    if args.tensorboard:
        check_events(args.tensorboard)
    out = args.out or args.run / "report.html"
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file, such as report.html")
    command = shlex.join(["python", "segmentation/report.py", *sys.argv[1:]])
    text = report(run, closer, command)
    write_text(out, text)
    for note in dict.fromkeys(run.notes):
        print(f"not there: {note}")
    print(f"{out}: {len(text.encode()) / 1e6:.1f} MB, open it in a browser")
    if args.tensorboard:
        count = write_events(args.tensorboard, run)
        print(f"{args.tensorboard}: {count} values; tensorboard --logdir {args.tensorboard}")


if __name__ == "__main__":
    run_script(main)
