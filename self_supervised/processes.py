"""The processes of one training: one, or as many as torchrun starts, each with its own device.

    torchrun --standalone --nproc_per_node 4 self_supervised/pretrain.py ...

torchrun gives each process its rank in environment variables. The processes exchange data through
NCCL on CUDA devices and through gloo on CPUs.
"""

import gc
import os

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from segmentation.common.stages import pick_device


class Processes:
    """This process among `count`: `rank` 0 writes the files, all of them train."""

    def __init__(self, device_name):
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.device = pick_device(device_name)
        if self.count == 1:
            return
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        from torch import _dynamo  # noqa: F401, keeps a group that is there when it is imported

        distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    @property
    def writes(self):
        """Whether this process writes files and reports."""
        return self.rank == 0

    def say(self, text):
        """Print a line, once for all processes."""
        if self.writes:
            print(text, flush=True)

    def wait(self):
        """Return when all processes have reached this point."""
        if self.count > 1:
            distributed.barrier()

    def leave(self):
        """Leave the group and end its threads: nothing is shared afterwards.

        A thread that is left may drop a tensor while Python shuts down, which aborts the process:
        https://github.com/pytorch/pytorch/issues/190489.
        """
        if self.count > 1:
            gc.collect()  # a wrapped model keeps the group, and is in a cycle
            distributed.destroy_process_group()

    def share(self, items):
        """This process's part of a sequence: every `count`-th item."""
        return items[self.rank :: self.count]

    def wrap(self, model):
        """`model`, with gradients that are averaged over the processes in each backward pass."""
        return DistributedDataParallel(model) if self.count > 1 else model

    def alike(self, model):
        """Give all processes the running statistics of process 0, to use `model` unwrapped."""
        if self.count > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def sum(self, values):
        """The sum of a tensor over all processes, the same in each."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values
