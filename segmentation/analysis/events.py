"""The scalars of a run as TensorBoard events. The package tensorboard is needed only for this."""

from segmentation.common.runfiles import UserError
from segmentation.model import metrics


def check_events(folder):
    """UserError if events cannot be written to a new or empty folder."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard needs a package: pip install tensorboard") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--tensorboard {folder}: is not empty, and TensorBoard would mix old and new points; "
            "give a new folder"
        )


def scalars(run):
    """(stage, tag, value, step) of all logs and metrics of a runfolder.RunFolder.

    Steps are epochs in a pretraining, optimizer steps so far for the loss of a training, and labels
    for its metrics, which are means over the images.
    """
    for stage in run.pretrainings:
        for name in ("loss", "validation_loss", "lr"):
            pairs = zip(stage.log.get(name, ()), stage.log.get("epoch", ()), strict=False)
            for value, epoch in pairs:
                yield stage.name, f"pretraining/{name}", float(value), int(epoch)
    for training in run.trainings:
        done = 0
        for entry in training.rounds:
            pairs = zip(entry.log.get("loss", ()), entry.log.get("steps", ()), strict=False)
            for loss, steps in pairs:
                done += int(steps)
                yield training.name, "training/loss", float(loss), done
            for kind, columns in ((training.measured, entry.metrics), ("folds", entry.folds)):
                for name in (*metrics.NAMES, "confidence"):
                    if name in columns:
                        mean = float(columns[name].mean())
                        yield training.name, f"{kind}/{name}", mean, entry.labels


def write_events(folder, run):
    """Write them below `folder`, which `check_events` has accepted; returns how many."""
    from torch.utils.tensorboard import SummaryWriter

    writers, count = {}, 0
    for stage, tag, value, step in scalars(run):
        if stage not in writers:
            writers[stage] = SummaryWriter(folder / stage)
        writers[stage].add_scalar(tag, value, step)
        count += 1
    for writer in writers.values():
        writer.close()
    return count
