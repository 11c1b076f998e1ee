"""How a step is carried out, whatever it computes: number formats and compiled graphs.

On a CUDA card networks train and score in bfloat16 autocast, or in float16 with scaled losses
where the card has no bfloat16. `--amp off` is float32, the default on CPUs; on a CUDA card its
convolutions may round their inputs to TF32, unless --no-tf32. Test images are always predicted in
float32.
"""

import argparse
import sys
from dataclasses import dataclass

import torch

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE = {"off": None, "on": "default", "graphs": "reduce-overhead"}


def add_options(parser, default="auto"):
    """Add the options that `Precision.of` reads."""
    add = parser.add_argument
    add("--amp", choices=("auto", *AMP), default=default, help="mixed precision; auto: on CUDA")
    add("--compile", choices=COMPILE, default="off", help="torch.compile, also with CUDA graphs")
    add(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether float32 convolutions on CUDA may round their inputs to TF32",
    )
    add_pool_option(parser)


def add_pool_option(parser):
    """Add the option that data/images.py's `Images` takes as `hold`."""
    help = "where images wait: in the device's memory, or in the memory-mapped file (host)"
    parser.add_argument("--pool-on", choices=("auto", "device", "host"), default="auto", help=help)


@dataclass(frozen=True)
class Precision:
    """What `add_options` asks for, resolved for one device."""

    device: torch.device
    amp: torch.dtype | None = None  # of autocast; None: float32
    compile: str | None = None  # a mode of torch.compile; None: eager

    @classmethod
    def of(cls, args, device):
        """From parsed options. Sets TF32, which PyTorch keeps for the whole process."""
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
        """The GradScaler of a training: float16 needs scaled losses, else it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)

    def compiled(self, function):
        """`function`, compiled if that was asked for and can be."""
        return Compiled(function, self.compile) if self.compile else function


def step(optimizer, scaler, loss):
    """One optimizer step down the gradient of a scalar `loss`, scaled by a `Precision.scaler`."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


class Compiled:
    """A function that torch.compile compiles on the first call, or that stays as it is."""

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
        except Exception as error:  # there is no compiler, a card is too old, a graph is refused
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"warning: torch.compile failed, going on without it: {reason}", file=sys.stderr)
            self.fast = None
            return self.plain(*args)
