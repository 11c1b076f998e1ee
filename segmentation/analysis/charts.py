"""Charts as SVG inside HTML. Their colours are classes of page.css, for light and dark.

Dice goes in as 0..1 and is shown in percent. Intervals are significance.Interval. Each chart has a
text that says what it shows (`alt`), and series differ in colour, marker and dashes.
"""

import math
from typing import NamedTuple

import numpy as np

from segmentation.analysis.page import data_uri, element, picture
from segmentation.common.pictures import contours, jpeg, needs_log

WIDTH, HEIGHT = 380, 250  # units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 10, 38
SERIES = 6  # arms in one chart: so many colours has page.css
MARKS = ("circle", "square", "diamond", "up", "down", "cross")
DASHES = (None, "6 3", "2 3", "8 3 2 3", "12 4", "4 2 1 2")
REACH = 10  # Dice points around the values that an axis has for intervals
SHEET_SIDE, CASE_SIDE = 128, 320  # pixels of embedded pictures


# Axes -------------------------------------------------------------------------------------------


def nice_ticks(low, high, most=6):
    """At most `most` + 1 round numbers, equally spaced, from `low` or below to `high` or above."""
    span = max(high - low, 1)
    power = 10 ** math.floor(math.log10(span / most))
    step = next(k * power for k in (1, 2, 2.5, 5, 10, 20) if span / (k * power) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 10) for number in range(first, max(last, first + 1) + 1)]


def label_ticks(labels):
    """Numbers of labels to write below the axis: those far enough from the one before."""
    chosen, log = [], needs_log(labels)
    for number in sorted(set(labels)):
        gap = max(labels) / 9 if not log else 0.22 * number
        if not chosen or number - chosen[-1] >= gap:
            chosen.append(number)
    return chosen


class Scale(NamedTuple):
    """From values to places in the drawing."""

    low: float
    high: float
    start: float  # place of `low`
    end: float
    log: bool = False

    def __call__(self, value):
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log2(v) for v in (low, high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def text(x, y, words, anchor="middle", **more):
    return element("text", words, x=x, y=y, text_anchor=anchor, **more)


def frame(x, y, x_ticks, y_ticks, x_name, y_name, bottom):
    """Grid and numbers: `x_ticks` are pairs (value, text), `y_ticks` values in percent."""
    parts = []
    for tick in y_ticks:
        place = y(tick)
        parts += [
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"),
            text(LEFT - 5, place + 4, f"{tick:g}", "end"),
        ]
    for value, words in x_ticks:
        parts.append(text(x(value), bottom + 15, words))
    middle = (TOP + bottom) / 2
    parts += [
        text((LEFT + WIDTH - RIGHT) / 2, bottom + 32, x_name, class_="axis"),
        text(0, 0, y_name, class_="axis", transform=f"translate(10 {middle:g}) rotate(-90)"),
    ]
    return parts


def drawing(alt, *parts, width=WIDTH, height=HEIGHT):
    """The SVG element."""
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt, class_="chart"
    )


def marker(kind, x, y, size=3.6):
    """A mark at a place: one of MARKS."""
    s = size
    shapes = {
        "square": f"M{x - s:g} {y - s:g}h{2 * s:g}v{2 * s:g}h{-2 * s:g}z",
        "diamond": f"M{x:g} {y - 1.4 * s:g}l{1.4 * s:g} {1.4 * s:g}l{-1.4 * s:g} {1.4 * s:g}"
        f"l{-1.4 * s:g} {-1.4 * s:g}z",
        "up": f"M{x:g} {y - 1.3 * s:g}l{1.3 * s:g} {2.2 * s:g}h{-2.6 * s:g}z",
        "down": f"M{x:g} {y + 1.3 * s:g}l{1.3 * s:g} {-2.2 * s:g}h{-2.6 * s:g}z",
        "cross": f"M{x - s:g} {y - s:g}l{2 * s:g} {2 * s:g}m0 {-2 * s:g}l{-2 * s:g} {2 * s:g}",
    }
    if kind == "circle":
        return element("circle", cx=f"{x:g}", cy=f"{y:g}", r=s)
    return element("path", d=shapes[kind], class_="mark cross" if kind == "cross" else "mark")


def whisker(x, y, interval):
    """The line of an interval in Dice, cut off at the ends of the axis; None if there is none."""
    if interval.low is None:
        return None
    ends = [min(max(100 * end, y.low), y.high) for end in interval[1:]]
    return element("line", x1=x, x2=x, y1=y(ends[0]), y2=y(ends[1]))


