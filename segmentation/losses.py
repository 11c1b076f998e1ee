"""The segmentation loss of the paper: half cross-entropy, half soft Dice."""

from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0  # pixels; makes an empty prediction of an empty mask a perfect one


def soft_dice_loss(probabilities, masks):
    """1 - (2 sum p y + s) / (sum p + sum y + s), per image, averaged over the batch.

    `probabilities` float B x H x W in [0,1], `masks` float B x H x W in {0,1}; a scalar in [0,1).
    """
    overlap = (probabilities * masks).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2))
    return (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def segmentation_loss(logits, masks):
    """0.5 (binary cross-entropy + soft Dice) of logits B x H x W against masks in {0,1}."""
    masks = masks.to(logits.dtype)
    entropy = binary_cross_entropy_with_logits(logits, masks)
    return 0.5 * (entropy + soft_dice_loss(logits.sigmoid(), masks))
