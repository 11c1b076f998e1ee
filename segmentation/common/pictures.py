"""The pictures of the project. Each plotting function writes one PNG file, atomically.

Images may be grayscale (C = 1) or RGB (C = 3). matplotlib is imported inside the functions, so that
training does not load it, and always used through `Figure`, which needs no display.
"""

import itertools
import math
import textwrap

import numpy as np

from segmentation.common.runfiles import atomic

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
TRUTH, PREDICTION = "#00E5FF", "#FFD500"  # colours that do not occur in skin
INK = "#333333"


def new_figure(width, height):
    """An empty figure of this size in inches, with a layout that avoids overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure, path, dpi=150):
    """Write a figure as PNG; the same figure gives the same bytes."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def show(axes, image):
    """Draw one image H x W x C, uint8 in 0..255 or float in [0,1], without ticks."""
    image = image if image.dtype == np.uint8 else np.clip(image, 0, 1)
    limit = 255 if image.dtype == np.uint8 else 1
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, "gray", vmin=0, vmax=limit)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


# Pretraining ------------------------------------------------------------------------------------


def restorations(path, corrupted, restored, clean, title=""):
    """Draw corrupted, restored and clean images in three rows, one column per image.

    All three are float tensors or arrays n x C x H x W in [0,1], on the CPU; values outside this
    range are clipped.
    """
    rows = {"corrupted": corrupted, "restored": restored, "clean": clean}
    figure = new_figure(1.3 * len(clean) + 0.4, 4.1)
    grid = figure.subplots(3, len(clean), squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, np.asarray(images), strict=True):
            show(axes, image.transpose(1, 2, 0))
        line[0].set_ylabel(name, fontsize=11, color=INK)
    if title:
        figure.suptitle(title, fontsize=11)
    save(figure, path, dpi=120)


# Clusters and selection -------------------------------------------------------------------------


def palette(count):
    """`count` colours for clusters, RGBA count x 4: distinct for few, a spectrum for many."""
    from matplotlib import colormaps

    if count <= 10:
        return colormaps["tab10"](np.arange(count))
    if count <= 20:
        return colormaps["tab20"](np.arange(count))
    return colormaps["nipy_spectral"](np.linspace(0.05, 0.95, count))


