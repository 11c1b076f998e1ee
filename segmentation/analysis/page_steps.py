"""The report on what comes next."""

import shlex
from collections import Counter

from segmentation.analysis.page import (
    commands,
    element,
    paragraph,
)
from segmentation.analysis.page_choices import waiting
from segmentation.analysis.page_words import (
    count_of,
    last_measured,
    short_list,
)


def next_steps(run, closer):
    """What annotate.py has found out, and what to do next, with commands."""
    found = [*run.hint.get("measured", []), run.hint.get("advice")]
    steps = [*outline_steps(run, closer), *mask_steps(run)]
    steps += [*training_steps(run), *measuring_steps(run, closer)]
    return [
        [paragraph(text) for text in found if text],
        element("ol", [element("li", step) for step in steps]),
    ]


def outline_steps(run, closer):
    """Steps for someone who has images to outline."""
    left = waiting(run, closer)
    if left:
        name, rows = next(reversed(left.items()))
        return [
            [
                f"Outline the {count_of(len(rows), 'image')} of to_annotate/{name}/list.csv. Then "
                "give the same command again that has made this list: it goes on from there.",
                commands(run.command) if run.command else None,
            ]
        ]
    if run.trainings or not run.clusterings:
        return []
    stage = run.clusterings[0]
    return [
        [
            f"Outline the images of {stage.name}/selection.json, in this order, and save each "
            "outline in the mask folder beside the images, at the size of its image: 0 for skin, "
            "255 for lesion. Make the arrays again, with the options of the first time and "
            "another --out, and train:",
            commands(
                "python preprocess.py --root IMAGES --out data/outlined",
                "python segmentation/active_learning.py --data data/outlined "
                f"--out {shlex.quote(str(run.path / 'model'))} --initial all --rounds 0",
            ),
        ]
    ]


def mask_steps(run):
    """The command that makes masks of all photographs, if annotate.py has named it."""
    if not run.hint.get("masks"):
        return []
    text = "Or take the masks of all photographs as they are now; the worst are marked for review:"
    return [[text, commands(str(run.hint["masks"]))]]


def training_steps(run):
    """Steps about runs that are not complete, or too few."""
    steps = []
    unfinished = [t.name for t in run.trainings if not t.finished]
    if unfinished:
        steps.append(
            [
                f"Finish {short_list(unfinished)}: give the same command again, with the same "
                "settings. It repeats the round in which it stopped, and goes on."
            ]
        )
    seeds = Counter(t.arm for t in run.trainings)
    if len(seeds) > 1 and min(seeds.values()) < 3:
        steps.append(
            [
                "Repeat with more seeds before comparing arms: with one or two seeds chance and "
                "arm cannot be told apart. Into the same folder, with the same other settings:",
                commands(f'SEEDS="0 1 2 3 4" RUN={shlex.quote(str(run.path))} bash run.sh'),
            ]
        )
    if len(seeds) > 1 and (run.path / "seg").is_dir():
        baseline = " --baseline random" if "random" in seeds else ""
        folder = shlex.quote(str(run.path / "seg"))
        steps.append(
            [
                "Compare the arms, paired by seed and test image:",
                commands(f"python segmentation/tables.py --runs {folder}{baseline}"),
            ]
        )
    return steps


def measuring_steps(run, closer):
    """Steps with the trained network."""
    last = last_measured(closer)
    if last is None or last.weights is None or run.data_folder is None:
        return []
    words = ["python", "segmentation/evaluate.py", "--weights", str(last.weights)]
    words += ["--data", str(run.data_folder)]
    steps = []
    if not run.is_synthetic():
        native = [*words, "--native", "IMAGES", "--out", str(run.path / "evaluate-native")]
        steps.append(
            [
                "Measure at the size of the original photographs (IMAGES is the folder from which "
                "the data was made):",
                commands(shlex.join(native)),
            ]
        )
    steps.append(
        [
            "Look at the worst cases above. If small lesions fail, train at a larger size "
            "(preprocess.py --size); if a kind of image fails, outline more of its kind.",
        ]
    )
    return steps
