"""The precision of computations and their compilation: mixed precision, TF32, torch.compile.

On a CUDA GPU, networks train and score in bfloat16 autocast, or in float16 with loss scaling if the
GPU has no bfloat16. `--amp off` is float32, the default on CPUs; on a CUDA GPU its convolutions may
round their inputs to TF32, unless --no-tf32 is given. Test images are always predicted in float32.

On a CPU the same command gives the same bytes, on a CUDA GPU only with --deterministic.
"""

import argparse
import os
import sys
from dataclasses import dataclass

import torch

from segmentation.common.runfiles import UserError

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # those with which cuBLAS is deterministic
COMPILE = {"off": None, "on": "default", "graphs": "reduce-overhead"}


def add_options(parser):
    """Add the options that `Precision.of` reads."""
    add = parser.add_argument
    add("--amp", choices=("auto", *AMP), default="auto", help="mixed precision; auto: on CUDA")
    add("--compile", choices=COMPILE, default="off", help="torch.compile; graphs: CUDA graphs too")
    add(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether float32 convolutions on CUDA may round their inputs to TF32",
    )
    add(
        "--deterministic",
        action="store_true",
        help="on CUDA: the same bytes in each call on the same GPU, at the cost of speed",
    )
    add_pool_option(parser)


def add_pool_option(parser):
    """Add the option whose value is `hold` of `Images` in data/images.py."""
    help = "where images are kept: in the device's memory, or in the memory-mapped file (host)"
    parser.add_argument("--pool-on", choices=("auto", "device", "host"), default="auto", help=help)


@dataclass(frozen=True)
class Precision:
    """The values of the options of `add_options`, resolved for one device."""

    device: torch.device
    amp: torch.dtype | None = None  # of autocast; None: float32
    compile: str | None = None  # a mode of torch.compile; None: eager

    @classmethod
    def of(cls, args, device):
        """From parsed options. Also sets TF32 and determinism, for the whole process.

        With --deterministic an operation that has no deterministic algorithm is an error, by
        PyTorch, which run_script makes one line. This project's own networks and losses have
        none: by PyTorch's list, bilinear enlargement then goes through indexing, whose gradient is
        summed in a fixed order, and what grid_sample moves has no gradient. UserError if the
        environment has cuBLAS work otherwise.
        """
        if args.deterministic:
            set_deterministic()
        name = args.amp
        if name == "auto":
            name = "off"
            if device.type == "cuda":
                has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
                name = "bf16" if has_bf16 else "fp16"
        torch.backends.cudnn.allow_tf32 = args.tf32
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        return cls(device, AMP[name], COMPILE[args.compile])

    def autocast(self):
        """The context in which networks are called."""
        return torch.autocast(self.device.type, self.amp, enabled=self.amp is not None)

    def scaler(self):
        """The GradScaler for training: it scales losses for float16, otherwise it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)

    def compiled(self, function):
        """`function`, compiled if the options ask for it and compilation works."""
        return Compiled(function, self.compile) if self.compile else function


def set_deterministic():
    """Ask PyTorch and cuBLAS for the same bytes in each call; before the first use of CUDA."""
    workspace = os.environ.setdefault(CUBLAS, WORKSPACES[0])  # read when cuBLAS starts
    if workspace not in WORKSPACES:
        raise UserError(f"--deterministic: {CUBLAS}={workspace}; unset it, or set it to :4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def step(optimizer, scaler, loss):
    """One optimizer step on a scalar `loss`; `scaler` is from `Precision.scaler`."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


class Compiled:
    """A function that torch.compile compiles on the first call; if that fails, it is used as is."""

    def __init__(self, function, mode):
        self.plain = function
        self.fast = torch.compile(function, mode=mode)

    def __call__(self, *args):
        if self.fast is None:
            return self.plain(*args)
        try:
            return self.fast(*args)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, a GPU that is too old, an unsupported graph
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"warning: torch.compile failed, running without it: {reason}", file=sys.stderr)
            self.fast = None
            return self.plain(*args)
