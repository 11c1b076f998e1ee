"""Restoration pretraining as in Models Genesis: corrupted image in, clean image out.

    python self_supervised/pretrain.py --data data/isic2017 --out runs/paper/pretrain
    python self_supervised/pretrain.py --data data/demo --out runs/demo/pretrain \\
        --width 8 --batch 16 --epochs 20
    torchrun --standalone --nproc_per_node 4 self_supervised/pretrain.py --data ... --out ...

The defaults are the paper's. No masks are needed: it reads only the pool's images. A part of the
pool, corrupted with a fixed seed, is held out to decide when to stop; the test images are never
read. If it is interrupted, call it again: it continues after the last finished epoch, with any
number of processes.

Writes to --out: `best.pt` (the whole model at its best validation loss), `encoder.pt` (its
encoder), `last.pt` (everything needed to continue), `log.csv`, `restorations.png`, and
`args.json`, `env.json`.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

import torch
from torch.nn.functional import mse_loss
from tqdm import tqdm

from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.lock import claim
from segmentation.common.precision import Precision, add_options, step
from segmentation.common.runfiles import (
    Parser,
    UserError,
    derived_seed,
    numpy_rng,
    positive,
    real,
    write_csv,
)
from segmentation.common.stages import begin_stage, read_torch, torch_rng, write_torch
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images, load_tensor
from segmentation.data.splitting import take, units_of
from segmentation.model.encoders import add_encoder_options, check_encoder_options
from segmentation.model.engine import check_finite
from segmentation.model.inference import batches
from segmentation.model.unet import architecture, build, encoder_sha256, load_model, save_model
from self_supervised import corruptions
from self_supervised.corruptions import Rates, restore
from self_supervised.processes import Processes


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder written by preprocess.py")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--width", type=positive, default=64, help="channels at full resolution")
    add("--batch", type=positive, default=1, help="images per step, of all processes together")
    add("--epochs", type=positive, default=10000, help="largest number of epochs")
    add(
        "--patience",
        type=positive,
        default=50,
        help="stop after this many epochs with no better validation loss",
    )
    add("--optimizer", choices=("sgd", "adam"), default="sgd", help="Adam, or SGD with momentum")
    add("--lr", type=real(0), default=0.01, help="learning rate")
    add("--momentum", type=real(0, 1, (1,)), default=0.9, help="of SGD")
    add("--step", type=positive, default=40, help="epochs between reductions of --lr")
    add("--gamma", type=real(0, 1, (0,)), default=0.5, help="factor of each reduction of --lr")
    add("--validation", type=float, default=0.1, help="fraction of the pool held out")
    for name, rate in vars(Rates()).items():
        add(f"--{name}", type=real(0, 1), default=rate, help=f"probability of corruption {name!r}")
    add_encoder_options(parser)
    add("--seed", type=int, default=0, help="seed of weights, order and corruptions")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_options(parser)
    args = parser.parse_args()
    check_encoder_options(args)
    if not 0 < args.validation < 1:
        raise UserError(f"--validation {args.validation}: give a fraction between 0 and 1")
    return args


def split_validation(pool, linked, fraction, seed):
    """Pool ids -> (training ids, validation ids), a seeded draw of at least one of each.

    Linked images, such as those of one patient, are on one side, unless all of the pool are linked.
    """
    if len(pool) < 2:
        raise UserError(
            "the pool has fewer than 2 images, too few for training and validation; add images"
        )
    count = min(max(1, round(fraction * len(pool))), len(pool) - 1)
    order = numpy_rng(seed, "pretrain", "validation").permutation(len(pool))
    units = units_of([pool[row] for row in order], linked)
    if len(units) == 1:
        units = [(name,) for name in units[0]]
    held = set().union(*(take(units, count) or [min(units, key=len)]))
    return [name for name in pool if name not in held], [name for name in pool if name in held]


def make_optimizer(args, model):
    if args.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    return torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum, fused=True)


def corrupted_and_clean(images, ids, args, *stream):
    """Corrupt uint8 images, each by the stream (seed, "pretrain", *stream, its id)."""
    return corruptions.corrupted_and_clean(
        images, ids, (args.seed, "pretrain", *stream), rates_of(args)
    )


def train_epoch(forward, optimizer, scaler, images, epoch, args, processes, precision):
    """Train for one epoch on `images`; returns the mean loss.

    Order and corruptions are those of the epoch. The processes divide each batch of --batch images
    among themselves. What happens to an image depends on its id and the epoch, not on the process
    or the batch that it is in.
    """
    for group in optimizer.param_groups:  # StepLR, as a function of the epoch only
        group["lr"] = args.lr * args.gamma ** (epoch // args.step)
    order = torch.randperm(len(images), generator=torch_rng(args.seed, "pretrain", epoch, "order"))
    total = torch.zeros((), device=precision.device)
    parts = batches(len(images), args.batch)
    silent = None if processes.writes else True
    for part in tqdm(parts, desc=f"epoch {epoch}", leave=False, disable=silent):
        batch = order[part]
        places = processes.share(batch)
        weight = len(places) / len(batch)
        if len(places) == 0:  # a last batch smaller than the number of processes
            places = batch[:1]
        mine = images.subset(places)
        corrupted, clean = corrupted_and_clean(mine[:], mine.ids, args, epoch, "corrupt")
        with precision.autocast():
            restored = restore(forward, corrupted)
        loss = weight * mse_loss(restored.float(), clean)
        # Gradients are averaged over the processes; this makes them those of the whole batch.
        step(optimizer, scaler, loss * processes.count)
        total += loss.detach() * len(batch)
    mean = processes.sum(total).item() / len(images)
    check_finite(mean, f"pretraining, epoch {epoch}")
    return mean


def rates_of(args):
    """The corruption probabilities among the arguments."""
    return Rates(**{name: getattr(args, name) for name in vars(Rates())})


@torch.no_grad()
def validate(model, images, args, processes):
    """Mean restoration error (MSE) on `images`, in float32; the same corruptions in every epoch.

    Returns the error of the restored images and, for comparison, that of the corrupted ones.
    """
    model.eval()
    processes.alike(model)
    mine = images.subset(processes.share(torch.arange(len(images))))
    errors = torch.zeros(2, dtype=torch.float64, device=images.device)
    for part in batches(len(mine), 16):
        corrupted, clean = corrupted_and_clean(
            mine[part], mine.ids[part], args, "validation", "corrupt"
        )
        pair = (restore(model, corrupted), corrupted)
        errors += torch.stack([mse_loss(x, clean) for x in pair]) * len(clean)
    return (processes.sum(errors) / len(images)).tolist()


@torch.no_grad()
def draw_restorations(path, model, data, ids, args, device):
    """A picture of up to 8 held-out images: corrupted, restored, clean."""
    images = load_tensor(data, ids[:8]).to(device)
    corrupted, clean = corrupted_and_clean(images, ids[:8], args, "picture")
    restored = restore(model.to(device).eval(), corrupted)
    pictures.restorations(path, corrupted.cpu(), restored.cpu(), clean.cpu(), data.note.strip())


def main():
    args = parse_args()
    processes = Processes(args.device)
    try:
        pretrain(args, processes, Precision.of(args, processes.device))
    finally:
        processes.leave()


def pretrain(args, processes, precision):
    """Train until --epochs or --patience is reached; write the files that the docstring lists."""
    if processes.writes:
        claim(args.out)
    device, say = precision.device, processes.say
    data = open_data(args.data)
    torch.manual_seed(derived_seed(args.seed, "pretrain", "weights"))
    model, origin = build(args, data, data.channels)
    inputs = {"data": data.fingerprint}
    if origin:
        inputs["encoder_weights"] = encoder_sha256(model)
    if processes.writes:
        begin_stage(args.out, args, inputs)
    processes.wait()
    if (args.out / "encoder.pt").exists():
        say(f"{args.out}: finished already")
        return
    train_ids, held_ids = split_validation(data.pool, data.linked, args.validation, args.seed)
    several = f" ({processes.count} processes)" if processes.count > 1 else ""
    say(
        f"pretraining on {len(train_ids)} images{data.note}, validating on {len(held_ids)}, "
        f"on {device}{several}{f', encoder from {origin}' if origin else ''}"
    )
    train_images, held_images = (
        Images(data, ids, device, args.pool_on) for ids in (train_ids, held_ids)
    )

    model = model.to(device)
    forward = precision.compiled(processes.wrap(model))
    optimizer = make_optimizer(args, model)
    scaler = precision.scaler()
    rows = []
    last = args.out / "last.pt"
    if last.exists():
        saved = read_torch(last, fix=f"delete {args.out} and start again", device=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        rows = saved["rows"]
        say(f"continuing after epoch {rows[-1]['epoch']}")

    best = min((row["validation_loss"] for row in rows), default=float("inf"))
    best_epoch = min((row["epoch"] for row in rows if row["validation_loss"] == best), default=-1)
    for epoch in range(len(rows), args.epochs):
        if epoch - best_epoch > args.patience:
            say(f"no better validation loss for {args.patience} epochs: stopping")
            break
        started = time.perf_counter()
        model.train()
        loss = train_epoch(
            forward, optimizer, scaler, train_images, epoch, args, processes, precision
        )
        error, untouched = validate(model, held_images, args, processes)
        rows.append(
            {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"],
                "loss": loss,
                "validation_loss": error,
                "validation_corrupted": untouched,
                "seconds": time.perf_counter() - started,
            }
        )
        say(
            f"epoch {epoch}{data.note}: loss {loss:.5f}, validation {error:.5f} "
            f"(corrupted images: {untouched:.5f}), {rows[-1]['seconds']:.1f} s"
        )
        is_best = error < best
        if is_best:
            best, best_epoch = error, epoch
        if not processes.writes:
            continue
        if is_best:
            save_model(args.out / "best.pt", model, epoch=epoch)
        write_torch(
            last,
            {
                "architecture": architecture(model),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "rows": rows,
            },
        )
        write_csv(args.out / "log.csv", rows)

    if not processes.writes:
        return
    write_csv(args.out / "log.csv", rows)
    model = load_model(args.out / "best.pt")
    draw_restorations(args.out / "restorations.png", model, data, held_ids, args, device)
    save_model(args.out / "encoder.pt", model, parts=("encoder",))
    say(
        f"best validation loss {best:.5f} at epoch {best_epoch} of {len(rows)}{data.note}; "
        f"wrote {args.out}/encoder.pt (encoder {encoder_sha256(model)[:12]})"
    )


if __name__ == "__main__":
    run_script(main)
