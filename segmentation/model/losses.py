"""The segmentation loss of the paper, half cross-entropy and half soft Dice; deep supervision."""

from functools import reduce

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0  # pixels; gives an empty prediction of an empty mask a Dice of 1
HEAD_WEIGHTS = (1, 1 / 2, 1 / 6)  # final head, heads at 1/4 and 1/2 of its resolution


def soft_dice(a, b):
    """(2 sum ab + s) / (sum a + sum b + s) of each pair of images, s = SMOOTH: float B in (0,1].

    `a`, `b` float B x H x W in [0,1], probabilities or masks.
    """
    overlap = (a * b).sum(dim=(1, 2))
    total = a.sum(dim=(1, 2)) + b.sum(dim=(1, 2))
    return (2 * overlap + SMOOTH) / (total + SMOOTH)


def soft_dice_loss(probabilities, masks):
    """1 - soft Dice of each image, averaged over the batch.

    `probabilities` float B x H x W in [0,1], `masks` float B x H x W in {0,1}; a scalar in [0,1).
    """
    return (1 - soft_dice(probabilities, masks)).mean()


def segmentation_loss(logits, masks):
    """0.5 (binary cross-entropy + soft Dice loss) of logits B x H x W and masks in [0,1].

    The released code has another soft Dice: over two classes and the whole batch together, with
    squares in its denominator. Here each image counts the same.
    """
    masks = masks.to(logits.dtype)
    entropy = binary_cross_entropy_with_logits(logits, masks)
    return 0.5 * (entropy + soft_dice_loss(logits.sigmoid(), masks))


def deep_supervision_loss(logits, masks):
    """The weighted sum of the segmentation losses of the heads of `UNet.forward_heads`: a scalar.

    `logits` is a list of B x H x W for each head, the final one first. If there is only that one,
    the result is `segmentation_loss`. HEAD_WEIGHTS have the ratios
    0.6 : 0.3 : 0.1 of DSAL's released code (arXiv 2101.09057), in its order of the heads.
    """
    losses = (segmentation_loss(head, masks) for head in logits)
    weighted = (weight * loss for weight, loss in zip(HEAD_WEIGHTS, losses, strict=False))
    return reduce(torch.add, weighted)
