"""The image corruptions of Models Genesis in 2D, batched, on the device of the images.

Models Genesis (Zhou et al., MICCAI 2019, arXiv 1908.06912) trains a network to restore an image
from a corrupted copy. An image is flipped, its pixels are shuffled locally, its intensities go
through a random curve, and parts of it are painted over with noise, each with its own rate.

Images are float32 tensors of shape (B, C, H, W) with values in [0, 1]. Functions return new
tensors. `generators` is a list of B `torch.Generator`s on the device of the images: each image
draws from its own, so that what happens to it does not depend on the batch it is in.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segmentation.common.stages import torch_rng
from segmentation.data.images import to_input

MAX_FLIPS = 3
MAX_BOXES = 5
NEXT_BOX = 0.95  # probability of each further box
MARGIN = 3  # pixels between a box and the border
CURVE_POINTS = 4096
PIXELS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 22}  # corrupted together, to fit into caches
TRIES = 4  # draws with replacement, before a permutation is used for the rest


@dataclass(frozen=True)
class Rates:
    """The probability of each corruption.

    `paint` is that of in-painting or out-painting. A fraction `inpaint` of the painted images is
    in-painted, the rest is out-painted.
    """

    flip: float = 0.4
    shuffle: float = 0.5
    nonlinear: float = 0.9
    paint: float = 0.9
    inpaint: float = 0.2


DEFAULT_RATES = Rates()


def corrupt(images, generators, rates=DEFAULT_RATES):
    """Corrupt a batch as Models Genesis does (arXiv 1908.06912).

    images: float32 (B, C, H, W) in [0, 1], on the CPU or a CUDA device.
    generators: B torch.Generators on the same device.

    Returns `(corrupted, clean)`, both like `images`: `clean`, the image to restore, is the input
    with the flip that `corrupted` has too. ValueError if H or W is below 14 (too small to paint).
    """
    corrupted, clean = torch.empty_like(images), torch.empty_like(images)
    at_once = max(1, PIXELS_AT_ONCE[images.device.type] // images[0, 0].numel())
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        own = generators[part]
        clean[part] = flip(images[part], own, rates.flip)
        corrupted[part] = _corrupt(clean[part], own, rates)
    return corrupted, clean


def corrupted_and_clean(images, ids, stream, rates=DEFAULT_RATES):
    """`corrupt` uint8 images, each with the stream (*stream, its id), whatever batch it is in."""
    generators = [torch_rng(*stream, name, device=images.device) for name in ids]
    return corrupt(to_input(images), generators, rates)


def restore(model, images):
    """Images in [0,1] -> restored images in (0,1): the network's output through one sigmoid.

    On a CUDA GPU the sigmoid is in float32: in bf16 it would be 1, without a gradient, from logits
    of 6.3 on. A CPU with --amp bf16 keeps that, so that earlier runs can be repeated.
    """
    logits = model(images)
    return (logits.float() if logits.is_cuda else logits).sigmoid()


def _corrupt(images, generators, rates):
    """All except the flips. Noise areas are drawn first: pixels under them are not shuffled."""
    chances = torch.tensor([rates.shuffle, rates.nonlinear, rates.paint, rates.inpaint])
    happens = _uniform((4,), generators).cpu() < chances
    shuffled, bent, painted, inside = happens.T
    images = images.clone()
    hidden = torch.zeros_like(images[:, :1], dtype=torch.bool)

    def change(tensor, chosen, corruption, *more):
        """Replace the chosen rows of `tensor` by what `corruption` makes of them."""
        rows = chosen.nonzero().squeeze(1)
        if len(rows):
            own = [generators[row] for row in rows.tolist()]
            rows = rows.to(images.device)
            old = (rest.index_select(0, rows) for rest in (tensor, *more))
            tensor.index_copy_(0, rows, corruption(*old, own))

    change(hidden, painted & inside, inside_boxes)
    change(hidden, painted & ~inside, outside_boxes)
    change(images, shuffled, local_pixel_shuffling, ~hidden)
    change(images, bent, nonlinear_intensity)
    change(images, painted, paint, hidden)
    return images


def _uniform(shape, generators):
    """Uniform float32 numbers in [0, 1): (B, *shape), each row from its image's generator."""
    device = generators[0].device
    rows = torch.empty((len(generators), *shape), device=device)
    for row, generator in zip(rows, generators, strict=True):
        torch.rand(shape, generator=generator, out=row)
    return rows


