"""Train one segmentation model and evaluate it, without command line or paths."""

import contextlib
import time

import numpy as np
import torch

from segmentation.common.precision import Precision, step
from segmentation.common.runfiles import UserError, derived_seed
from segmentation.common.stages import torch_rng
from segmentation.common.transfer import sent
from segmentation.data.images import to_input
from segmentation.model import metrics
from segmentation.model.augment import draw
from segmentation.model.confidence import confidence
from segmentation.model.encoders import folded
from segmentation.model.finish import PLAIN, clean, largest_region
from segmentation.model.inference import batches, enlarged, lesion_probabilities
from segmentation.model.losses import deep_supervision_loss


def check_finite(loss, name):
    """UserError if the loss is infinite or not a number; `name` says where in the training."""
    if not np.isfinite(loss):
        raise UserError(f"{name}: the loss is {loss}; lower the learning rate, or check the images")


def make_optimizer(model, recipe, steps):
    """The recipe's optimizer, and a function to call after each of `steps` steps."""
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    parts = {"encoder": [], "rest": []}
    for name, parameter in model.named_parameters():
        parts["encoder" if name.startswith("encoder.") else "rest"].append(parameter)
    groups = [{"params": parts["rest"], "lr": recipe.lr}]
    if recipe.encoder_rate:
        groups.append({"params": parts["encoder"], "lr": recipe.encoder_rate * recipe.lr})
    optimizer = make(groups, weight_decay=recipe.weight_decay, fused=True)
    if not recipe.one_cycle:
        return optimizer, lambda: None
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, cycle_momentum=False
    )
    return optimizer, schedule.step


def supervised_loss(model, forward, images, masks, views, precision):
    """The loss on labelled uint8 images and their masks, augmented by `views`, if any."""
    inputs = to_input(images)
    if views is None:
        masks = masks.float()
    else:
        inputs, masks = views.image(inputs), views.mask(masks)
    with precision.autocast():
        if model.heads:
            logits = [head[:, 0].float() for head in model.forward_heads(inputs)]
        else:
            logits = [forward(inputs)[:, 0].float()]
    return deep_supervision_loss(logits, masks)


def epoch_batches(count, batch, generator):
    """The places of range(count) in a random order, in parts of `batch`: tensors, the last short.

    `generator` is a CPU generator, as is that of `mixed_batches`.
    """
    order = torch.randperm(count, generator=generator)
    return [order[part] for part in batches(count, batch)]


