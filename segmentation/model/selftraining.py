"""Self-training: a model labels the rest of the pool, and a new model is trained on all of it.

The mask of an unlabelled image comes from the mean prediction over transformed views of it (data
distillation, Radosavovic et al. 2018, arXiv 1712.04440); here the views are its eight flips and
quarter turns. The new model starts from the first weights. There is noise (augmentation, dropout)
in its training, but not in the predictions that make the masks (Xie et al. 2020, arXiv 1911.04252).
Soft masks are from the same paper. Several teachers, several students in turn and sure pixels alone
were tried and are gone, as none was shown to gain (results/encoders).
"""

import numpy as np

from segmentation.model.finish import clean
from segmentation.model.inference import lesion_probabilities


def own_masks(model, images, batch, precision, kind="hard", largest=False):
    """The masks that `model` makes of uint8 images N x C x H x W, as engine.train takes them.

    p is the mean over views, with `largest` by finish.clean. "hard": uint8 N x H x W, 1 where
    p > 0.5. "soft": float32, p.
    """
    p = lesion_probabilities(model, images, batch, precision, views=True)
    if largest:
        p = clean(p)
    return (p > 0.5).astype(np.uint8) if kind == "hard" else p.astype(np.float32)
