"""How one segmentation model is trained: the recipes `paper` and `strong`.

`paper` is the schedule of SAAL's code: Adam at a constant learning rate of 1e-4, 10 epochs in round
0 and 2 in each later round, from the last weights, no augmentation. `strong` trains from the first
weights in every round: AdamW with a one-cycle learning rate, all augmentation, and enough epochs
for at least `min_steps` optimizer steps (20 epochs of ten images are only 20 steps). The values of
`strong` were chosen on held-out images of the pool (results/NOTES.md), never on the test images.
"""

from dataclasses import dataclass

from segmentation.model.augment import LEVELS

OPTIMIZERS = ("adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """The settings of engine.train."""

    optimizer: str = "adam"
    lr: float = 1e-4  # constant, or the peak of the cycle
    one_cycle: bool = False  # rises to lr over 30 % of the steps, then falls to almost 0
    weight_decay: float = 0.0
    batch: int = 10  # images per step
    epochs: int = 10  # when training from the first weights
    epochs_round: int = 2  # when training from the last weights
    min_steps: int = 1  # at least this many when training from the first weights
    from_scratch: bool = False  # start every round from the first weights
    augment: str = LEVELS[0]
    encoder_rate: float = 1.0  # learning rate of the encoder, as a factor of lr
    frozen_norm: bool = False  # the encoder's batch normalisation keeps its running statistics


RECIPES = {
    "paper": Recipe(),
    "strong": Recipe(
        optimizer="adamw",
        lr=2e-3,
        one_cycle=True,
        weight_decay=1e-2,
        epochs=20,
        min_steps=400,
        from_scratch=True,
        augment="all",
    ),
}


def epochs_of(recipe, images, is_first):
    """Number of epochs to train on `images` images.

    If `is_first`, from the first weights: `epochs`, or more if fewer than `min_steps` optimizer
    steps would result. Otherwise, from the last weights: `epochs_round`.
    """
    if not is_first:
        return recipe.epochs_round
    steps = -(-images // recipe.batch)
    return max(recipe.epochs, -(-recipe.min_steps // steps))
