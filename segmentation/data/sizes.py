"""The size of images, as an option of several scripts."""

import argparse
import re

from segmentation.common.schemas import LEAST_SIDE, SIDE_STEP


def image_size(text):
    """An argparse type: `256` or `192x240` (height x width) -> (height, width).

    The U-Net halves its input four times, so each side must be a multiple of 16. The minimum is 32,
    because at 16 only one cell would be left at the bottleneck.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a size; give one such as 256 or 192x240")
    size = int(match[1]), int(match[2] or match[1])
    if any(side % SIDE_STEP or side < LEAST_SIDE for side in size):
        raise argparse.ArgumentTypeError(
            f"{text}: each side must be a multiple of {SIDE_STEP} and at least {LEAST_SIDE}, "
            "because the U-Net halves its input four times"
        )
    return size
