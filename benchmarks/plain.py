"""Plain loops, the baseline of the benchmarks.

Those over single images are written from the papers of Models Genesis (arXiv 1908.06912) and CEAL
(arXiv 1711.09168), which SAAL builds on; values that are not in the papers are those of their
released code. The U-Net on a backbone of timm has the decoder that segmentation_models_pytorch has
by default: 256, 128, 64, 32, 16 channels, up to full resolution, enlarged by nearest neighbours.
"""

import random

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from segmentation.model.losses import segmentation_loss
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


class PlainUNet(nn.Module):
    """float B x 3 x H x W in [0,1], sides multiples of 32 -> logits B x H x W; all is trained."""

    def __init__(self, name):
        import timm

        super().__init__()
        self.encoder = timm.create_model(name, features_only=True)
        *skips, below = self.encoder.feature_info.channels()
        blocks = []
        for skip, channels in zip([*reversed(skips), 0], (256, 128, 64, 32, 16), strict=True):
            layers = []
            for inputs in (below + skip, channels):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            blocks.append(nn.Sequential(*layers))
            below = channels
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(below, 1, 3, padding=1)

    def forward(self, images):
        *skips, x = self.encoder((images - 0.5) / 0.5)
        for block, skip in zip(self.decoder, [*reversed(skips), None], strict=True):
            x = interpolate(x, scale_factor=2)
            x = block(x if skip is None else torch.cat([x, skip], dim=1))
        return self.head(x)[:, 0]


def fit(model, images, masks, steps, batch, views):
    """Train on random batches of uint8 images N x 3 x H x W and masks N x H x W, by AdamW.

    `views` is a function of a shape that draws augmentation.
    """
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,))
        view = views(images[chosen].shape)
        logits = model(view.image(images[chosen].float() / 255))
        optimizer.zero_grad()
        segmentation_loss(logits, view.mask(masks[chosen])).backward()
        optimizer.step()
        schedule.step()