def mixed_batches(labelled, count, batch, share, generator):
    """An epoch in which the first `labelled` of range(count) are drawn more often: tensors.

    A part of `share` of each batch, at least one image, is drawn from these, over and over in
    random orders; the others fill it up, each once, the last batch with the few that are left.
    """
    some = min(max(1, round(share * batch)), batch - 1)
    others = labelled + torch.randperm(count - labelled, generator=generator)
    parts = batches(len(others), batch - some)
    rounds = -(-some * len(parts) // labelled)
    again = torch.cat([torch.randperm(labelled, generator=generator) for _ in range(rounds)])
    return [
        torch.cat([again[number * some : (number + 1) * some], others[part]])
        for number, part in enumerate(parts)
    ]


def train(model, images, masks, *, recipe, precision, teacher=None, **how):
    """Train `model` in place on images and masks held in memory.

    `images` uint8 N x C x H x W; `masks` uint8 N x H x W in {0,1}, or float N x H x W in [0,1].
    `recipe` is a recipes.Recipe, of which the numbers of epochs are not used here: `steps` is how
    many optimizer steps to take. Each epoch draws its own order, augmentation and dropout from
    `stream` (a seed and names). `teacher` is a teacher.Teacher that adds its loss. With the
    recipe's `labelled_share`, the first `labelled` images are drawn more often. `progress` is
    called with the row of each epoch. Returns the list of rows (epoch, steps, loss, seconds).
    UserError if the loss is not finite.
    """
    model.to(precision.device).train()
    if not recipe.encoder_rate:
        model.encoder.requires_grad_(False)
    if recipe.frozen_norm:
        keep_statistics(model)
        if teacher is not None:
            keep_statistics(teacher.model)
    still = recipe.frozen_norm and not recipe.encoder_rate and teacher is None
    with folded(model) if still else contextlib.nullcontext():
        return take_steps(model, images, masks, recipe, precision, teacher, **how)


def keep_statistics(model):
    """Have the encoder's batch normalisation use its running statistics and leave them so."""
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def take_steps(
    model,
    images,
    masks,
    recipe,
    precision,
    teacher,
    *,
    steps,
    stream,
    progress=lambda row: None,
    labelled=0,
):
    """The loop of `train`, for a model that is in the mode to be trained in."""
    device = precision.device
    forward, scaler = precision.compiled(model), precision.scaler()
    images, masks = images.to(device), masks.to(device)
    optimizer, after_step = make_optimizer(model, recipe, steps)
    rows, done = [], 0
    while done < steps:
        epoch, started = len(rows), time.perf_counter()
        order_rng = torch_rng(*stream, epoch, "order")
        if labelled and recipe.labelled_share:
            share = recipe.labelled_share
            parts = mixed_batches(labelled, len(images), recipe.batch, share, order_rng)
        else:
            parts = epoch_batches(len(images), recipe.batch, order_rng)
        parts = parts[: steps - done]
        views_rng = torch_rng(*stream, epoch, "views")
        torch.manual_seed(derived_seed(*stream, epoch, "dropout"))
        total = torch.zeros((), device=device)
        for part in parts:
            chosen = sent(part, device)
            batch, views = (images[chosen], masks[chosen]), None
            if recipe.augment != "none":
                views = draw(batch[0].shape, recipe.augment, views_rng).to(device)
            loss = supervised_loss(model, forward, *batch, views, precision)
            total += loss.detach() * len(chosen)
            if teacher is not None:
                loss = loss + teacher.loss(forward, len(chosen), done / steps, views_rng, precision)
            step(optimizer, scaler, loss)
            after_step()
            done += 1
            if teacher is not None:
                teacher.follow(model)
        mean = total.item() / sum(map(len, parts))
        check_finite(mean, f"{'/'.join(map(str, stream[1:]))}, epoch {epoch}")
        seconds = time.perf_counter() - started
        rows.append({"epoch": epoch, "steps": len(parts), "loss": mean, "seconds": seconds})
        progress(rows[-1])
    return rows


def evaluate(model, data, images, batch, device, finish=PLAIN):
    """Metrics of each image in `images`, an images.Images of `data`: list of dicts, `id` first.

    `confidence` is last: that of the predicted mask, which is seen without the truth. It has four
    decimals; further ones would depend on the batch.
    """
    rows = []
    for part in batches(len(images), 16 * batch):
        given = images[part], batch, Precision(torch.device(device))
        p = lesion_probabilities(model, *given, views=finish.views)
        p = clean(p) if finish.largest else p
        predicted, ids = p > 0.5, images.ids[part]
        scores = metrics.per_image(predicted, data.load_masks(ids))
        for name, row, *pair in zip(ids, scores, p, predicted, strict=True):
            rows.append({"id": name, **row, "confidence": round(confidence(*pair), 4)})
    return rows


def evaluate_at_original_size(model, images, mask_of, batch, device, finish=PLAIN):
    """Metrics at the size of the original images, as the ISIC challenge measures.

    The lesion probabilities are enlarged bilinearly and thresholded at 0.5. `mask_of` is a function
    of an id: bool H x W, the original mask. HD95 is then in pixels of the original.
    """
    rows = []
    for part in batches(len(images), batch):
        ids = images.ids[part]
        given = images[part], batch, Precision(device)
        probabilities = lesion_probabilities(model, *given, views=finish.views)
        for name, probability in zip(ids, probabilities, strict=True):
            mask = mask_of(name)
            predicted = enlarged(probability, mask.shape) > 0.5
            if finish.largest:
                predicted = largest_region(predicted)
            rows.append({"id": name, **metrics.per_image(predicted[None], mask[None])[0]})
    return rows
