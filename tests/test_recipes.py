"""Recipes: the paper's numbers, the least number of steps, the one-cycle rate."""

import json

import pytest
import torch
from conftest import LOOP, call

from segmentation.common.precision import Precision
from segmentation.model import engine
from segmentation.model.recipes import RECIPES, Recipe, steps_of
from segmentation.model.unet import UNet


def test_the_papers_numbers():
    paper = RECIPES["paper"]
    assert (paper.optimizer, paper.lr, paper.batch) == ("adam", 1e-4, 10)
    assert (paper.epochs, paper.epochs_round) == (10, 2)
    assert not (paper.one_cycle or paper.from_scratch or paper.weight_decay)
    assert paper.augment == "none"


@pytest.mark.parametrize(
    ("images", "is_first", "steps"),
    [(10, True, 50), (15, True, 50), (17, True, 50), (100, True, 50), (300, True, 120),
     (301, True, 124), (10, False, 3), (15, False, 6)],
)  # fmt: skip
def test_a_few_labels_get_more_epochs(images, is_first, steps):
    recipe = Recipe(batch=10, epochs=4, epochs_round=3, min_steps=50)
    assert steps_of(recipe, images, is_first) == steps


@pytest.mark.parametrize(("models", "steps"), [(1, 100), (2, 50), (3, 34)])
@pytest.mark.parametrize("is_first", [True, False])
def test_models_of_a_round_share_its_steps(models, steps, is_first):
    assert {steps_of(Recipe(steps=100), n, is_first, models) for n in (10, 1600)} == {steps}


def test_no_steps_mean_epochs(data, tmp_path):
    """With a recipe that has steps of its own too, and it is recorded."""
    words = ["--data", data, "--out", tmp_path, *LOOP, "--recipe", "pretrained"]
    call("active_learning", *words, "--encoder-rate", 1, "--steps", 0, "--rounds", 1)
    state = json.loads((tmp_path / "state.json").read_text())
    assert [(entry["labels"], entry["steps"]) for entry in state["rounds"]] == [(12, 9), (17, 15)]
    assert json.loads((tmp_path / "args.json").read_text())["args"]["steps"] == 0


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


def test_the_encoder_has_a_rate_of_its_own():
    """Its parameters, and only these, take steps of that part of the size."""
    model = UNet(width=2)
    recipe = Recipe(optimizer="adamw", lr=0.02, one_cycle=True, encoder_rate=0.1)
    optimizer, after_step = engine.make_optimizer(model, recipe, 10)
    for _ in range(4):
        optimizer.step()
        after_step()
        rest, encoder = (group["lr"] for group in optimizer.param_groups)
        assert encoder == pytest.approx(0.1 * rest)
    slow = {id(parameter) for parameter in optimizer.param_groups[1]["params"]}
    assert slow == {id(parameter) for parameter in model.encoder.parameters()}
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_norm_keeps_its_statistics(frozen):
    torch.manual_seed(0)
    model = UNet(width=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    masks = torch.zeros(4, 32, 32, dtype=torch.uint8)
    how = {"steps": 1, "stream": (0, "t"), "precision": Precision(torch.device("cpu"))}
    engine.train(model, images, masks, recipe=Recipe(frozen_norm=frozen), **how)
    after = model.state_dict()
    moved = [n for n in after if "running_mean" in n and not torch.equal(after[n], before[n])]
    parts = {name.split(".")[0] for name in moved}
    assert parts == ({"decoder"} if frozen else {"encoder", "decoder"})
    assert not torch.equal(model.encoder[0][1].weight, before["encoder.0.1.weight"])  # it learns


def test_an_encoder_without_a_rate_is_left_alone():
    torch.manual_seed(0)
    model = UNet(width=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    masks = torch.zeros(4, 32, 32, dtype=torch.uint8)
    how = {"steps": 2, "stream": (0, "t"), "precision": Precision(torch.device("cpu"))}
    for optimizer in ("adam", "adamw"):
        recipe = Recipe(optimizer, encoder_rate=0, frozen_norm=True, weight_decay=0.1)
        engine.train(model, images, masks, recipe=recipe, **how)
    after = model.state_dict()
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert same == {name for name in after if name.startswith("encoder.")}
