"""Features of images for the cold start: images in, one row of numbers per image out.

Each function takes an images.Images, goes through it in order, `batch` images at a time, and
returns float32 with row i for image i. `batch` changes the result only by rounding. The device is
that of the images.

- `genesis`: the pooled bottleneck of the pretrained U-Net (Models Genesis, Zhou et al. 2019,
  arXiv 1908.06912), as in SAAL (arXiv 2205.07021);
- `backbone_features`: the pooled last feature map of any of timm's backbones, usually trained on
  ImageNet;
- `thumbnails`: the images at low resolution, to compare the other features with;
- `masks`: the true masks at low resolution: a control that uses what is not known before labelling;
- `restoration_loss`: the error with which the pretrained U-Net restores an image; PT4AL (Yi et al.
  2022, arXiv 2201.07459) sorts the pool by it;
- `with_patterns`: features and, from the same pass, the patterns of each image, for the rule of
  FreeSel (Xie et al. 2023, arXiv 2309.17342);
- `released`: Genesis features with the defects of the paper's released code, as a control.
"""

import copy

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from segmentation.common.runfiles import UserError, numpy_rng
from segmentation.data.images import to_input
from segmentation.model.encoders import load_backbone_weights, made_by_timm
from segmentation.model.inference import collect
from segmentation.selection.distances import normalise
from segmentation.selection.patterns import patterns_of
from self_supervised.corruptions import corrupted_and_clean, restore

SCALES = ("none", "l2", "instance", "standard")
TIMES = 4  # corruptions of each image in its restoration loss
FINE = 5  # maps of a network whose strides are 1, 2, 4, 8 and 16
ROUNDING = 1e-6  # a column counts as constant if std <= ROUNDING |mean| (float32)


# Genesis ----------------------------------------------------------------------------------------


def pooled(maps, pooling):
    """Feature maps float32 B x D x h x w, averaged to pooling x pooling: B x (D pooling^2)."""
    return adaptive_avg_pool2d(maps, pooling).flatten(1)


def unseen(maps, ids):
    """The default `see`: the maps are not needed."""


def genesis(model, images, pooling, batch, see=unseen):
    """Pooled bottleneck of the clean images in evaluation mode: float32 N x (channels pooling^2).

    `model` is a UNet whose encoder was pretrained. At width 64 there are 512 values with
    `pooling` 1 and 2048 with 2; all are at least 0, as after a ReLU. `see` is called with each
    batch's map at 1/16 of the resolution, float32 B x D x h x w, and its ids: with the paper's
    encoder the bottleneck, with one of timm the map before it.
    """
    model.to(images.device).eval()

    def rows(part):
        bottleneck, skips = model.encode(to_input(part[:]))
        see([*skips, bottleneck][:FINE][-1], part.ids)
        return pooled(bottleneck, pooling)

    return collect(rows, images, batch)


def released(model, images, pooling, seed):
    """`genesis` with two defects of the released code, on purpose: float32 N x (8 width pooling^2).

    1. The rows come from the generator of the pretraining, which corrupts the images and shuffles
       them: row i belongs to some image, not to image i.
    2. Batch normalisation is in training mode, with the statistics of the batch, which is one
       image.

    Order and corruptions are drawn from `seed`. `model` is not changed.
    """
    model = copy.deepcopy(model).to(images.device).train()  # training mode changes its statistics
    order = numpy_rng(seed, "released features", "order").permutation(len(images))

    def rows(part):
        corrupted, _ = corrupted_and_clean(part[:], part.ids, (seed, "released features"))
        return pooled(model.encode(corrupted)[0], pooling)

    return collect(rows, images.subset(torch.from_numpy(order)), 1)


def restoration_loss(model, images, seed, batch):
    """The error with which a whole pretrained model restores each image: float32 N, at least 0.

    Mean over TIMES corruptions of the mean squared error between the restored and the clean image,
    both in [0,1]: the loss of the pretraining. The corruptions of an image depend on `seed`, its
    id and the kind of device, not on the other images.
    """
    model.to(images.device).eval()

    def losses(part):
        total = torch.zeros(len(part), dtype=torch.float64, device=images.device)
        for number in range(TIMES):
            stream = (seed, "restoration loss", number)
            corrupted, clean = corrupted_and_clean(part[:], part.ids, stream)
            total += (restore(model, corrupted) - clean).square().mean(dim=(1, 2, 3))
        return (total / TIMES).float()

    return collect(losses, images, batch, "restoration losses")


# Backbones of timm ------------------------------------------------------------------------------


