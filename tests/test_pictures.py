"""The pictures are files of the expected size that show what they are given."""

import itertools

import cv2
import numpy as np
import pytest
import torch

from segmentation.common import pictures


def colour_images(n, height=32, width=32, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def has_colour(picture, colour):
    """Whether a BGR picture has a pixel close to a #RRGGBB colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
    return (np.abs(picture.astype(int) - wanted).max(axis=-1) < 12).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_restorations(tmp_path, figures, channels):
    images = torch.rand(4, channels, 32, 32)
    rows = (images, images.flip(3), 2 * images - 0.5)
    pictures.restorations(tmp_path / "r.png", *rows, title="held out")
    panels = figures["r.png"].axes
    assert [axes.get_ylabel() for axes in panels[::4]] == ["corrupted", "restored", "clean"]
    assert figures["r.png"].get_suptitle() == "held out"
    for axes, image in zip(panels, torch.cat(rows), strict=True):
        shown = np.asarray(axes.images[0].get_array()).reshape(32, 32, channels)
        np.testing.assert_allclose(shown, image.clamp(0, 1).permute(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize("count", [1, 10, 20, 50, 120])
def test_latent_map(tmp_path, figures, count):
    rng = np.random.default_rng(0)
    clusters = 3 + rng.integers(0, count, 200)  # numbers need not start at 0
    points, chosen = rng.normal(size=(200, 2)), rng.random(200) < 0.2
    pictures.latent_map(tmp_path / "l.png", points, clusters, chosen, "t-SNE")
    (axes,), (legend,) = figures["l.png"].axes, figures["l.png"].legends
    rest, marked = axes.collections
    np.testing.assert_allclose(marked.get_offsets(), points[chosen])
    np.testing.assert_allclose(rest.get_offsets(), points[~chosen])
    names = [f"chosen ({chosen.sum()})", f"not chosen ({(~chosen).sum()})"]
    assert [text.get_text() for text in legend.get_texts()] == names
    numbers = [text.get_text() for text in axes.texts]
    present = np.unique(clusters)
    assert numbers == ([str(name) for name in present] if 1 < len(present) <= 50 else [])
    assert axes.get_title() == "t-SNE"
    assert len(np.unique(pictures.palette(count)[:, :3], axis=0)) == count


def test_sheet_shows_each_image_in_its_place(tmp_path):
    images = np.empty((3, 64, 64, 3), dtype=np.uint8)
    images[:] = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)])[:, None, None]
    pictures.selection_sheet(tmp_path / "s.png", images, np.array([7, 2, 7]), ["a", "b", "c"])
    sheet = cv2.imread(str(tmp_path / "s.png"))[..., ::-1]
    left, top, step, down = 90 + 32, 6 + 32, 70, 82
    assert sheet[top, left].tolist() == [0, 255, 0]
    assert sheet[top + down, left].tolist() == [255, 0, 0]
    assert sheet[top + down, left + step].tolist() == [0, 0, 255]


def test_sheet_lines():
    lines = pictures.sheet_lines(np.array([1, 0, 1, 1, 1, 1, 1]), columns=2, most_lines=2)
    headings = ["cluster 0\n1 chosen", "cluster 1\n6 chosen,\n2 not shown", ""]
    assert [heading for heading, _ in lines] == headings
    assert [members.tolist() for _, members in lines] == [[1], [0, 2], [3, 4]]
    lines = pictures.sheet_lines(np.arange(70)[::-1])  # a cluster per image: no rows by cluster
    assert [len(members) for _, members in lines] == [20, 20, 20, 10]
    assert lines[0][1][0] == 69


@pytest.mark.parametrize("channels", [1, 3])
def test_large_sheet(tmp_path, figures, channels):
    images, clusters = colour_images(300, 48, 64, channels), np.arange(300) % 10
    labels = [f"a-rather-long-image-name-{i:04d}" for i in range(300)]
    pictures.selection_sheet(tmp_path / "s.png", images, clusters, labels, title="chosen")
    height, width, _ = cv2.imread(str(tmp_path / "s.png")).shape
    assert width == 90 + 20 * 70 and height == 30 + 20 * 66 + 6
    (axes,) = figures["s.png"].axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "chosen"
    headings = [text for text in texts if text.startswith("cluster")]
    assert headings == [f"cluster {k}\n30 chosen" for k in range(10)]
    order = np.argsort(clusters, kind="stable")
    below = [text for text in texts if text.startswith("…")]
    assert below == [f"…{labels[place][-13:]}" for place in order]


@pytest.mark.parametrize("n", [1, 4, 9])
def test_cases_draw_both_outlines(tmp_path, n):
    masks = np.zeros((n, 32, 32), dtype=np.uint8)
    masks[:, 8:20, 8:20] = 1
    images = np.full((n, 32, 32, 1), 128, dtype=np.uint8)
    pictures.cases(tmp_path / "c.png", images, masks, np.roll(masks, 6, 1), ["title"] * n)
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert has_colour(picture[:-60], pictures.TRUTH)  # the last rows hold the legend
    assert has_colour(picture[:-60], pictures.PREDICTION)


def test_cases_with_empty_and_full_masks(tmp_path):
    empty, full = np.zeros((1, 32, 32), dtype=np.uint8), np.ones((1, 32, 32), dtype=np.uint8)
    pictures.cases(tmp_path / "c.png", colour_images(1) // 8, full, empty, ["title"])
    picture = cv2.imread(str(tmp_path / "c.png"))[:-60]
    assert has_colour(picture, pictures.TRUTH) and not has_colour(picture, pictures.PREDICTION)


def test_learning_curves(tmp_path, figures):
    curves = {f"arm {i}": ([10, 20, 30], [i, i + 1, i + 2], [0.1, 0.2, None]) for i in range(9)}
    pictures.learning_curves(tmp_path / "a.png", curves, "Dice (%)", "title")
    (axes,) = figures["a.png"].axes
    assert [tuple(line.get_ydata()) for line in axes.lines] == [(i, i + 1, i + 2) for i in range(9)]
    assert not axes.collections, "nine curves are too many for bands"
    assert (axes.get_title(), axes.get_ylabel()) == ("title", "Dice (%)")
    few = {**dict(list(curves.items())[:2]), "full": ([100], [14.0], [0.5])}
    pictures.learning_curves(tmp_path / "b.png", few, "Dice (%)", "title")
    (axes,), (legend,) = figures["b.png"].axes, figures["b.png"].legends
    assert len(axes.collections) == 2 and len(axes.patches) == 1  # two bands, and that of full
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["full (100 labels)", "arm 1", "arm 0"]
    pictures.learning_curves(tmp_path / "c.png", {"full": few["full"]}, "Dice (%)", "title")
    (line,) = figures["c.png"].axes[0].lines
    assert list(line.get_ydata()) == [14.0, 14.0]


def test_same_picture_same_bytes_and_nothing_left_behind(tmp_path):
    for name in "ab":
        pictures.restorations(tmp_path / f"{name}.png", *torch.full((3, 2, 1, 16, 16), 0.5))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def axis_of(labels):
    axes = pictures.new_figure(4, 3).subplots()
    pictures.label_axis(axes, labels)
    return axes.get_xscale(), [text.get_text() for text in axes.get_xticklabels()]


def test_label_axis():
    assert axis_of([300, 335, 370, 615])[0] == "linear"
    assert axis_of([10, 20, 79])[0] == "linear"
    assert axis_of([10, 20, 80]) == ("log", ["10", "20", "80"])
    budgets = [10, 20, 40, 80, 160, 300, 335, 370, 405, 440]
    assert axis_of(budgets) == ("log", ["10", "20", "40", "80", "160", "300", "405"])
    assert axis_of([]) == ("linear", [])


def test_styles_differ():
    styles = list(itertools.islice(pictures.styles(), 28))
    assert len({(style["color"], style["linestyle"]) for style in styles}) == 28
    assert len({(style["color"], style["marker"]) for style in styles}) == 28


def drawn(monkeypatch, draw, *args):
    """The axes and the names in the legend, from top to bottom, of a picture."""
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    draw("", *args)
    (axes,), (legend,) = figures[0].axes, figures[0].legends
    return axes, [text.get_text() for text in legend.get_texts()]


def test_full_supervision_is_a_line_across_and_a_small_budget_a_point(monkeypatch):
    curves = {
        "low": ([10, 100], [50, 60], [1, 1]),
        "high": ([10, 100], [40, 70], [1, None]),
        "full": ([1600], [80], [0.5]),
        "draws": ([20], [65], [None]),
    }
    axes, names = drawn(monkeypatch, pictures.learning_curves, curves, "Dice (%)", "title")
    assert names == ["full (1600 labels)", "high", "draws", "low"]
    assert axes.get_xscale() == "log" and axes.get_xlim()[1] < 200
    spans = {tuple(line.get_xdata()): line.get_color() for line in axes.lines}
    assert spans[(0, 1)] == pictures.COLOURS[2] and spans[(20,)] == pictures.COLOURS[3]


def test_ranks_have_the_best_at_the_top_and_the_colours_of_the_curves(monkeypatch):
    curves = {"a": ([10, 20], [2.0, 2.5]), "full": ([], []), "b": ([10, 20], [1.5, 1.0])}
    axes, names = drawn(monkeypatch, pictures.ranks, curves, "title")
    bottom, top = axes.get_ylim()
    assert bottom > top and names == ["b", "a"]
    assert [line.get_color() for line in axes.lines] == [pictures.COLOURS[i] for i in (0, 2)]
