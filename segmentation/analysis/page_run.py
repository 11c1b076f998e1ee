"""The report on what was run: stages, time, hardware, settings, pretraining."""

from segmentation.analysis.page import (
    data_uri,
    element,
    figure,
    folded,
    missing,
    paragraph,
    picture,
    settings_list,
    table,
)
from segmentation.analysis.page_words import count_of, seconds_of, short_list, value_text
from segmentation.common.pace import duration


def what_was_run(run):
    """The stages with their time; where they ran; their settings."""
    rows = [
        [stage.name, "", "", "", time_of([stage])]
        for stage in [*run.pretrainings, *run.clusterings]
    ]
    arms = {}
    for training in run.trainings:
        arms.setdefault(training.arm, []).append(training)
    for arm, group in arms.items():
        seeds = ", ".join(str(training.seed) for training in group)
        rows.append([arm, seeds, rounds_text(group), labels_text(group), time_of(group)])
    parts = []
    if rows:
        header = ["stage or arm", "seeds", "rounds", "labels", "training time"]
        note = "Training time is the sum over the epochs, without choosing images and measuring."
        parts += [table(header, rows, "What this run holds"), paragraph(note, class_="note")]
    parts += [environments(run.stages()), settings(run)]
    if run.tables:
        names = ", ".join(folder.name for folder in run.tables)
        parts.append(paragraph(f"Tables that compare the arms lie in: {names}.", class_="note"))
    return parts


def time_of(stages):
    """The training time of some stages together, in words; – if no log says it."""
    logs = [log for s in stages for log in [s.log, *(e.log for e in getattr(s, "rounds", ()))]]
    known = [seconds for log in logs if (seconds := seconds_of(log)) is not None]
    return duration(sum(known)) if known else "–"


def rounds_text(trainings):
    """The rounds that the trainings of an arm have done, and how many trainings are unfinished."""
    found = {
        str(len(t.rounds)) if t.finished else f"{len(t.rounds)} of {t.planned + 1}"
        for t in trainings
    }
    unfinished = sum(not t.finished for t in trainings)
    return ", ".join(sorted(found)) + (f" ({unfinished} unfinished)" if unfinished else "")


def labels_text(trainings):
    """The labels of an arm, from the first to the last round."""
    labels = [entry.labels for training in trainings for entry in training.rounds]
    if not labels:
        return ""
    low, high = min(labels), max(labels)
    return str(low) if low == high else f"{low} to {high}"


def environments(stages):
    """Commit, hardware and versions: a row for each different environment."""
    found = {}
    for stage in stages:
        found.setdefault(tuple(sorted(stage.env.items())), []).append(stage.name)
    rows = []
    for env, names in found.items():
        env = dict(env)
        if not env:
            rows.append([short_list(names), "not recorded", "", ""])
            continue
        changed = env.get("uncommitted_changes")
        commit = (env.get("commit") or "not known")[:12] + (" with changes" if changed else "")
        cores = f"{env.get('cpu') or '?'}, {count_of(env.get('cpu_cores') or '?', 'core')}"
        versions = [
            f"{title} {env[key]}"
            for key, title in (
                ("python", "Python"),
                ("torch", "PyTorch"),
                ("cuda", "CUDA"),
                ("numpy", "NumPy"),
            )
            if env.get(key)
        ]
        hardware = f"{env['gpu']}; {cores}" if env.get("gpu") else cores
        rows.append([short_list(names), commit, hardware, ", ".join(versions)])
    if not rows:
        return None
    header = ["stages", "commit", "hardware", "versions"]
    return table(header, rows, "Where it ran", texts=4)


def settings(run):
    """All recorded options: of other stages, common to all trainings, different between them."""
    parts = []
    for stage in [*run.pretrainings, *run.clusterings]:
        if stage.args:
            parts.append(folded(f"Settings of {stage.name}", settings_list(texts(stage.args))))
    known = [training for training in run.trainings if training.args]
    if known:
        names = sorted({name for training in known for name in training.args} - {"out"})
        same = {n for n in names if len({str(t.args.get(n)) for t in known}) == 1}
        what = "the training" if len(known) == 1 else f"all {len(known)} trainings"
        shared = {name: known[0].args.get(name) for name in names if name in same}
        parts.append(folded(f"Settings of {what}", settings_list(texts(shared))))
        differ = [name for name in names if name not in same]
        if differ:
            rows = [[t.name, *(value_text(t.args.get(n)) for n in differ)] for t in known]
            what = "Settings in which the trainings differ"
            listed = table(["training", *map(option, differ)], rows, what)
            parts.append(folded(what, listed))
    return parts or missing("The settings of the stages are not recorded (no args.json).")


def option(name):
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def texts(settings):
    """Settings as pairs of texts."""
    return [(option(name), value_text(value)) for name, value in settings.items()]


# Pretraining ------------------------------------------------------------------------------------


def pretraining(run):
    """Restored images and the error of each pretraining."""
    if not run.pretrainings:
        return missing(
            "This run has no restoration pretraining: networks start from random weights, or from "
            "an encoder trained elsewhere."
        )
    parts = []
    for stage in run.pretrainings:
        if len(run.pretrainings) > 1:
            parts.append(element("h3", stage.name))
        if {"epoch", "validation_loss", "validation_corrupted"} <= stage.log.keys():
            best = int(stage.log["validation_loss"].argmin())
            epoch, restored, corrupted = (
                stage.log[name][best]
                for name in ("epoch", "validation_loss", "validation_corrupted")
            )
            parts.append(
                paragraph(
                    f"{count_of(len(stage.log['epoch']), 'epoch')}, {time_of([stage])}. The mean "
                    f"squared error on held-out pool images was lowest in epoch {epoch:.0f} "
                    f"(counted from 0), {restored:.4f}; that of the corrupted images themselves "
                    f"is {corrupted:.4f}."
                )
            )
        path = stage.folder / "restorations.png"
        if not path.exists():
            parts.append(missing(f"{stage.name}/restorations.png is not there."))
            continue
        alt = "Corrupted, restored and clean images of the pool, one column per image"
        uri = data_uri(path.read_bytes(), "image/png")
        parts.append(figure(picture(uri, alt), f"{alt} ({stage.name})."))
    return parts
