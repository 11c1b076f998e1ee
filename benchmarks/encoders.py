"""Training and prediction with a pretrained encoder, against a plain U-Net on the same backbone.

    OMP_NUM_THREADS=1 python benchmarks/encoders.py

Two networks on the backbone are trained in turn on the same random images, with the same
augmentation and batch: the plain one, all of it, and this project's by its recipe `pretrained`,
which leaves the encoder as it is, or with its encoder trained too (`+trained`, not in the ratio).
Prints milliseconds per image of a training step and of a prediction, and the ratios. How accurate
this project's is, the preset `encoders` of run.sh measures.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dataclasses

import torch

from benchmarks import plain
from benchmarks.measure import in_turn, per_image, save
from segmentation.common.door import run_script
from segmentation.common.precision import Precision
from segmentation.common.runfiles import Parser, positive
from segmentation.common.stages import pick_device
from segmentation.model import engine
from segmentation.model.augment import draw
from segmentation.model.encoders import PACKAGED
from segmentation.model.inference import segment
from segmentation.model.recipes import RECIPES
from segmentation.model.unet import UNet


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--encoder", default=PACKAGED, help="a backbone of timm")
    add("--size", type=positive, default=128, help="side of the images, a multiple of 32")
    add("--width", type=positive, default=8, help="of this project's decoder")
    add("--batch", type=positive, default=16, help="images per step")
    add("--steps", type=positive, default=4, help="steps of each training that is timed")
    add("--repeats", type=positive, default=7, help="timed calls of each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", type=Path, help="folder for encoders-DEVICE.json")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch * args.steps, 3, args.size, args.size)  # an epoch of whole batches
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    masks = (images[:, 0] > 127).to(torch.uint8)
    device, count = pick_device(args.device), args.batch * args.steps
    theirs = plain.PlainUNet(args.encoder).to(device)
    ours, learning = (
        UNet(3, 1, args.width, dropout=0.5, encoder=args.encoder).to(device) for _ in range(2)
    )
    recipe = dataclasses.replace(RECIPES["pretrained"], batch=args.batch, steps=args.steps)
    how = {"recipe": recipe, "steps": args.steps, "stream": (0,), "precision": Precision(device)}

    def views(shape):
        return draw(shape, recipe.augment, generator).to(device)

    def plainly():
        plain.fit(theirs, images.to(device), masks.to(device), args.steps, args.batch, views)

    @torch.no_grad()
    def plain_masks():
        theirs.eval()
        return [theirs(part.to(device).float() / 255) > 0 for part in images.split(args.batch)]

    def by_recipe():
        engine.train(ours, images, masks, **how)

    def trained():
        rate = dataclasses.replace(recipe, encoder_rate=0.1)
        engine.train(learning, images, masks, **{**how, "recipe": rate})

    def segmented():
        segment(ours, images, args.batch, device)

    timed = {
        "training": ({"plain": plainly, "this": by_recipe, "+trained": trained}, count),
        "prediction": ({"plain": plain_masks, "this": segmented}, len(images)),
    }
    content = {}
    for name, (functions, images_seen) in timed.items():
        print(f"{name}:")
        times = per_image(in_turn(functions, args.repeats, args.device), images_seen)
        ratio = times["plain"] / times["this"]
        print(f"ratio {ratio:.2f}")
        content[name] = {"milliseconds_per_image": times, "ratio": ratio}
    options = {key: value for key, value in vars(args).items() if key != "out"}
    save(args.out, f"encoders-{device.type}", {"options": options, **content})


if __name__ == "__main__":
    run_script(main)
