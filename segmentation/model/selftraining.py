"""Self-training: a model labels the rest of the pool, and a new model is trained on all of it.

The mask of an unlabelled image comes from the mean prediction over transformed views of it (data
distillation, Radosavovic et al. 2018, arXiv 1712.04440); here the views are its eight flips and
quarter turns. The new model starts from the first weights. There is noise (augmentation, dropout)
in its training, but not in the predictions that make the masks (Xie et al. 2020, arXiv 1911.04252).
Several teachers, soft masks and several students in turn are from the same paper.
"""

import numpy as np
import torch

from segmentation.model.inference import lesion_probability, per_image

CONFIDENT = 0.9  # probability from which a pixel of "confident" masks counts


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


def own_masks(models, images, batch, precision, kind="hard"):
    """The masks that `models` make together of uint8 images N x C x H x W, as engine.train takes.

    p is the mean over models and views. "hard": uint8 N x H x W, 1 where p > 0.5. "soft": float32,
    p. "confident": float32, 0 or 1 where p is below 1 - CONFIDENT or above CONFIDENT, else NaN.
    """
    p = 0
    for model in models:

        def measure(x, model=model):
            return mean_over_views(model, x)

        p = p + per_image(measure, model, images, batch, precision) / len(models)
    if kind == "hard":
        return (p > 0.5).astype(np.uint8)
    if kind == "confident":
        p = np.where(np.maximum(p, 1 - p) > CONFIDENT, p > 0.5, np.nan)
    return p.astype(np.float32)
