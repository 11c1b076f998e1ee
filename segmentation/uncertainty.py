"""How unsure a model is of each image: model and un-augmented images in, one number per image out.

CEAL: Gorriz et al. 2017, arXiv 1711.09168, after Wang et al. 2016. Monte Carlo dropout: Gal and
Ghahramani 2016. Every score is larger for an image that the model is less sure of.
"""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn.functional import dropout

from segmentation.dataset import to_input
from segmentation.engine import batches
from segmentation.metrics import bounding_box
from segmentation.runfiles import derived_seed


def binary_entropy(p):
    """-p log p - (1-p) log(1-p) in nats, elementwise, for p in [0,1]; 0 at both ends."""
    return torch.special.entr(p) + torch.special.entr(1 - p)


def distance_map(prediction):
    """Distance of each predicted pixel to the background, scaled to [0,1]; 0 outside.

    `prediction` is a *binary* H x W array: the Euclidean distance transform of a soft map, which
    has no zeros, means nothing. Where nothing is predicted, or everything, the map is constant;
    it is then the prediction itself.
    """
    prediction = np.asarray(prediction, dtype=bool)
    if prediction.all() or not prediction.any():
        return prediction.astype(np.float64)
    # Background beyond the first pixel around the prediction is nowhere the nearest.
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


def monte_carlo(model, bottleneck, skips, passes, at_once=1):
    """Lesion probabilities of dropout passes from what `encode` returned: float32 T x B x H x W.

    Dropout acts at the bottleneck only, so the encoder runs once for all passes, and so does the
    skips' share of the decoder. `at_once` passes go through the decoder as one batch.
    """
    terms = model.skip_terms(skips)
    logits = []
    for part in batches(passes, at_once):
        repeated = bottleneck.repeat(part.stop - part.start, 1, 1, 1)
        repeated = repeated.contiguous(memory_format=torch.channels_last)
        dropped = dropout(repeated, model.dropout, training=True)
        logits.append(model.decode_terms(dropped, terms)[:, 0].float())
    return torch.cat(logits).sigmoid().unflatten(0, (passes, -1))


@torch.no_grad()
def score_ceal(model, images, passes, stream, batch, speed, advance=lambda n: None):
    """CEAL's uncertainty of each of `images` (uint8 N x C x H x W): float64 N, at least 0.

    The binary prediction is that of the model without dropout. `stream` is a seed and names, to
    which each batch adds its place. `advance` is called with the number of images done.
    """
    model.to(speed.device).eval()
    at_once = passes if speed.device.type == "cuda" else 1
    scores = np.zeros(len(images))
    for part in batches(len(images), batch):
        torch.manual_seed(derived_seed(*stream, part.start))
        with speed.autocast():
            encoded = model.encode(to_input(images[part].to(speed.device)))
            samples = monte_carlo(model, *encoded, passes, at_once)
            prediction = model.decode(*encoded, drop=False)[:, 0] > 0
        variance = samples.var(dim=0, correction=0).cpu().numpy()
        prediction = prediction.cpu().numpy()
        scores[part] = [ceal_uncertainty(*pair) for pair in zip(variance, prediction, strict=True)]
        advance(len(variance))
    return scores


@torch.no_grad()
def score_entropy(model, images, batch, speed, advance=lambda n: None):
    """Mean over pixels of the binary entropy, in nats, of each image: float64 N in [0, log 2]."""
    model.to(speed.device).eval()
    scores = np.zeros(len(images))
    for part in batches(len(images), batch):
        with speed.autocast():
            logits = model(to_input(images[part].to(speed.device)))[:, 0]
        probability = logits.float().sigmoid()
        scores[part] = binary_entropy(probability).mean(dim=(1, 2)).cpu().numpy()
        advance(len(probability))
    return scores
