"""Measure a segmentation network on the test images (or the pool) of a data folder.

    python segmentation/evaluate.py --weights runs/demo/seg/saal-ceal/seed0/round_03/weights.pt \\
        --data data/demo --split test --out runs/demo/evaluation
    python segmentation/evaluate.py --weights WEIGHTS --data data/isic2017 --native isic2017 \\
        --out runs/evaluation

Masks are made as in the training of the weights: --views and --largest that it had count as given.

With --native ROOT, the folder from which preprocess.py made the data, each prediction is brought to
the size of its original image and measured there against the original mask, as in the ISIC
challenge.

Writes to --out: `metrics.csv` (one row per image), `summary.json` (the means, with the hashes of
the weights and the data), and `cases.png` (the best, the median and the worst cases by Dice, with
the outlines of truth and prediction). Images without a mask are left out; how many is printed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.analysis.cases import draw_cases
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.runfiles import (
    Parser,
    UserError,
    positive,
    sha256_file,
    write_csv,
    write_json,
)
from segmentation.common.stages import pick_device
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.data.originals import Originals
from segmentation.model import engine, metrics
from segmentation.model.finish import Finish, add_finish_options, united
from segmentation.model.trained import finish_of, segmenter_for
from segmentation.model.unet import read_extra


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights.pt of a round")
    parser.add_argument("--data", type=Path, required=True, help="folder made by preprocess.py")
    parser.add_argument("--split", choices=("test", "pool"), default="test", help="which images")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    help = "measure at the original size, against the masks in this folder"
    parser.add_argument("--native", type=Path, metavar="ROOT", help=help)
    add_finish_options(parser)
    parser.add_argument("--batch", type=positive, default=16, help="images per pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args()


def finish_to_use(args):
    """The Finish of the options and of the training together. Prints the latter if it adds some."""
    given, trained = Finish.of(args), finish_of(read_extra(args.weights))
    finish = united(given, trained)
    if finish != given:
        used = " and ".join(f"--{name}" for name, on in trained._asdict().items() if on)
        print(f"{used}: as in the training of these weights")
    return finish


def labelled_ids(data, split):
    """The ids of a split that have a mask. Prints how many have none; UserError if all."""
    ids = getattr(data, split)
    labelled = [name for name in ids if data.has_mask[name]]
    if not labelled:
        raise UserError(
            f"{data.folder}: the {split} split has no image with a mask; "
            "give the other --split, or run preprocess.py with a mask folder"
        )
    if len(labelled) < len(ids):
        print(f"{len(ids) - len(labelled)} of {len(ids)} {split} images have no mask: left out")
    return labelled


def main():
    args = parse_args()
    claim(args.out)
    device = pick_device(args.device)
    data = open_data(args.data)
    model = segmenter_for(args.weights, data)
    ids = labelled_ids(data, args.split)
    if not data.masks[data.rows(ids)].any():
        what = f"all masks of the {args.split} images are empty"
        raise UserError(f"{data.folder}: {what}; check the mask folder")
    finish = finish_to_use(args)
    images, how = Images(data, ids, device), (args.batch, device, finish)
    if args.native is None:
        rows = engine.evaluate(model, data, images, *how)
    else:
        originals = Originals(args.native, data)
        originals.need(ids)
        mask_of = originals.mask
        rows = engine.evaluate_at_original_size(model, images, mask_of, *how)
    mean = metrics.mean(rows)
    write_csv(args.out / "metrics.csv", rows)
    draw_cases(args.out / "cases.png", model, data, rows, *how)
    write_json(
        args.out / "summary.json",
        {
            "split": args.split,
            "n": len(rows),
            "synthetic": data.synthetic,
            "original_size": args.native is not None,
            **finish._asdict(),
            "weights_sha256": sha256_file(args.weights),
            "data_fingerprint": data.fingerprint,
            "mean": mean,
        },
    )
    print(
        f"{len(rows)} {args.split} images{data.note}: Dice {100 * mean['dice']:.1f} %, "
        f"Jaccard {100 * mean['jaccard']:.1f} %, HD95 {mean['hd95']:.1f} px"
        f"{' of the original images' if args.native else ''}; see {args.out}"
    )


if __name__ == "__main__":
    run_script(main)
