"""Restoration pretraining as a stage."""

import json

import pytest
import torch
from conftest import PRETRAIN, call, command_line

from segmentation.common.runfiles import read_csv
from segmentation.common.stages import torch_rng
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images, load_tensor, to_input
from segmentation.model.unet import encoder_sha256, load_encoder, load_model
from self_supervised import pretrain
from self_supervised.corruptions import corrupt
from self_supervised.processes import Processes


def test_it_writes_its_files_and_learns(weights):
    names = {path.name for path in weights.iterdir()}
    assert names == {
        "args.json",
        "env.json",
        "log.csv",
        "best.pt",
        "last.pt",
        "encoder.pt",
        "restorations.png",
    }
    rows = read_csv(weights / "log.csv")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    loss = [float(row["validation_loss"]) for row in rows]
    assert min(loss) < float(rows[0]["validation_corrupted"])
    assert min(loss[1:]) < loss[0]
    assert len({row["validation_corrupted"] for row in rows}) == 1  # corrupted alike each epoch
    model = load_model(weights / "best.pt")
    assert encoder_sha256(model) == encoder_sha256(load_encoder(weights / "encoder.pt"))
    assert json.loads((weights / "args.json").read_text())["args"]["width"] == 4


def test_output_goes_through_one_sigmoid_and_can_reach_black_and_white(weights):
    """The released code applied it twice, so nothing below 0.5 or above 0.73 could be restored."""
    model = load_model(weights / "best.pt")
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pretrain.restore(model, images), torch.sigmoid(model(images)))
        model.head.bias.fill_(-30)
        assert pretrain.restore(model, images).max() < 0.01


def test_validation_is_a_part_of_the_pool_and_the_test_images_are_never_read(data):
    opened = open_data(data)
    train, held = pretrain.split_validation(opened.pool, opened.linked, 0.1, 0)
    assert sorted(train + held) == opened.pool and len(held) == 5
    assert not set(opened.test) & set(train + held)
    assert pretrain.split_validation(opened.pool, opened.linked, 0.1, 0) == (train, held)
    assert pretrain.split_validation(opened.pool, opened.linked, 0.1, 1) != (train, held)


def test_a_loss_that_is_not_finite_leaves_the_last_good_weights(
    data, tmp_path, refused, monkeypatch
):
    out, right = tmp_path / "run", pretrain.train_epoch

    def train_epoch(forward, optimizer, scaler, images, epoch, *how):
        if epoch == 2:  # as after a step that was much too long
            optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))
        return right(forward, optimizer, scaler, images, epoch, *how)

    monkeypatch.setattr(pretrain, "train_epoch", train_epoch)
    line = refused("pretrain", "--data", data, "--out", out, *PRETRAIN)
    assert "pretraining, epoch 2" in line
    rows = read_csv(out / "log.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    load_model(out / "best.pt")  # which refuses weights that are not finite
    assert not (out / "encoder.pt").exists()


def test_early_stopping(data, tmp_path, capsys):
    options = [
        "--width",
        "2",
        "--epochs",
        "40",
        "--patience",
        "1",
        "--lr",
        "0",
        "--batch",
        "8",
        "--device",
        "cpu",
    ]
    call("pretrain", "--data", data, "--out", tmp_path, *options)
    rows = read_csv(tmp_path / "log.csv")
    loss = [float(row["validation_loss"]) for row in rows]
    best = loss.index(min(loss))
    assert len(rows) == best + 2 < 40
    assert "stopping" in capsys.readouterr().out


def test_learning_rate_is_halved_by_step(data, tmp_path):
    options = [
        "--width",
        "2",
        "--epochs",
        "5",
        "--step",
        "2",
        "--lr",
        "0.04",
        "--batch",
        "16",
        "--device",
        "cpu",
    ]
    call("pretrain", "--data", data, "--out", tmp_path, *options)
    rates = [float(row["lr"]) for row in read_csv(tmp_path / "log.csv")]
    assert rates == pytest.approx([0.04, 0.04, 0.02, 0.02, 0.01])


def test_a_finished_stage_is_skipped_and_other_options_are_refused(data, weights, capsys, refused):
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    call("pretrain", "--data", data, "--out", weights, *PRETRAIN)
    assert "finished already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before
    line = refused("pretrain", "--data", data, "--out", weights, *PRETRAIN, "--seed", 1)
    assert "--seed 0, not 1" in line


def test_bfloat16_runs_and_learns(data, tmp_path):
    options = [*PRETRAIN, "--amp", "bf16", "--width", 2, "--epochs", 2]
    call("pretrain", "--data", data, "--out", tmp_path, *options)
    loss = [float(row["validation_loss"]) for row in read_csv(tmp_path / "log.csv")]
    assert loss[1] < loss[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--lr", "fast"], "--lr"),
        (["--epochs", "0"], "--epochs"),
        (["--validation", "1"], "--validation"),
        (["--widht", "8"], "--widht"),
        (["--wid", "8"], "--wid"),
        (["--data", "nowhere"], "nowhere: no such data folder"),
        (["--lr", "1e30", "--width", "2"], "epoch 0: the loss is"),
    ],
)
def test_bad_input(data, tmp_path, refused, options, word):
    words = ["--data", data, "--out", tmp_path / "run", "--device", "cpu", "--batch", "8", *options]
    assert word in refused("pretrain", *words)


