"""Number formats and compilation: what the options mean, and what happens without a compiler."""

import argparse
import os

import pytest
import torch
from conftest import CUDA, LOOP, PRETRAIN, call, needs_cuda

from segmentation.common import precision
from segmentation.common.precision import Precision
from segmentation.common.runfiles import UserError
from segmentation.common.stages import load_weights, sha256_tensors
from segmentation.model.unet import load_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("torch_settings")


def parsed(*words):
    parser = argparse.ArgumentParser()
    precision.add_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "amp"),
    [
        ([], None),
        (["--amp", "auto"], None),
        (["--amp", "off"], None),
        (["--amp", "bf16"], torch.bfloat16),
        (["--amp", "fp16"], torch.float16),
    ],
)
def test_number_formats_on_the_cpu(words, amp):
    how = Precision.of(parsed(*words), CPU)
    assert how == Precision(CPU, amp, None)
    with how.autocast():
        made = torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1))
    assert made.dtype == (amp or torch.float32)
    assert how.scaler().is_enabled() == (amp is torch.float16)


@pytest.mark.parametrize(
    ("capability", "amp"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_auto_on_a_card_is_the_format_that_it_has(capability, amp, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert Precision.of(parsed(), torch.device("cuda")).amp is amp
    assert Precision.of(parsed("--amp", "off"), torch.device("cuda")).amp is None


@pytest.mark.parametrize(("word", "allowed"), [("--tf32", True), ("--no-tf32", False)])
def test_tf32_is_allowed_or_not(word, allowed):
    for before in (False, True):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
        Precision.of(parsed(word), CPU)
        assert torch.backends.cudnn.allow_tf32 == allowed
        assert torch.backends.cuda.matmul.allow_tf32 == allowed


def test_determinism_is_asked_of_pytorch():
    Precision.of(parsed(), CPU)
    assert not torch.are_deterministic_algorithms_enabled()
    Precision.of(parsed("--deterministic"), CPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_is_not_deterministic_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    Precision.of(parsed("--deterministic"), CPU)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    Precision.of(parsed(), CPU)
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:0:0; unset it"):
        Precision.of(parsed("--deterministic"), CPU)


@pytest.mark.parametrize("network", [[], ["--encoder", "resnet18"]], ids=["paper", "resnet18"])
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_same_bytes_again(tmp_path, network, device):
    """On a CPU with and without --deterministic, on a GPU with it; all that a training may use."""
    call("preprocess", "--demo", 24, "--size", 64, "--test-count", 4, "--out", tmp_path / "data")
    words = ["--data", tmp_path / "data", "--seed", 0, *LOOP, "--rounds", 1, "--augment", "all"]
    words += ["--self-train", "--device", device, *network]
    made = []
    for number, more in enumerate(
        ([] if device == "cpu" else ["--deterministic"], ["--deterministic"])
    ):
        call("active_learning", *words, *more, "--out", tmp_path / str(number))
        state = load_model(tmp_path / str(number) / "round_01" / "weights.pt").state_dict()
        made.append({name: tensor.cpu().numpy().tobytes() for name, tensor in state.items()})
    assert made[0] == made[1]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_same_bytes_again_of_a_pretraining(data, tmp_path, device):
    """As above: on a CPU with and without --deterministic, on a GPU with it."""
    words = ["--data", data, *PRETRAIN, "--device", device]
    for out, more in (("0", ["--deterministic"][device == "cpu" :]), ("1", ["--deterministic"])):
        call("pretrain", *words, *more, "--out", tmp_path / out)
    for name in ("best.pt", "encoder.pt", "last.pt"):
        read = (load_weights(tmp_path / out / name, "") for out in "01")
        states = [content["model"] for content in read]
        assert sha256_tensors(states[0]) == sha256_tensors(states[1]), name


@pytest.mark.parametrize(
    ("words", "mode"),
    [(["--compile", "on"], "default"), (["--compile", "graphs"], "reduce-overhead")],
)
def test_what_is_compiled(words, mode, monkeypatch):
    asked = []

    def compile(function, mode):
        asked.append(mode)
        return lambda x: function(x) + 100

    monkeypatch.setattr(torch, "compile", compile)
    assert Precision.of(parsed(*words), CPU).compiled(lambda x: x + 1)(1) == 102
    assert Precision.of(parsed(), CPU).compiled(lambda x: x + 1)(1) == 2
    assert asked == [mode]


def test_without_a_compiler_it_goes_on_with_one_warning(monkeypatch, capsys):
    tried = []

    def compile(function, mode):
        def fails(*args):
            tried.append(args)
            raise RuntimeError("no compiler\nand a long story\n")

        return fails

    monkeypatch.setattr(torch, "compile", compile)
    function = Precision(CPU, None, "default").compiled(lambda x, y: x - y)
    assert [function(5, n) for n in range(4)] == [5, 4, 3, 2]
    assert tried == [(5, 0)]
    printed = capsys.readouterr()
    line = "warning: torch.compile failed, running without it: no compiler\n"
    assert (printed.out, printed.err) == ("", line)


def test_a_failure_without_words_is_named_by_its_kind(monkeypatch, capsys):
    def compile(function, mode):
        def fails():
            raise NotImplementedError

        return fails

    monkeypatch.setattr(torch, "compile", compile)
    assert Precision(CPU, None, "default").compiled(lambda: 3)() == 3
    assert capsys.readouterr().err.endswith("without it: NotImplementedError\n")


def test_an_error_of_the_function_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, mode: function)

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Precision(CPU, None, "default").compiled(fails)()


@needs_cuda
def test_auto_on_cuda_is_mixed_precision():
    how = Precision.of(parsed(), torch.device("cuda"))
    assert how.amp in (torch.bfloat16, torch.float16)
    with how.autocast():
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype is how.amp
