"""Recipes: the paper's numbers, the least number of steps, the one-cycle rate."""

import pytest
import torch

from segmentation.model import engine
from segmentation.model.recipes import RECIPES, Recipe, epochs_of


def test_the_papers_numbers():
    paper = RECIPES["paper"]
    assert (paper.optimizer, paper.lr, paper.batch) == ("adam", 1e-4, 10)
    assert (paper.epochs, paper.epochs_round) == (10, 2)
    assert not (paper.one_cycle or paper.from_scratch or paper.weight_decay)
    assert paper.augment == "none"


@pytest.mark.parametrize(
    ("images", "is_first", "epochs"),
    [(10, True, 50), (15, True, 25), (100, True, 5), (300, True, 4), (10, False, 3)],
)
def test_a_few_labels_get_more_epochs(images, is_first, epochs):
    recipe = Recipe(batch=10, epochs=4, epochs_round=3, min_steps=50)
    assert epochs_of(recipe, images, is_first) == epochs


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing():
    model = torch.nn.Linear(1, 1)
    recipe = Recipe(optimizer="adamw", lr=0.02, one_cycle=True, weight_decay=0.1)
    optimizer, after_step = engine.make_optimizer(model, recipe, 100)
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after_step()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.02, rel=1e-3) and 25 <= peak <= 35
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] < 0.001 and rates[-1] < 1e-4
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_the_papers_rate_is_constant():
    model = torch.nn.Linear(1, 1)
    optimizer, after_step = engine.make_optimizer(model, Recipe(lr=0.5), 3)
    after_step()
    assert type(optimizer) is torch.optim.Adam and optimizer.param_groups[0]["lr"] == 0.5
