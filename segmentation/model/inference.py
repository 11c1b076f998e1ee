"""Run a network over many images, batch by batch.

These loops do not change the weights. Training is in engine.py.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm import tqdm

from segmentation.common.precision import Precision
from segmentation.common.runfiles import derived_seed
from segmentation.data.images import to_input
from segmentation.model.encoders import folded
from segmentation.model.finish import PLAIN, largest_region


def nothing(count):
    """The default `advance`: shows no progress."""


class Inference(NamedTuple):
    """How a network is run over images."""

    batch: int  # images at a time
    precision: Precision
    advance: Callable = nothing  # called with the number of images done


def batches(count, size):
    """Slices that split range(count) into parts of `size`; the last may be smaller."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@torch.no_grad()
def per_image(measure, model, images, batch, precision, advance=nothing, stream=None):
    """Apply `measure` to all `images` (uint8 N x C x H x W): a numpy array of N rows.

    `measure` takes a batch of network inputs (float32 B x C x H x W in [0,1], under autocast) and
    returns a tensor of B rows. If a `stream` (a seed and names) is given, the random numbers of
    each batch come from it. The model is left in evaluation mode.
    """
    model.to(precision.device).eval()
    rows = []
    with folded(model):
        for part in batches(len(images), batch):
            if stream is not None:
                torch.manual_seed(derived_seed(*stream, part.start))
            with precision.autocast():
                rows.append(measure(to_input(images[part].to(precision.device))).cpu())
            advance(len(rows[-1]))
    return torch.cat(rows).numpy()


@torch.no_grad()
def collect(function, images, batch, what="features"):
    """Apply `function` (Images of B images -> tensor B x ...) to all `images`: array of N rows."""
    rows = []
    with tqdm(total=len(images), desc=what, disable=None) as bar:
        for part in batches(len(images), batch):
            rows.append(function(images.subset(part)).cpu().numpy())
            bar.update(len(rows[-1]))
    return np.concatenate(rows)


def image_features(model, x):
    """Features of a batch of inputs: the mean of the bottleneck over places, float32 B x D."""
    return model.encode(x)[0].float().mean(dim=(2, 3))


@contextlib.contextmanager
def features_seen(model):
    """Within it, each call of `model` appends the `image_features` of its inputs to this list."""
    seen = []

    def note(encoder, inputs, levels):
        seen.append(levels[-1].float().mean(dim=(2, 3)))

    hook = model.encoder.register_forward_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def lesion_probability(model, x):
    """Lesion probabilities of a batch of inputs, without dropout: float32 B x H x W in [0,1]."""
    return model(x)[:, 0].float().sigmoid()


def mean_over_views(model, x):
    """Mean lesion probability over flips and quarter turns, turned back: float32 B x H x W, [0,1].

    `x` is a batch of network inputs, float32 B x C x H x W in [0,1].
    """
    views = []
    for turns in range(4):
        turned = torch.rot90(x, turns, (2, 3))
        straight = lesion_probability(model, turned)
        flipped = lesion_probability(model, turned.flip(3)).flip(2)
        views += [torch.rot90(p, -turns, (1, 2)) for p in (straight, flipped)]
    return torch.stack(views).mean(dim=0)


def lesion_probabilities(model, images, batch, precision, advance=nothing, views=False):
    """Lesion probability of each pixel, without dropout: float32 N x H x W in [0,1].

    With `views` the mean over views of the image.
    """

    def measure(x):
        return mean_over_views(model, x) if views else lesion_probability(model, x)

    return per_image(measure, model, images, batch, precision, advance)


def enlarged(probability, size):
    """Probabilities float32 h x w, bilinearly brought to `size` = (H, W): float32 H x W in [0,1].

    Pixel centres are matched as in the resizing of the images, whose inverse this is.
    """
    pixels = torch.from_numpy(probability)[None, None]
    return interpolate(pixels, size, mode="bilinear", align_corners=False)[0, 0].numpy()


@torch.no_grad()
def segment(model, images, batch, device, finish=PLAIN):
    """uint8 N x C x H x W -> uint8 masks N x H x W: 1 where the lesion probability is over 0.5.

    Always in float32.
    """
    model.to(device).eval()
    parts = []
    with folded(model):
        for part in batches(len(images), batch):
            x = to_input(images[part].to(device))
            over = mean_over_views(model, x) > 0.5 if finish.views else model(x)[:, 0] > 0
            parts.append(over.to(torch.uint8).cpu())
    masks = torch.cat(parts).numpy()
    if finish.largest:
        masks = np.stack([largest_region(mask) for mask in masks]).astype(np.uint8)
    return masks
