"""What is done with a network's predictions before they count as masks."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Finish(NamedTuple):
    """Whether predictions are averaged over views of an image, and how masks are cleaned."""

    views: bool = False  # inference.mean_over_views
    largest: bool = False  # largest_region

    @classmethod
    def of(cls, args):
        """From the options of `add_finish_options`."""
        return cls(args.views, args.largest)


PLAIN = Finish()


def united(*finishes):
    """The Finish that does what any of these does."""
    return Finish(*map(any, zip(*finishes, strict=True)))


def add_finish_options(parser):
    """Add --views and --largest."""
    help = "predict the mean over eight flips and quarter turns of each image"
    parser.add_argument("--views", action="store_true", help=help)
    help = "of each predicted mask keep the largest region, without holes"
    parser.add_argument("--largest", action="store_true", help=help)


def largest_region(mask):
    """bool or uint8 H x W -> bool H x W: the largest connected region, its holes filled.

    Pixels are connected by their sides; of equal regions the first by rows. An image of one lesion
    has a mask of this kind (Li et al. 2018, arXiv 1808.03887, do the same). An empty mask stays so.
    """
    regions, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())[1:]
    return ndimage.binary_fill_holes(regions == 1 + sizes.argmax())


def clean(probabilities):
    """Probabilities N x H x W that agree with the `largest_region` of what is over 0.5.

    Outside it no pixel is over 0.5 any more but 0, and a filled hole is 1.
    """
    predicted = probabilities > 0.5
    region = np.stack([largest_region(mask) for mask in predicted])
    cleaned = np.where(predicted & ~region, 0, probabilities)
    return np.where(region & ~predicted, 1, cleaned).astype(probabilities.dtype)
