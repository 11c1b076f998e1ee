import itertools
import random

import numpy as np
import pytest
import torch
from conftest import CUDA
from scipy import stats

from segmentation.common.stages import torch_rng
from self_supervised import corruptions
from self_supervised.corruptions import (
    Rates,
    bezier_table,
    corrupt,
    flip,
    inside_boxes,
    last_window,
    local_pixel_shuffling,
    nonlinear_intensity,
    outside_boxes,
    paint,
    random_places,
    shuffle_windows,
)

NEVER = Rates(flip=0, shuffle=0, nonlinear=0, paint=0)
CORRUPTIONS = {
    "flip": lambda images, own: flip(images, own, 0.4),
    "shuffle": lambda images, own: local_pixel_shuffling(images, everywhere(images), own),
    "nonlinear": nonlinear_intensity,
    "in-painting": lambda images, own: paint(images, inside_boxes(images, own), own),
    "out-painting": lambda images, own: paint(images, outside_boxes(images, own), own),
    "corrupt": lambda images, own: corrupt(images, own)[0],
    "clean": lambda images, own: corrupt(images, own)[1],
}


def rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def rngs(count, seed=0, device="cpu"):
    """A generator for each image."""
    return [torch_rng(seed, number, device=device) for number in range(count)]


def everywhere(images):
    """The mask that shows all pixels."""
    return torch.ones_like(images[:, :1], dtype=torch.bool)


def random_images(*shape, seed=1, device="cpu"):
    return torch.rand(shape, generator=rng(seed)).to(device)


def unique_images(batch, height, width, device="cpu"):
    """Images whose pixels hold their own index, twice: (B, 2, H, W), the second channel negated."""
    pixel = torch.arange(height * width, device=device).float().view(1, 1, height, width)
    return torch.cat([pixel, -pixel], 1).repeat(batch, 1, 1, 1)


def consistent_with(count, trials, probability):
    return stats.binomtest(int(count), trials, probability).pvalue > 0.001


# What holds for all -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("shape", [(5, 1, 32, 32), (3, 2, 70, 45), (1, 1, 20, 21)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_contract(name, shape, device):
    function = CORRUPTIONS[name]
    images = random_images(*shape, device=device)
    before = images.clone()
    first = function(images, rngs(len(images), 3, device))
    assert torch.equal(images, before)
    assert first.data_ptr() != images.data_ptr()
    assert (first.shape, first.dtype, first.device) == (images.shape, images.dtype, images.device)
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, function(images, rngs(len(images), 3, device)))
    others = [function(images, rngs(len(images), seed, device)) for seed in range(4, 9)]
    assert not all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("function", [inside_boxes, outside_boxes])
def test_images_too_small_to_paint_are_refused(function):
    with pytest.raises(ValueError, match="13 x 40"):
        function(random_images(1, 1, 13, 40), rngs(1))
    assert function(random_images(50, 1, 14, 14), rngs(50)).shape == (50, 1, 14, 14)


# Flip -------------------------------------------------------------------------------------------


def test_flips_come_as_often_as_they_should():
    rate, count = 0.4, 4000
    image = random_images(1, 1, 3, 4)
    flipped = flip(image.repeat(count, 1, 1, 1), rngs(count), rate)
    kinds = [image, image.flip(2), image.flip(3), image.flip(2, 3)]
    found = [int((flipped == kind).all((1, 2, 3)).sum()) for kind in kinds]
    none, one, two, three = 1 - rate, rate * (1 - rate), rate**2 * (1 - rate), rate**3
    odd = (one + three) / 2  # an odd number of flips leaves one axis flipped, either one
    expected = np.array([none + two / 2, odd, odd, two / 2]) * count
    assert sum(found) == count
    assert stats.chisquare(found, expected).pvalue > 0.01


# Local pixel shuffling --------------------------------------------------------------------------


def some_windows(batch, count, height, width, highest, seed=0, device="cpu"):
    own = rngs(batch, seed, device)
    rows_u, rows_v, columns_u, columns_v = corruptions._uniform((4, count), own).unbind(1)
    tops, heights = corruptions._intervals(1, highest, height, 0, rows_u, rows_v)
    lefts, widths = corruptions._intervals(1, highest, width, 0, columns_u, columns_v)
    return tops, lefts, heights, widths


