"""How the segmentation models of a round are trained: the recipes `paper`, `strong`, `pretrained`.

`paper` is the schedule of SAAL's code: Adam at a constant learning rate of 1e-4, 10 epochs in round
0 and 2 in each later round, from the last weights, no augmentation. `strong` trains from the first
weights in every round: AdamW with a one-cycle learning rate, all augmentation, and enough epochs
for at least `min_steps` optimizer steps (20 epochs of ten images are only 20 steps). `pretrained`
is for an encoder that knows images already: it is not trained at all, only the decoder is. How the
values were chosen, and with how many labels, is in results/NOTES.md. With the 400 steps that
`strong` had in results/study, 40 labels and more gained by longer training (results/encoders).
"""

import math
from dataclasses import dataclass

from segmentation.model.augment import LEVELS

RANGES = {  # of the settings that are real numbers: smallest, largest, ends that are not in it
    "lr": (0, math.inf, ()),
    "weight_decay": (0, math.inf, ()),
    "encoder_rate": (0, math.inf, ()),
    "labelled_share": (0, 1, (1,)),
}
OPTIMIZERS = ("adam", "adamw")
OWN_MASKS = ("hard", "soft")


@dataclass(frozen=True)
class Recipe:
    """The settings of the training of a round."""

    optimizer: str = "adam"
    lr: float = 1e-4  # constant, or the peak of the cycle
    one_cycle: bool = False  # rises to lr over 30 % of the steps, then falls to almost 0
    weight_decay: float = 0.0
    batch: int = 10  # images per step
    epochs: int = 10  # when training from the first weights
    epochs_round: int = 2  # when training from the last weights
    min_steps: int = 1  # at least this many when training from the first weights
    steps: int = 0  # optimizer steps of a round, shared among its models; 0: by epochs, each model
    from_scratch: bool = False  # start every round from the first weights
    augment: str = LEVELS[0]
    encoder_rate: float = 1.0  # learning rate of the encoder, as a factor of lr; 0: not trained
    frozen_norm: bool = False  # the encoder's batch normalisation keeps its running statistics
    # of --self-train, see selftraining.py:
    own_masks: str = OWN_MASKS[0]
    labelled_share: float = 0.0  # of each batch of a student; 0: as labels are among the images


RECIPES = {
    "paper": Recipe(),
    "strong": Recipe(
        optimizer="adamw",
        lr=2e-3,
        one_cycle=True,
        weight_decay=1e-2,
        epochs=20,
        min_steps=1600,
        from_scratch=True,
        augment="all",
    ),
    "pretrained": Recipe(
        optimizer="adamw",
        lr=5e-3,
        one_cycle=True,
        weight_decay=1e-2,
        steps=400,
        from_scratch=True,
        augment="all",
        encoder_rate=0.0,
        frozen_norm=True,
    ),
}


def steps_of(recipe, images, is_first, models=1):
    """Number of optimizer steps to train on `images` images.

    With `steps`, that number divided by the `models` of the round, rounded up. Otherwise whole
    epochs. If `is_first`, from the first weights: `epochs`, or more if fewer than `min_steps`
    optimizer steps would result. Otherwise, from the last weights: `epochs_round`.
    """
    if recipe.steps:
        return -(-recipe.steps // models)
    steps = -(-images // recipe.batch)
    if not is_first:
        return recipe.epochs_round * steps
    return max(recipe.epochs, -(-recipe.min_steps // steps)) * steps