def percent_scale(intervals, bottom, reach=100):
    """The axis of Dice in percent that holds these intervals: (Scale, ticks).

    Ends that are more than `reach` away from all values may lie beyond the axis.
    """
    values = [100 * interval.value for interval in intervals]
    ends = [100 * end for interval in intervals for end in interval if end is not None]
    ends = np.clip(ends, min(values) - reach, max(values) + reach)
    ticks = [tick for tick in nice_ticks(min(ends), max(ends)) if 0 <= tick <= 100]
    return Scale(ticks[0], ticks[-1], bottom, TOP), ticks


def curve_scale(intervals, bottom):
    """The axis of learning curves, as from `percent_scale`.

    The wide intervals of few seeds may go beyond it, so that they do not hide how curves differ: it
    reaches as far beyond the values as these are apart, and at least REACH.
    """
    values = [100 * interval.value for interval in intervals]
    return percent_scale(intervals, bottom, max(REACH, max(values) - min(values)))


def goes_beyond(intervals):
    """Whether the axis of learning curves cuts one of these intervals off."""
    y, _ = curve_scale(intervals, 0)
    ends = [100 * end for interval in intervals for end in interval[1:] if end is not None]
    return any(end < y.low or end > y.high for end in ends)


# Charts -----------------------------------------------------------------------------------------


def learning_curves(curves, alt, shared=None):
    """Dice against labels: `curves` maps at most SERIES names to lists of (labels, Interval).

    An arm with one point at the most labels is a horizontal line. `shared` are the curves whose
    ranges the axes have, so that several charts compare.
    """
    shared = shared or curves
    labels = [n for points in shared.values() for n, _ in points]
    bottom = HEIGHT - BOTTOM
    y, y_ticks = curve_scale([i for points in shared.values() for _, i in points], bottom)
    steps = [n for points in shared.values() if len(points) > 1 for n, _ in points] or labels
    x = Scale(min(steps), max(steps), LEFT + 16, WIDTH - RIGHT - 16, needs_log(steps))
    ticks = [(n, f"{n:g}") for n in label_ticks(steps)]
    parts = frame(x, y, ticks, y_ticks, "labelled images", "Dice, %", bottom)
    for number, points in enumerate(curves.values()):
        parts.append(curve(points, number, len(curves), x, y))
    return drawing(alt, *parts)


def curve(points, number, count, x, y):
    """One arm of `learning_curves`, moved a little sideways so that intervals do not overlap."""
    aside, kind = round(3 * (number - (count - 1) / 2), 1), MARKS[number]
    if len(points) == 1 and points[0][0] >= x.high > x.low:
        interval = points[0][1]
        place, right = y(100 * interval.value), WIDTH - RIGHT - 4 + aside / 3
        line = element("path", d=f"M{LEFT} {place}H{right}", stroke_dasharray=DASHES[number])
        marks = [whisker(right, y, interval), marker(kind, right, place)]
    else:
        places = [(round(x(n) + aside, 1), y(100 * interval.value)) for n, interval in points]
        d = "M" + "L".join(f"{px:g} {py:g}" for px, py in places)
        line = element("path", d=d, stroke_dasharray=DASHES[number])
        marks = [
            [whisker(px, y, interval), marker(kind, px, py)]
            for (px, py), (_, interval) in zip(places, points, strict=True)
        ]
    return element("g", line, marks, class_=f"series c{number}")


def key(drawn, kind="", width=30):
    """A small drawing, 12 high, that stands before a name in a legend."""
    box = f"0 0 {width} 12"
    return element("svg", drawn, viewBox=box, class_=f"key {kind}".strip(), aria_hidden="true")


def legend(names):
    """The list of series of a chart, in its order."""
    items = []
    for number, name in enumerate(names):
        line = element("path", d="M0 6H30", stroke_dasharray=DASHES[number])
        sample = element("g", line, marker(MARKS[number], 15, 6), class_=f"series c{number}")
        items.append(element("li", key(sample), name))
    return element("ul", items, class_="legend")


