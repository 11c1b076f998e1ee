"""A trained network with all that is needed to make masks with it and to judge them.

It comes from the weights.pt of a round of active_learning.py and the files beside it, or from an
ONNX file that export.py made of these, in which everything is inside.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from segmentation.common.runfiles import UserError, read_csv, read_npz, sha256_file
from segmentation.common.schemas import ABOUT_0, ABOUT_1, Exported, checked
from segmentation.data.images import to_input
from segmentation.model.confidence import confidence
from segmentation.model.finish import Finish, clean
from segmentation.model.inference import features_seen, lesion_probability, mean_over_views
from segmentation.model.unet import load_model, read_extra

MEASURED = ("metrics.csv", "folds.csv")  # beside weights.pt
BACK = "put back the one that was written with these weights"


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


def finish_of(extra):
    """The Finish with which a training measured its masks, from what `read_extra` gives."""
    return Finish(**extra.get("finish", {}))


def segmenter_for(path, data):
    """`load_segmenter` for images of a datafolder.Data. UserError if it takes other channels."""
    model = load_segmenter(path, data.images.shape[1:3])
    if model.in_channels != data.channels:
        raise UserError(
            f"{path}: takes {model.in_channels} channel(s), but the images of {data.folder} have "
            f"{data.channels}; give weights trained on data of this kind"
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
    reference = read_reference(path.parent / "reference.npz", model.bottleneck_channels)
    known = finish_of(extra), read_pairs(path.parent), reference, sha256_file(path)
    return Trained(model, tuple(size), model.in_channels, *known)


def read_reference(path, dimensions):
    """Features of training images, float M x D, of a network of D `dimensions`; None without."""
    if not path.exists():
        return None
    features = read_npz(path, BACK).get("features", np.empty(0))
    check_reference(features, dimensions, path, BACK)
    return features


def check_reference(features, dimensions, path, fix):
    """UserError unless these are finite features of two or more images, D `dimensions` each."""
    fits = features.dtype.kind == "f" and features.ndim == 2
    if not (fits and len(features) > 1 and features.shape[1] == dimensions):
        raise UserError(f"{path}: holds no features of {dimensions} numbers an image; {fix}")
    if not np.isfinite(features).all():
        raise UserError(f"{path}: has features that are not finite; {fix}")


def read_pairs(folder):
    """[confidence, Dice] of each image in metrics.csv and folds.csv: a list, empty for old files.

    UserError where one of them is not a number from 0 to 1.
    """
    pairs = []
    for path in (folder / name for name in MEASURED):
        for row in read_csv(path, BACK) if path.exists() else []:
            try:
                pair = [float(row["confidence"]), float(row["dice"])]
            except KeyError:
                break  # from before there was such a column
            except (TypeError, ValueError):
                raise UserError(f"{path}: holds a value that is not a number; {BACK}") from None
            if not all(ABOUT_0 <= value <= ABOUT_1 for value in pair):
                what = f"the confidence or Dice of {row.get('id')} is not from 0 to 1"
                raise UserError(f"{path}: {what}; {BACK}")
            pairs.append(pair)
    return pairs


# ONNX -------------------------------------------------------------------------------------------

INSTALL = "pip install onnx onnxruntime"
KEY = "saal"  # of the metadata, a JSON text
NOT_OURS = "not made by segmentation/export.py, which adds what is needed"
AGAIN = "make it again with segmentation/export.py"


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
        sides = [*self.session.get_inputs(), *self.session.get_outputs()]
        shapes = {side.name: side.shape for side in sides}
        if [len(shapes.get(name, ())) for name in ("image", "logits", "features")] != [4, 4, 2]:
            raise UserError(f"{path}: {NOT_OURS}")
        self.in_channels, self.bottleneck_channels = shapes["image"][1], shapes["features"][1]
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
        raise UserError(f"{path}: {NOT_OURS}")
    try:
        known = checked(json.loads(text), f"{path}: metadata {KEY}", Exported, AGAIN)
    except ValueError as error:
        raise UserError(f"{path}: metadata {KEY} is no JSON ({error}); {AGAIN}") from None
    if known["channels"] != network.in_channels:
        what = f"is for {network.in_channels} channel(s), but says {known['channels']}"
        raise UserError(f"{path}: {what}; {AGAIN}")
    reference = known["reference"]
    if reference is not None:
        reference = np.array(reference, dtype=np.float32)
        check_reference(reference, network.bottleneck_channels, path, AGAIN)
    return Trained(
        network=network,
        size=tuple(known["size"]),
        channels=known["channels"],
        finish=Finish(**known["finish"]),
        pairs=known["pairs"],
        reference=reference,
        sha256=sha256_file(path),
    )
