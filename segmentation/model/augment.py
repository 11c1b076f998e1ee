"""Random views of training images: flips, turns and scales of image and mask alike, and light.

A whole batch at once, each image by its own draw, on the device of the images. Images that are
scored or tested never come here.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample

LEVELS = ("none", "flips", "light", "all")  # each with those before it
SCALE = 1.25  # largest zoom, and its inverse
SHIFT = 0.1  # of the side
CONTRAST = 0.3  # a factor of 1 +- this, of each image
COLOUR = 0.1  # a shift of +- this, of each channel


@dataclass(frozen=True)
class Views:
    """A draw for B images: maps from output to input coordinates, and factors of light.

    `maps` float B x 2 x 3 in the coordinates of affine_grid; `contrast` B x 1 x 1 x 1 and `shift`
    B x C x 1 x 1, or None for images as they are.
    """

    maps: torch.Tensor
    contrast: torch.Tensor
    shift: torch.Tensor

    def to(self, device):
        """The same on another device."""
        return Views(self.maps.to(device), self.contrast.to(device), self.shift.to(device))

    def move(self, values, mode):
        """Float B x C x H x W as it looks after the draw's flips, turns and scales.

        What would come from outside is reflected at the edge. `mode` is "bilinear" or "nearest".
        """
        grid = affine_grid(self.maps, values.shape, align_corners=False)
        return grid_sample(values, grid, mode, "reflection", align_corners=False)

    def image(self, images):
        """Images in [0,1], moved and relit, in [0,1]."""
        moved = self.move(images, "bilinear")
        middle = moved.mean(dim=(1, 2, 3), keepdim=True)
        return ((moved - middle) * self.contrast + middle + self.shift).clamp(0, 1)

    def mask(self, masks):
        """uint8 masks B x H x W in {0,1}, moved alike, float in {0,1}."""
        return self.move(masks[:, None].float(), "nearest")[:, 0]


def draw(shape, level, generator):
    """Views for images of `shape` = (B, C, H, W) by a CPU generator; tensors are on the CPU.

    "flips": half of them left to right, half upside down. "light": also contrast and brightness,
    per channel. "all": half of them also turned by any angle, zoomed by 1/SCALE to SCALE, shifted.
    """
    count, channels, height, width = shape
    rank = LEVELS.index(level)

    def uniform(low, high, *size):
        return low + (high - low) * torch.rand(*size, generator=generator)

    flips = torch.randint(2, (count, 2), generator=generator) * 2.0 - 1
    angle = uniform(-math.pi, math.pi, count)
    zoom = SCALE ** uniform(-1, 1, count)
    shift = uniform(-2 * SHIFT, 2 * SHIFT, count, 2)  # of coordinates from -1 to 1
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
    side = height / width  # the turn is one of pixels, the coordinates are those of the sides
    rows = (
        torch.stack([cos * flips[:, 0], -sin * side * flips[:, 1], shift[:, 0]], dim=1),
        torch.stack([sin / side * flips[:, 0], cos * flips[:, 1], shift[:, 1]], dim=1),
    )
    return Views(torch.stack(rows, dim=1), contrast, light)
