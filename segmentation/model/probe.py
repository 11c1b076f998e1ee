"""A probe: ridge regression on the cells of a frozen backbone, cheap enough for 10^5 fits.

With features that know something about images, which images are labelled can be studied without
training a network. Each image is a grid of cells; a cell is described by the principal components
of the backbone's features there and by its place, and is to be told its share of lesion. Sums over
an image's cells are all that the regression needs of it, so that a labelled set costs one small
solve.
"""

from typing import NamedTuple

import numpy as np
import torch

from segmentation.model.frozen import cell_shares
from segmentation.model.inference import batches, per_image

COMPONENTS = 32
PLACE = 3  # x, y and distance from the centre
STRENGTHS = (0.01, 0.1, 1.0)  # of the penalty, for each labelled image
HALF = 0.5  # a cell whose predicted share is above it is lesion
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, HALF)  # to choose from in its place
SAMPLE = 200  # images, at most, that the principal components come from
CHUNK = 64  # images at a time


class Basis(NamedTuple):
    """Of the principal components: float64 D, and D x COMPONENTS, scaled to unit variance."""

    mean: np.ndarray
    directions: np.ndarray


class Cells(NamedTuple):
    """What is known of the G cells of N images."""

    x: np.ndarray  # float32 N x G x D: components, place, 1
    shares: np.ndarray  # float32 N x G in [0,1]: of lesion


class Sums(NamedTuple):
    """Sums over the cells of each image: of x x', of x times the share, of its square."""

    xx: np.ndarray  # float64 N x D x D
    xy: np.ndarray  # float64 N x D
    yy: np.ndarray  # float64 N


def basis_of(features):
    """The Basis of cells float32 N x (D + PLACE) x h x w of a FrozenHead."""
    flat = features[:, :-PLACE].transpose(0, 2, 3, 1).reshape(-1, features.shape[1] - PLACE)
    values, vectors = np.linalg.eigh(np.cov(flat.astype(np.float64).T))
    last = slice(-1, -1 - min(COMPONENTS, len(values)), -1)
    scale = np.sqrt(np.maximum(values[last], 1e-12))
    return Basis(flat.mean(axis=0, dtype=np.float64), vectors[:, last] / scale)


def cells_of(model, images, masks, batch, precision, advance):
    """Cells of all `images` (uint8 N x C x H x W) by a FrozenHead; `masks`: uint8 N x H x W.

    The principal components are those of every n-th image, SAMPLE at most. No label is used. Where
    images and masks had to be padded, the cells of the padding count too.
    """
    every = slice(None, None, -(-len(images) // SAMPLE))
    some = images.subset(torch.arange(len(images))[every])
    basis = basis_of(per_image(model.cells, model, some, batch, precision))
    x, shares = [], []
    for part in batches(len(images), CHUNK):
        found = per_image(model.cells, model, images.subset(part), batch, precision, advance)
        grid, rows = (
            found.shape[2:],
            found.transpose(0, 2, 3, 1).reshape(len(found), -1, found.shape[1]),
        )
        components = (rows[..., :-PLACE] - basis.mean) @ basis.directions
        one = np.ones((*rows.shape[:2], 1))
        x.append(np.concatenate([components, rows[..., -PLACE:], one], axis=2).astype(np.float32))
        shares.append(cell_shares(torch.from_numpy(masks[part]), grid).reshape(len(found), -1))
    return Cells(np.concatenate(x), np.concatenate(shares))


def sums_of(cells):
    """The Sums of all images."""
    x, y = cells.x, cells.shares
    xx = np.stack([(row.T @ row) for row in x]).astype(np.float64)
    return Sums(
        xx, np.einsum("ngd,ng->nd", x, y).astype(np.float64), np.square(y, dtype=float).sum(1)
    )


def solve(xx, xy, strength, images):
    """Weights of ridge regressions: float64 ... x D; `strength` counts once for each image.

    The last weight, of the constant, is not penalised.
    """
    penalty = np.eye(xx.shape[-1]) * strength * images
    penalty[-1, -1] = 0
    return np.linalg.solve(xx + penalty, xy[..., None])[..., 0]


def fit(sums, places, cells=None):
    """Weights of the probe with the labels of the images at `places`: float64 D.

    The strength is the one of STRENGTHS that has the smallest squared error on images left out, one
    at a time; with a single image it is the largest. With `cells`, the threshold of the predicted
    share is the one of THRESHOLDS that has the largest mean Dice on the same images left out, and
    the constant is shifted so that HALF is it: squared error pulls shares towards their mean, so
    that few cells of small objects come above HALF.
    """
    xx, xy, yy = (part[places] for part in sums)
    count, best, shift = len(places), STRENGTHS[-1], 0.0
    if count > 1:
        rest = xx.sum(0) - xx, xy.sum(0) - xy
        left_out = [solve(*rest, strength, count - 1) for strength in STRENGTHS]
        errors = []
        for w in left_out:
            fitted = np.einsum("nd,nde,ne->n", w, xx, w)
            errors.append((yy - 2 * np.einsum("nd,nd->n", w, xy) + fitted).sum())
        chosen = int(np.argmin(errors))
        best = STRENGTHS[chosen]
        if cells is not None:
            shift = HALF - best_threshold(cells, places, left_out[chosen])
    weights = solve(xx.sum(0), xy.sum(0), best, count)
    weights[-1] += shift
    return weights


def best_threshold(cells, places, weights):
    """The one of THRESHOLDS with the largest mean Dice of each of n images by its own probe.

    `weights` n x D.
    """
    shares = cells.shares[places].astype(np.float64)
    predicted = np.einsum("ngd,nd->ng", cells.x[places], weights)
    lesion = predicted > np.reshape(THRESHOLDS, (-1, 1, 1))  # T x n x G
    found = dice_of((lesion * shares).sum(-1), lesion.sum(-1) + shares.sum(-1))
    return THRESHOLDS[int(found.mean(axis=1).argmax())]


def dice_of(both, total):
    """2 both / total, elementwise; 1 where two masks are empty."""
    return np.where(total > 0, 2 * both / np.where(total > 0, total, 1), 1.0)


def dice(cells, places, weights):
    """Dice of the images at `places` by R probes, `weights` R x D: float64 R x len(places).

    A cell whose predicted share is above HALF is lesion altogether. As shares are exact, this is
    the Dice of these blocks with the mask at full resolution. Two empty masks have 1.
    """
    found = np.empty((len(weights), len(places)))
    w = np.asarray(weights, dtype=np.float32).T
    for part in batches(len(places), CHUNK):
        x, shares = cells.x[places[part]], cells.shares[places[part]].astype(np.float64)
        lesion = (x @ w > HALF).astype(np.float64)  # n x G x R
        both = np.einsum("ngr,ng->rn", lesion, shares)
        total = lesion.sum(1).T + shares.sum(1)
        found[:, part] = dice_of(both, total)
    return found
