"""How one segmentation model is trained: the paper's recipe, and a strong one to judge it by.

`paper` is the schedule of SAAL's code: Adam at a constant 1e-4, 10 epochs, then 2 per round from
the last weights, no augmentation. `strong` trains every round anew, until it has converged: AdamW
with a one-cycle rate, flips, turns, scales and contrast, and a least number of steps, without which
ten labels would mean twenty steps. Its values were chosen on held-out images of the pool
(results/NOTES.md), never on the test images.
"""

from dataclasses import dataclass

from segmentation.model.augment import LEVELS

OPTIMIZERS = ("adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """The settings of engine.train."""

    optimizer: str = "adam"
    lr: float = 1e-4  # constant, or the peak of the cycle
    one_cycle: bool = False  # rate rises to lr over 30 % of the steps and falls to nothing
    weight_decay: float = 0.0
    batch: int = 10  # images per step
    epochs: int = 10  # from the first weights
    epochs_round: int = 2  # when training on
    min_steps: int = 1  # at least so many from the first weights, for a few labels
    from_scratch: bool = False  # begin every round from the first weights
    augment: str = LEVELS[0]


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
    """Enough epochs over `images` images for at least `min_steps` optimizer steps, if `is_first`.

    That is a training from the first weights; one that goes on has its `epochs_round`.
    """
    if not is_first:
        return recipe.epochs_round
    steps = -(-images // recipe.batch)
    return max(recipe.epochs, -(-recipe.min_steps // steps))
