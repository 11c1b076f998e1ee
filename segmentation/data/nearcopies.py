"""Near copies of some images, made on purpose: a pool in which many images tell nothing new.

A control for rules that choose what to label: of a redundant pool, a random draw spends labels on
copies. A seeded share of the images gets copies, each another cut, flip and colour of its source,
as if one lesion had been photographed again and again. They are images of the pool only: those of a
test image are left out, and none is ever tested.
"""

import re
from typing import NamedTuple

import numpy as np

from segmentation.common.runfiles import UserError, numpy_rng

CUT = 0.1  # of each side, at most
GAIN = 0.1  # by which the brightness of each colour is multiplied, at most, up or down
SHIFT = 10  # of 255, that is added to all colours, at most, up or down


class Amount(NamedTuple):
    """How many near copies there are to be."""

    share: float  # of the images that get copies, above 0 and up to 1
    times: int  # copies of each of them


def amount(text):
    """The Amount that is written as SHARExTIMES, such as 0.1x10; ValueError if `text` is none."""
    match = re.fullmatch(r"(\d*\.?\d+)x(\d+)", text)
    found = match and Amount(float(match[1]), int(match[2]))
    if not found or not 0 < found.share <= 1 or found.times < 1:
        raise ValueError(
            f"{text} is not SHARExTIMES with a share above 0 and up to 1, such as 0.1x10: "
            "ten near copies of each image of a tenth"
        )
    return found


def sources_of(ids, share, seed):
    """The ids that get copies: a seeded draw of round(share x N) of them, at least one; sorted."""
    order = sorted(ids)
    numpy_rng(seed, "near copies").shuffle(order)
    return sorted(order[: max(1, round(share * len(order)))])


def with_copies(sources, amount, seed, is_test):
    """The Sources and their near copies, sorted by id. Images of a given test set get none.

    UserError if a copy would have the id of another image.
    """
    known = {source.id: source for source in sources}
    drawn = sources_of([name for name in known if not is_test[name]], amount.share, seed)
    digits = len(str(amount.times))
    found = list(sources)
    for name in drawn:
        for number in range(1, amount.times + 1):
            copy = f"{name}~{number:0{digits}d}"
            if copy in known:
                raise UserError(
                    f"{known[copy].image}: has the id of near copy {number} of {name}; rename it"
                )
            found.append(known[name]._replace(id=copy, copy_of=name))
    return sorted(found)


def near_copy(picture, mask, rng):
    """A near copy of a picture, uint8 h x w x 3, and of its mask, bool h x w or None.

    Both are cut and flipped alike; the colours of the picture are changed. They come back smaller
    than they were, by CUT at most.
    """
    height, width = picture.shape[:2]
    rows, columns = part(height, rng), part(width, rng)
    steps = rng.choice([-1, 1], 2)
    gain, shift = rng.uniform(1 - GAIN, 1 + GAIN, 3), rng.uniform(-SHIFT, SHIFT)

    def moved(values):
        return values[rows, columns][:: steps[0], :: steps[1]]

    changed = np.clip(np.rint(moved(picture) * gain + shift), 0, 255).astype(np.uint8)
    return changed, None if mask is None else np.ascontiguousarray(moved(mask))


def part(length, rng):
    """A slice of at least 1 - CUT of `length` pixels, at a random place."""
    kept = length - int(rng.integers(0, int(CUT * length) + 1))
    start = int(rng.integers(0, length - kept + 1))
    return slice(start, start + kept)
