"""A learner for a handful of labels: logistic regression on the cells of a frozen backbone.

The backbone is not trained, and a fit takes seconds. The idea is that of the notebook on foreground
segmentation in github.com/facebookresearch/dinov3. Ours: feature maps of several strides, the place
in the image (lesions are central), soft labels at the border, and a regularisation that is chosen
inside the labelled images.
"""

import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize, pad

from segmentation.common.runfiles import UserError
from segmentation.model import metrics
from segmentation.model.encoders import PAPER, TimmEncoder
from segmentation.model.inference import per_image

STRIDES = (8, 16, 32)  # of the feature maps that are used
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of the regression, to choose from
FOLDS = 5  # of the images, at most, to choose by


class FrozenHead(nn.Module):
    """A frozen backbone of timm and a linear head on its cells, at 1/8 of the resolution.

    Called as a UNet is: images float B x C x H x W in [0,1] -> logits B x 1 x H x W. It has no
    dropout, no decoder and no further heads.
    """

    heads, dropout, scale = False, 0.0, 1.0

    def __init__(self, in_channels, encoder):
        super().__init__()
        if encoder == PAPER:
            raise UserError("a frozen encoder is a backbone of timm; give one as --encoder")
        self.in_channels, self.encoder_name = in_channels, encoder
        self.encoder = TimmEncoder(encoder).requires_grad_(False)
        channels = [self.encoder.level_channels[stride.bit_length() - 1] for stride in STRIDES]
        self.bottleneck_channels = self.encoder.level_channels[-1]
        self.head = nn.Conv2d(sum(channels) + 3, 1, 1)

    def train(self, mode=True):
        """Always in evaluation mode: the backbone keeps its statistics."""
        return super().train(False)

    def encode(self, images):
        """(the coarsest feature map, no skips)."""
        return self.encoder(images)[-1], []

    def cells(self, images):
        """Features of each cell: float32 B x D x H/8 x W/8, each map's of length 1, then the place.

        The place is (x, y, distance from the centre), in -1..1 and 0..sqrt(2).
        """
        levels = self.encoder(images)
        maps = [levels[stride.bit_length() - 1] for stride in STRIDES]
        size = maps[0].shape[2:]
        parts = [interpolate(normalize(m.float()), size, mode="bilinear") for m in maps]
        y, x = torch.meshgrid(
            *(torch.linspace(-1, 1, side, device=images.device) for side in size), indexing="ij"
        )
        place = torch.stack([x, y, torch.hypot(x, y)]).expand(len(images), -1, -1, -1)
        return torch.cat([*parts, place], dim=1)

    def enlarge(self, logits, size):
        """Logits of cells B x 1 x h x w -> those of pixels, cut back to `size` = (H, W)."""
        whole = [8 * side for side in logits.shape[2:]]
        large = interpolate(logits, whole, mode="bilinear", align_corners=False)
        return large[..., : size[0], : size[1]]

    def forward(self, images):
        return self.enlarge(self.head(self.cells(images)), images.shape[2:])


def fit(model, images, masks, batch, precision, rng):
    """Fit the head of a FrozenHead in place; returns the one row of the log, as engine.train.

    `images` uint8 N x C x H x W, `masks` uint8 N x H x W in {0,1}, both on the CPU or the device. A
    cell's label is the share of lesion in it: it counts as lesion with that weight and as skin with
    the rest. C of STRENGTHS is the one with the largest mean Dice over images that were left out,
    in up to FOLDS folds drawn by `rng`. A fold without which all labels agree is passed over; with
    no other fold, as with one image, C is 1. UserError if all labels agree.
    """
    started = time.perf_counter()
    size = masks.shape[1:]
    cells = per_image(model.cells, model, images, batch, precision)
    shares = cell_shares(masks.cpu(), cells.shape[2:])
    if not has_both(shares):
        raise UserError("the labelled masks are all empty, or all full; label other images")
    rows = cells.transpose(0, 2, 3, 1)  # N x h x w x D
    truth = masks.cpu().numpy() > 0
    folds = np.array_split(rng.permutation(len(rows)), min(FOLDS, len(rows)))
    dice = [[] for _ in STRENGTHS]
    for held in folds:
        rest = np.setdiff1d(np.arange(len(rows)), held)
        if not has_both(shares[rest]):
            continue
        for found, strength in zip(dice, STRENGTHS, strict=True):
            regression = regress(rows[rest], shares[rest], strength)
            logits = torch.from_numpy(decide(regression, rows[held]))[:, None]
            predicted = model.enlarge(logits, size)[:, 0].numpy() > 0
            found += metrics.dice(metrics.confusion(predicted, truth[held])).tolist()
    best = STRENGTHS[int(np.argmax([np.mean(found) for found in dice]))] if dice[0] else 1.0
    regression = regress(rows, shares, best)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(regression.coef_)[:, :, None, None])
        model.head.bias.copy_(torch.from_numpy(regression.intercept_))
    p = 1 / (1 + np.exp(-decide(regression, rows).astype(np.float64)))
    p = p.clip(1e-12, 1 - 1e-12)
    loss = float(-(shares * np.log(p) + (1 - shares) * np.log(1 - p)).mean())
    return [{"epoch": 0, "steps": 0, "loss": loss, "seconds": time.perf_counter() - started}]


def cell_shares(masks, grid):
    """The share of lesion in each cell of 8 x 8 pixels: float32 N x h x w in [0,1].

    `masks` uint8 N x H x W in {0,1}, on the CPU; `grid` is (h, w), that of a FrozenHead's cells. It
    can reach beyond the masks: they are padded as TimmEncoder pads images.
    """
    beyond = (0, 8 * grid[1] - masks.shape[2], 0, 8 * grid[0] - masks.shape[1])
    whole = pad(masks[:, None].float(), beyond, "replicate")
    return adaptive_avg_pool2d(whole, grid)[:, 0].numpy()


def has_both(shares):
    """Whether cells with these shares of lesion are neither all skin nor all lesion."""
    return bool((shares > 0).any() and (shares < 1).any())


def regress(rows, shares, strength):
    """Logistic regression of cells N x h x w x D on their shares of lesion N x h x w in [0,1]."""
    x, y = rows.reshape(-1, rows.shape[-1]), shares.ravel()
    labels = np.repeat([1, 0], len(x))
    weights = np.concatenate([y, 1 - y])
    some = weights > 0
    model = LogisticRegression(C=strength, max_iter=1000)
    return model.fit(np.concatenate([x, x])[some], labels[some], weights[some])


def decide(regression, rows):
    """Logits of cells N x h x w x D: float32 N x h x w."""
    flat = regression.decision_function(rows.reshape(-1, rows.shape[-1]))
    return flat.reshape(rows.shape[:-1]).astype(np.float32)
