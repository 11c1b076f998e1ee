"""Distances between the images of a pool: exact for the few that decide, rough for all pairs.

`exact` is float64 and rounded, the definition that the rules are written in. `rough` is float32,
with a bound on its error, and only finds out which pairs are near enough to a threshold or a
minimum to be measured exactly. So the choices are those of `exact`, but most of the work is a
float32 matrix product. No N x N matrix of numbers is kept.
"""

from functools import cached_property

import numpy as np
from sklearn.neighbors import NearestNeighbors

BLOCK = 64  # rows of an N x N matrix that are computed at once
PAIRS = 4096  # pairs that are measured at once
TINY = 1e-6  # smaller distances between unit vectors count as 0
ROUNDING = 2.0**-24  # relative rounding error of float32


def blocks(places):
    """`places`, or rows, in parts of BLOCK."""
    return (places[start : start + BLOCK] for start in range(0, len(places), BLOCK))


def normalise(features):
    """Rows scaled to length 1: float32 N x D. A row of zeros stays a row of zeros."""
    features = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


class Distances:
    """Euclidean distances between the rows of `points`, float N x D.

    Exact distances are rounded to `unit`, a millionth of the length of the longest row, so that
    rounding errors of the matrix product, which differ between machines, break no ties.
    """

    def __init__(self, points):
        self.points = np.asarray(points, dtype=np.float64)
        self.squares = np.einsum("nd,nd->n", self.points, self.points)
        self.unit = TINY * np.sqrt(self.squares.max(initial=0)) or 1.0

    def exact(self, places):
        """Distances of the rows `places` (int M) to all rows, float64 M x N."""
        products = self.points[places] @ self.points.T
        return self.rounded(self.squares[places, None] + self.squares - 2 * products)

    def pairs(self, rows, columns):
        """The same for pairs of rows, both int P: float64 P."""
        distances = np.empty(len(rows))
        for start in range(0, len(rows), PAIRS):
            part = slice(start, start + PAIRS)
            one, other = rows[part], columns[part]
            products = np.einsum("pd,pd->p", self.points[one], self.points[other])
            distances[part] = self.rounded(self.squares[one] + self.squares[other] - 2 * products)
        return distances

    def rounded(self, squared):
        """Exact distances from squared ones."""
        return np.round(np.sqrt(np.maximum(squared, 0)) / self.unit) * self.unit

    def to_nearest(self, places):
        """The exact distance of every row to the nearest of `places`; inf if these are none."""
        nearest = np.full(len(self.points), np.inf)
        for block in blocks(places):
            nearest = np.minimum(nearest, self.exact(block).min(axis=0))
        return nearest

    def closest(self):
        """The smallest exact distance above 0 between two rows; inf if there is none."""
        found = np.inf
        for block in blocks(np.arange(len(self.points))):
            distances = self.exact(block)
            found = min(found, distances[distances > 0].min(initial=np.inf))
        return found

    @cached_property
    def centred(self):
        """What `rough` multiplies: the lengths L float64 N of the centred rows c, and two float32
        N x (D + 2), (2 c, -1, -L^2) and (c, L^2, 1), whose product is -|c - c'|^2.
        """
        rows = self.points - self.points.mean(axis=0)
        squares = np.einsum("nd,nd->n", rows, rows)[:, None]
        ones = np.ones_like(squares)
        left = np.hstack([2 * rows, -ones, -squares]).astype(np.float32)
        return np.sqrt(squares[:, 0]), left, np.hstack([rows, squares, ones]).astype(np.float32)

    def rough(self, places):
        """Minus the squared distances of `places` to all rows, float32 M x N: see `doubt`."""
        _, left, right = self.centred
        return left[places] @ right.T

    def doubt(self, places, reach):
        """How far `rough` may be off, float64 M, at pairs no farther apart than `reach`.

        Rounding errors of a product of D numbers add up to about sqrt(D) of one (Higham and Mary
        2019, SIAM J. Sci. Comput. 41, A2815), and the numbers are bounded by the lengths.
        """
        return self.error * (2 * self.centred[0][places] + reach) ** 2

    @property
    def error(self):
        """The error of a rough squared distance of two rows, as a share of (L + L')^2."""
        return (4 + np.sqrt(self.points.shape[1])) * ROUNDING

    def nearer(self, places, delta):
        """Whether the exact distances of `places` to all rows are below `delta`: bool M x N."""
        rough, doubt = self.rough(places), self.doubt(places, 2 * delta)[:, None]
        least = (max(delta - self.unit, 0) ** 2 - doubt).astype(np.float32)
        most = ((delta + self.unit) ** 2 + doubt).astype(np.float32)
        inside = rough > -least
        unsure = (rough > -most) & ~inside
        if np.count_nonzero(unsure) > unsure.size / 16:  # copies: rows are faster than pairs
            return self.exact(places) < delta
        row, column = np.nonzero(unsure)
        inside[row, column] = self.pairs(places[row], column) < delta
        return inside

    def to_stranger(self, cluster):
        """The exact distance of every row to the nearest of another cluster; inf if there is none.

        `cluster` int N.
        """
        nearest = np.full(len(cluster), np.inf)
        for k in np.unique(cluster):
            others = np.flatnonzero(cluster != k)
            right = self.centred[2][others].T
            for block in blocks(np.flatnonzero(cluster == k) if len(others) else others):
                rough = self.centred[1][block] @ right
                best = rough.max(axis=1)
                squared = np.maximum(-best, 0).astype(np.float64)
                doubt = self.doubt(block, 2 * np.sqrt(squared) + self.unit)
                reach = 2 * (np.sqrt(squared + doubt) + self.unit)
                least = -((reach / 2) ** 2) - self.doubt(block, reach)
                row, column = np.nonzero(rough >= least.astype(np.float32)[:, None])
                if len(row) > rough.size / 16:
                    nearest[block] = self.exact(block)[:, others].min(axis=1)
                else:
                    found = self.pairs(block[row], others[column])
                    np.minimum.at(nearest, block[row], found)
        return nearest

    def median_neighbour(self, rank):
        """The median over the rows of the exact distance to the `rank`-th nearest, itself 0-th."""
        count = len(self.points)
        squared = np.empty(count)
        for block in blocks(np.arange(count)):
            squared[block] = np.partition(-self.rough(block), rank, axis=1)[:, rank]
        middle = np.sqrt(np.maximum(squared, 0))
        doubt = self.doubt(slice(None), 2 * middle + self.unit)
        low = np.sqrt(np.maximum(squared - doubt, 0)) - self.unit
        high = np.sqrt(np.maximum(squared + doubt, 0)) + self.unit
        least, most = np.sort(low)[(count - 1) // 2], np.sort(high)[count // 2]
        for block in blocks(np.flatnonzero((high >= least) & (low <= most))):
            middle[block] = np.partition(self.exact(block), rank, axis=1)[:, rank]
        return float(np.median(middle))


def neighbour_distance(points, k):
    """Mean Euclidean distance of each row of `points` (float N x D) to its k nearest others.

    float64 N, rounded to TINY for the same reason as in `Distances`. If there are fewer than k
    others, the mean is over all of them; 0 for a single row.
    """
    k = min(k, len(points) - 1)
    if k == 0:
        return np.zeros(len(points))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute")
    near, _ = search.fit(np.asarray(points, dtype=np.float64)).kneighbors()
    return np.round(near.mean(axis=1) / TINY) * TINY
