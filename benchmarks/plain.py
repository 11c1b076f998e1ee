"""Plain loops over single images, the baseline of the benchmarks.

Written from the papers of Models Genesis (arXiv 1908.06912) and CEAL (arXiv 1711.09168), which SAAL
builds on; values that are not in the papers are those of their released code.
"""

import random

import numpy as np
import torch

from segmentation.selection.uncertainty import ceal_uncertainty


def local_pixel_shuffling(image, windows=10000):
    """float H x W -> the same with the pixels shuffled inside 10000 small windows, one by one."""
    height, width = image.shape
    result = image.copy()
    for _ in range(windows):
        h, w = random.randint(1, height // 10), random.randint(1, width // 10)
        y, x = random.randint(0, height - h), random.randint(0, width - w)
        window = image[y : y + h, x : x + w].flatten()
        np.random.shuffle(window)
        result[y : y + h, x : x + w] = window.reshape(h, w)
    return result


def nonlinear_intensity(image, points=100000):
    """float H x W in [0,1] -> its values mapped by a random cubic Bezier curve, sampled densely."""
    control = [(1.0, 1.0), *((random.random(), random.random()) for _ in range(2)), (0.0, 0.0)]
    t = np.linspace(0, 1, points)
    basis = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    x = sum(weight * point[0] for weight, point in zip(basis, control, strict=True))
    y = sum(weight * point[1] for weight, point in zip(basis, control, strict=True))
    x = np.sort(x)
    if random.random() < 0.5:
        y = np.sort(y)
    return np.interp(image, x, y)


def box(height, width, low, high):
    """Rows and columns of a random box with sides in low..high, 3 pixels from the border."""
    h, w = random.randint(low[0], high[0]), random.randint(low[1], high[1])
    y, x = random.randint(3, height - h - 3), random.randint(3, width - w - 3)
    return slice(y, y + h), slice(x, x + w)


def in_painting(image):
    """float H x W -> the same with up to five boxes of noise."""
    height, width = image.shape
    result = image.copy()
    for _ in range(5):
        if random.random() >= 0.95:
            break
        place = box(height, width, (height // 6, width // 6), (height // 3, width // 3))
        result[place] = np.random.rand(*result[place].shape)
    return result


def out_painting(image):
    """float H x W -> noise, except in up to five boxes of the image."""
    height, width = image.shape
    result = np.random.rand(height, width)
    low = (height - 4 * height // 7, width - 4 * width // 7)
    high = (height - 3 * height // 7, width - 3 * width // 7)
    for number in range(5):
        if number and random.random() >= 0.95:
            break
        place = box(height, width, low, high)
        result[place] = image[place]
    return result


def corrupt(image):
    """(corrupted, clean) of one float H x W image, with the paper's corruption rates."""
    for _ in range(3):
        if random.random() >= 0.4:
            break
        image = np.flip(image, random.choice((0, 1)))
    clean = image = image.copy()
    if random.random() < 0.5:
        image = local_pixel_shuffling(image)
    if random.random() < 0.9:
        image = nonlinear_intensity(image)
    if random.random() < 0.9:
        image = in_painting(image) if random.random() < 0.2 else out_painting(image)
    return image, clean


@torch.no_grad()
def score_ceal(model, images, passes, batch, device):
    """CEAL's uncertainty by `passes` full passes with dropout and one without; a list of floats.

    images: uint8 N x C x H x W. The released code uses a `batch` of 1.
    """
    model.to(device).eval()
    scores = []
    for start in range(0, len(images), batch):
        x = images[start : start + batch].to(device).float() / 255
        samples = []
        for _ in range(passes):
            bottleneck, skips = model.encode(x)
            samples.append(model.decode(bottleneck, skips, drop=True)[:, 0].sigmoid())
        variance = torch.stack(samples).var(dim=0, correction=0).cpu().numpy()
        prediction = (model(x)[:, 0] > 0).cpu().numpy()
        scores += [ceal_uncertainty(*pair) for pair in zip(variance, prediction, strict=True)]
    return scores