def latent_map(path, points, clusters, chosen, title):
    """A scatter plot of all pool images, coloured by cluster, with the chosen ones marked.

    `points` is float n x 2, `clusters` int n, `chosen` bool n. If there are 2 to 50 clusters, the
    number of each is written at the median of its points.
    """
    from matplotlib.patheffects import withStroke

    points, chosen = np.asarray(points), np.asarray(chosen, dtype=bool)
    names, index = np.unique(clusters, return_inverse=True)
    colours = palette(len(names))[index]
    figure = new_figure(7.5, 6.6)
    axes = figure.subplots()
    rest = ~chosen
    axes.scatter(*points[rest].T, s=9, c=colours[rest], alpha=0.45, linewidths=0)
    axes.scatter(*points[chosen].T, s=30, c=colours[chosen], edgecolors="black", linewidths=0.9)
    if 1 < len(names) <= 50:
        for place, name in enumerate(names):
            x, y = np.median(points[index == place], axis=0)
            axes.annotate(
                str(name),
                (x, y),
                ha="center",
                va="center",
                fontsize=12 if len(names) <= 20 else 9,
                fontweight="bold",
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    figure.legend(
        handles=[
            dot(f"chosen ({chosen.sum()})", markeredgecolor="black", markersize=7),
            dot(f"not chosen ({rest.sum()})", markeredgewidth=0, markersize=5),
        ],
        title=f"colour and number: cluster ({len(names)})" if len(names) > 1 else None,
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    axes.set_title(title, fontsize=11)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#BBBBBB")
    save(figure, path)


def small_maps(path, points, clusters, marks, title, columns=4):
    """One small scatter plot of the pool per arm, coloured by cluster, with some images marked.

    `points` is float n x 2, `clusters` int n; `marks` maps the name of an arm to bool n, the images
    to mark.
    """
    names, index = np.unique(clusters, return_inverse=True)
    colours = palette(len(names))[index]
    columns = min(columns, len(marks))
    rows = math.ceil(len(marks) / columns)
    figure = new_figure(3 * columns, 2.9 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (arm, mark) in zip(grid, marks.items(), strict=False):
        axes.scatter(*points.T, s=4, c=colours, alpha=0.35, linewidths=0)
        axes.scatter(*points[mark].T, s=34, c=colours[mark], edgecolors="black", linewidths=1.2)
        axes.set_title(arm, fontsize=10)
    figure.suptitle(title, fontsize=12)
    save(figure, path)


def dot(label, **style):
    """A round grey legend entry."""
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color="#999999", label=label, **style)


def selection_sheet(path, images, clusters, labels, title=""):
    """Thumbnails of the chosen images, one row per cluster, in the given order within a cluster.

    `images` is uint8 n x H x W x C, `clusters` int n, `labels` one text per image, written below
    it. Long rows wrap; if some images of a cluster are not shown, its heading says how many.
    """
    side, left, gap = 64, 90, 6  # pixels of the PNG
    high = round(side * images.shape[1] / images.shape[2])
    lines = sheet_lines(clusters)
    columns = max(8, *(len(members) for _, members in lines))
    step, top = high + 18, 30 if title else gap
    width = left + columns * (side + gap)
    height = top + len(lines) * step + gap
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = new_figure(width / 100, height / 100)
    figure.set_layout_engine("none")  # one pixel of the canvas is one pixel of the file
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(gap, 19, title, fontsize=9, color=INK)
    for line, (heading, members) in enumerate(lines):
        y = top + line * step
        axes.text(gap, y + 2, heading, va="top", fontsize=7.5, linespacing=1.4, color=INK)
        if heading and line:
            axes.axhline(y - 4, color="#BBBBBB", linewidth=0.7)
        for column, member in enumerate(members):
            x = left + column * (side + gap)
            canvas[y : y + high, x : x + side] = thumbnail(images[member], side, high)
            text = str(labels[member])
            text = text if len(text) <= 14 else f"…{text[-13:]}"
            style = {"ha": "center", "fontsize": 5.3, "color": INK, "parse_math": False}
            axes.text(x + side / 2, y + high + 8, text, **style)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    save(figure, path, dpi=100)


def contact_sheet(path, images, captions, title, columns=5):
    """Small pictures in rows, each with its caption below it, of two lines at most.

    `images` is uint8 n x H x W x 3. A long first line loses its middle: names differ at the ends.
    """
    high, wide = images.shape[1:3]
    gap, below, top = 14, 34, 34  # pixels of the PNG
    lines = math.ceil(len(images) / columns)
    width, height = columns * (wide + gap) + gap, top + lines * (high + below)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = new_figure(width / 100, height / 100)
    figure.set_layout_engine("none")  # one pixel of the canvas is one pixel of the file
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(gap, 20, title, fontsize=9, color=INK, parse_math=False)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        line, column = divmod(number, columns)
        x, y = gap + column * (wide + gap), top + line * (high + below)
        canvas[y : y + high, x : x + wide] = image
        first, *rest = caption.split("\n")
        text = "\n".join([shortened(first, 34), *rest])
        axes.text(x, y + high + 3, text, va="top", fontsize=6, color=INK, parse_math=False)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    save(figure, path, dpi=100)


def shortened(text, most):
    """`text`, or its beginning and end with … between them: at most `most` characters."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def sheet_lines(clusters, columns=20, most_lines=4, most_clusters=60):
    """The lines of a sheet: pairs of a heading ("" on continued lines) and image positions.

    With more than `most_clusters` clusters (some rules make one per image), clusters do not get
    their own rows; all images are listed one after the other, sorted by cluster.
    """
    order = np.argsort(clusters, kind="stable")
    names, sizes = np.unique(clusters, return_counts=True)
    if len(names) > most_clusters:
        heading = f"{len(order)} chosen,\n{len(names)} clusters"
        return [
            (heading if start == 0 else "", order[start : start + columns])
            for start in range(0, len(order), columns)
        ]
    lines = []
    for name, members in zip(names, np.split(order, np.cumsum(sizes)[:-1]), strict=True):
        shown = members[: columns * most_lines]
        heading = f"cluster {name}\n{len(members)} chosen"
        if len(shown) < len(members):
            heading += f",\n{len(members) - len(shown)} not shown"
        for start in range(0, len(shown), columns):
            lines.append((heading if start == 0 else "", shown[start : start + columns]))
    return lines


def thumbnail(image, width, height):
    """uint8 H x W x C -> uint8 height x width x 3."""
    import cv2

    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.broadcast_to(small.reshape(height, width, -1), (height, width, 3))


def jpeg(image, longest):
    """uint8 H x W x C -> the bytes of a JPEG file, shrunk to at most `longest` pixels a side."""
    import cv2

    scale = min(1, longest / max(image.shape[:2]))
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    small = thumbnail(image, width, height)
    swapped = np.ascontiguousarray(small[..., ::-1])
    return cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


# Results ----------------------------------------------------------------------------------------


def contours(mask):
    """The borders of a mask H x W of {0,1}, also along the edge of the image.

    A list of float n x 2: x and y of the points of a closed line, in pixels; the centre of the
    first pixel is (0, 0).
    """
    from skimage.measure import find_contours

    lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return [line[:, ::-1] - 1 for line in lines]


def outline(axes, mask, colour):
    """Draw the border of a mask H x W of {0,1}."""
    from matplotlib.patheffects import withStroke

    for line in contours(mask):
        axes.plot(
            *line.T,
            color=colour,
            linewidth=1.6,
            path_effects=[withStroke(linewidth=3, foreground="black", alpha=0.6)],
        )


def outlined(image, mask, colour=PREDICTION):
    """The image with the outline of a mask, drawn without matplotlib: for thousands of images.

    `image` uint8 H x W x 3, `mask` bool or uint8 H x W of {0,1}; returns uint8 H x W x 3.
    """
    import cv2

    rgb = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    kinds = cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, dtype=np.uint8), *kinds)
    drawn, width = np.array(image), max(1, round(max(mask.shape) / 400))
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), width + 2)
    cv2.drawContours(drawn, contours, -1, rgb, width)
    return drawn


def cases(path, images, masks, predictions, titles, title="", columns=3):
    """Images with the outlines of the true and the predicted lesion, `columns` in a row.

    `images` is uint8 n x H x W x C, `masks` and `predictions` are n x H x W of {0,1}, `titles` one
    text per image, drawn above it.
    """
    from matplotlib.lines import Line2D

    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    aspect = images.shape[1] / images.shape[2]
    figure = new_figure(2.6 * columns, (2.6 * aspect + 0.3) * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(images) :]:
        axes.axis("off")
    for axes, image, mask, predicted, text in zip(
        grid, images, masks, predictions, titles, strict=False
    ):
        show(axes, image)
        outline(axes, mask, TRUTH)
        outline(axes, predicted, PREDICTION)
        axes.set_title(text, fontsize=9, color=INK, parse_math=False)
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH, linewidth=3, label="truth"),
            Line2D([], [], color=PREDICTION, linewidth=3, label="prediction"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    if title:
        figure.suptitle(title, fontsize=11)
    save(figure, path)


def learning_curves(path, curves, ylabel, title):
    """A metric against the number of labels, one line per arm.

    `curves` maps the name of an arm to three lists: labels, mean, sd over seeds (None or NaN if
    there is one seed). If there are at most seven curves, each has a band of one sd. An arm with a
    single point is a horizontal line if no curve has more labels (such as full supervision),
    otherwise a point. The legend is sorted by the last value, highest first.
    """
    figure = new_figure(9.5, 5.4)
    axes = figure.subplots()
    across = lines_across(curves)
    entries = draw_curves(axes, curves, across)
    label_axis(axes, [n for arm, curve in curves.items() if arm not in across for n in curve[0]])
    finish(figure, axes, ylabel, title, sorted(entries, key=lambda entry: -entry[0]))
    save(figure, path)


def cost_curves(path, panels, ylabel, title):
    """A metric against several measures of what the labels cost, in panels of one height.

    `panels` are pairs: the name of a measure, and curves as in `learning_curves` with costs in
    place of labels. The first are the numbers of labels: if they need a log axis, as in
    `label_axis`, all panels have one, but for a cost that begins at 0.
    """
    from matplotlib.ticker import LogFormatter

    figure = new_figure(12.5, 8.6)
    grid = figure.subplots(math.ceil(len(panels) / 2), 2, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    across = lines_across(panels[0][1])
    drawn = [
        draw_curves(axes, curves, across) for axes, (_, curves) in zip(grid, panels, strict=False)
    ]
    ends = [
        [cost for arm, (costs, _, _) in curves.items() if arm not in across for cost in costs]
        for _, curves in panels
    ]
    label_axis(grid[0], ends[0])
    for axes, (xlabel, _), its_ends in zip(grid, panels, ends, strict=False):
        tidy(axes)
        axes.set_xlabel(xlabel)
        if axes is not grid[0] and needs_log(ends[0]) and min(its_ends) > 0:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(LogFormatter(base=2))
    for axes in grid[::2]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=12)
    add_legend(figure, sorted(drawn[0], key=lambda entry: -entry[0]))
    save(figure, path)


def lines_across(curves):
    """The arms that `learning_curves` draws as horizontal lines."""
    longest = max((labels[-1] for labels, _, _ in curves.values() if len(labels) > 1), default=0)
    return {
        arm for arm, (labels, _, _) in curves.items() if len(labels) == 1 and labels[0] >= longest
    }


def draw_curves(axes, curves, across):
    """Draw the curves of `learning_curves`, those of `across` as horizontal lines.

    Returns a list of (last value, line, name).
    """
    entries = []
    bands = sum(len(labels) > 1 for labels, _, _ in curves.values()) <= len(COLOURS)
    for (arm, (labels, mean, sd)), style in zip(curves.items(), styles(), strict=False):
        mean, sd = np.asarray(mean, dtype=float), np.nan_to_num(np.asarray(sd, dtype=float))
        name, colour = arm, style["color"]
        if arm in across:
            name = f"{arm} ({labels[0]:g} labels)"
            line = axes.axhline(mean[0], color=colour, linestyle="--", linewidth=1.2)
            axes.axhspan(mean[0] - sd[0], mean[0] + sd[0], color=colour, alpha=0.12, linewidth=0)
        elif len(labels) == 1:
            line = axes.errorbar(labels, mean, sd, capsize=3, **{**style, "linestyle": ""})
        else:
            (line,) = axes.plot(labels, mean, **style)
            if bands:
                low, high = mean - sd, mean + sd
                axes.fill_between(labels, low, high, color=colour, alpha=0.15, linewidth=0)
        entries.append((mean[-1], line, name))
    return entries


def ranks(path, curves, title):
    """The mean rank of each arm against the number of labels, the best at the top.

    `curves` maps the name of an arm to two lists, labels and ranks. An arm with empty lists is not
    drawn but still uses up a line style, so that each arm has the same style as in
    `learning_curves`.
    """
    figure, entries = new_figure(9.5, 5.4), []
    axes = figure.subplots()
    for (arm, (labels, values)), style in zip(curves.items(), styles(), strict=False):
        if labels:
            (line,) = axes.plot(labels, values, **style)
            entries.append((values[-1], line, arm))
    axes.invert_yaxis()
    axes.locator_params(axis="y", integer=True)
    label_axis(axes, [n for labels, _ in curves.values() for n in labels])
    ylabel = "mean rank in Dice (1 is best)"
    finish(figure, axes, ylabel, title, sorted(entries, key=lambda entry: entry[0]))
    save(figure, path)


def styles():
    """Endless line styles: any 28 in a row are different, and any 7 in a row differ in colour."""
    for number in itertools.count():
        turn, place = divmod(number, len(COLOURS))
        yield {
            "color": COLOURS[place],
            "marker": MARKERS[(place + turn) % len(MARKERS)],
            "linestyle": DASHES[turn % len(DASHES)],
            "linewidth": 1.6,
            "markersize": 5,
        }


def needs_log(labels):
    """Whether an axis of these numbers is logarithmic: they span a factor of 8 or more."""
    return bool(labels) and max(labels) >= 8 * min(labels)


def label_axis(axes, labels):
    """Set up the x axis, numbers of labels: log2 if they span a factor of 8 or more.

    A log axis has its ticks at these numbers, except those too close to the previous tick. If
    `labels` is empty, there are no ticks.
    """
    if not labels:
        axes.set_xticks([])
        return
    axes.set_xlabel("labelled images")
    if needs_log(labels):
        axes.set_xscale("log", base=2)
        ticks = []
        for number in sorted(set(labels)):
            if not ticks or number > 1.25 * ticks[-1]:
                ticks.append(number)
        axes.set_xticks(ticks, [f"{number:g}" for number in ticks])
        axes.minorticks_off()


def tidy(axes):
    """A grid behind the curves, and no frame above and to the right."""
    axes.grid(color="#E5E5E5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure, axes, ylabel, title, entries):
    """Add title, grid and a legend beside the axes: `entries` are (any value, line, name)."""
    figure.set_figheight(max(5.4, 0.9 + 0.2 * len(entries)))
    axes.set_title(title, fontsize=12)
    axes.set_ylabel(ylabel)
    tidy(axes)
    add_legend(figure, entries)


def add_legend(figure, entries):
    """Add a legend beside the axes: `entries` are (any value, line, name)."""
    _, lines, names = zip(*entries, strict=True)
    names = [textwrap.fill(name, 32) for name in names]
    style = {"frameon": False, "fontsize": 9, "handlelength": 3}
    figure.legend(lines, names, loc="outside right upper", **style)