def test_validation_error_is_the_mean_over_images(data, weights):
    """Batches of 16 and the last, smaller one weigh by their images."""
    opened, model = open_data(data), load_model(weights / "best.pt")
    args = pretrain_args(data)
    ids = opened.pool[:21]
    images = Images(opened, ids, "cpu")
    error, corrupted = pretrain.validate(model, images, args, Processes("cpu"))
    own = [torch_rng(args.seed, "pretrain", "validation", "corrupt", name) for name in ids]
    inputs, clean = corrupt(to_input(load_tensor(opened, ids)), own, pretrain.rates_of(args))
    with torch.no_grad():
        restored = pretrain.restore(model, inputs)
    assert error == pytest.approx(((restored - clean) ** 2).mean().item(), rel=1e-4)
    assert corrupted == pytest.approx(((inputs - clean) ** 2).mean().item(), rel=1e-4)


def test_an_image_is_corrupted_by_its_id_and_epoch_alone(data):
    """Not by its place, its batch or its process; and no epoch repeats another."""
    opened, args = open_data(data), pretrain_args(data, "--flip", 0)
    ids = opened.pool[:6]
    made = {}
    for epoch in (0, 1):
        for some in (ids, ids[::-1], ids[2:3]):
            corrupted, _ = pretrain.corrupted_and_clean(
                load_tensor(opened, some), some, args, epoch, "corrupt"
            )
            for name, image in zip(some, corrupted, strict=True):
                assert torch.equal(made.setdefault((epoch, name), image), image)
    assert len({tuple(image.flatten().tolist()) for image in made.values()}) == 12


@pytest.mark.parametrize("options", [["--pool-on", "device"], ["--pool-on", "host"]])
def test_where_the_images_wait_does_not_matter(data, weights, tmp_path, options):
    call("pretrain", "--data", data, "--out", tmp_path, *PRETRAIN, *options)
    for name in ("best.pt", "encoder.pt", "restorations.png"):
        assert (tmp_path / name).read_bytes() == (weights / name).read_bytes()


def pretrain_args(data, *options):
    with command_line("pretrain", "--data", data, "--out", "x", *options):
        return pretrain.parse_args()


def test_the_defaults_are_the_papers(data):
    args = vars(pretrain_args(data))
    paper = {
        "width": 64,
        "batch": 1,
        "epochs": 10000,
        "patience": 50,
        "optimizer": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "step": 40,
        "gamma": 0.5,
        "flip": 0.4,
        "shuffle": 0.5,
        "nonlinear": 0.9,
        "paint": 0.9,
        "inpaint": 0.2,
    }
    assert {name: args[name] for name in paper} == paper


def test_images_of_one_patient_are_on_one_side_of_the_validation():
    pool = [f"{number:02d}" for number in range(30)]
    patients = [pool[start : start + 3] for start in range(0, 30, 3)]
    halves = []
    for seed in range(20):
        train, held = pretrain.split_validation(pool, patients, 0.2, seed)
        assert sorted(train + held) == pool and len(held) == 6
        assert all(set(group) <= set(train) or set(group) <= set(held) for group in patients)
        halves.append(held)
    assert len({tuple(held) for held in halves}) > 10
    # one of two large groups, although a tenth was asked for; and of one group, images at random
    train, held = pretrain.split_validation(pool, [pool[:10], pool[10:]], 0.1, 0)
    assert held == pool[:10]
    train, held = pretrain.split_validation(pool, [pool], 0.1, 0)
    assert len(held) == 3 and len(train) == 27
