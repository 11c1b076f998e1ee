"""Self-training: a model labels the rest of the pool, and a new model is trained on all of it.

The mask of an unlabelled image comes from the mean prediction over transformed views of it (data
distillation, Radosavovic et al. 2018, arXiv 1712.04440); here the views are its eight flips and
quarter turns. The new model starts from the first weights. There is noise (augmentation, dropout)
in its training, but not in the predictions that make the masks (Xie et al. 2020, arXiv 1911.04252).
Several teachers, soft masks and several students in turn are from the same paper.
"""

from functools import reduce

import numpy as np

from segmentation.model.finish import clean
from segmentation.model.inference import lesion_probabilities

CONFIDENT = 0.9  # probability from which a pixel of "confident" masks counts


def own_masks(models, images, batch, precision, kind="hard", largest=False):
    """The masks that `models` make together of uint8 images N x C x H x W, as engine.train takes.

    p is the mean over models and views, with `largest` by finish.clean. "hard": uint8 N x H x W, 1
    where p > 0.5. "soft": float32, p. "confident": float32, 0 or 1 where p is below 1 - CONFIDENT
    or above CONFIDENT, else NaN.
    """
    seen = (lesion_probabilities(m, images, batch, precision, views=True) for m in models)
    p = reduce(np.add, seen) / len(models)
    if largest:
        p = clean(p)
    if kind == "hard":
        return (p > 0.5).astype(np.uint8)
    if kind == "confident":
        p = np.where(np.maximum(p, 1 - p) > CONFIDENT, p > 0.5, np.nan)
    return p.astype(np.float32)
