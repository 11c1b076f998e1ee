"""Train one segmentation model and evaluate it, without command line or paths."""

import time

import numpy as np
import torch

from segmentation.common.precision import Precision, step
from segmentation.common.runfiles import UserError, derived_seed
from segmentation.common.stages import torch_rng
from segmentation.data.images import to_input
from segmentation.model import metrics
from segmentation.model.augment import draw
from segmentation.model.inference import batches, enlarged, lesion_probabilities, segment
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
    groups = [
        {"params": parts["rest"], "lr": recipe.lr},
        {"params": parts["encoder"], "lr": recipe.encoder_rate * recipe.lr},
    ]
    optimizer = make(groups, weight_decay=recipe.weight_decay, fused=True)
    if not recipe.one_cycle:
        return optimizer, lambda: None
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, cycle_momentum=False
    )
    return optimizer, schedule.step


def supervised_loss(model, forward, images, masks, views, precision):
    """The loss on labelled uint8 images and masks, augmented by `views` (None: not augmented)."""
    inputs = to_input(images)
    if views is not None:
        inputs, masks = views.image(inputs), views.mask(masks)
    with precision.autocast():
        if model.heads:
            logits = [head[:, 0].float() for head in model.forward_heads(inputs)]
        else:
            logits = [forward(inputs)[:, 0].float()]
    return deep_supervision_loss(logits, masks)


def train(
    model,
    images,
    masks,
    *,
    recipe,
    epochs,
    stream,
    precision,
    progress=lambda row: None,
    teacher=None,
):
    """Train `model` in place on images and masks held in memory.

    `images` uint8 N x C x H x W, `masks` uint8 N x H x W in {0,1}. `recipe` is a recipes.Recipe;
    `epochs` replaces its numbers of epochs. Each epoch draws its own order, augmentation and
    dropout from `stream` (a seed and names). `teacher` is a teacher.Teacher that adds its loss.
    `progress` is called with the row of each epoch. Returns the list of rows (epoch, loss,
    seconds). UserError if the loss is not finite.
    """
    device = precision.device
    model.to(device).train()
    if recipe.frozen_norm:
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    forward, scaler = precision.compiled(model), precision.scaler()
    images, masks = images.to(device), masks.to(device)
    parts = batches(len(images), recipe.batch)
    optimizer, after_step = make_optimizer(model, recipe, epochs * len(parts))
    rows = []
    for epoch in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(images), generator=torch_rng(*stream, epoch, "order"))
        order = order.to(device)
        views_rng = torch_rng(*stream, epoch, "views")
        torch.manual_seed(derived_seed(*stream, epoch, "dropout"))
        total = torch.zeros((), device=device)
        for number, part in enumerate(parts):
            chosen = order[part]
            views = None
            if recipe.augment != "none":
                views = draw(images[chosen].shape, recipe.augment, views_rng).to(device)
            loss = supervised_loss(model, forward, images[chosen], masks[chosen], views, precision)
            total += loss.detach() * len(chosen)
            if teacher is not None:
                done = (epoch * len(parts) + number) / (epochs * len(parts))
                loss = loss + teacher.loss(forward, len(chosen), done, views_rng, precision)
            step(optimizer, scaler, loss)
            after_step()
            if teacher is not None:
                teacher.follow(model)
        mean = total.item() / len(order)
        check_finite(mean, f"{'/'.join(map(str, stream[1:]))}, epoch {epoch}")
        rows.append({"epoch": epoch, "loss": mean, "seconds": time.perf_counter() - started})
        progress(rows[-1])
    return rows


def evaluate(model, data, images, batch, device):
    """Metrics of each image in `images`, an images.Images of `data`: list of dicts, `id` first."""
    rows = []
    for part in batches(len(images), 16 * batch):
        predicted = segment(model, images[part], batch, device)
        ids = images.ids[part]
        scores = metrics.per_image(predicted, data.load_masks(ids))
        rows += [{"id": name, **row} for name, row in zip(ids, scores, strict=True)]
    return rows


def evaluate_at_original_size(model, images, mask_of, batch, device):
    """The same at the size of the original images, as the ISIC challenge measures.

    The lesion probabilities are enlarged bilinearly and thresholded at 0.5. `mask_of` is a function
    of an id: bool H x W, the original mask. HD95 is then in pixels of the original.
    """
    rows = []
    for part in batches(len(images), batch):
        ids = images.ids[part]
        probabilities = lesion_probabilities(model, images[part], batch, Precision(device))
        for name, probability in zip(ids, probabilities, strict=True):
            mask = mask_of(name)
            predicted = enlarged(probability, mask.shape) > 0.5
            rows.append({"id": name, **metrics.per_image(predicted[None], mask[None])[0]})
    return rows
