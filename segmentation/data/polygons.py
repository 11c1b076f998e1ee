"""Polygons to masks and back.

Coordinates are continuous, as in COCO and on the canvas of the annotation tools: x from the left, y
from the top, and the pixel in row r and column c covers the square c <= x < c + 1, r <= y < r + 1.
A pixel belongs to a polygon if its centre (c + 0.5, r + 0.5) lies inside. OpenCV and Pillow also
draw the border of a polygon and so make it larger by half a pixel at each side.
"""

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import find_contours


def fill(points, size):
    """The pixels whose centres lie inside a polygon: bool H x W of `size` = (H, W).

    `points` is N x 2 of (x, y) in pixels; the last point is joined to the first, and the polygon
    may leave the image. Where it crosses itself, what is inside is decided by the even-odd rule.
    ValueError if the coordinates are not finite numbers or do not come in pairs.
    """
    height, width = size
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("the corners of a polygon are not pairs of finite numbers")
    edges = np.stack([points, np.roll(points, -1, axis=0)], axis=1)
    # From top to bottom, so that an edge and its way back cross each row at exactly the same x.
    down = edges[..., 1].argsort(axis=1, kind="stable")
    edges = np.take_along_axis(edges, down[..., None], axis=1)
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    first, end = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (y0, y1))
    counts = end - first  # how many rows have their centre between the ends of an edge
    edge = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    x = x0[edge] + share * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    crossed = np.zeros((height, width + 1), dtype=np.uint8)
    np.bitwise_xor.at(crossed, (row, column), 1)
    return np.bitwise_xor.accumulate(crossed, axis=1)[:, :width].astype(bool)


def fill_all(polygons, size):
    """The union of several polygons, as in `fill`."""
    mask = np.zeros(size, dtype=bool)
    for points in polygons:
        mask |= fill(points, size)
    return mask


def disc(centre, radius, size):
    """The pixels whose centres lie at most `radius` from `centre` = (x, y): bool of `size`."""
    y, x = np.ogrid[: size[0], : size[1]]
    return (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius**2


def outlines(mask, tolerance=0.0):
    """Polygons around the parts of a mask H x W of {0,1}: a list of float arrays N x 2 of (x, y).

    A part is a set of pixels that touch by their sides. Its holes are joined to its outline by cuts
    of no width, because most tools know no polygons with holes. With `tolerance` 0, `fill_all`
    gives back exactly the mask. Otherwise corners are left out as long as the line stays within
    `tolerance` pixels of where it was (Douglas and Peucker 1973).
    """
    parts, _ = ndimage.label(mask)
    polygons = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        polygon = part_outline(parts[rows, columns] == number, tolerance)
        polygons.append(polygon + np.array([columns.start, rows.start]))
    return polygons


def part_outline(part, tolerance):
    """The polygon around one part, bool h x w, with its holes cut open: float N x 2 of (x, y)."""
    # The contours run half-way between the centres of pixels; of the last point, equal to the
    # first, there is no need, and the border of zeros shifts everything by one pixel.
    contours = find_contours(np.pad(part, 1).astype(np.float32), 0.5)
    contours = [simpler(contour[:-1, ::-1] - 0.5, tolerance) for contour in contours]
    outer, *holes = sorted(contours, key=lambda points: -np.ptp(points, axis=0).prod())
    for hole in holes:
        outer = cut_open(outer, hole)
    return outer


def simpler(points, tolerance):
    """A closed line N x 2 without the corners that are not needed, but with at least three."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    if tolerance == 0:
        return points
    few = cv2.approxPolyDP(points.astype(np.float32)[:, None], tolerance, closed=True)[:, 0]
    return few.astype(np.float64) if len(few) >= 3 else points


def cut_open(outer, hole):
    """One closed line from an outline and a hole, joined where their corners are nearest."""
    distances, nearest = cKDTree(outer).query(hole)
    j = distances.argmin()
    i = nearest[j]
    return np.concatenate([outer[: i + 1], hole[j:], hole[: j + 1], outer[i:]])