def _uniform_each(counts, generators):
    """Uniform float32 numbers in [0, 1): the first counts[0] of them from generators[0], and so on.

    counts: B numbers. Returns a tensor of sum(counts).
    """
    numbers = torch.empty(sum(counts), device=generators[0].device)
    for part, generator in zip(numbers.split(counts), generators, strict=True):
        torch.rand(len(part), generator=generator, out=part)
    return numbers


def _indices(mask):
    """Where a mask (N) is true: int64. NumPy needs no branches for it, PyTorch one per element."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _small_ints(count):
    """The smaller of int16 and int32 that holds 0..count-1 and -1."""
    return torch.int16 if count <= 1 << 15 else torch.int32


def _intervals(low, high, length, margin, u, v):
    """Intervals with sizes uniform in low..high, uniformly placed in 0..length-1.

    They keep `margin` from both ends. u, v: uniform numbers (B, N), for the sizes and the places.
    Returns `(start, size)`, int32 tensors (B, N).
    """
    size = low + (u * (high - low + 1)).int()
    start = margin + (v * (length - 2 * margin - size + 1)).int()
    return start, size


# Flip -------------------------------------------------------------------------------------------


def flip(images, generators, rate):
    """Flip each image up to three times: each flip with probability `rate` if the last was done.

    Each flip is vertical or horizontal with equal chance. Returns a new tensor like `images`. The
    released code of Models Genesis draws one of three axes, of which one does nothing to a picture:
    with the rate 0.4 it leaves 72.9 % of the images as they are, this function 64.8 %.
    """
    goes_on, turns = _uniform((2, MAX_FLIPS), generators).unbind(1)
    goes_on = (goes_on < rate).cumprod(1)
    is_vertical = turns < 0.5
    images = images.clone()
    for dim, is_so in ((2, is_vertical), (3, ~is_vertical)):
        odd = ((goes_on * is_so).sum(1) % 2).nonzero().squeeze(1)
        images.index_copy_(0, odd, images.index_select(0, odd).flip(dim))
    return images


# Local pixel shuffling --------------------------------------------------------------------------


def local_pixel_shuffling(images, shown, generators, windows=10000):
    """Shuffle pixels within small random windows; the channels of a pixel stay together.

    Each of the `windows` (at least one) has sides uniform in 1..H//10 and 1..W//10 (1 in images
    below 10 pixels) and a uniform place. It takes the pixels of the original image that it covers,
    permutes them uniformly and writes them over the result of earlier windows.

    shown: bool (B, 1, H, W), where the result is needed; other pixels are not changed. Returns a
    new tensor like `images`.
    """
    height, width = images.shape[2:]
    rows_u, rows_v, columns_u, columns_v = _uniform((4, windows), generators).unbind(1)
    tops, heights = _intervals(1, max(1, height // 10), height, 0, rows_u, rows_v)
    lefts, widths = _intervals(1, max(1, width // 10), width, 0, columns_u, columns_v)
    return shuffle_windows(images, shown, tops, lefts, heights, widths, generators)


def shuffle_windows(images, shown, tops, lefts, heights, widths, generators):
    """Shuffle the pixels of the given windows, as `local_pixel_shuffling` does.

    tops, lefts, heights, widths: int32 (B, N), windows inside the image; later ones overwrite
    earlier ones. Returns a new tensor like `images`.

    An output pixel depends only on the last window that covers it: it gets one of that window's
    pixels, and no two pixels with the same last window get the same one.
    """
    batch, _, height, width = images.shape
    device = images.device
    last = last_window(tops, lefts, heights, widths, height, width)
    at = _indices(((last >= 0) & shown[:, 0]).flatten())
    first = torch.arange(batch, device=device, dtype=torch.int32) * tops.shape[1]
    owner = (last + first[:, None, None]).flatten().index_select(0, at)

    # The places of a window are its pixels, numbered row after row.
    w = widths.flatten().index_select(0, owner)
    skip = width - w  # pixels of the image between the end of a row and the next one
    corner = (tops * width + lefts).flatten().index_select(0, owner)
    source = torch.arange(height * width, device=device, dtype=torch.int32).repeat(batch)
    after_corner = source.index_select(0, at) - corner
    own = after_corner - (after_corner / width).int() * skip
    place = random_places(owner, own, (heights * widths).flatten(), generators)
    source.scatter_(0, at, corner + place + (place / w).int() * skip)
    source = source.long().view(batch, 1, -1)
    pixels = images.flatten(2)
    return pixels.gather(2, source.expand_as(pixels)).view_as(images)


def random_places(group, own, sizes, generators):
    """Give each element a place of its group, no place twice, uniformly at random.

    group: int32 P, the group of each element, in the order of the images.
    own: int32 P, a place of each element before the draw, no place twice in a group.
    sizes: int32 G, how many places each group has. Each image has the same number of groups.
    Returns int32 P, a place in 0..sizes[group]-1 for each element.

    Each element draws a place. If several drew the same one, the first of them gets it; those that
    get none, because it went to another or was taken before, draw again. In groups where elements
    are left after TRIES draws, all places are given up, and each element gets the place to which a
    random permutation moves its own place. No step prefers a place. So two outcomes that differ
    only by renumbering the places of a group are equally likely, and all outcomes differ only by
    that.
    """
    device, batch = group.device, len(generators)

    def per_image(values):
        return values.view(batch, -1).sum(1)

    elements = torch.bincount(group, minlength=len(sizes))
    image_ends = per_image(elements).cumsum(0)
    sizes = sizes * (elements > 0)
    ends = sizes.cumsum(0, dtype=torch.int32)
    starts = ends - sizes
    free = torch.iinfo(torch.int32).max
    taken_by = torch.full((int(ends[-1]),), free, dtype=torch.int32, device=device)
    places = torch.empty_like(group)
    left, left_group = torch.arange(len(group), device=device), group
    for attempt in range(TRIES):
        counts = torch.searchsorted(left, image_ends).diff(prepend=image_ends.new_zeros(1))
        uniform = _uniform_each(counts.tolist(), generators)
        drawn = (uniform * sizes.index_select(0, left_group)).int()
        at = (starts.index_select(0, left_group) + drawn).long()
        claim = left.int() + attempt * len(group)  # an element keeps a place that it drew earlier
        taken_by.scatter_reduce_(0, at, claim, "amin")
        places.scatter_(0, left, drawn)
        without = _indices(taken_by.index_select(0, at) != claim)
        left, left_group = left.index_select(0, without), left_group.index_select(0, without)

    # Number the places of all crowded groups consecutively. A random order of them all, stably
    # sorted by group, is a random order in each group.
    crowded = torch.zeros_like(sizes, dtype=torch.bool).index_fill_(0, left_group.long(), True)
    sizes = sizes * crowded
    starts = sizes.cumsum(0, dtype=torch.int32) - sizes
    some = sizes.index_select(0, _indices(crowded))
    numbers = torch.arange(len(some), dtype=_small_ints(len(some)), device=device)
    groups = numbers.repeat_interleave(some)
    order = torch.empty(len(groups), dtype=torch.int32, device=device)
    start = 0
    for count, generator in zip(per_image(sizes).tolist(), generators, strict=True):
        part = order[start : start + count]
        torch.randperm(count, generator=generator, out=part)
        part += start
        start += count
    order = order.index_select(0, groups.index_select(0, order).argsort(stable=True))

    moved = _indices(crowded.index_select(0, group))
    start = starts.index_select(0, group.index_select(0, moved))
    at = start + own.index_select(0, moved)
    return places.scatter_(0, moved, order.index_select(0, at) - start)


def last_window(tops, lefts, heights, widths, height, width):
    """For each pixel of a (height, width) image, the index of the last window that covers it.

    tops, lefts, heights, widths: int32 (B, N), windows inside the image. Returns int32
    (B, height, width); -1 where there is no window.

    A window is the union of four overlapping blocks with power-of-two sides 2^a x 2^b, one in
    each of its corners. A block is written to the map of its size, at its top left pixel. Then each
    block passes its window on to the two blocks of half its size that it consists of. The maps of
    one b at a time fit into a cache.
    """
    batch, count = tops.shape
    a, b = (torch.frexp(x.float()).exponent - 1 for x in (heights, widths))
    a_count, b_count = (1 + torch.stack([a.max(), b.max()])).tolist()
    dtype = _small_ints(count)
    maps = torch.empty((batch, a_count, height, width), dtype=dtype, device=tops.device)

    # Where in the maps the four blocks of each window go: (B N, 4).
    image = torch.arange(batch, device=tops.device)[:, None]
    top = (image * a_count + a) * height + tops
    down, across = heights - (1 << a), widths - (1 << b)
    corners = [y * width + x for y in (top, top + down) for x in (lefts, lefts + across)]
    corners = torch.stack(corners, -1).flatten(0, 1)
    windows = torch.arange(count, dtype=dtype, device=tops.device).repeat(batch)
    b = b.flatten()

    last = None
    for level in range(b_count - 1, -1, -1):
        chosen = _indices(b == level)
        at = corners.index_select(0, chosen)
        blocks = windows.index_select(0, chosen)[:, None].expand_as(at)
        maps.fill_(-1).view(-1).scatter_reduce_(0, at.flatten(), blocks.flatten(), "amax")
        for half in range(a_count - 2, -1, -1):
            _pass_on(maps[:, half + 1], maps[:, half], 1 << half, dim=-2)
        if last is not None:
            _pass_on(last, maps[:, 0], 1 << level, dim=-1)
        last = maps[:, 0].clone()
    assert last is not None  # b_count is at least 1
    return last.int()


def _pass_on(blocks, halves, step, dim):
    """Write each of `blocks` to the map `halves`, at its own place and `step` further on."""
    torch.maximum(halves, blocks, out=halves)
    length = blocks.shape[dim] - step
    later = halves.narrow(dim, step, length)
    torch.maximum(later, blocks.narrow(dim, 0, length), out=later)


# Non-linear intensity ---------------------------------------------------------------------------


def nonlinear_intensity(images, generators):
    """Map the intensities of each image through its own random cubic Bezier curve.

    The inner control points are uniform in the unit square; half of the curves are decreasing.
    Exact at the 256 levels of 8-bit images, linear in between. Returns a new tensor like `images`.
    """
    numbers = _uniform((5,), generators)
    control, decreasing = numbers[:, :4].unflatten(1, (2, 2)), numbers[:, 4] < 0.5
    table = bezier_table(control, decreasing)
    steps = table.shape[1] - 1
    levels = images.flatten(1) * steps
    below = levels.int().clamp(0, steps - 1)
    first = torch.arange(len(images), dtype=torch.int32, device=images.device) * steps
    at = (below + first[:, None]).flatten()
    low, high = (
        x.flatten().index_select(0, at).view_as(levels) for x in (table[:, :-1], table[:, 1:])
    )
    return torch.lerp(low, high, levels - below).view_as(images)


def bezier_table(control, decreasing, levels=256):
    """Values of cubic Bezier curves, as functions of x, at `levels` equidistant x in [0, 1].

    control: float (B, 2, 2) in [0, 1], the points (u1, v1) and (u2, v2) between (0, 0) and (1, 1).
    decreasing: bool (B,). Returns float32 (B, levels): rising from 0 to 1, or falling from 1 to 0.

    With the curve (X(t), Y(t)) the rising function is X(t) -> Y(t). The falling one is
    X(t) -> Y(1 - t): Models Genesis lists the points from (1, 1) to (0, 0), then sorts their x
    and leaves their y. It sorts both to rise; here nothing needs sorting, since X and Y never
    fall. Proof for X (Y likewise): let s = 1 - t, a = u1 and c = 1 - u2. Then (1-a)(1-c) >= 0 gives
    1 - a - c >= -ac >= -sqrt(ac), and X'(t) / 3 = a s^2 + 2 (1-a-c) s t + c t^2
    >= (sqrt(a) s - sqrt(c) t)^2 >= 0.

    The error is below 3 / (CURVE_POINTS - 1) < 0.001, since Y' <= 3 and Y is monotone.
    """
    t = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64, device=control.device)
    first, second = control.double()[..., None].unbind(1)
    x, y = (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).unbind(1)
    y = torch.where(decreasing[:, None], y.flip(1), y)

    at = torch.linspace(0, 1, levels, dtype=torch.float64, device=control.device)
    at = at.expand(len(x), levels).contiguous()
    right = torch.searchsorted(x.contiguous(), at).clamp(1, CURVE_POINTS - 1)
    x0, x1 = x.gather(1, right - 1), x.gather(1, right)
    y0, y1 = y.gather(1, right - 1), y.gather(1, right)
    share = ((at - x0) / (x1 - x0).clamp(min=1e-300)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).float()


# Painting ---------------------------------------------------------------------------------------


def inside_boxes(images, generators):
    """Where in-painting puts noise: in up to five boxes. Returns bool (B, 1, H, W).

    Each box, the first too, is drawn with probability 0.95 if the ones before it were. The sides
    are uniform in H//6..H//3 and W//6..W//3, the place is uniform at 3 or more pixels from the
    border. ValueError if H or W is below 14.
    """
    height, width = images.shape[2:]
    sides = (height // 6, height // 3), (width // 6, width // 3)
    return _boxes(images, *sides, generators, at_least=0)


def outside_boxes(images, generators):
    """Where out-painting puts noise: all around up to five boxes. Returns bool (B, 1, H, W).

    One box is always kept, each further one with probability 0.95 if the ones before it were. The
    sides are H - uniform(3H//7..4H//7) and likewise for W, the place is uniform at 3 or more
    pixels from the border. ValueError if H or W is below 14.
    """
    sides = ((length - 4 * length // 7, length - 3 * length // 7) for length in images.shape[2:])
    return ~_boxes(images, *sides, generators=generators, at_least=1)


def paint(images, hidden, generators):
    """Put noise, uniform in [0, 1) for each pixel and channel, where `hidden` (B, 1, H, W) says.

    Returns a new tensor like `images`.
    """
    return torch.where(hidden, _uniform(images.shape[1:], generators), images)


def _boxes(images, heights, widths, generators, at_least):
    """Masks of up to five boxes per image, bool (B, 1, H, W).

    heights, widths: the smallest and the largest side. There are at least `at_least` boxes.
    """
    height, width = images.shape[2:]
    if min(height, width) < 14:
        raise ValueError(
            f"images of {height} x {width} are too small to paint; give at least 14 x 14"
        )
    more, rows_u, rows_v, columns_u, columns_v = _uniform((5, MAX_BOXES), generators).unbind(1)
    goes_on = more < NEXT_BOX
    goes_on[:, :at_least] = True
    bits = goes_on.cumprod(1) << torch.arange(MAX_BOXES, device=images.device)
    bits = bits.to(torch.uint8)[:, :, None]  # a bit for each box that exists
    (least_height, most_height), (least_width, most_width) = heights, widths
    rows = _intervals(least_height, most_height, height, MARGIN, rows_u, rows_v)
    columns = _intervals(least_width, most_width, width, MARGIN, columns_u, columns_v)
    rows, columns = _inside(*rows, height), _inside(*columns, width)
    # The bits of the boxes whose rows, and of those whose columns, a pixel is in.
    rows, columns = ((x * bits).sum(1, dtype=torch.uint8) for x in (rows, columns))
    return ((rows[:, :, None] & columns[:, None]) > 0)[:, None]


def _inside(start, size, length):
    """Which of 0..length-1 are in the intervals: (B, N) -> bool (B, N, length)."""
    place = torch.arange(length, dtype=start.dtype, device=start.device)
    start = start[:, :, None]
    return (place >= start) & (place < start + size[:, :, None])
