"""The report on single test images: best, median and worst cases, small and large lesions."""

import numpy as np

from segmentation.analysis import charts
from segmentation.analysis.cases import outlined, typical_cases
from segmentation.analysis.estimates import dice_text, equal_parts, mean_dice
from segmentation.analysis.page import element, figure, missing, paragraph, table
from segmentation.analysis.page_words import count_of, last_measured
from segmentation.common.runfiles import UserError, round_name
from segmentation.model import metrics
from segmentation.model.finish import Finish
from segmentation.model.unet import load_model

GROUPED = 9  # least test images for groups by lesion size
SAME = 0.02  # largest difference between two Dice of the same outline, from other hardware
SIZES = {3: ("smallest", "middle", "largest"), 4: ("smallest", "second", "third", "largest")}


def cases(run, closer):
    """The best, median and worst test images, with the outlines of truth and prediction."""
    last = last_measured(closer)
    if last is None:
        return missing("No round has been measured, so there are no best and worst cases.")
    pairs = zip(last.metrics["id"], last.metrics["dice"].tolist(), strict=True)
    chosen = typical_cases([{"id": name, "dice": dice} for name, dice in pairs])
    drawn, note = draw(run, closer, last, chosen)
    figures = []
    for place, (kind, row) in enumerate(chosen):
        words = f"{kind}: Dice {100 * row['dice']:.1f}\u00a0%"
        content = element("div", "no picture", class_="no-picture")
        if drawn:
            alt = f"image {row['id']} with the outlines of truth and prediction, {words}"
            content = charts.outlined(*(arrays[place] for arrays in drawn), alt=alt)
        figures.append(figure(content, element("b", row["id"]), words))
    n = len(last.metrics["id"])
    columns = sum(kind == "best" for kind, _ in chosen)
    return [
        paragraph(
            f"The best, the median and the worst of {n} {closer.measured} images by Dice "
            f"({closer.arm}, seed {closer.seed}, {count_of(last.labels, 'label')}; mean Dice "
            f"{dice_text(mean_dice(last.metrics['dice']))} %, n\u00a0=\u00a0{n})."
        ),
        missing(note) if note else None,
        outline_key() if drawn else None,
        element(
            "div", figures, class_="cases", style=f"grid-template-columns: repeat({columns}, 1fr)"
        ),
    ]


def draw(run, closer, last, chosen):
    """(what charts.outlined takes of each case, or None; a text on what is wrong, or "")."""
    if run.data is None:
        return None, "The data folder is not there, so the cases have no pictures."
    if last.weights is None:
        return None, f"{round_name(last.number)} has no weights.pt, so the cases have no pictures."
    try:
        model = load_model(last.weights)
        if model.in_channels != run.data.channels:
            raise UserError(f"{last.weights}: takes other channels than {run.data_folder} has")
        finish = Finish(bool(closer.args.get("views")), bool(closer.args.get("largest")))
        drawn = outlined(model, run.data, [row["id"] for _, row in chosen], 8, "cpu", finish)
    except UserError as error:
        return None, f"The cases have no pictures. {error}"
    _, masks, predicted = drawn
    now = metrics.dice(metrics.confusion(predicted == 1, masks == 1))
    then = np.array([row["dice"] for _, row in chosen])
    apart = float(np.abs(now - then).max())
    if apart > SAME:
        return drawn, (
            f"The outlines drawn here differ in Dice by up to {100 * apart:.1f} points from those "
            "that were measured: the data or the weights have changed since."
        )
    return drawn, ""


def outline_key():
    """What the two outlines are."""
    items = []
    for kind, name in (("truth", "truth (solid)"), ("predicted", "prediction (dashed)")):
        line = element("path", d="M2 6H28", class_=kind)
        items.append(element("li", charts.key(line, "outline-key"), name))
    return element("ul", items, class_="legend")


def by_size(run, closer):
    """Dice in groups of test images with small and large lesions."""
    last = last_measured(closer)
    if last is None or run.data is None:
        what = "No round has been measured" if last is None else "The data folder is not there"
        return missing(f"{what}, so there are no groups by lesion size.")
    ids = last.metrics["id"]
    places = [place for place, name in enumerate(ids) if run.data.has_mask.get(name)]
    n = len(places)
    if n < GROUPED:
        return missing(
            f"{count_of(n, 'test image')} with a mask: too few for groups by lesion size "
            f"(at least {GROUPED})."
        )
    areas = run.data.load_masks([ids[place] for place in places]).mean(axis=(1, 2))
    dice, rows, intervals = last.metrics["dice"][places], [], []
    parts = equal_parts(areas, least=GROUPED // 3)
    for part, size in zip(parts, SIZES[len(parts)], strict=True):
        intervals.append(mean_dice(dice[part]))
        span = f"{100 * areas[part].min():.1f} to {100 * areas[part].max():.1f}"
        failed = int((dice[part] < 0.5).sum())
        rows.append([size, span, len(part), dice_text(intervals[-1]), failed])
    header = ["lesions", "area, % of the image", "n", "Dice % [95 %]", "Dice below 50 %"]
    kind = {3: "thirds", 4: "quarters"}[len(parts)]
    alt = f"Mean Dice in {kind} of the {closer.measured} images by the area of the true lesion"
    return [
        figure(
            charts.groups(intervals, SIZES[len(parts)], alt, "true lesion area"),
            f"{alt}: {closer.arm}, seed {closer.seed}, {count_of(last.labels, 'label')}, "
            f"n\u00a0=\u00a0{n}. Intervals of 95 % are Student's over images.",
        ),
        table(header, rows, "The same in numbers"),
    ]
