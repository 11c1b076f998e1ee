"""A trained network with all that is needed to make masks with it and to judge them.

It comes from the weights.pt of a round of active_learning.py and the files beside it, or from an
ONNX file that export.py made of these, in which everything is inside.
"""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from segmentation.common.runfiles import UserError, read_csv, read_npz, sha256_file
from segmentation.data.images import to_input
from segmentation.model.confidence import confidence
from segmentation.model.finish import Finish, clean
from segmentation.model.inference import features_seen, lesion_probability, mean_over_views
from segmentation.model.unet import load_model, read_extra

MEASURED = ("metrics.csv", "folds.csv")  # beside weights.pt


class Trained(NamedTuple):
    """A network that predicts lesions, and what is known about it."""

    network: nn.Module  # float32 B x C x H x W in [0,1] -> logits B x 1 x H x W
    size: tuple  # (H, W) of the images it was trained on
    channels: int  # of these: 1 (gray) or 3 (colour)
    finish: Finish  # with which `pairs` were measured
    pairs: list  # [confidence, Dice] of images that it was not trained on
    reference: np.ndarray | None  # float32 M x D, features of training images
    sha256: str  # of the file

    @torch.no_grad()
    def predict(self, images, device, views):
        """uint8 B x C x H x W -> (lesion probabilities, confidences, features of the image as is).

        The probabilities are float32 B x H x W, with `views` means over views of each image. The
        confidences are float64 B, of masks made as for `pairs`, which are comparable to these
        alone: probabilities averaged over more predictions are less sure, and yet their masks are
        better. The features are float32 B x D.
        """
        x = to_input(images.to(device))
        ways = {False: lesion_probability, True: mean_over_views}
        with features_seen(self.network) as seen:
            p = own = ways[views](self.network, x)
            if views != self.finish.views:
                own = ways[self.finish.views](self.network, x)
        own = clean(own.cpu().numpy()) if self.finish.largest else own.cpu().numpy()
        confidences = np.array([confidence(one, one > 0.5) for one in own])
        return p.cpu().numpy(), confidences, seen[0].cpu().numpy()


def size_option(text):
    """An argparse type: `96` or `192x240` (height x width) -> (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = match and (int(match[1]), int(match[2] or match[1]))
    if not size or any(side % 16 or side < 32 for side in size):
        raise argparse.ArgumentTypeError(
            f"{text} is not a size of preprocess.py; give one such as 96 or 192x240"
        )
    return size


def open_trained(path, size=None):
    """The Trained of a weights.pt or .onnx file, in evaluation mode, on the CPU.

    `size` is (H, W), only for weights.pt files that do not have it, from before they did. UserError
    if the file is not of a network that predicts lesions, or `size` is missing or another one.
    """
    path = Path(path)
    trained = open_onnx(path) if path.suffix.lower() == ".onnx" else open_weights(path, size)
    if size is not None and tuple(size) != trained.size:
        height, width = trained.size
        raise UserError(f"{path}: trained on images of {height}x{width}; leave out --size")
    return trained


def load_segmenter(path, size=None):
    """The model of a weights.pt that predicts lesions, as `load_model`.

    UserError if it restores images, as those of the pretraining, or if it says that it was trained
    on images of another `size` (H, W).
    """
    model, extra = load_model(path), read_extra(path)
    if getattr(model, "out_channels", 1) != 1 or "epoch" in extra:  # the pretraining's has an epoch
        raise UserError(f"{path}: restores images, does not find lesions; give a weights.pt")
    trained_on = tuple(extra.get("size", size or ()))
    if size is not None and trained_on != tuple(size):
        (height, width), (other_height, other_width) = trained_on, size
        raise UserError(
            f"{path}: trained on images of {height}x{width}, not {other_height}x{other_width}; "
            f"run preprocess.py with --size {height}x{width}"
        )
    return model


def open_weights(path, size):
    """The Trained of a weights.pt and what lies beside it."""
    model, extra = load_segmenter(path), read_extra(path)
    size = extra.get("size", size)
    if size is None:
        raise UserError(
            f"{path}: does not say the size of its training images; "
            "give the --size that preprocess.py was run with"
        )
    beside = path.parent / "reference.npz"
    reference = read_npz(beside)["features"] if beside.exists() else None
    finish = Finish(**extra.get("finish", {}))
    known = finish, read_pairs(path.parent), reference, sha256_file(path)
    return Trained(model, tuple(size), model.in_channels, *known)


def read_pairs(folder):
    """[confidence, Dice] of each image in metrics.csv and folds.csv: a list, empty for old files.

    UserError where one of them is not a number.
    """
    pairs = []
    for path in (folder / name for name in MEASURED):
        for row in read_csv(path) if path.exists() else []:
            try:
                pairs += [[float(row["confidence"]), float(row["dice"])]]
            except KeyError:
                break  # from before there was such a column
            except (TypeError, ValueError):
                raise UserError(
                    f"{path}: holds a value that is not a number; run active_learning.py again"
                ) from None
    return pairs


# ONNX -------------------------------------------------------------------------------------------

INSTALL = "pip install onnx onnxruntime"
KEY = "saal"  # of the metadata, a JSON text


class OnnxNetwork(nn.Module):
    """The network in an ONNX file of export.py, run by ONNX Runtime on the CPU.

    Called as a UNet is. Its encoder only passes the features on, so that `features_seen` sees them.
    """

    def __init__(self, path):
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs ONNX Runtime; {INSTALL}") from None
        if not path.exists():
            raise UserError(f"{path}: not found; make it with segmentation/export.py")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised below, no need to print them too
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception of its own for each reason
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not readable as ONNX ({reason})") from None
        self.encoder = nn.Identity()

    def forward(self, images):
        """float32 B x C x H x W in [0,1] -> logits float32 B x 1 x H x W."""
        logits, features = self.session.run(None, {"image": images.cpu().numpy()})
        self.encoder([torch.from_numpy(features)[:, :, None, None]])
        return torch.from_numpy(logits)


def open_onnx(path):
    """The Trained of an ONNX file that export.py wrote."""
    network = OnnxNetwork(path)
    text = network.session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(f"{path}: not made by segmentation/export.py, which adds what is needed")
    known = json.loads(text)
    reference = known["reference"]
    return Trained(
        network=network,
        size=tuple(known["size"]),
        channels=known["channels"],
        finish=Finish(**known["finish"]),
        pairs=known["pairs"],
        reference=None if reference is None else np.array(reference, dtype=np.float32),
        sha256=sha256_file(path),
    )
