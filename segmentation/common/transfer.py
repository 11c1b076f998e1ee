"""Tensors from the CPU to the device, without waiting for what the device is doing."""

import torch


def sent(tensor, device):
    """A CPU tensor on `device`: the same values, dtype and shape; on the CPU the tensor itself.

    An ordinary copy to a CUDA GPU waits until all work before it is done, so that the GPU has
    nothing to do while the CPU prepares the next step. From page-locked memory it is queued.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.numel():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
