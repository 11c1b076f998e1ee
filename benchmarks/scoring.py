"""CEAL's Monte Carlo scoring with a shared encoder pass, against full passes.

    python benchmarks/scoring.py                            CPU: 20 full passes, same batch
    python benchmarks/scoring.py --device cuda --size 256 --width 64 --images 256
                                                            CUDA: the one-image loop

The full passes are, on a CPU, 20 passes through encoder and decoder for the same batches; on a CUDA
GPU, the released code's loop, one image at a time in float32. Both sides include the pass without
dropout and the distance map. Their scores are compared by rank, because the dropout masks differ.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import plain
from benchmarks.measure import in_turn, per_image, save
from segmentation.common.door import run_script
from segmentation.common.precision import Precision, add_options
from segmentation.common.runfiles import Parser, positive
from segmentation.common.stages import pick_device
from segmentation.data.reading import prepare_demo
from segmentation.model.unet import UNet
from segmentation.selection.uncertainty import score_ceal


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--size", type=positive, default=64, help="image side in pixels")
    add("--width", type=positive, default=12, help="channels at full resolution")
    add("--images", type=positive, default=40, help="images to score")
    add("--batch", type=positive, default=10, help="images per batch")
    add("--passes", type=positive, default=20, help="passes with dropout")
    add("--repeats", type=positive, default=7, help="number of timings")
    add("--threads", type=positive, default=1, help="CPU threads")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", type=Path, help="folder for scoring-DEVICE.json")
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    precision = Precision.of(args, device)
    torch.manual_seed(0)
    model = UNet(1, 1, args.width, dropout=0.5)
    size = (args.size, args.size)
    drawn = [prepare_demo(n, 0, size, gray=True).image[..., 0] for n in range(args.images)]
    images = torch.from_numpy(np.stack(drawn))[:, None]
    with torch.no_grad():  # makes some pixels of each image lesion
        model.head.bias -= model(images[:8].float() / 255).median()
    one_by_one = device.type == "cuda"
    scores = {}

    def full():
        torch.backends.cudnn.allow_tf32 = False
        batch = 1 if one_by_one else args.batch
        scores["full"] = plain.score_ceal(model, images, args.passes, batch, device)
        torch.backends.cudnn.allow_tf32 = args.tf32

    on_device = images.to(device)

    def shared():
        stream = (0, "benchmark")
        scores["shared"] = score_ceal(model, on_device, args.passes, stream, args.batch, precision)

    times = in_turn({"full passes": full, "shared": shared}, args.repeats, device)
    ratio = times["full passes"] / times["shared"]
    shown = per_image(times, args.images)
    same = float(spearmanr(scores["full"], scores["shared"]).statistic)
    print(f"ratio {ratio:.2f} (T = {args.passes}, {args.size} px, width {args.width}, {device})")
    print(f"rank correlation of the two scores: {same:.3f}")
    content = {"ms_per_image": shown, "ratio": ratio, "rank_correlation": same}
    save(args.out, f"scoring-{device.type}", content)


if __name__ == "__main__":
    run_script(main)