def owners(windows, height, width):
    """The last window over each pixel, by painting one after the other."""
    tops, lefts, heights, widths = (x.cpu().numpy() for x in windows)
    owner = np.full((len(tops), height, width), -1)
    for b in range(len(tops)):
        for i, (y, x, h, w) in enumerate(
            zip(tops[b], lefts[b], heights[b], widths[b], strict=True)
        ):
            owner[b, y : y + h, x : x + w] = i
    return owner


def test_windows_are_uniform():
    tops, _, heights, _ = some_windows(1, 60000, 8, 9, highest=3)
    for height in (1, 2, 3):
        of_height = tops[heights == height]
        places = torch.bincount(of_height)
        assert consistent_with(len(of_height), 60000, 1 / 3)
        assert len(places) == 8 - height + 1
        assert stats.chisquare(places).pvalue > 0.01


@pytest.mark.parametrize("highest", [1, 2, 13, 40])
def test_last_window_matches_painting_one_after_the_other(highest):
    windows = some_windows(3, 60, 40, 57, highest)
    assert np.array_equal(last_window(*windows, 40, 57), owners(windows, 40, 57))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("share", [1, 0.9, 0.3])
def test_shown_pixels_come_from_their_last_window_and_none_twice(share, device):
    batch, height, width = 3, 40, 57
    windows = some_windows(batch, 80, height, width, highest=13, device=device)
    shown = random_images(batch, 1, height, width, device=device) < share
    images = unique_images(batch, height, width, device)
    shuffled = shuffle_windows(images, shown, *windows, rngs(batch, 5, device))
    assert torch.equal(shuffled[~shown.expand_as(images)], images[~shown.expand_as(images)])
    assert torch.equal(shuffled[:, 0], -shuffled[:, 1])
    source = shuffled[:, 0].long().cpu().numpy()
    owner = owners(windows, height, width)
    owner[~shown[:, 0].cpu().numpy()] = -1  # nobody's: they keep their value
    own = np.arange(height * width).reshape(height, width)
    whole = 0
    for b in range(batch):
        assert np.array_equal(source[b][owner[b] < 0], own[owner[b] < 0])
        for i, (y, x, h, w) in enumerate(torch.stack(windows, -1)[b].tolist()):
            frame = own[y : y + h, x : x + w].ravel()
            seen = source[b][owner[b] == i]
            assert np.isin(seen, frame).all()
            assert len(np.unique(seen)) == len(seen)
            whole += len(seen) == len(frame)
    if share == 1:
        assert whole > 10  # windows seen in full: there the two lines above make a permutation


def test_all_permutations_of_a_window_are_equally_likely():
    draws = 12000
    image = unique_images(draws, 2, 3)[:, :1]
    window = (torch.full((draws, 1), n).int() for n in (0, 1, 2, 2))  # the right 2 x 2 pixels
    shuffled = shuffle_windows(image, everywhere(image), *window, rngs(draws))
    assert (shuffled[:, 0, :, 0] == torch.tensor([0, 3])).all()
    _, counts = shuffled[:, 0, :, 1:].flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("covered_by", ["a later window", "the mask"])
def test_the_seen_part_of_a_window_draws_from_all_of_it(covered_by):
    draws = 6000
    image = unique_images(draws, 1, 3)[:, :1]
    shown = everywhere(image)
    sizes = {"tops": [0, 0], "lefts": [0, 2], "heights": [1, 1], "widths": [3, 1]}
    windows = {name: torch.tensor([values] * draws).int() for name, values in sizes.items()}
    if covered_by == "the mask":
        shown[..., 2] = False
        windows = {name: values[:, :1] for name, values in windows.items()}
    shuffled = shuffle_windows(image, shown, **windows, generators=rngs(draws))
    assert (shuffled[..., 2] == 2).all()  # the last of three pixels
    _, counts = shuffled[:, 0, 0, :2].unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("tries", [0, 1, 4])
