"""Write the network of a round as one ONNX file, with all that predict.py needs besides images.

    python segmentation/export.py --weights runs/mine/model/round_00/weights.pt --out model.onnx
    python segmentation/predict.py --weights model.onnx photographs --out predictions

Needs `pip install onnx onnxruntime`. The file holds the network, the size and the kind (gray or
colour) of its images, the options --views and --largest of its training, the images by which
expected Dice is calibrated and the features of training images. What it expects from other
programs is in segmentation/model/export.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError
from segmentation.data.sizes import image_size
from segmentation.model.export import export
from segmentation.model.trained import open_trained


def main():
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights.pt of a round")
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.onnx")
    help = "HEIGHTxWIDTH of the training images, only for old weights that do not have it"
    parser.add_argument("--size", type=image_size, help=help)
    args = parser.parse_args()
    for path, is_onnx in ((args.weights, False), (args.out, True)):
        if (path.suffix.lower() == ".onnx") != is_onnx:
            raise UserError(f"{path}: give --weights a weights.pt, and --out a name in .onnx")
    trained = open_trained(args.weights, args.size)
    export(trained, args.out)
    height, width = trained.size
    kind = "gray" if trained.channels == 1 else "colour"
    print(f"{args.out}: takes {kind} images of {height}x{width}, as {args.weights} does")


if __name__ == "__main__":
    run_script(main)
