"""How uncertain a model is about each image, and the features that it has of them.

The functions `score_...` and `pooled_bottleneck` take, in this order:

- a model, and un-augmented images (a uint8 tensor N x C x H x W or an images.Images; at least one);
- if they draw dropout masks, the number of Monte Carlo passes and a random stream (a seed and
  names; the position of each batch is added to it);
- the fields of an inference.Inference: images per batch, a Precision, and `advance`, which is
  called with the number of images done.

They leave the model in evaluation mode and return an array with a row for each image, in order. A
score is float64 N, at least 0, and larger for images that the model is less sure about.

To add a score, write a function of one batch and pass it to `per_image`.

CEAL: Gorriz et al. 2017, arXiv 1711.09168, after Wang et al. 2016. Monte Carlo dropout: Gal and
Ghahramani 2016. BALD: Houlsby et al. 2011, arXiv 1112.5745. DSAL: Zhao et al. 2021,
arXiv 2101.09057.
"""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn.functional import dropout

from segmentation.common.runfiles import UserError
from segmentation.model.inference import batches, lesion_probability, nothing, per_image
from segmentation.model.losses import soft_dice
from segmentation.model.metrics import bounding_box


def binary_entropy(p):
    """-p log p - (1-p) log(1-p) in nats, elementwise, for p in [0,1]; 0 at both ends."""
    return torch.special.entr(p) + torch.special.entr(1 - p)


def distance_map(prediction):
    """Distance of each predicted pixel to the background, scaled to [0,1]; 0 outside.

    `prediction` is a binary H x W array. (Probabilities are never 0, so their Euclidean distance
    transform would mean nothing.) If nothing or everything is predicted, the map is constant: it is
    then the prediction itself.
    """
    prediction = np.asarray(prediction, dtype=bool)
    if prediction.all() or not prediction.any():
        return prediction.astype(np.float64)
    # The nearest background is never farther away than one pixel around the bounding box.
    around = tuple(
        slice(max(0, side.start - 1), side.stop + 1) for side in bounding_box(prediction)
    )
    distance = np.zeros(prediction.shape)
    distance[around] = distance_transform_edt(prediction[around])
    return distance / distance.max()


def ceal_uncertainty(variance, prediction):
    """CEAL's score of one image: sum over pixels of Var_t[p_t] x distance map.

    `variance` float H x W: variance of the lesion probability over the Monte Carlo passes;
    `prediction` binary H x W. 0 where nothing is predicted.
    """
    return float((np.asarray(variance, dtype=np.float64) * distance_map(prediction)).sum())


def monte_carlo(model, bottleneck, skips, passes, at_once=None):
    """Lesion probabilities of dropout passes from what `encode` returned: float32 T x B x H x W.

    Dropout is only at the bottleneck, so all passes share one run of the encoder and of the part of
    the decoder that depends on the skips only. `at_once` passes go through the decoder as one
    batch; None: all of them on a CUDA device, otherwise one.
    """
    if at_once is None:
        at_once = passes if bottleneck.is_cuda else 1
    terms = model.skip_terms(skips)
    logits = []
    for part in batches(passes, at_once):
        repeated = bottleneck.repeat(part.stop - part.start, 1, 1, 1)
        repeated = repeated.contiguous(memory_format=torch.channels_last)
        dropped = dropout(repeated, model.dropout, training=True)
        logits.append(model.decode_terms(dropped, terms)[:, 0].float())
    return torch.cat(logits).sigmoid().unflatten(0, (passes, -1))


def pixel_mean(values):
    """Mean over the pixels of B x H x W: float64 B."""
    return values.mean(dim=(1, 2)).double()


def score_ceal(model, images, passes, stream, batch, precision, advance=nothing):
    """CEAL's uncertainty: variance over dropout passes, weighted by the distance map, summed.

    The distance map is that of the model's binary prediction without dropout.
    """

    def measure(x):
        bottleneck, skips = model.encode(x)
        variance = monte_carlo(model, bottleneck, skips, passes).var(dim=0, correction=0)
        prediction = model.decode(bottleneck, skips, drop=False)[:, 0] > 0
        pairs = zip(variance.cpu().numpy(), prediction.cpu().numpy(), strict=True)
        return torch.tensor([ceal_uncertainty(*pair) for pair in pairs], dtype=torch.float64)

    return per_image(measure, model, images, batch, precision, advance, stream)


def score_bald(model, images, passes, stream, batch, precision, advance=nothing):
    """BALD: mean over pixels of H(E_t p_t) - E_t H(p_t) in nats, in [0, log 2].

    The mutual information of a pixel's label and the dropout mask, estimated from `passes` masks:
    large where single passes are sure but disagree. Values below 0, from rounding, become 0.
    """

    def measure(x):
        bottleneck, skips = model.encode(x)
        p = monte_carlo(model, bottleneck, skips, passes)
        information = binary_entropy(p.mean(dim=0)) - binary_entropy(p).mean(dim=0)
        return pixel_mean(information).clamp(min=0)

    return per_image(measure, model, images, batch, precision, advance, stream)


def score_entropy(model, images, batch, precision, advance=nothing):
    """Mean over pixels of the binary entropy in nats, in [0, log 2]."""

    def measure(x):
        return pixel_mean(binary_entropy(lesion_probability(model, x)))

    return per_image(measure, model, images, batch, precision, advance)


def score_margin(model, images, batch, precision, advance=nothing):
    """Mean over pixels of 1 - |2p - 1|, in [0,1].

    Margin sampling chooses the smallest difference between the two most likely classes; for two
    classes with p and 1 - p the margin is |2p - 1|. The score is also twice |p - y| for the more
    likely label y, which is, up to a factor, the length of the output gradient that BADGE scales
    by.
    """

    def measure(x):
        return pixel_mean(1 - (2 * lesion_probability(model, x) - 1).abs())

    return per_image(measure, model, images, batch, precision, advance)


def score_dsal(model, images, batch, precision, advance=nothing):
    """DSAL: how much the side heads' masks differ from the final one, in [0,1).

    1 - 1/2 [Dice(m1, m2) + Dice(m1, m3)] of the masks p > 1/2 of the final head and of the side
    heads at 1/4 and 1/2 of the resolution, with the smoothing of losses.soft_dice. This is the
    criterion of the released code, which queries the smallest mean Dice first. Three empty masks
    agree: the score is 0. UserError for a model without heads.
    """
    if not model.heads:
        raise UserError("--query dsal: the network has no side heads to compare; add --heads")

    def measure(x):
        final, *sides = ((head[:, 0] > 0).float() for head in model.forward_heads(x))
        agreement = torch.stack([soft_dice(final, side) for side in sides]).mean(dim=0)
        return (1 - agreement).double()

    return per_image(measure, model, images, batch, precision, advance)


def pooled_bottleneck(model, images, batch, precision, advance=nothing):
    """Features of this model: its bottleneck averaged over the image, float32 N x (8 width)."""

    def measure(x):
        return model.encode(x)[0].float().mean(dim=(2, 3))

    return per_image(measure, model, images, batch, precision, advance)
