"""Masks that the tests of formats.py and drafts.py send through files and back."""

import numpy as np
from scipy import ndimage


def random_blob(seed, size=(37, 52)):
    """bool H x W: smooth random parts with holes, some of them at the border."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=size), rng.uniform(0.5, 4))
    return field > rng.normal() * 0.3 * field.std()


def special_masks(size=(37, 52)):
    """Dict of name -> bool H x W: what a random blob may lack."""
    names = ("empty", "full", "pixel", "corner", "ring", "rings", "diagonal", "comb", "frame")
    masks = {name: np.zeros(size, dtype=bool) for name in names}
    masks["full"][:] = True
    masks["pixel"][11, 17] = True
    masks["corner"][-1, -1] = True
    masks["ring"][5:20, 8:30] = True
    masks["ring"][9:14, 12:20] = False
    masks["rings"][2:34, 3:49] = True
    masks["rings"][5:30, 6:40] = False
    masks["rings"][8:25, 10:30] = True
    masks["rings"][12:15, 14:20] = masks["rings"][18:22, 14:29] = False
    masks["diagonal"][range(20), range(3, 23)] = True
    masks["comb"][:, ::2] = True
    masks["frame"][:] = True
    masks["frame"][1:-1, 1:-1] = False
    return masks


def all_masks():
    """Dict of name -> bool H x W: special ones, random ones of several sizes, tiny ones."""
    masks = special_masks()
    masks |= {f"blob{seed}": random_blob(seed) for seed in range(12)}
    masks |= {f"tall{seed}": random_blob(seed, (61, 9)) for seed in range(3)}
    masks |= {"one": np.ones((1, 1), bool), "none": np.zeros((1, 1), bool)}
    return masks | {"row": random_blob(1, (1, 40)), "column": random_blob(2, (40, 1))}


def border(mask, width=1):
    """The pixels within `width` of the outline of a mask, also where that is the image's edge."""
    square = np.ones((3, 3), bool)
    padded = np.pad(mask, width)
    near = ndimage.binary_dilation(padded, square, width)
    near &= ndimage.binary_dilation(~padded, square, width, border_value=1)
    return near[width:-width, width:-width]


def star(seed, size, corners=9):
    """The corners of a star-shaped polygon within the image, float N x 2 of (x, y)."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.3, 0.49, corners)[:, None]
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (0.5 + radius * around) * size[::-1]
