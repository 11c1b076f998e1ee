"""Loss, training and evaluation of one model."""

import dataclasses

import numpy as np
import pytest
import torch

from segmentation.common.precision import Precision
from segmentation.common.runfiles import UserError
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images, to_input
from segmentation.model import engine, inference
from segmentation.model.losses import segmentation_loss, soft_dice_loss
from segmentation.model.recipes import RECIPES, Recipe
from segmentation.model.unet import UNet


def test_soft_dice_by_hand():
    p = torch.tensor([[[0.5, 1.0]], [[0.0, 0.0]]])
    y = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
    first = 1 - (2 * 1.0 + 1) / (1.5 + 1.0 + 1)
    assert soft_dice_loss(p, y).item() == pytest.approx((first + 0) / 2)


def test_loss_is_half_cross_entropy_half_dice():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 4, generator=generator)
    masks = (torch.rand(3, 4, 4, generator=generator) > 0.5).to(torch.uint8)
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), masks.double().numpy()
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    expected = 0.5 * (entropy + soft_dice_loss(torch.tensor(p), torch.tensor(y)).item())
    assert segmentation_loss(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def test_perfect_logits_have_no_loss():
    masks = torch.zeros(1, 8, 8)
    masks[:, 2:5] = 1
    assert segmentation_loss((masks - 0.5) * 1000, masks).item() == pytest.approx(0, abs=1e-6)


def test_batches_cover_everything_once():
    parts = inference.batches(10, 4)
    assert [list(range(10))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert inference.batches(0, 4) == []


CPU = Precision(torch.device("cpu"))


def discs(count=12, size=32, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres = rng.uniform(10, 22, (count, 2, 1, 1))
    masks = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 49).astype(np.uint8)
    images = (200 - 120 * masks + rng.normal(0, 8, masks.shape)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(images)[:, None], torch.from_numpy(masks)


SMALL = Recipe(lr=0.003, batch=4)


def train(epochs, seed=0, images_masks=None, precision=CPU, recipe=SMALL):
    torch.manual_seed(3)
    model = UNet(width=4, dropout=0.5)
    images, masks = images_masks or discs()
    steps = epochs * -(-len(images) // recipe.batch)
    how = {"recipe": recipe, "steps": steps, "stream": (seed, "t"), "precision": precision}
    return model, engine.train(model, images, masks, **how)


def test_training_learns_discs():
    model, rows = train(40)
    assert [row["epoch"] for row in rows] == list(range(40))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    images, masks = discs(seed=9)
    predicted = inference.segment(model, images, 5, "cpu")
    assert predicted.dtype == np.uint8 and set(np.unique(predicted)) <= {0, 1}
    overlap = 2 * (predicted * masks.numpy()).sum() / (predicted.sum() + masks.numpy().sum())
    assert overlap > 0.85


def test_the_strong_recipe_learns_discs_too():
    recipe = dataclasses.replace(RECIPES["strong"], batch=4)
    model, rows = train(60, recipe=recipe)
    images, masks = discs(seed=9)
    predicted = inference.segment(model, images, 5, "cpu")
    overlap = 2 * (predicted * masks.numpy()).sum() / (predicted.sum() + masks.numpy().sum())
    assert overlap > 0.9
    again = train(60, recipe=recipe)[1]
    assert [row["loss"] for row in rows] == [row["loss"] for row in again]


@pytest.mark.parametrize(
    "change", [{"augment": "flips"}, {"one_cycle": True}, {"weight_decay": 1.0}]
)
def test_every_setting_of_a_recipe_counts(change):
    plain = Recipe(optimizer="adamw", lr=0.003, batch=4)
    losses = [
        [row["loss"] for row in train(3, recipe=recipe)[1]]
        for recipe in (plain, dataclasses.replace(plain, **change))
    ]
    assert losses[0] != losses[1]


def test_steps_are_exact_and_an_epoch_may_be_short():
    """As many steps of the same kind, whether a later epoch is whole or not."""
    images, masks = discs(11)  # three steps an epoch, the last with three images
    rows = {}
    for steps in (3, 5, 6):
        torch.manual_seed(3)
        how = {"recipe": SMALL, "steps": steps, "stream": (0, "t"), "precision": CPU}
        rows[steps] = engine.train(UNet(width=2), images, masks, **how)
        assert sum(row["steps"] for row in rows[steps]) == steps
    assert [row["steps"] for row in rows[5]] == [3, 2]
    assert rows[3][0]["loss"] == rows[5][0]["loss"] == rows[6][0]["loss"]


def test_an_epoch_has_each_image_once():
    parts = engine.epoch_batches(11, 4, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(11))


@pytest.mark.parametrize("labelled, share", [(3, 0.5), (40, 0.5), (1, 0.25), (5, 0.01), (5, 0.99)])
def test_labelled_images_have_their_share_of_each_batch(labelled, share):
    count, size = labelled + 23, 8
    parts = engine.mixed_batches(labelled, count, size, share, torch.Generator().manual_seed(0))
    some = min(max(1, round(share * size)), size - 1)
    *whole, last = [part.tolist() for part in parts]
    assert all(len(part) == size and sum(i < labelled for i in part) == some for part in whole)
    assert sum(i < labelled for i in last) == some and some < len(last) <= size
    every = [i for part in parts for i in part.tolist()]
    assert sorted(i for i in every if i >= labelled) == list(range(labelled, count))
    drawn = np.bincount([i for i in every if i < labelled], minlength=labelled)
    assert drawn.max() - drawn.min() <= 1  # in turn


def test_soft_masks_of_zeros_and_ones_train_as_hard_ones():
    images, masks = discs()
    soft = 0.9 * masks.float()
    rows = [train(2, images_masks=(images, given))[1] for given in (masks, masks.float(), soft)]
    losses = np.array([[row["loss"] for row in table] for table in rows])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.isfinite(losses).all() and (losses[2] != losses[1]).all()


def test_deep_supervision_trains_the_heads():
    torch.manual_seed(3)
    model = UNet(width=4, heads=True)
    images, masks = discs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = {"recipe": SMALL, "steps": 3, "stream": (0, "t"), "precision": CPU}
    engine.train(model, images, masks, **how)
    after = model.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if "weight" in name)


def test_training_is_set_by_its_seed():
    a, b, c = train(2)[0], train(2)[0], train(2, seed=1)[0]
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    other = [torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True)]
    assert all(same) and not all(other)


def test_training_in_bfloat16_is_near_float32_and_is_not_float32():
    exact, rough = (
        train(12, precision=Precision(CPU.device, amp))[1] for amp in (None, torch.bfloat16)
    )
    losses = np.array([[row["loss"] for row in rows] for rows in (exact, rough)])
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert (losses[0] != losses[1]).all()
    assert losses[1, -1] < 0.9 * losses[1, 0]


def test_weights_stay_float32_under_autocast():
    model, _ = train(1, precision=Precision(CPU.device, torch.bfloat16))
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_and_says_where():
    images, masks = discs()
    torch.manual_seed(0)
    model = UNet(width=4)
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="t/5, epoch 0: the loss is nan"):
        how = {"recipe": Recipe(), "steps": 2, "stream": (0, "t", 5), "precision": CPU}
        engine.train(model, images, masks, **how)


def test_evaluation_names_each_image_and_ignores_the_batch(data):
    opened = open_data(data)
    torch.manual_seed(0)
    model = UNet(width=4)
    images = Images(opened, opened.test, "cpu")
    one = engine.evaluate(model, opened, images, 1, "cpu")
    many = engine.evaluate(model, opened, images, 7, "cpu")
    assert [row["id"] for row in one] == opened.test
    assert one == many


def test_input_scale_is_one_and_the_same():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_input(images).tolist() == pytest.approx([0, 0.2, 1])
    assert images.tolist() == [0, 51, 255]
