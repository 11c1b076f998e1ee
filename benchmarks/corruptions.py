"""Batched corruptions against the plain loop: their speed, and whether their distributions agree.

    python benchmarks/corruptions.py                       one CPU core, 256 x 256
    python benchmarks/corruptions.py --device cuda         a CUDA GPU against one core of its host

The loop of benchmarks/plain.py and self_supervised/corruptions.py are timed in turn on the same
images, with the paper's corruption rates. Before that, statistics of single images are compared by
two-sample Kolmogorov-Smirnov tests; if a p-value is below 0.0001, the script stops with an error.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.stats import ks_2samp

from benchmarks import plain
from benchmarks.measure import in_turn, per_image, save
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, UserError, positive
from segmentation.common.stages import pick_device, torch_rng
from self_supervised import corruptions

LEAST_P = 1e-4


def ramp(size):
    """An image whose values say where each pixel was: pixel number / number of pixels."""
    return (np.arange(size * size) / size**2).reshape(size, size)


def moves(image):
    """Statistics of a shuffled ramp: how far pixels moved, and the share that did not move."""
    size = len(image)
    source = np.rint(image * size**2).astype(int)
    y, x = np.mgrid[:size, :size]
    down, across = np.abs(source // size - y), np.abs(source % size - x)
    return {
        "shuffle: mean step down": down.mean(),
        "shuffle: mean step across": across.mean(),
        "shuffle: share that stayed": (down + across == 0).mean(),
        "shuffle: distinct values": len(np.unique(source)),
    }


def noise(image, name):
    """Statistics of an image of 2s painted with noise: the share of noise, its place, its mean."""
    hidden = image < 1.5
    y, x = np.nonzero(hidden) if hidden.any() else ([0], [0])
    return {
        f"{name}: share of noise": hidden.mean(),
        f"{name}: mean row of it": np.mean(y),
        f"{name}: mean column of it": np.mean(x),
        f"{name}: mean of it": image[hidden].mean() if hidden.any() else 0,
    }


def curve(image):
    """Statistics of a ramp after the intensity transformation: its value at three intensities."""
    flat = np.asarray(image).ravel()
    return {f"intensity at {at}": flat[int(at * len(flat))] for at in (0.2, 0.5, 0.8)}


def samples(count, size, device):
    """Statistics of `count` images, a list of dicts: for the plain loop, and for our code."""
    one, twos = ramp(size), np.full((size, size), 2.0)
    theirs = [
        {
            **moves(plain.local_pixel_shuffling(one)),
            **curve(plain.nonlinear_intensity(one)),
            **noise(plain.in_painting(twos), "in-painting"),
            **noise(plain.out_painting(twos), "out-painting"),
        }
        for _ in range(count)
    ]
    generators = [torch_rng(0, "benchmark", n, device=device) for n in range(count)]
    one, twos = (
        torch.tensor(image, dtype=torch.float32, device=device).repeat(count, 1, 1, 1)
        for image in (one, twos)
    )
    shown = torch.ones_like(one, dtype=torch.bool)
    inside = corruptions.inside_boxes(twos, generators)
    outside = corruptions.outside_boxes(twos, generators)
    batches = (
        corruptions.local_pixel_shuffling(one, shown, generators),
        corruptions.nonlinear_intensity(one, generators),
        corruptions.paint(twos, inside, generators),
        corruptions.paint(twos, outside, generators),
    )
    ours = [
        {
            **moves(shuffled),
            **curve(bent),
            **noise(inner, "in-painting"),
            **noise(outer, "out-painting"),
        }
        for shuffled, bent, inner, outer in zip(
            *(batch[:, 0].double().cpu().numpy() for batch in batches), strict=True
        )
    ]
    return theirs, ours


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--size", type=positive, default=256, help="image side in pixels")
    add("--batch", type=positive, default=64, help="images per batch")
    add("--repeats", type=positive, default=9, help="number of timings")
    add("--samples", type=positive, default=300, help="images of 64 x 64 for each test")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", type=Path, help="folder for corruptions-DEVICE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(args.device)

    theirs, ours = samples(args.samples, 64, device)
    tests = {
        name: ks_2samp([row[name] for row in theirs], [row[name] for row in ours]).pvalue
        for name in theirs[0]
    }
    for name, p in tests.items():
        print(f"{name:32} p = {p:.3f}")
    if min(tests.values()) < LEAST_P:
        raise UserError("batched corruptions and plain loop differ in distribution; see p above")

    images = torch.rand(args.batch, 1, args.size, args.size)
    arrays = images[:, 0].double().numpy()
    on_device = images.to(device)
    generators = [torch_rng(0, n, device=device) for n in range(args.batch)]
    times = in_turn(
        {
            "plain loop": lambda: [plain.corrupt(image) for image in arrays],
            "batched": lambda: corruptions.corrupt(on_device, generators),
        },
        args.repeats,
        device,
    )
    ratio = times["plain loop"] / times["batched"]
    shown = per_image(times, args.batch)
    print(f"ratio {ratio:.1f} ({args.size} x {args.size}, batch {args.batch}, {device})")
    content = {"ms_per_image": shown, "ratio": ratio, "p_values": tests}
    save(args.out, f"corruptions-{device.type}", content)


if __name__ == "__main__":
    run_script(main)
