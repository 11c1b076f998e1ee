"""The image corruptions of Models Genesis in 2D, batched, on the device of the images.

Models Genesis (Zhou et al., MICCAI 2019, arXiv 1908.06912) trains a network to restore an image
from a corrupted copy. An image is flipped, its pixels are shuffled locally, its intensities go
through a random curve, and parts of it are painted over with noise, each with its own rate.

Images are float32 tensors of shape (B, C, H, W) with values in [0, 1]. Functions return new
tensors and draw all their randomness from a `torch.Generator` on the device of the images.
"""

from dataclasses import dataclass

import torch

MAX_FLIPS = 3
MAX_BOXES = 5
NEXT_BOX = 0.95  # probability of each further box
MARGIN = 3  # pixels between a box and the border
CURVE_POINTS = 4096
PIXELS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 21}  # shuffled together, some 500 bytes each


@dataclass(frozen=True)
class Rates:
    """How often each corruption is applied; `inpaint` is its share of the painted images.

    The rest of the painted images, 1 - `inpaint`, are out-painted.
    """

    flip: float = 0.4
    shuffle: float = 0.5
    nonlinear: float = 0.9
    paint: float = 0.9
    inpaint: float = 0.2


DEFAULT_RATES = Rates()


def corrupt(images, generator, rates=DEFAULT_RATES):
    """Corrupt a batch as Models Genesis does (arXiv 1908.06912).

    images: float32 (B, C, H, W) in [0, 1], on the CPU or a CUDA device.
    generator: torch.Generator on the same device.

    Returns `(corrupted, clean)`, both like `images`: `clean`, the image to restore, is the input
    with the flip that `corrupted` has too. ValueError if H or W is below 14 (too small to paint).
    """
    clean = flip(images, generator, rates.flip)
    corrupted = clean.clone()

    def apply(corruption, chosen):
        index = chosen.nonzero().squeeze(1)
        if len(index):
            corrupted[index] = corruption(corrupted[index], generator)

    def happens(rate):
        return _uniform((len(images),), generator) < rate

    apply(local_pixel_shuffling, happens(rates.shuffle))
    apply(nonlinear_intensity, happens(rates.nonlinear))
    painted, inside = happens(rates.paint), happens(rates.inpaint)
    apply(in_painting, painted & inside)
    apply(out_painting, painted & ~inside)
    return corrupted, clean


