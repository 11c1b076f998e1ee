"""Write a trained network as ONNX, for computers without PyTorch and for other programs."""

import json
import warnings

import numpy as np
import torch
from torch import nn

from segmentation.common.runfiles import UserError, atomic
from segmentation.data.reading import RESIZE
from segmentation.model.inference import features_seen
from segmentation.model.trained import INSTALL, KEY, OnnxNetwork

TOLERANCE = 1e-3  # of logits, between PyTorch and ONNX Runtime


class WithFeatures(nn.Module):
    """A network that also returns the `image_features` of its inputs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        with features_seen(self.network) as seen:
            return self.network(images), seen[0]


def export(trained, path):
    """Write a `Trained` of PyTorch as an ONNX file, atomically, after comparing the two.

    Input `image`: float32 B x C x H x W, the resized 8-bit image divided by 255. Outputs: `logits`
    float32 B x 1 x H x W, whose sigmoid is the lesion probability, and `features` float32 B x D.
    The metadata `saal` is a JSON text of the other fields of `Trained` and of how images are
    resized. UserError if a package is missing or the results differ.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(f"{path}: writing ONNX needs two packages; {INSTALL}") from None
    known = {
        "size": trained.size,
        "channels": trained.channels,
        "finish": trained.finish._asdict(),
        "resize": RESIZE.split(";")[0],
        "pairs": trained.pairs,
        "reference": None if trained.reference is None else trained.reference.tolist(),
    }
    network = WithFeatures(trained.network).eval()
    shape = (2, trained.channels, *trained.size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    some = {0: "batch", 2: "height", 3: "width"}  # a quarter turn swaps the last two
    with atomic(path) as temporary, torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about shapes, which are compared below
            torch.onnx.export(
                network,
                (images,),
                str(temporary),
                input_names=["image"],
                output_names=["logits", "features"],
                dynamic_axes={"image": some, "logits": some, "features": {0: "batch"}},
                dynamo=False,  # the newer exporter takes minutes and fixes height and width
            )
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, {KEY: json.dumps(known)})
        onnx.save(model, str(temporary))
        compare(network, OnnxNetwork(temporary), images, path)
        compare(network, OnnxNetwork(temporary), torch.rot90(images[:1], 1, (2, 3)), path)


def compare(network, exported, images, path):
    """UserError unless both give these float images the same logits and features."""
    with features_seen(exported) as seen:
        logits = exported(images)
    for one, other in zip(network(images), (logits, seen[0]), strict=True):
        if not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
            apart = float((one - other).abs().max())
            raise UserError(
                f"{path}: ONNX Runtime and PyTorch differ by {apart:.2g}; not written, "
                "give another version of onnxruntime or torch"
            )