def groups(intervals, names, alt, x_name):
    """The Dice of a few groups side by side, with their intervals."""
    bottom = HEIGHT - BOTTOM
    y, y_ticks = percent_scale(intervals, bottom)
    x = Scale(0, len(names), LEFT, WIDTH - RIGHT)
    ticks = [(place + 0.5, name) for place, name in enumerate(names)]
    parts = frame(x, y, ticks, y_ticks, x_name, "Dice, %", bottom)
    for place, interval in enumerate(intervals):
        middle = x(place + 0.5)
        mark = marker("circle", middle, y(100 * interval.value), 4.5)
        parts.append(element("g", whisker(middle, y, interval), mark, class_="series c0"))
    return drawing(alt, *parts)


def calibration(expected, truth, alt):
    """True Dice against expected Dice, a point per image; on the diagonal they are equal."""
    height = WIDTH - LEFT - RIGHT + TOP + BOTTOM
    bottom = height - BOTTOM
    x, y = Scale(0, 100, LEFT, WIDTH - RIGHT), Scale(0, 100, bottom, TOP)
    ticks = range(0, 101, 20)
    parts = frame(x, y, [(t, t) for t in ticks], ticks, "expected Dice, %", "true Dice, %", bottom)
    parts.append(element("path", d=f"M{x(0)} {y(0)}L{x(100)} {y(100)}", class_="diagonal"))
    dots = [
        marker("circle", x(100 * e), y(100 * t), 3) for e, t in zip(expected, truth, strict=True)
    ]
    parts.append(element("g", dots, class_="series c0 cloud"))
    return drawing(alt, *parts, height=height)


def round_colour(number, count):
    """The colour of a round, from blue over red to orange; readable on light and dark."""
    share = number / max(1, count - 1)
    return f"hsl({225 + 165 * share:.0f} 70% 45%)"


def pool_map(points, marks, alt):
    """The pool as points, with some images marked.

    `points` is float n x 2 with n >= 1; `marks` maps the number of a round to pairs (place, id).
    Up to 80 marks have the number of their round written in them.
    """
    points, margin = np.asarray(points, dtype=float), 9
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    height = round(min(320, max(160, WIDTH * span[1] / max(span[0], 1e-9))))
    free = np.array([WIDTH - 2 * margin, height - 2 * margin])
    zoom = (free / np.maximum(span, 1e-9)).min()
    places = np.round(margin + (free - span * zoom) / 2 + (points - low) * zoom, 1)
    places[:, 1] = np.round(height - places[:, 1], 1)
    marked = {place for pairs in marks.values() for place, _ in pairs}
    dots = "".join(f"M{px:g} {py:g}h0" for n, (px, py) in enumerate(places) if n not in marked)
    parts = [element("path", d=dots, class_="pool")]
    numbered = len(marked) <= 80
    for order, (number, pairs) in enumerate(marks.items()):
        for place, name in pairs:
            px, py = places[place]
            words = element("title", f"{name}, round {number}")
            dot = element("circle", cx=f"{px:g}", cy=f"{py:g}", r=5.5 if numbered else 3.2)
            inside = text(f"{px:g}", f"{py + 2.9:.1f}", number) if numbered else None
            style = f"fill: {round_colour(order, len(marks))}"
            parts.append(element("g", words, dot, inside, class_="chosen", style=style))
    return drawing(alt, *parts, height=height)


def round_legend(names):
    """The list of the rounds in `pool_map`: `names` are texts."""
    items = []
    for order, name in enumerate(names):
        dot = element("circle", cx=6, cy=6, r=5, style=f"fill: {round_colour(order, len(names))}")
        items.append(element("li", key(dot, width=12), name))
    return element("ul", items, class_="legend")


# Photographs ------------------------------------------------------------------------------------


def thumbnail(image, alt):
    """uint8 H x W x C as a small embedded picture."""
    height, width = image.shape[:2]
    return picture(data_uri(jpeg(image, SHEET_SIDE), "image/jpeg"), alt, width, height)


def outlined(image, mask, predicted, alt):
    """uint8 H x W x C with the outlines of two masks H x W: truth solid, prediction dashed."""
    height, width = image.shape[:2]
    lines = []
    for kind, area in (("truth", mask), ("predicted", predicted)):
        d = "".join(
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "z" for line in contours(area)
        )
        if d:
            lines += [element("path", d=d, class_="halo"), element("path", d=d, class_=kind)]
    over = element("svg", lines, viewBox=f"-0.5 -0.5 {width} {height}", aria_hidden="true")
    under = picture(data_uri(jpeg(image, CASE_SIDE), "image/jpeg"), alt, width, height)
    return element("div", under, over, class_="outlined")
