"""Speed of pretraining against the settings of the released code, on the same device.

    python benchmarks/pretraining.py                        CPU, 64 x 64, width 12
    python benchmarks/pretraining.py --device cuda --size 256 --width 64 --batch 64

Released settings (printed as "parents"): one image per step, float32 without TF32, corrupted on the
CPU by the plain loop, SGD. Ours: a batch per step, images on the device and corrupted there, in the
precision of --amp (auto: bf16 on a CUDA GPU that has it). Prints images per second of both, their
ratio, the share of corruption in our step, and model FLOP/s: the multiplications and additions of
the network's forward and backward passes, counted by PyTorch, without normalisation, optimizer and
corruption. With --peak (TFLOP/s of the GPU in that precision), it also prints the utilisation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.measure import in_turn, save
from segmentation.common.door import run_script
from segmentation.common.precision import Precision, add_options, step
from segmentation.common.runfiles import Parser, positive
from segmentation.common.stages import pick_device, torch_rng
from segmentation.data.images import to_input
from segmentation.model.unet import UNet
from self_supervised.corruptions import corrupt, restore


def training_flops(model, size, device):
    """Floating point operations of one image, forward and backward."""
    image = torch.zeros(1, 1, size, size, device=device)
    with FlopCounterMode(display=False) as counter:
        model(image).mean().backward()
    return counter.get_total_flops()


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--size", type=positive, default=64, help="image side in pixels")
    add("--width", type=positive, default=12, help="channels at full resolution")
    add("--batch", type=positive, default=16, help="images in each of our steps")
    add("--steps", type=positive, default=4, help="our steps per timing")
    add("--repeats", type=positive, default=7, help="number of timings")
    add("--peak", type=float, help="TFLOP/s of the device, for the utilisation")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", type=Path, help="folder for pretraining-DEVICE.json")
    add_options(parser)
    args = parser.parse_args()
    device = pick_device(args.device)
    precision = Precision.of(args, device)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (256, 1, args.size, args.size), dtype=torch.uint8)
    arrays = pool[:, 0].double().numpy() / 255
    pool = pool.to(device)

    theirs = UNet(1, 1, args.width).to(device)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)

    def parents():
        torch.backends.cudnn.allow_tf32 = False
        for number in range(args.batch):
            pair = plain.corrupt(arrays[number % len(arrays)])
            x, y = (torch.tensor(part[None, None].copy()).float().to(device) for part in pair)
            loss = mse_loss(theirs(x).sigmoid(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        torch.backends.cudnn.allow_tf32 = args.tf32

    model = UNet(1, 1, args.width).to(device)
    flops = training_flops(model, args.size, device)
    forward, scaler = precision.compiled(model), precision.scaler()
    fused = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def corrupted_batch(number):
        first = number * args.batch
        rows = torch.arange(first, first + args.batch, device=device) % len(pool)
        generators = [torch_rng(0, number, n, device=device) for n in range(args.batch)]
        return corrupt(to_input(pool[rows]), generators)

    def ours():
        for number in range(args.steps):
            corrupted, clean = corrupted_batch(number)
            with precision.autocast():
                restored = restore(forward, corrupted)
            loss = mse_loss(restored.float(), clean)
            step(fused, scaler, loss)

    def corruption():
        for number in range(args.steps):
            corrupted_batch(number)

    times = in_turn(
        {"parents": parents, "ours": ours, "our corruption": corruption}, args.repeats, device
    )
    rates = {
        "parents": args.batch / times["parents"],
        "ours": args.steps * args.batch / times["ours"],
    }
    ratio = rates["ours"] / rates["parents"]
    share = times["our corruption"] / times["ours"]
    achieved = flops * rates["ours"] / 1e12
    for name, value in rates.items():
        print(f"{name:8} {value:9.1f} images per second")
    print(f"ratio {ratio:.1f} ({args.size} px, width {args.width}, batch {args.batch}, {device})")
    print(f"corruption: {100 * share:.1f} % of our step")
    utilisation = achieved / args.peak if args.peak else None
    shown = "" if utilisation is None else f", {100 * utilisation:.1f} % of {args.peak}"
    print(f"model: {achieved:.3f} TFLOP/s{shown}")
    save(
        args.out,
        f"pretraining-{device.type}",
        {
            "images_per_second": rates,
            "ratio": ratio,
            "corruption_share": share,
            "model_tflops": achieved,
            "utilisation": utilisation,
        },
    )


if __name__ == "__main__":
    run_script(main)
