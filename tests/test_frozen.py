"""Logistic regression on a frozen backbone: its cells, its fit, its place in the loop."""

import json

import numpy as np
import pytest
import torch
from conftest import LOOP, call
from sklearn.linear_model import LogisticRegression

from segmentation.common.precision import Precision
from segmentation.common.runfiles import UserError
from segmentation.model import frozen
from segmentation.model.encoders import PACKAGED, load_backbone_weights
from segmentation.model.frozen import FrozenHead
from segmentation.model.inference import per_image
from segmentation.model.unet import encoder_sha256, load_model, save_model

CPU = Precision(torch.device("cpu"))


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    model = FrozenHead(3, PACKAGED)
    load_backbone_weights(model.encoder.body, PACKAGED, "package")
    return model


def discs(count=10, size=64, seed=0, radius=15):
    """Dark discs on bright noise: images uint8 N x 3 x H x W, masks uint8 N x H x W."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres = rng.uniform(20, size - 20, (count, 2, 1, 1))
    masks = (((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) < radius**2).astype(np.uint8)
    images = (200 - 120 * masks + rng.normal(0, 8, masks.shape)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1), torch.from_numpy(masks)


def fit(model, images, masks, seed=0):
    return frozen.fit(model, images, masks, 4, CPU, np.random.default_rng(seed))


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_cells_are_float32_in_any_precision(head, amp):
    precision = Precision(torch.device("cpu"), amp)
    cells = per_image(
        head.cells, head, torch.full((1, 3, 64, 64), 9, dtype=torch.uint8), 1, precision
    )
    assert cells.dtype == np.float32


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_cells(head, size):
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        cells, logits = head.cells(images), head(images)
    height, width = (-(-side // 32) * 4 for side in size)
    assert cells.shape == (2, 40 + 112 + 320 + 3, height, width)
    assert logits.shape == (2, 1, *size)
    lengths = torch.linalg.vector_norm(cells[:, :40], dim=1)  # the map of the cells' own stride
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-3, atol=1e-3)
    assert cells[0, -3, 0, 0] == -1 and cells[0, -3, 0, -1] == 1 and cells[0, -2, -1, 0] == 1
    torch.testing.assert_close(cells[:, -1], torch.hypot(cells[:, -3], cells[:, -2]))


def test_the_fit_is_that_of_scikit_learn_on_hard_cells(head):
    """Where every cell is all lesion or all skin: the plain regression on cells and labels."""
    images, _ = discs(6)
    masks = torch.zeros(6, 64, 64, dtype=torch.uint8)
    masks[:, 16:48, 8:40] = 1  # along the cells of 8 pixels
    fit(head, images, masks)
    with torch.no_grad():
        cells = torch.cat([head.cells(image[None] / 255) for image in images])
        made = head.head(cells)[:, 0].flatten().numpy()
    x = cells.permute(0, 2, 3, 1).reshape(-1, cells.shape[1]).numpy()
    labels = masks[:, ::8, ::8].flatten().numpy()
    errors = []
    for strength in frozen.STRENGTHS:
        theirs = LogisticRegression(C=strength, max_iter=1000).fit(x, labels)
        errors.append(np.abs(theirs.decision_function(x) - made).max())
    assert min(errors) < 0.05


def test_soft_labels_give_the_share_of_lesion_back():
    """Without features that tell cells apart, the regression answers the mean share."""
    rows = np.zeros((3, 4, 4, 2), dtype=np.float32)
    shares = np.random.default_rng(0).random((3, 4, 4))
    logits = frozen.decide(frozen.regress(rows, shares, 1.0), rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), shares.mean(), rtol=1e-3)


def test_ten_masks_teach_it_discs(head):
    images, masks = discs(10)
    before = encoder_sha256(head)
    (row,) = fit(head, images, masks)
    assert row["epoch"] == 0 and 0 < row["loss"] < 0.3 and row["seconds"] > 0
    assert encoder_sha256(head) == before and not head.train().training
    tests, truth = discs(8, seed=1)
    with torch.no_grad():
        predicted = head(tests / 255)[:, 0] > 0
    both = (predicted & (truth > 0)).sum().item()
    assert 2 * both / (predicted.sum() + truth.sum()).item() > 0.85


def test_a_fit_is_the_same_again_and_takes_a_single_image(head):
    images, masks = discs(5)
    fit(head, images, masks)
    weight = head.head.weight.clone()
    fit(head, images, masks)
    assert torch.equal(head.head.weight, weight)
    fit(head, images[:1], masks[:1])
    for same in (torch.zeros_like(masks), torch.ones_like(masks)):
        with pytest.raises(UserError, match="all empty, or all full"):
            fit(head, images, same)


@pytest.mark.parametrize("full", [False, True])
def test_folds_without_which_labels_agree_are_passed_over(head, full):
    """An empty mask and one of a disc allow one fold, an empty and a full one none: C is 1."""
    images, masks = discs(2)
    masks[0] = 0
    if full:
        masks[1] = 1
    fit(head, images, masks)
    made = head.head.weight.detach().flatten().numpy()
    cells = per_image(head.cells, head, images, 2, CPU).transpose(0, 2, 3, 1)
    shares = masks.float().reshape(2, 8, 8, 8, 8).mean((2, 4)).numpy()
    tried = [frozen.regress(cells, shares, c).coef_[0] for c in frozen.STRENGTHS]
    errors = [np.abs(one - made).max() for one in tried]
    assert min(errors) < 1e-4
    if full:
        assert frozen.STRENGTHS[int(np.argmin(errors))] == 1


def test_save_and_load(head, tmp_path):
    fit(head, *discs(4))
    save_model(tmp_path / "weights.pt", head)
    again, image = load_model(tmp_path / "weights.pt"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert isinstance(again, FrozenHead) and torch.equal(again(image), head(image))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """40 synthetic images at 64 x 64, in colour."""
    out = tmp_path_factory.mktemp("large") / "demo"
    call("preprocess", "--demo", 40, "--size", 64, "--no-gray", "--out", out)
    return out


def test_in_the_loop(large, tmp_path, refused):
    words = ["--data", large, *LOOP, "--frozen", "--encoder", PACKAGED]
    words += ["--encoder-weights", "package", "--out", tmp_path / "run"]
    call("active_learning", *words, "--query", "badge", "--folds", 3, "--rounds", 1)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert [entry["labels"] for entry in state["rounds"]] == [12, 17]
    assert isinstance(load_model(tmp_path / "run" / "round_01" / "weights.pt"), FrozenHead)
    assert (tmp_path / "run" / "round_01" / "folds.csv").exists()
    elsewhere = [*words[:-1], tmp_path / "other"]
    for more, message in (
        (["--query", "ceal"], "--frozen has no dropout, which --query ceal needs"),
        (["--self-train"], "--frozen trains no network, so --self-train is not for it"),
        (["--heads"], "so --heads is not for it"),
    ):
        assert message in refused("active_learning", *elsewhere, *more)
    paper = ["--data", large, *LOOP, "--frozen", "--out", tmp_path / "other"]
    assert "--frozen needs --encoder" in refused("active_learning", *paper)
    assert not (tmp_path / "other").exists()