def _uniform(shape, generator):
    """Uniform float32 numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _intervals(low, high, length, margin, shape, generator):
    """Intervals with sizes uniform in low..high, uniformly placed in 0..length-1.

    They keep `margin` from both ends. Returns `(start, size)`, int64 tensors of `shape`.
    """
    size = low + (_uniform(shape, generator) * (high - low + 1)).long()
    places = length - 2 * margin - size + 1
    start = margin + (_uniform(shape, generator) * places).long()
    return start, size


# Flip -------------------------------------------------------------------------------------------


def flip(images, generator, rate):
    """Flip each image up to three times, each further time with probability `rate`.

    Each flip is vertical or horizontal with equal chance. Returns a new tensor like `images`.
    """
    shape = (len(images), MAX_FLIPS)
    goes_on = (_uniform(shape, generator) < rate).cumprod(1)
    is_vertical = _uniform(shape, generator) < 0.5
    vertical = (goes_on * is_vertical).sum(1) % 2 == 1
    horizontal = (goes_on * ~is_vertical).sum(1) % 2 == 1
    images = torch.where(vertical[:, None, None, None], images.flip(2), images)
    return torch.where(horizontal[:, None, None, None], images.flip(3), images)


# Local pixel shuffling --------------------------------------------------------------------------


def local_pixel_shuffling(images, generator, windows=10000):
    """Shuffle pixels within small random windows; the channels of a pixel stay together.

    Each of the `windows` (at least one) has sides uniform in 1..H//10 and 1..W//10 (1 in images
    below 10 pixels) and a uniform place. It takes the pixels of the original image in its frame,
    permutes them uniformly and puts them over what earlier windows left there. Returns a new
    tensor like `images`.
    """
    height, width = images.shape[2:]
    at_once = max(1, PIXELS_AT_ONCE[images.device.type] // (height * width))
    shuffled = []
    for part in images.split(at_once):
        shape = (len(part), windows)
        tops, heights = _intervals(1, max(1, height // 10), height, 0, shape, generator)
        lefts, widths = _intervals(1, max(1, width // 10), width, 0, shape, generator)
        shuffled.append(shuffle_windows(part, tops, lefts, heights, widths, generator))
    return torch.cat(shuffled)


def shuffle_windows(images, tops, lefts, heights, widths, generator):
    """Shuffle the pixels of the given windows, as `local_pixel_shuffling` does.

    tops, lefts, heights, widths: int64 (B, N), windows inside the image; later ones lie over
    earlier ones. Returns a new tensor like `images`.

    An output pixel depends on nothing but the last window over it, so that only the windows that
    are seen somewhere need a permutation.
    """
    batch, _, height, width = images.shape
    device = images.device
    owner = last_window(tops, lefts, heights, widths, height, width)
    covered = owner >= 0
    first = torch.arange(batch, device=device, dtype=torch.int32) * tops.shape[1]
    owner = (owner.clamp(min=0) + first[:, None, None]).flatten()
    tops, lefts, heights, widths = (x.flatten().int() for x in (tops, lefts, heights, widths))

    # Number the cells of all seen windows through: window after window, row after row.
    seen = torch.zeros_like(tops).index_fill_(0, owner.long(), 1)
    areas = heights * widths * seen
    starts = areas.cumsum(0, dtype=torch.int32) - areas
    window = torch.repeat_interleave(torch.arange(len(areas), device=device).int(), areas)

    # A random order of all cells, stably sorted by window, is a random order in each window.
    order = torch.randperm(len(window), generator=generator, device=device)
    order = order.index_select(0, window.index_select(0, order).argsort(stable=True)).int()

    # The n-th cell of a window receives the pixel of the n-th cell in that order.
    def of_owner(values):
        return values.index_select(0, owner).view(batch, height, width)

    y = torch.arange(height, device=device, dtype=torch.int32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.int32)
    w = of_owner(widths)
    place = of_owner(starts - tops * widths - lefts) + y * w + x
    place = torch.where(covered, place, 0).flatten()
    cell = order.index_select(0, place).view_as(w) - of_owner(starts)
    source = of_owner(tops * width + lefts) + cell + cell // w * (width - w)
    source = torch.where(covered, source, y * width + x).long()
    pixels = images.flatten(2)
    return pixels.gather(2, source.flatten(1)[:, None].expand_as(pixels)).view_as(images)


def last_window(tops, lefts, heights, widths, height, width):
    """For each pixel of a (height, width) image, the index of the last window that covers it.

    tops, lefts, heights, widths: int64 (B, N), windows inside the image. Returns int32
    (B, height, width); -1 where there is no window.

    A window is the union of four overlapping blocks with power-of-two sides 2^a x 2^b, one in
    each of its corners. Blocks are entered at their top left pixel in the map of their size; then
    each block passes its window on to the two half-sized blocks that make it up.
    """
    batch, count = tops.shape
    a, b = (torch.frexp(x.float()).exponent.long() - 1 for x in (heights, widths))
    a_count, b_count = (1 + torch.stack([a.max(), b.max()])).tolist()
    shape = (batch, a_count, b_count, height, width)
    maps = torch.full(shape, -1, dtype=torch.int32, device=tops.device)

    image = torch.arange(batch, device=tops.device)[:, None]
    size = (image * a_count + a) * b_count + b
    window = torch.arange(count, dtype=torch.int32, device=tops.device).expand(batch, count)
    for y in (tops, tops + heights - (1 << a)):
        for x in (lefts, lefts + widths - (1 << b)):
            index = ((size * height + y) * width + x).flatten()
            maps.view(-1).scatter_reduce_(0, index, window.flatten(), "amax")

    for level in range(a_count - 1, 0, -1):
        _pass_on(maps[:, level], maps[:, level - 1], 1 << (level - 1), dim=-2)
    maps = maps[:, 0]
    for level in range(b_count - 1, 0, -1):
        _pass_on(maps[:, level], maps[:, level - 1], 1 << (level - 1), dim=-1)
    return maps[:, 0]


def _pass_on(blocks, halves, step, dim):
    """Enter each of `blocks` in the map `halves` at its own place and `step` further on."""
    torch.maximum(halves, blocks, out=halves)
    length = blocks.shape[dim] - step
    later = halves.narrow(dim, step, length)
    torch.maximum(later, blocks.narrow(dim, 0, length), out=later)


# Non-linear intensity ---------------------------------------------------------------------------


def nonlinear_intensity(images, generator):
    """Map the intensities of each image through its own random cubic Bezier curve.

    The inner control points are uniform in the unit square; half of the curves fall. Exact at the
    256 levels of 8-bit images, linear in between. Returns a new tensor like `images`.
    """
    control = _uniform((len(images), 2, 2), generator)
    decreasing = _uniform((len(images),), generator) < 0.5
    table = bezier_table(control, decreasing)
    levels = (images * (table.shape[1] - 1)).flatten(1)
    below = levels.long().clamp(0, table.shape[1] - 2)
    low, high = table.gather(1, below), table.gather(1, below + 1)
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
    basis = torch.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2])
    x, y = (control.double().mT @ basis + t**3).unbind(1)
    y = torch.where(decreasing[:, None], y.flip(1), y)

    at = torch.linspace(0, 1, levels, dtype=torch.float64, device=control.device)
    at = at.expand(len(x), levels).contiguous()
    right = torch.searchsorted(x.contiguous(), at).clamp(1, CURVE_POINTS - 1)
    x0, x1 = x.gather(1, right - 1), x.gather(1, right)
    y0, y1 = y.gather(1, right - 1), y.gather(1, right)
    share = ((at - x0) / (x1 - x0).clamp(min=1e-300)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).float()


# Painting ---------------------------------------------------------------------------------------


def in_painting(images, generator):
    """Fill up to five boxes with noise, uniform in [0, 1) for each pixel and channel.

    Each box, the first too, is drawn with probability 0.95 if the ones before it were. The sides
    are uniform in H//6..H//3 and W//6..W//3, the place is uniform at 3 or more pixels from the
    border. Returns a new tensor like `images`; ValueError if H or W is below 14.
    """
    height, width = images.shape[2:]
    sides = (height // 6, height // 3), (width // 6, width // 3)
    painted = _boxes(images, *sides, generator, at_least=0)
    return torch.where(painted, _uniform(images.shape, generator), images)


def out_painting(images, generator):
    """Fill all but up to five boxes with noise, uniform in [0, 1) for each pixel and channel.

    One box is always kept, each further one with probability 0.95 if the ones before it were. The
    sides are H - uniform(3H//7..4H//7) and likewise for W, the place is uniform at 3 or more
    pixels from the border. Returns a new tensor like `images`; ValueError if H or W is below 14.
    """
    sides = ((length - 4 * length // 7, length - 3 * length // 7) for length in images.shape[2:])
    kept = _boxes(images, *sides, generator, at_least=1)
    return torch.where(kept, images, _uniform(images.shape, generator))


def _boxes(images, heights, widths, generator, at_least):
    """Masks of up to five boxes per image, bool (B, 1, H, W).

    heights, widths: the smallest and the largest side. The first `at_least` boxes are certain.
    """
    height, width = images.shape[2:]
    if min(height, width) < 14:
        raise ValueError(f"images of {height} x {width} are too small to paint; 14 x 14 is least")
    shape = (len(images), MAX_BOXES)
    goes_on = _uniform(shape, generator) < NEXT_BOX
    goes_on[:, :at_least] = True
    exists = goes_on.cumprod(1)[:, :, None]
    rows = _inside(*_intervals(*heights, height, MARGIN, shape, generator), height)
    columns = _inside(*_intervals(*widths, width, MARGIN, shape, generator), width)
    # A pixel is in as many boxes as this product of 0s and 1s sums up to.
    return ((rows * exists).float().mT @ columns.float() > 0)[:, None]


def _inside(start, size, length):
    """Which of 0..length-1 are in the intervals: (B, N) -> bool (B, N, length)."""
    place = torch.arange(length, device=start.device)
    start = start[:, :, None]
    return (place >= start) & (place < start + size[:, :, None])
