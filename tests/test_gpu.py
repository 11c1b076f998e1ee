"""Training and prediction on a CUDA device, where there is one; where it can be, on the CPU too."""

import warnings

import numpy as np
import pytest
import torch
from conftest import CUDA, LOOP, PRETRAIN, call, needs_cuda

from segmentation.common.precision import AMP, Precision, step
from segmentation.common.runfiles import read_csv
from segmentation.common.transfer import sent
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model import engine
from segmentation.model.inference import lesion_probabilities
from segmentation.model.recipes import Recipe
from segmentation.model.unet import UNet, load_model
from self_supervised import pretrain

pytestmark = pytest.mark.usefixtures("torch_settings")
LOOP = [word for word in LOOP if word not in ("--device", "cpu")]
PRETRAIN = [word for word in PRETRAIN if word not in ("--device", "cpu")]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(
    "values", [torch.arange(6).view(2, 3).T, torch.zeros(0, 3), torch.tensor([True, False])]
)
def test_what_is_sent_arrives(values, device):
    arrived = sent(values, device)
    assert arrived.device.type == device and arrived.dtype == values.dtype
    assert torch.equal(arrived.cpu(), values)
    assert device != "cpu" or arrived is values


@needs_cuda
def test_no_step_of_a_training_waits_for_the_gpu():
    """Two steps and ten, of one epoch, make the CPU wait equally often."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    masks = (images[:, 0] > 127).to(torch.uint8)
    recipe = Recipe(batch=4, augment="all", optimizer="adamw", one_cycle=True)
    how = {"recipe": recipe, "stream": (0, "t")}
    how["precision"] = Precision(torch.device("cuda"), torch.bfloat16)
    waits = []
    for steps in (2, 2, 10):  # the first call sets CUDA up
        model = UNet(3, 1, 4, dropout=0.5).cuda()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                engine.train(model, images, masks, steps=steps, **how)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(one.message) for one in seen))
    assert waits[1] == waits[2] > 0


@needs_cuda
def test_a_step_whose_gradients_overflow_is_left_out():
    precision = Precision(torch.device("cuda"), torch.float16)
    weight = torch.nn.Parameter(torch.ones(1, device="cuda"))
    optimizer = torch.optim.AdamW([weight], fused=True)
    scaler = precision.scaler()
    before = scaler.get_scale()
    step(optimizer, scaler, (weight * 1e38).sum())
    assert weight.item() == 1 and scaler.get_scale() < before
    step(optimizer, scaler, weight.sum())
    assert weight.item() != 1


@pytest.mark.parametrize("amp", AMP)
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_losses_are_in_float32(device, amp):
    device = torch.device(device)
    precision = Precision(device, AMP[amp])
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, device=device)
    masks = (images[:, 0] > 127).to(torch.uint8)
    model = UNet(1, 1, 4, heads=True).to(device).train()
    loss = engine.supervised_loss(model, model, images, masks, None, precision)
    assert loss.dtype == torch.float32 and loss.isfinite()
    with precision.autocast():
        restored = pretrain.restore(model, images / 255)
    assert restored.dtype == torch.float32 or (device.type == "cpu" and amp != "off")


@needs_cuda
def test_a_gpu_finds_what_a_cpu_finds(data):
    """Without TF32; sums are in another order, so not to the bit."""
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model, found = UNet(1, 1, 8), []
    for name in ("cpu", "cuda"):
        images = Images(open_data(data), open_data(data).test, name)
        precision = Precision(torch.device(name))
        found.append(lesion_probabilities(model, images, 5, precision, views=True))
    np.testing.assert_allclose(*found, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize(
    "words",
    [
        "--query ceal --amp bf16",
        "--query bald --amp fp16",
        "--query dsal --heads --amp bf16",
        "--query badge --self-train --augment all --amp fp16",
        "--query power --mean-teacher --augment all",
        "--query entropy --encoder resnet18 --deterministic",
        "--query margin --encoder resnet18 --frozen",
        "--query random --pool-on host --views --largest",
    ],
)
def test_a_run_on_a_gpu(words, tmp_path):
    colour = "--no-gray" if "resnet18" in words else "--gray"
    call("preprocess", "--demo", 30, "--size", 64, colour, "--out", tmp_path / "data")
    out = tmp_path / "run"
    how = [*LOOP, "--device", "cuda", "--seed", 0, *words.split()]
    call("active_learning", "--data", tmp_path / "data", "--out", out, *how)
    rows = read_csv(out / "round_02" / "metrics.csv")
    assert len(rows) == 6 and all(0 <= float(row["dice"]) <= 1 for row in rows)
    for tensor in load_model(out / "round_02" / "weights.pt").state_dict().values():
        assert tensor.device.type == "cpu"


@needs_cuda
@pytest.mark.parametrize("amp", AMP)
def test_a_pretraining_on_a_gpu_goes_on(data, tmp_path, amp):
    """Interrupted after two epochs, with the optimizer's and the scaler's state; then clusters."""
    words = ["--data", data, "--out", tmp_path / "pre", *PRETRAIN, "--device", "cuda", "--amp", amp]
    with pytest.MonkeyPatch.context() as patch:
        write, times = pretrain.write_csv, []

        def interrupted(path, rows):
            write(path, rows)
            times.append(path)
            if len(times) == 2:
                raise KeyboardInterrupt

        patch.setattr(pretrain, "write_csv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call("pretrain", *words)
    call("pretrain", *words)
    losses = [float(row["validation_loss"]) for row in read_csv(tmp_path / "pre" / "log.csv")]
    assert len(losses) == 4 and np.isfinite(losses).all()
    words = ["--data", data, "--weights", tmp_path / "pre" / "best.pt", "--device", "cuda"]
    call("cluster", *words, "--out", tmp_path / "clusters", "--k", 4, "--budget", 12)