@pytest.mark.parametrize(
    ("size", "own"), [(4, [0, 3, 2]), (4, [3, 0, 2, 1]), (5, [1, 4]), (1, [0])]
)
def test_places_are_uniform_over_all_injections(tries, size, own, monkeypatch):
    """Without a try, all are permuted; with some, groups where everybody found a place keep it."""
    monkeypatch.setattr(corruptions, "TRIES", tries)
    draws = 24000
    group = torch.arange(draws, dtype=torch.int32).repeat_interleave(len(own))
    sizes = torch.full((draws,), size, dtype=torch.int32)
    places = random_places(group, torch.tensor(own).int().repeat(draws), sizes, rngs(1))
    assert places.dtype == torch.int32
    outcomes, counts = places.view(draws, -1).unique(dim=0, return_counts=True)
    assert sorted(outcomes.tolist()) == sorted(
        map(list, itertools.permutations(range(size), len(own)))
    )
    assert len(counts) == 1 or stats.chisquare(counts).pvalue > 0.01
    pair = places.view(draws // 2, -1)[:, [0, len(own)]]  # of neighbouring groups: independent
    table = np.zeros((size, size))
    np.add.at(table, tuple(pair.T.numpy()), 1)
    assert size == 1 or stats.chisquare(table.ravel()).pvalue > 0.01


def some_groups(images, per_image, fill, seed=0):
    """Groups of 1 to 40 places with a share `fill` of them, or none, as own places of elements."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 41, images * per_image)
    counts = np.ceil(fill * sizes).astype(int) * (rng.random(len(sizes)) < 0.8)
    group = np.repeat(np.arange(len(sizes)), counts)
    own = [rng.permutation(size)[:count] for size, count in zip(sizes, counts, strict=True)]
    return tuple(torch.from_numpy(x).int() for x in (group, np.concatenate(own), sizes))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("tries", [0, 1, 4])
@pytest.mark.parametrize("fill", [0.1, 0.6, 1])
def test_places_are_free_and_depend_on_the_own_image_alone(fill, tries, device, monkeypatch):
    monkeypatch.setattr(corruptions, "TRIES", tries)
    images, per_image = 4, 50
    group, own, sizes = (x.to(device) for x in some_groups(images, per_image, fill))
    places = random_places(group, own, sizes, rngs(images, 0, device))
    assert ((places >= 0) & (places < sizes[group.long()])).all()
    assert len(torch.stack([group, places]).unique(dim=1).T) == len(group)
    for image in range(images):
        mine = group // per_image == image
        alone = random_places(
            group[mine] - image * per_image,
            own[mine],
            sizes[image * per_image : (image + 1) * per_image],
            rngs(images, 0, device)[image : image + 1],
        )
        assert torch.equal(places[mine], alone)


def test_groups_without_elements_take_no_part():
    group, own, sizes = some_groups(1, 60, 0.5)
    present, renumbered = group.unique(return_inverse=True)
    assert len(present) < len(sizes)
    without = random_places(renumbered.int(), own, sizes[present.long()], rngs(1))
    assert torch.equal(random_places(group, own, sizes, rngs(1)), without)


@pytest.mark.parametrize("images", [1, 3])
def test_nobody_needs_no_place(images):
    nobody = torch.zeros(0, dtype=torch.int32)
    places = random_places(nobody, nobody, torch.full((6,), 4).int(), rngs(images))
    assert places.shape == (0,) and places.dtype == torch.int32
    pictures = unique_images(images, 30, 30)
    shuffled = local_pixel_shuffling(pictures, ~everywhere(pictures), rngs(images))
    assert torch.equal(shuffled, pictures)


def shuffled_by_loop(image, random_state):
    """Models Genesis' shuffling of one image (H, W), one window at a time."""
    height, width = image.shape
    result = image.copy()
    for _ in range(10000):
        h = random_state.randint(1, height // 10)
        w = random_state.randint(1, width // 10)
        y = random_state.randint(0, height - h)
        x = random_state.randint(0, width - w)
        pixels = image[y : y + h, x : x + w].flatten()
        np.random.shuffle(pixels)
        result[y : y + h, x : x + w] = pixels.reshape(h, w)
    return result


def test_shuffling_matches_the_loop_in_distribution():
    count, height, width = 36, 60, 80
    images = unique_images(count, height, width)[:, :1]
    ours = local_pixel_shuffling(images, everywhere(images), rngs(count))[:, 0].long().numpy()
    random_state = random.Random(0)
    np.random.seed(0)
    own = images[0, 0].long().numpy()
    theirs = np.stack([shuffled_by_loop(own, random_state) for _ in range(count)])

    def moves(source):
        y = source // width - own // width
        x = source % width - own % width
        return y, x, np.hypot(y, x)

    def spread(values):  # pixels too far apart to share a window
        return values[:, 1::8, 1::8].ravel()

    for a, b in zip(moves(ours), moves(theirs), strict=True):
        assert stats.ks_2samp(spread(a), spread(b)).pvalue > 0.01
        assert stats.ttest_ind(abs(a).mean((1, 2)), abs(b).mean((1, 2))).pvalue > 0.01
    top_down = [moves(source)[0][:, :3].mean((1, 2)) for source in (ours, theirs)]
    assert min(top_down[0].mean(), top_down[1].mean()) > 0.8  # pixels at the top can only come up
    assert stats.ttest_ind(*top_down).pvalue > 0.01


def test_shuffling_in_parts(monkeypatch):
    monkeypatch.setitem(corruptions.PIXELS_AT_ONCE, "cpu", 2 * 32 * 32)
    images = unique_images(5, 32, 32)
    shuffled, _ = corrupt(images, rngs(5), Rates(flip=0, shuffle=1, nonlinear=0, paint=0))
    assert shuffled.shape == images.shape
    assert len(shuffled.unique(dim=0)) == 5
    distance = (shuffled - images)[:, 0].abs()
    assert (distance.flatten(1).mean(1) > 5).all()


def test_windows_are_one_pixel_high_in_low_images():
    images = unique_images(2, 8, 50)
    shuffled = local_pixel_shuffling(images, everywhere(images), rngs(2))
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled[:, 0] // 50, images[:, 0] // 50)
    tiny = unique_images(2, 5, 5)
    assert torch.equal(local_pixel_shuffling(tiny, everywhere(tiny), rngs(2)), tiny)


# Non-linear intensity ---------------------------------------------------------------------------


def sampled_curve(control, decreasing, levels, points=20001):
    """Models Genesis' curve: points from (1, 1) to (0, 0), sorted by x, and by y or not."""
    t = np.linspace(1, 0, points)[:, None]
    corners = np.concatenate([[[0, 0]], control, [[1, 1]]])
    basis = np.hstack([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3])
    x, y = (basis @ corners).T
    return np.interp(np.linspace(0, 1, levels), np.sort(x), y if decreasing else np.sort(y))


def extreme_and_random_controls():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(-1, 2, 2)
    control = torch.cat([corners, random_images(60, 2, 2)]).repeat(2, 1, 1)
    return control, torch.arange(len(control)) < len(control) // 2


@pytest.mark.parametrize("levels", [256, 33])
def test_curves_match_sampled_and_sorted_ones(levels):
    control, decreasing = extreme_and_random_controls()
    table = bezier_table(control, decreasing, levels)
    assert table.shape == (len(control), levels) and table.dtype == torch.float32
    for row, points, falls in zip(table, control, decreasing, strict=True):
        assert np.abs(row.numpy() - sampled_curve(points.numpy(), falls, levels)).max() < 1e-3


def test_curves_are_monotone_between_their_ends():
    control, decreasing = extreme_and_random_controls()
    table = bezier_table(control, decreasing)
    rising = torch.where(decreasing[:, None], table.flip(1), table)
    assert (rising[:, 0] == 0).all() and (rising[:, -1] == 1).all()
    assert (rising.diff() >= 0).all()


def test_intensities_go_through_a_curve_of_their_own():
    count = 1000
    steps = torch.arange(511) / 510  # the 256 levels and the points half way between them
    image = steps[torch.randperm(511, generator=rng())].view(1, 1, 1, 511)
    mapped = nonlinear_intensity(image.repeat(count, 1, 1, 1), rngs(count)).flatten(1)
    mapped = mapped[:, image.flatten().argsort()]
    assert len(mapped.unique(dim=0)) == count
    middle = (mapped[:, 0:-2:2] + mapped[:, 2::2]) / 2
    torch.testing.assert_close(mapped[:, 1::2], middle, rtol=0, atol=1e-4)
    falls = mapped[:, 0] == 1
    assert torch.equal(falls, mapped[:, -1] == 0)
    assert consistent_with(falls.sum(), count, 0.5)
    rising = torch.where(falls[:, None], mapped.flip(1), mapped)
    assert (rising.diff() >= -1e-6).all()


def test_mean_curve_is_that_of_uniform_control_points():
    image = torch.tensor([0.1, 0.3, 0.5, 0.8]).mul(255).round().div(255).view(1, 1, 2, 2)
    ours = nonlinear_intensity(image.repeat(400, 1, 1, 1), rngs(400)).flatten(1).numpy()
    random_state = np.random.default_rng(0)
    at = (image.flatten().numpy() * 255).round().astype(int)
    theirs = np.stack(
        [
            sampled_curve(random_state.random((2, 2)), random_state.random() < 0.5, 256, 2001)[at]
            for _ in range(400)
        ]
    )
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 0.01


# Painting ---------------------------------------------------------------------------------------

HEIGHT, WIDTH = 48, 90
SIDES = {  # of the boxes, which in-painting fills and out-painting keeps
    inside_boxes: (range(8, 17), range(15, 31)),
    outside_boxes: (range(21, 29), range(39, 53)),
}


def box_masks(function, count, seed=0):
    """The boxes of `count` images, bool (count, HEIGHT, WIDTH)."""
    hidden = function(torch.zeros(count, 1, HEIGHT, WIDTH), rngs(count, seed))[:, 0]
    return (hidden if function is inside_boxes else ~hidden).numpy()


def boxes_by_loop(function, random_state):
    """The boxes of one image, drawn one by one as Models Genesis does."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    heights, widths = SIDES[function]
    for n in range(5):
        certain = function is outside_boxes and n == 0
        if not certain and random_state.random() >= 0.95:
            break
        h, w = random_state.choice(heights), random_state.choice(widths)
        y, x = random_state.randint(3, HEIGHT - h - 3), random_state.randint(3, WIDTH - w - 3)
        mask[y : y + h, x : x + w] = True
    return mask


@pytest.mark.parametrize("function", [inside_boxes, outside_boxes])
def test_a_box_is_uniform_in_size_and_place(function, monkeypatch):
    count = 3000
    monkeypatch.setattr(corruptions, "MAX_BOXES", 1)
    masks = box_masks(function, count)
    there = masks.any((1, 2))
    if function is inside_boxes:
        assert consistent_with(there.sum(), count, 0.95)
    else:
        assert there.all()
    masks = masks[there]
    for axis, length, sides in zip((2, 1), (HEIGHT, WIDTH), SIDES[function], strict=True):
        profile = masks.any(axis)
        side, start = profile.sum(1), profile.argmax(1)
        end = start + side
        assert start.min() == 3 and end.max() == length - 3
        counts = np.bincount(side)
        assert counts[: sides[0]].sum() == 0 and len(counts) == sides[-1] + 1
        assert stats.chisquare(counts[sides[0] :]).pvalue > 0.01
        smallest = start[side == sides[0]] - 3
        places = np.bincount(smallest, minlength=length - 6 - sides[0] + 1)
        halves = places[: len(places) // 2].sum(), places[(len(places) + 1) // 2 :].sum()
        assert consistent_with(halves[0], sum(halves), 0.5)
    area = masks.sum((1, 2))
    assert (area == masks.any(2).sum(1) * masks.any(1).sum(1)).all()


@pytest.mark.parametrize("function", [inside_boxes, outside_boxes])
def test_boxes_match_the_loop_in_distribution(function):
    count = 1500
    random_state = random.Random(0)
    ours = box_masks(function, count)
    theirs = np.stack([boxes_by_loop(function, random_state) for _ in range(count)])
    areas = ours.mean((1, 2)), theirs.mean((1, 2))
    assert stats.ks_2samp(*areas).pvalue > 0.01
    assert stats.ttest_ind(*areas).pvalue > 0.01
    for axis in (1, 2):
        difference = ours.mean((0, axis)) - theirs.mean((0, axis))
        assert np.abs(difference).max() < 0.05


def test_number_of_boxes(monkeypatch):
    shape = (4000, 5)
    monkeypatch.setattr(corruptions, "_intervals", lambda *_: slots(shape))
    images = torch.zeros(len(slots(shape)[0]), 1, 32, 32)
    chances = 0.95 ** np.arange(6)  # of at least n more boxes
    for at_least in (0, 1):
        boxes = corruptions._boxes(images, (1, 1), (1, 1), rngs(shape[0]), at_least)
        number = boxes.sum((1, 2, 3))
        found = torch.bincount(number, minlength=6)[at_least:]
        exact = [*-np.diff(chances[: 6 - at_least]), chances[5 - at_least]]
        assert found.sum() == shape[0]
        assert stats.chisquare(found, np.array(exact) * shape[0]).pvalue > 0.01


def slots(shape):
    """Five boxes of one pixel side by side on the diagonal, in place of random ones."""
    return torch.arange(5).expand(shape), torch.ones(shape, dtype=torch.long)


@pytest.mark.parametrize("function", [inside_boxes, outside_boxes])
def test_noise_is_uniform_and_independent(function):
    image = torch.full((40, 2, 64, 64), -1.0)
    hidden = function(image, rngs(40))
    painted = paint(image, hidden, rngs(40, seed=1))
    assert torch.equal(hidden.expand_as(image), painted >= 0)
    first, second = (painted[:, n][painted[:, n] >= 0].numpy() for n in (0, 1))
    assert torch.equal(painted[:, 0] >= 0, painted[:, 1] >= 0)
    assert stats.kstest(first, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    kept = painted < 0
    assert (painted[kept] == -1).all()


# All together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_what_happens_to_an_image_does_not_depend_on_its_batch(at_once, device, monkeypatch):
    monkeypatch.setitem(corruptions.PIXELS_AT_ONCE, device, at_once * 33 * 37)
    images = random_images(24, 2, 33, 37, device=device)
    own = rngs(24, device=device)
    alone = [corrupt(image[None], [one]) for image, one in zip(images, own, strict=True)]
    together = corrupt(images, rngs(24, device=device))
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_rates_of_zero_change_nothing():
    images = random_images(6, 1, 32, 32)
    corrupted, clean = corrupt(images, rngs(6), NEVER)
    assert torch.equal(corrupted, images) and torch.equal(clean, images)
    assert len({x.data_ptr() for x in (images, corrupted, clean)}) == 3


def test_corrupted_and_clean_share_their_flip():
    images = random_images(64, 1, 16, 16)
    rates = Rates(flip=0.9, shuffle=0, nonlinear=1, paint=0)
    corrupted, clean = corrupt(images, rngs(64), rates)
    assert not torch.equal(clean, images)
    assert torch.equal(clean.flatten(1).sort().values, images.flatten(1).sort().values)
    for a, b in zip(corrupted, clean, strict=True):
        assert abs(stats.spearmanr(a.flatten(), b.flatten()).statistic) > 0.999


@pytest.mark.parametrize(
    "rates, share",
    [
        (Rates(flip=0, shuffle=0.5, nonlinear=0, paint=0), 0.5),
        (Rates(flip=0, shuffle=0, nonlinear=0.9, paint=0), 0.9),
        (Rates(flip=0, shuffle=0, nonlinear=0, paint=0.9, inpaint=0), 0.9),
        (Rates(flip=0, shuffle=0, nonlinear=0, paint=0.9, inpaint=1), 0.9 * 0.95),
        (Rates(flip=0.4, shuffle=1, nonlinear=0, paint=0), 1),
    ],
)
def test_rates_are_respected(rates, share):
    images = random_images(600, 1, 20, 20)
    corrupted, clean = corrupt(images, rngs(600), rates)
    changed = (corrupted != clean).any((1, 2, 3)).sum()
    assert consistent_with(changed, 600, share)


def test_default_rates_apply_independently():
    count = 2000
    images = random_images(count, 1, 20, 20)
    corrupted, clean = corrupt(images, rngs(count), Rates(flip=0, shuffle=0, nonlinear=0))
    changed = (corrupted != clean).flatten(1)
    out_painted = changed[:, 0]  # boxes never reach the corner
    assert consistent_with(out_painted.sum(), count, 0.9 * 0.8)
    assert consistent_with((changed.any(1) & ~out_painted).sum(), count, 0.9 * 0.2 * 0.95)

    corrupted, clean = corrupt(images[:400], rngs(400), Rates(flip=0, paint=0))
    same_values = [np.isin(a, b).all() for a, b in zip(corrupted, clean, strict=True)]
    untouched = (corrupted == clean).all(1).flatten(1).all(1).sum()
    assert consistent_with(sum(same_values), 400, 0.1)  # pixels may have moved, as with 0.5 here
    assert consistent_with(untouched, 400, 0.1 * 0.5)


def test_noise_is_painted_last():
    images = torch.full((60, 1, 40, 40), 0.5)
    corrupted, _ = corrupt(images, rngs(60), Rates(shuffle=1, nonlinear=1, paint=1, inpaint=0))
    noise = corrupted[:, :, :3]  # no box is kept there
    assert stats.kstest(noise.flatten(), "uniform").pvalue > 0.01
    assert len(noise.unique()) > 0.999 * noise.numel()  # shuffling would have repeated some
    levels = [image.unique(return_counts=True) for image in corrupted]
    kept = [float(values[counts.argmax()]) for values, counts in levels]
    assert len(set(kept)) == 60 and 0.5 not in kept  # the curve has moved what was kept
