"""Random augmentation of training images: flips, rotation, zoom, shift, contrast and brightness.

Works on a whole batch at once, with a draw of its own for each image, on the device of the images.
A mask is moved in the same way as its image. Images that are scored or tested are never augmented.
CutMix and pasted lesions were tried and are gone, as neither was shown to gain (results/encoders).
"""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample

from segmentation.common.transfer import sent

LEVELS = ("none", "flips", "light", "all")  # each includes those before it
SCALE = 1.25  # largest zoom; the smallest is its inverse
SHIFT = 0.1  # largest shift, as a fraction of the side
CONTRAST = 0.3  # the contrast factor of an image is 1 +- this
COLOUR = 0.1  # the brightness shift of a channel is +- this


@dataclass(frozen=True)
class Views:
    """One draw for B images: how each is moved, and how its contrast and brightness change.

    `maps` float B x 2 x 3, from output to input coordinates as in affine_grid; `contrast` float
    B x 1 x 1 x 1, a factor; `shift` float B x C x 1 x 1, added to images in [0,1].
    """

    maps: torch.Tensor
    contrast: torch.Tensor
    shift: torch.Tensor

    def to(self, device):
        """The same on another device."""
        return Views(*(sent(part, device) for part in (self.maps, self.contrast, self.shift)))

    def move(self, values, mode):
        """Flip, rotate, zoom and shift `values`, float B x C x H x W.

        Pixels from outside the image are reflected at its edge. `mode`: "bilinear" or "nearest".
        """
        grid = affine_grid(self.maps, values.shape, align_corners=False)
        return grid_sample(values, grid, mode, "reflection", align_corners=False)

    def image(self, images):
        """Images in [0,1], moved and with changed contrast and brightness, in [0,1]."""
        moved = self.move(images, "bilinear")
        middle = moved.mean(dim=(1, 2, 3), keepdim=True)
        return ((moved - middle) * self.contrast + middle + self.shift).clamp(0, 1)

    def mask(self, masks):
        """Masks B x H x W in [0,1], moved as the images are, by nearest neighbour: float."""
        return self.move(masks[:, None].float(), "nearest")[:, 0]


def draw(shape, level, generator):
    """Views for images of `shape` = (B, C, H, W), drawn by a CPU generator; tensors on the CPU.

    `level` is one of LEVELS. "none": no change. "flips": left to right and upside down, each with
    probability 1/2. "light": also contrast (per image) and brightness (per channel). "all": with
    probability 1/2 also a rotation by any angle, a zoom by 1/SCALE to SCALE, and a shift.
    """
    count, channels, height, width = shape
    rank = LEVELS.index(level)

    def uniform(low, high, *size):
        return low + (high - low) * torch.rand(*size, generator=generator)

    flips = torch.randint(2, (count, 2), generator=generator) * 2.0 - 1
    angle = uniform(-math.pi, math.pi, count)
    zoom = SCALE ** uniform(-1, 1, count)
    shift = uniform(-2 * SHIFT, 2 * SHIFT, count, 2)  # coordinates run from -1 to 1
    contrast = uniform(1 - CONTRAST, 1 + CONTRAST, count, 1, 1, 1)
    light = uniform(-COLOUR, COLOUR, count, channels, 1, 1)
    if rank < 1:
        flips = torch.ones_like(flips)
    still = torch.rand(count, generator=generator) < 0.5
    if rank < 2:
        contrast, light = torch.ones_like(contrast), torch.zeros_like(light)
    if rank < 3:
        still = torch.ones_like(still)
    angle, zoom = torch.where(still, 0.0, angle), torch.where(still, 1.0, zoom)
    shift = torch.where(still[:, None], 0.0, shift)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    side = height / width  # rotate in pixels, although coordinates run from -1 to 1 on both sides
    rows = (
        torch.stack([cos * flips[:, 0], -sin * side * flips[:, 1], shift[:, 0]], dim=1),
        torch.stack([sin / side * flips[:, 0], cos * flips[:, 1], shift[:, 1]], dim=1),
    )
    return Views(torch.stack(rows, dim=1), contrast, light)
