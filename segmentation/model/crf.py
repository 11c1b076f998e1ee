"""Clean a predicted mask with the help of its image: a fully connected CRF with two labels.

Krähenbühl and Koltun 2011, arXiv 1210.5644. Each pixel is labelled lesion or skin. A label costs
-log of its predicted probability. Every pair of pixels with different labels costs as much as the
two are similar: close and of similar colour (appearance), or next to each other (smoothness).
DSAL (arXiv 2101.09057) cleans its pseudo-labels in this way, with other weights of the two kernels.

The paper approximates the sums over all pairs on a permutohedral lattice. Here they are exact, with
one exception: if an edge of the image has more than `side` pixels, pixels are grouped into blocks,
and the appearance kernel between two pixels uses the mean position and colour of the second one's
block.
"""

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from segmentation.model.metrics import confusion, dice

CLIP = 1e-5  # predicted probabilities are limited to CLIP..1 - CLIP
TINY = 1e-12  # a pixel whose kernel values sum to less than this is not influenced by others


def gaussian(rows, columns):
    """exp(-|a - b|^2 / 2) for each a of `rows` (float M x D) and b of `columns` (K x D): M x K."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, columns, compute_mode=exact).square_().mul_(-0.5).exp_()


def appearance_sums(layers, side):
    """Returns a function of values v (float H x W): sum over j != i of k(i, j) v_j, per pixel i.

    `layers` float32 D x H x W: positions and colours, divided by the kernel's standard deviations.
    k(i, j) is computed between pixel i and the mean of j's block. The sum over the n pixels of i's
    own block is multiplied by 1 - 1/n, to leave out i itself. Keeps k for all pixels and blocks:
    up to 4 H W side^2 bytes.
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
    """The same for a Gaussian over positions only: one over rows times one over columns.

    `deviation` is in pixels. The sums are in double precision, because each pixel's own value is
    subtracted from them.
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
    """Lesion probability of each pixel after mean-field inference: float32 H x W in [0,1].

    `image` uint8 H x W x C, `probability` float H x W in [0,1]. q_i is the current probability of
    pixel i, at first the predicted one, and u_i is the logit of the predicted one. Each of the
    `iterations` steps sets, for all pixels at once,

        logit q_i = u_i + sum over m of w_m sum over j != i of k_m(i, j) (2 q_j - 1) / sqrt(d_i d_j)

    where d_i = sum over j != i of k_m(i, j). This is algorithm 1 of the paper for two labels and
    the Potts model, with the symmetric normalisation of the authors' code, so that the weights w_m
    do not depend on the image size. The kernels k_m are Gaussians (eq. 3): one of weight
    `appearance` over positions (standard deviation `far`) and colours (`contrast`, on the scale 0
    to 255), and one of weight `smoothness` over positions only (`near`). `far` and `near` are
    fractions of the longer edge. The weights, `far` and `contrast` are the usual ones for that code
    (`far`: 80 of about 500 pixels). `near` is larger than its usual 3 of 500, which would be less
    than a pixel in images as small as ours.

    Exact if no edge is longer than `side`; otherwise see `appearance_sums`. ValueError if image
    and probability differ in size.
    """
    height, width = probability.shape
    if image.shape[:2] != (height, width):
        raise ValueError(f"image {image.shape} and probability {probability.shape} differ in size")
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
    """The more likely label of each pixel by `mean_field` with `settings`: uint8 H x W in {0,1}."""
    return (mean_field(image, probability, **settings) > 0.5).astype(np.uint8)


def pseudo_mask(image, probability, least=0.98, **settings):
    """A mask to train on: the refined one, or the predicted one if the two differ too much.

    As in DSAL's released code, the refined mask is used if its Dice with the predicted mask is
    above `least`. Arguments and result are those of `refine`.
    """
    refined = refine(image, probability, **settings)
    predicted = (probability > 0.5).astype(np.uint8)
    agreement = dice(confusion(refined[None] > 0, predicted[None] > 0))[0]
    return refined if agreement > least else predicted
