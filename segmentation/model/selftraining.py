"""Self-training: a model labels the rest of the pool, and a new model is trained on all of it.

The mask of an unlabelled image comes from the mean prediction over transformed views of it (data
distillation, Radosavovic et al. 2018, arXiv 1712.04440); here the views are its eight flips and
quarter turns. The new model starts from the first weights. There is noise (augmentation, dropout)
in its training, but not in the predictions that make the masks (Xie et al. 2020, arXiv 1911.04252).
"""

import numpy as np
import torch

from segmentation.model.inference import lesion_probability, per_image


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


def own_masks(model, images, batch, precision):
    """uint8 images N x C x H x W -> uint8 masks N x H x W: 1 where the mean over views is > 0.5."""

    def measure(x):
        return mean_over_views(model, x) > 0.5

    return per_image(measure, model, images, batch, precision).astype(np.uint8)