def load_backbone(name, source):
    """timm's backbone `name` without its classifier, on the CPU, and the origin of its weights.

    `source` is a weights file, "imagenet" or "package": see encoders.load_backbone_weights.
    UserError for a name that timm does not know, and for weights of another network.
    """
    try:
        model = made_by_timm(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--backbone {name}: not a backbone of timm ({reason}); "
            "give a name such as tf_efficientnet_lite0 or resnet50"
        ) from None
    return model, load_backbone_weights(model, name, source)


def backbone_features(model, images, pooling, batch, see=unseen):
    """The last feature map, averaged to pooling x pooling: float32 N x (channels pooling^2).

    `model` is from `load_backbone`, convolutional or a vision transformer (its patch tokens, after
    the last norm). Whole images are resized to the size of the model's published weights (bilinear,
    antialiased), not cropped, and normalised as these expect; gray is repeated to three channels.
    `see` is called with each batch's last map but one, float32 B x D x h x w, and its ids: that at
    1/16 of this size, or of a vision transformer the patch tokens of the last block but one.
    """
    model.to(images.device).eval()
    config = model.pretrained_cfg
    size = tuple(config["input_size"][1:])

    def rows(part):
        inputs = interpolate(to_input(part[:]), size, mode="bilinear", antialias=True)
        mean, std = (inputs.new_tensor(config[k])[:, None, None] for k in ("mean", "std"))
        inputs = (inputs - mean) / std  # 3 channels, also from gray images
        fine, last = model.forward_intermediates(
            inputs, indices=2, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        see(fine, part.ids)
        return pooled(last, pooling)

    return collect(rows, images, batch)


# Patterns ---------------------------------------------------------------------------------------


def with_patterns(extract, seed):
    """`features` by extract(see), and `patterns` of the maps that it shows: arrays by name.

    `extract` is `genesis` or `backbone_features` without its last argument. `patterns` are float32
    N x 5 x D, of length 1 or zero, of the cells of each map: see patterns.py. Those of an image are
    drawn from `seed` and its id.

    The maps are those at 1/16, as in FreeSel, whose patches have 16 pixels. At 1/32 an image of 64
    pixels has 2 x 2 cells, too few for five patterns; at 1/16 it has 16. The backbones of timm see
    images of 224 pixels, whatever their size, and have 14 x 14 cells, as many as FreeSel's.
    """
    seen = []

    def see(maps, ids):
        cells = maps.flatten(2).transpose(1, 2).cpu().numpy()
        for own, name in zip(cells, ids, strict=True):
            seen.append(patterns_of(own, numpy_rng(seed, "patterns", name)))

    features = extract(see)
    return {"features": features, "patterns": np.stack(seen)}


# Thumbnails -------------------------------------------------------------------------------------


def area_weights(length, side):
    """Weights that average a line of `length` pixels over `side` equal parts.

    float64 side x length; rows sum to 1. An entry is the fraction of a part that a pixel covers.
    """
    edges = torch.arange(side + 1, dtype=torch.float64) * length / side
    pixel = torch.arange(length, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return covered.clamp(min=0) * side / length


def shrunk(planes, side):
    """float32 B x ... x H x W -> means over side x side equal parts: B x D."""
    down, across = (area_weights(length, side).to(planes) for length in planes.shape[-2:])
    return (down @ planes @ across.T).flatten(1)


def thumbnails(images, side, batch):
    """Images shrunk to side x side by area averaging: float32 N x (C side^2) in [0,1].

    A value is the exact mean over its part of the image, even if the side of the image is not a
    multiple of `side`. Order within a row: channel, row, column.
    """
    return collect(lambda part: shrunk(to_input(part[:]), side), images, batch)


def masks(images, side, batch):
    """The images' masks shrunk in the same way: float32 N x side^2 in [0,1].

    UserError if an image has no mask.
    """

    def of(part):
        return shrunk(torch.from_numpy(part.data.load_masks(part.ids)).float(), side)

    return collect(of, images, batch)


# Scale ------------------------------------------------------------------------------------------


def scaled(features, how):
    """float N x D features -> scaled features, float32 N x D.

    `how`: "none"; "l2", each row to length 1; "instance", each row to mean 0 and standard deviation
    1 (a thumbnail loses its brightness and contrast); or "standard", each column to mean 0 and
    standard deviation 1. Rows of length 0, constant rows and constant columns become 0. ValueError
    for another name.
    """
    features = np.asarray(features, dtype=np.float32)
    if how == "none":
        return features
    if how == "l2":
        return normalise(features)
    if how == "instance":
        return scaled(features.T, "standard").T.copy()
    if how == "standard":
        mean = features.mean(axis=0, dtype=np.float64)
        std = features.std(axis=0, dtype=np.float64)
        std[std <= ROUNDING * np.abs(mean)] = np.inf
        return ((features - mean) / std).astype(np.float32)
    raise ValueError(f"{how} is not a scale; give one of {', '.join(SCALES)}")
