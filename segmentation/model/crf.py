"""Cleaning a predicted mask by the image it is of: a fully connected CRF of two labels.

Krähenbühl and Koltun 2011, arXiv 1210.5644. Each pixel has a label in {lesion, skin}; its cost is
-log of the predicted probability, and every pair of pixels of different labels costs what the pair
has in common: near each other and of a like colour (appearance), or next to each other
(smoothness). DSAL (arXiv 2101.09057) cleans its pseudo-labels so.

The paper approximates the sums over all pairs on a permutohedral lattice. Here they are exact but
for one thing: in an image of more than `side` pixels along an edge, what a pixel has in common with
another by appearance is taken from the mean place and colour of the other's block of pixels.
"""

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from segmentation.model.metrics import confusion, dice

CLIP = 1e-5  # no prediction is surer than that
TINY = 1e-12  # a pixel that has less than that in common with all others stands alone


def gaussian(rows, columns):
    """exp(-|a - b|^2 / 2) of each row a (float M x D) and column b (float K x D): float M x K."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, columns, compute_mode=exact).square_().mul_(-0.5).exp_()


def appearance_sums(layers, side):
    """A function of values v (float H x W): at each pixel i, sum over j != i of k(i, j) v_j.

    `layers` float32 D x H x W: places and colours, in standard deviations. Each k(i, j) is that of
    pixel i and of the block of j; of its own block a pixel leaves out one n-th of its n pixels.
    Holds the k of all pixels and blocks, 4 H W side^2 bytes.
    """
    height, width = layers.shape[1:]
    stride = -(-max(height, width) // side)

    def block_sums(values):
        return avg_pool2d(values, stride, ceil_mode=True, divisor_override=1)

    sizes = block_sums(torch.ones_like(layers[:1]))
    blocks = block_sums(layers) / sizes
    alike = gaussian(layers.flatten(1).T, blocks.flatten(1).T)
    y, x = np.mgrid[:height, :width] // stride
    own = torch.from_numpy((y * blocks.shape[2] + x).ravel()).to(layers.device)
    alike[torch.arange(len(own), device=own.device), own] *= 1 - 1 / sizes.flatten()[own]
    return lambda values: (alike @ block_sums(values[None]).flatten()).view(height, width)


def smoothness_sums(height, width, deviation, device):
    """The same of a Gaussian over places alone: the product of one over rows and one over columns.

    `deviation` in pixels. In double precision, as each pixel's own value is taken off again.
    """
    places = (torch.arange(n, dtype=torch.float64, device=device) for n in (height, width))
    down, across = (gaussian(p[:, None] / deviation, p[:, None] / deviation) for p in places)
    return lambda values: (down @ values.double() @ across - values).float()


@torch.no_grad()
def mean_field(
    image,
    probability,
    iterations=5,
    appearance=10.0,
    smoothness=3.0,
    far=0.16,
    near=1 / 64,
    contrast=13.0,
    side=32,
    device="cpu",
):
    """Probability of lesion of each pixel after mean-field inference: float32 H x W in [0,1].

    `image` uint8 H x W x C, `probability` float H x W in [0,1]. With q_i a pixel's probability and
    u_i the logit of the predicted one, each of `iterations` steps sets, for all pixels at once,

        logit q_i = u_i + sum over m of w_m sum over j != i of k_m(i, j) (2 q_j - 1) / sqrt(d_i d_j)

    where d_i = sum over j != i of k_m(i, j): algorithm 1 of the paper for two labels and the Potts
    model, with the symmetric normalisation of its authors' code, by which the weights w_m mean the
    same in images of any size. The kernels k_m are Gaussians (eq. 3): of weight `appearance` over
    places (standard deviation `far`) and colours (`contrast`, of 255), and of weight `smoothness`
    over places alone (`near`). `far` and `near` are in parts of the longer edge. The weights, `far`
    and `contrast` are those usual with that code (80 of about 500 pixels); `near` is wider than
    its 3 of 500, which is less than a pixel in images as small as ours.

    Exact if no edge is longer than `side`; else see `appearance_sums`. ValueError if image and
    probability differ in size.
    """
    height, width = probability.shape
    if image.shape[:2] != (height, width):
        raise ValueError(f"an image of {image.shape} and a probability of {probability.shape}")
    edge = max(height, width)
    layers = [*(np.mgrid[:height, :width] / (far * edge)), *(np.moveaxis(image, 2, 0) / contrast)]
    layers = torch.tensor(np.stack(layers), dtype=torch.float32, device=device)
    q = torch.tensor(probability, dtype=torch.float32, device=device)
    predicted = q.clamp(CLIP, 1 - CLIP).logit()
    terms = []
    for weight, sums in (
        (appearance, appearance_sums(layers, side)),
        (smoothness, smoothness_sums(height, width, near * edge, device)),
    ):
        common = sums(torch.ones_like(q))
        norm = torch.where(common > TINY, common.clamp(min=TINY).rsqrt(), 0)
        terms.append((weight, sums, norm))
    for _ in range(iterations):
        messages = (weight * norm * sums(norm * (2 * q - 1)) for weight, sums, norm in terms)
        q = (predicted + sum(messages)).sigmoid()
    return q.cpu().numpy()


def refine(image, probability, **settings):
    """The likelier label of each pixel by `mean_field`, with its `settings`: uint8 H x W, {0,1}."""
    return (mean_field(image, probability, **settings) > 0.5).astype(np.uint8)


def pseudo_mask(image, probability, least=0.98, **settings):
    """A mask to train on: the refined one, or the predicted one if they differ by too much.

    DSAL's released code trusts the CRF where the Dice of both is above `least`, 0.98. Arguments
    and result as of `refine`; `least=0` always takes the refined mask.
    """
    refined = refine(image, probability, **settings)
    predicted = (probability > 0.5).astype(np.uint8)
    agreement = dice(confusion(refined[None] > 0, predicted[None] > 0))[0]
    return refined if agreement > least else predicted
