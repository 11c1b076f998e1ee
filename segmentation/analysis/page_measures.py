"""The report on how good the outlines are: learning curves, expected against true Dice."""

import numpy as np

from segmentation.analysis import charts
from segmentation.analysis.estimates import dice_text, equal_parts, mean_dice, spearman
from segmentation.analysis.page import element, figure, folded, missing, paragraph, table
from segmentation.analysis.page_words import (
    correlation_text,
    count_of,
    last_measured,
)
from segmentation.model import metrics
from segmentation.model.confidence import held_out

INTERVALS = {
    False: "Where there is one seed, the interval of 95 % is Student's over the test images: "
    "it says how much the mean would change with other images, and nothing about other seeds. ",
    True: "Where there are several seeds, the interval of 95 % is Student's t over seeds, on these "
    "test images; it is cut off at 0 and 100. ",
}


def curves_of(trainings):
    """Learning curves: arm -> list of dicts with labels, interval, seeds and images (numbers).

    Where several seeds have been measured at a number of labels the interval is over seeds,
    otherwise over test images.
    """
    measured = [(t.arm, entry) for t in trainings for entry in t.rounds if entry.metrics]
    found = {}
    for arm, entry in measured:
        found.setdefault(arm, {}).setdefault(entry.labels, []).append(entry.metrics)
    curves = {}
    for arm, by_labels in found.items():
        curves[arm] = [
            {
                "labels": labels,
                "interval": mean_dice([seed["dice"].mean() for seed in seeds])
                if len(seeds) > 1
                else mean_dice(seeds[0]["dice"]),
                "seeds": len(seeds),
                "images": len(seeds[0]["id"]),
            }
            for labels, seeds in sorted(by_labels.items())
        ]
    return curves


def learning_curve(run, closer):
    """Dice against labels, as charts and as a table; more about the closer look."""
    curves = curves_of(run.trainings)
    if not curves:
        return missing("No round has been measured on test images yet.")
    drawn = {
        arm: [(point["labels"], point["interval"]) for point in points]
        for arm, points in curves.items()
    }
    arms, parts = list(drawn), []
    images = f"{closer.measured} images" if closer else "test images"
    for start in range(0, len(arms), charts.SERIES):
        some = {arm: drawn[arm] for arm in arms[start : start + charts.SERIES]}
        alt = f"Dice on the {images} against the number of labels for {', '.join(some)}"
        names = [
            f"{arm} ({count_of(points[0][0], 'label')})" if len(points) == 1 else arm
            for arm, points in some.items()
        ]
        parts += [charts.learning_curves(some, alt, drawn), charts.legend(names)]
    several = {point["seeds"] > 1 for points in curves.values() for point in points}
    note = [INTERVALS[kind] for kind in sorted(several)]
    if charts.goes_beyond([interval for points in drawn.values() for _, interval in points]):
        note.append("Intervals that go beyond a chart are cut off there; the table has them whole.")
    parts.append(paragraph(*note, class_="note"))
    parts.append(curve_table(curves, images))
    return [*parts, all_metrics(closer), cross_validation(closer)]


def curve_table(curves, images):
    """The values of learning curves: a row per arm, a column per number of labels."""
    columns = sorted({point["labels"] for points in curves.values() for point in points})
    rows = []
    for arm, points in curves.items():
        seeds = max(point["seeds"] for point in points)
        cells = {}
        for point in points:
            value, ends = dice_text(point["interval"]).split(" ", 1)
            fewer = f", {count_of(point['seeds'], 'seed')}" if point["seeds"] < seeds else ""
            cells[point["labels"]] = [value, element("small", ends + fewer)]
        n = [count_of(seeds, "seed"), element("small", count_of(points[0]["images"], "image"))]
        rows.append([arm, n, *(cells.get(labels, "") for labels in columns)])
    header = ["arm", "n", *(count_of(labels, "label") for labels in columns)]
    return table(header, rows, f"Dice on the {images} in %, with intervals of 95 %")


def all_metrics(closer):
    """All metrics of the last round of the closer look."""
    last = last_measured(closer)
    if last is None:
        return None
    rows = []
    for name in metrics.NAMES:
        values = last.metrics.get(name)
        if values is None:
            continue
        title, words = name.replace("_", " ").capitalize() + ", %", dice_text(mean_dice(values))
        if name == "hd95":
            title, words = "95 % Hausdorff distance, pixels", f"{values.mean():.1f}"
        rows.append([title, words, len(values)])
    what = f"{closer.arm}, seed {closer.seed}, {count_of(last.labels, 'label')}: means over images"
    listed = table(["metric", "mean [95 %]", "n"], rows, what)
    return folded("All metrics of the last round", listed)


def cross_validation(closer):
    """Dice within the labelled images, where a run has folds."""
    rounds = [entry for entry in closer.rounds if entry.folds] if closer else []
    if not rounds:
        return None
    rows = [[e.labels, dice_text(mean_dice(e.folds["dice"])), len(e.folds["id"])] for e in rounds]
    return [
        element("h3", "Cross-validation within the labelled images"),
        table(["labels", "Dice % [95 %]", "n images"], rows, f"{closer.arm}, seed {closer.seed}"),
        paragraph(
            "Each labelled image is outlined by a model that has not seen it. Where a strategy has "
            "chosen the labelled images, they are not a random draw.",
            class_="note",
        ),
    ]


# Expected and true Dice -------------------------------------------------------------------------


def calibration(closer):
    """Expected against true Dice, where the model has said what Dice it expects."""
    last, sources = last_measured(closer), []
    if last:
        sources.append((f"{closer.measured} images", last.metrics))
    folds = [entry.folds for entry in closer.rounds if entry.folds] if closer else []
    if folds:
        sources.append(("labelled images, by cross-validation", folds[-1]))
    parts = []
    for name, columns in sources:
        known = np.flatnonzero(np.isfinite(columns.get("confidence", [])))
        if len(known):
            parts += calibration_of(name, columns["confidence"][known], columns["dice"][known])
    return parts or missing(
        "The model has not said how sure it is of its outlines (metrics.csv and folds.csv have no "
        "column confidence)."
    )


def calibration_of(name, confidence, truth):
    """Chart, correlation and table of images with these confidences and true Dice, in 0..1."""
    n, expected = len(truth), held_out(confidence, truth)
    alt = f"True Dice against expected Dice of {n} {name}"
    rows = []
    for part in equal_parts(expected):
        span = f"{100 * expected[part].min():.0f} to {100 * expected[part].max():.0f}"
        middle = f"{100 * expected[part].mean():.1f}"
        rows.append([span, len(part), middle, dice_text(mean_dice(truth[part]))])
    header = ["expected Dice %", "n", "mean expected", "true Dice % [95 %]"]
    return [
        element("h3", name[0].upper() + name[1:]),
        figure(
            charts.calibration(expected, truth, alt),
            f"{alt}. What each is expected to have comes from the confidence of the model, "
            "calibrated on the other images where there are enough. On the dashed line both are "
            "equal; below it the model expects too much.",
        ),
        paragraph(
            f"Spearman's correlation: {correlation_text(spearman(expected, truth))}, "
            f"n\u00a0=\u00a0{n}. On average the model expects a Dice of "
            f"{100 * expected.mean():.1f} %; the true one is {dice_text(mean_dice(truth))} %, "
            f"n\u00a0=\u00a0{n}."
        ),
        table(header, rows, "Images with low and with high expected Dice"),
    ]
