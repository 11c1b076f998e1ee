"""Self-training: the model labels the rest of the pool, and a new one learns from all of it.

Data distillation, Radosavovic et al. 2018, arXiv 1712.04440: an unlabelled image's mask is that of
the mean prediction over transformed views of it, here its eight flips and quarter turns. The new
model begins from the first weights. Its training is noisy (augmentation, dropout), the predictions
are not: Xie et al. 2020, arXiv 1911.04252.
"""

import numpy as np
import torch

from segmentation.model.inference import lesion_probability, per_image


def mean_over_views(model, x):
    """Mean lesion probability over flips and quarter turns, moved back: float32 B x H x W in [0,1].

    `x` is a batch as the network takes it, float32 B x C x H x W in [0,1].
    """
    views = []
    for turns in range(4):
        turned = torch.rot90(x, turns, (2, 3))
        straight = lesion_probability(model, turned)
        flipped = lesion_probability(model, turned.flip(3)).flip(2)
        views += [torch.rot90(p, -turns, (1, 2)) for p in (straight, flipped)]
    return torch.stack(views).mean(dim=0)


def own_masks(model, images, batch, precision):
    """The model's masks of uint8 images N x C x H x W: uint8 N x H x W in {0,1}, mean over 0.5."""

    def measure(x):
        return mean_over_views(model, x) > 0.5

    return per_image(measure, model, images, batch, precision).astype(np.uint8)
