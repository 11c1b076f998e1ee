"""The project's only U-Net, and how its weights are saved, loaded and passed between stages.

Ronneberger et al. 2015 with batch normalisation and bilinear upsampling. With the encoder "paper"
its channels are 64-128-256-512-512 (17.26 M parameters with one input channel); otherwise the
encoder is a backbone of timm (encoders.py). The same network is used to restore images in
pretraining and to predict lesions. Its parts are `encoder` (contracting path and bottleneck),
`decoder`, `head` (the 1x1 output layer) and, for deep supervision, two more output layers, `side`.
"""

from typing import Any

import torch
from torch import nn

from segmentation.common import schemas
from segmentation.common.runfiles import UserError
from segmentation.common.schemas import checked
from segmentation.common.stages import read_torch, sha256_tensors, write_torch
from segmentation.model.encoders import PAPER, TimmEncoder, load_backbone_weights
from segmentation.model.frozen import FrozenHead

FIX = "give a weights file of this project"
PARTS = {"none": (), "encoder": ("encoder",), "all": ("encoder", "decoder")}


class DoubleConv(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU; twice."""

    def __init__(self, inputs, outputs, middle=None):
        middle = middle or outputs
        super().__init__(
            nn.Conv2d(inputs, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class PaperEncoder(nn.ModuleList):
    """The contracting path of the paper: double convolutions, max-pooling between them."""

    def __init__(self, in_channels, width):
        channels = [width * factor for factor in (1, 2, 4, 8, 8)]
        pairs = zip([in_channels, *channels], channels, strict=False)
        super().__init__(DoubleConv(a, b) for a, b in pairs)
        self.channels = channels

    def forward(self, images):
        """float B x C x H x W -> five feature maps, at 1, 1/2, ... 1/16 of the resolution."""
        levels = [self[0](images)]
        for block in list(self)[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        return levels


class UNet(nn.Module):
    """U-Net with dropout at the bottleneck, the coarsest feature map of the encoder.

    `encoder` is "paper" or the name of a backbone of timm. With the paper's, `width` is the number
    of channels at full resolution; at the bottleneck, at 1/16 of it, there are 8 x width. With one
    of timm the decoder ends at half the resolution, with 2 x width channels, and its logits are
    enlarged, as the encoder has no map that is finer. `dropout` is the probability that a
    bottleneck activation is dropped, in training mode or when `decode` is called with drop=True.
    `heads` adds 1x1 output layers to the two decoder blocks before the last, as in DSAL (arXiv
    2101.09057); only `forward_heads` uses them. They are made last, so that a seed gives the other
    weights the same values with and without them. `scale` multiplies the input images; other values
    than 1 repeat a defect of the released code on purpose.
    """

    decoder: Any  # nn.ModuleList of DoubleConv, of which torch's types know no more than Module

    def __init__(
        self,
        in_channels=1,
        out_channels=1,
        width=64,
        dropout=0.0,
        heads=False,
        scale=1.0,
        encoder=PAPER,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.width = in_channels, out_channels, width
        self.dropout, self.heads, self.scale = dropout, bool(heads), scale
        self.encoder_name = encoder
        if encoder == PAPER:
            self.encoder = PaperEncoder(in_channels, width)
            *skips, below = self.encoder.channels
            outputs = [width * factor for factor in (4, 2, 1, 1)]
        else:
            self.encoder = TimmEncoder(encoder)
            _, *skips, below = self.encoder.level_channels
            outputs = [width * 2 ** (level + 1) for level in reversed(range(len(skips)))]
        self.bottleneck_channels = below
        blocks = []
        for skip, output in zip(reversed(skips), outputs, strict=True):
            blocks.append(DoubleConv(skip + below, output, skip if encoder == PAPER else None))
            below = output
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(outputs[-1], out_channels, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.side = nn.ModuleList(nn.Conv2d(a, out_channels, 1) for a in outputs[-3:-1] if heads)
        self.to(memory_format=torch.channels_last)  # the faster memory layout for convolutions

    def encode(self, images):
        """float B x C x H x W in [0,1] -> (bottleneck, skips), skips from fine to coarse.

        With the paper's encoder they are B x 8w x H/16 x W/16 and four maps from H x W to
        H/8 x W/8; with one of timm what `TimmEncoder.forward` gives.
        """
        *skips, bottleneck = self.encoder(images if self.scale == 1 else self.scale * images)
        return bottleneck, skips

    def enlarge(self, x, like):
        """A feature map at twice its resolution, cut to the height and width of `like`."""
        x = self.up(x)
        return x if x.shape[2:] == like.shape[2:] else x[..., : like.shape[2], : like.shape[3]]

    def decoder_levels(self, bottleneck, skips, drop=None):
        """The output of each decoder block, from coarse to fine.

        `drop` says whether dropout is applied; None: in training mode only. Dropout is only at the
        bottleneck, so that Monte Carlo passes share one call of `encode`.
        """
        drop = self.training if drop is None else drop
        x = nn.functional.dropout(bottleneck, self.dropout, training=drop)
        levels = []
        for block, skip in zip(self.decoder, reversed(skips), strict=False):
            x = block(torch.cat([skip, self.enlarge(x, skip)], dim=1))
            levels.append(x)
        return levels

    def output(self, x, like):
        """The logits from the last decoder block, in the height and width of `like`."""
        logits = self.head(x)
        if logits.shape[2:] == like.shape[2:]:
            return logits
        large = nn.functional.interpolate(logits, scale_factor=2, mode="bilinear")
        return large[..., : like.shape[2], : like.shape[3]]

    def decode(self, bottleneck, skips, drop=None):
        """Bottleneck and skips -> logits B x out_channels x H x W; `drop`: see `decoder_levels`."""
        return self.output(self.decoder_levels(bottleneck, skips, drop)[-1], skips[0])

    def skip_terms(self, skips):
        """For each decoder block, its first convolution applied to its skip alone.

        B x channels x height x width each; last comes the finest skip, if no block has it. The
        convolution of the concatenation [skip, upsampled] is the sum of a convolution of `skip` and
        one of `upsampled`. Dropout at the bottleneck does not change the first, so Monte Carlo
        passes share it.
        """
        terms = []
        for block, skip in zip(self.decoder, reversed(skips), strict=False):
            weight = block[0].weight[:, : skip.shape[1]]
            terms.append(nn.functional.conv2d(skip, weight, padding=1) if skip.shape[1] else skip)
        return terms + skips[: len(skips) - len(terms)]

    def decode_terms(self, bottleneck, terms):
        """`decode` for several dropout passes at once, with the `terms` of `skip_terms`.

        `bottleneck` is (passes B) x 8w x H/16 x W/16, pass after pass, with dropout already
        applied. Returns logits (passes B) x out_channels x H x W in the same order.
        """
        x = bottleneck
        for block, term in zip(self.decoder, terms, strict=False):
            x = self.enlarge(x, term)
            x = nn.functional.conv2d(x, block[0].weight[:, -x.shape[1] :], padding=1)
            if term.shape[1]:
                x = (x.unflatten(0, (-1, len(term))) + term).flatten(0, 1)
            for layer in list(block)[1:]:
                x = layer(x)
        return self.output(x, terms[-1])

    def forward(self, images):
        """float B x C x H x W in [0,1] -> logits B x out_channels x H x W."""
        return self.decode(*self.encode(images))

    def forward_heads(self, images):
        """float B x C x H x W in [0,1] -> logits B x out_channels x H x W of every head.

        A list: the output of `forward` and, with `heads`, the outputs of the heads of the blocks
        before the last, the coarser one first, upsampled bilinearly to H x W.
        """
        bottleneck, skips = self.encode(images)
        *_, coarser, coarse, last = self.decoder_levels(bottleneck, skips)
        logits = [self.output(last, skips[0])]
        height, width = images.shape[2:]
        factor = 2 ** (len(skips) - len(self.decoder))  # from the last block to the image
        for head, level, finer in zip(self.side, (coarser, coarse), (4, 2), strict=False):
            size = [factor * finer * side for side in level.shape[2:]]
            large = nn.functional.interpolate(
                head(level), size, mode="bilinear", align_corners=True
            )
            logits.append(large[..., :height, :width])
        return logits


def build(args, data, out_channels, frozen=False, **more):
    """(the network that the options ask for, random or with an ImageNet encoder; its origin).

    `args` has `width`, `encoder` and `encoder_weights`; `more` are further arguments of UNet. With
    `frozen` it is a FrozenHead. The origin is a text, empty without --encoder-weights. UserError if
    the images of `data`, a datafolder.Data, are too small: of a batch of one image a single value
    would be left to normalise by.
    """
    if frozen:
        model = FrozenHead(data.channels, args.encoder)
    else:
        model = UNet(data.channels, out_channels, args.width, encoder=args.encoder, **more)
    height, width = data.images.shape[1:3]
    encoder = model.encoder
    least = 2 * encoder.strides[-1] if isinstance(encoder, TimmEncoder) else 1
    if min(height, width) < least:
        raise UserError(
            f"{data.folder}: images of {height}x{width} are too small for --encoder "
            f"{args.encoder}; run preprocess.py with --size {least} or more"
        )
    if args.encoder_weights is None:
        return model, ""
    return model, load_backbone_weights(model.encoder.body, args.encoder, args.encoder_weights)


def part_of(state, parts):
    """The entries of a state dict whose first name is in `parts`."""
    return {name: value for name, value in state.items() if name.split(".")[0] in parts}


def encoder_sha256(model):
    """Hash of the encoder's weights; it identifies the features that were made with it."""
    return sha256_tensors(part_of(model.state_dict(), PARTS["encoder"]))


def architecture(model):
    """The arguments to build this network again; those that a file lacks have their defaults."""
    if isinstance(model, FrozenHead):
        return {"frozen": True, "in_channels": model.in_channels, "encoder": model.encoder_name}
    names = ("in_channels", "out_channels", "width", "dropout", "heads", "scale")
    more = {} if model.encoder_name == PAPER else {"encoder": model.encoder_name}
    return {name: getattr(model, name) for name in names} | more


def save_model(path, model, parts=None, **extra):
    """Write a model (or the named `parts` of it) with its architecture, atomically."""
    state = model.state_dict() if parts is None else part_of(model.state_dict(), parts)
    state = {name: value.detach().cpu() for name, value in state.items()}
    write_torch(path, {"architecture": architecture(model), "model": state, **extra})


def read_model_file(path):
    """(architecture, state dict) of a weights file. UserError if the file is not one."""
    content = read_torch(path, fix="run self_supervised/pretrain.py")
    arch, state = content.get("architecture"), content.get("model")
    if not isinstance(arch, dict) or not isinstance(state, dict):
        raise UserError(f"{path}: holds no model; {FIX}")
    checked(arch, f"{path}: architecture", schemas.Architecture, FIX)
    for name, tensor in state.items():
        if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
            raise UserError(f"{path}: {name} is no tensor; {FIX}")
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite; train it again")
    return arch, state


def read_extra(path):
    """What else `save_model` was given for the file: a dict, empty for older files.

    UserError for what it cannot have been given.
    """
    content = read_torch(path, fix="run segmentation/active_learning.py")
    own = {"schema", "architecture", "model"}
    extra = {name: value for name, value in content.items() if name not in own}
    return checked(extra, path, schemas.Extra, FIX)


def rebuilt(arch):
    """The network of an `architecture`, with random weights."""
    if arch.get("frozen"):
        return FrozenHead(arch["in_channels"], arch["encoder"])
    return UNet(**arch)


def rebuilt_from(path, arch):
    """The same for the file `path`. UserError if there is no such network."""
    try:
        return rebuilt(arch)
    except (TypeError, ValueError, KeyError, RuntimeError, UserError) as error:
        reason = str(error).partition("\n")[0].partition("; ")[0]
        why = f"is of a network that is not known ({reason})"
        raise UserError(f"{path}: {why}; give a weights file of this version") from None


def fill(model, state, path):
    """Load a state dict. UserError if a tensor has another name or shape than the model's."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
        raise UserError(f"{path}: is damaged ({reason}); train it again") from None


def load_model(path):
    """Build the whole model that `save_model` wrote, on the CPU, in evaluation mode."""
    arch, state = read_model_file(path)
    model = rebuilt_from(path, arch)
    missing = sorted(set(model.state_dict()) - set(state))
    if missing:
        raise UserError(
            f"{path}: not a whole model ({missing[0]} is missing); give best.pt or weights.pt"
        )
    fill(model, state, path)
    return model.eval()


def load_encoder(path):
    """A model in evaluation mode whose encoder comes from `path` (encoder.pt or a whole model)."""
    arch, _ = read_model_file(path)
    model = rebuilt_from(path, arch)
    warm_start(model, path, "encoder")
    return model.eval()


def warm_start(model, path, init):
    """Copy pretrained weights into `model`: `none`, `encoder`, or `all` except the output layers.

    Exactly the keys of those parts are loaded; every other key keeps its value. Returns the two
    sorted lists of names (loaded, kept). UserError if a part is missing in the file, or if the
    file was made with another width or number of channels.
    """
    own = model.state_dict()
    loaded = sorted(part_of(own, PARTS[init]))
    kept = sorted(set(own) - set(loaded))
    if init == "none":
        return loaded, kept
    arch, state = read_model_file(path)
    encoder = arch.get("encoder", PAPER)
    if encoder != model.encoder_name:
        raise UserError(
            f"{path}: weights of the encoder {encoder}, but this network has {model.encoder_name}; "
            f"give --encoder {encoder}, or pretrain again"
        )
    state = part_of(state, PARTS[init])
    missing = sorted(set(loaded) - set(state))
    if missing:
        raise UserError(
            f"{path}: has no {missing[0]}, which --init {init} needs; "
            "give best.pt of the pretraining"
        )
    for name in ("width", "in_channels"):
        needed = encoder == PAPER or init == "all"  # an encoder of timm has no width of ours
        if needed and arch.get(name) != getattr(model, name):
            raise UserError(
                f"{path}: weights of {name} {arch.get(name)}, but this network has "
                f"{getattr(model, name)}; give --width {arch.get('width')} and data of "
                f"{arch['in_channels']} channel(s), or pretrain again"
            )
    fill(model, {**own, **state}, path)
    return loaded, kept
