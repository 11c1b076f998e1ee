"""Shared by the benchmarks: timing in turn, and recording results and hardware."""

import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from segmentation.common.runfiles import write_json
from segmentation.common.stages import environment

OWN = ("host",)  # private entries of the environment, not recorded


def hardware():
    """Command, commit, processor, GPU and versions."""
    known = {name: value for name, value in environment().items() if name not in OWN}
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {"command": command, "environment": known}


def seconds(function, device="cpu"):
    """Wall time of one call in seconds, including the work of a CUDA device."""
    synchronise = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def memory(field):
    """Memory of this process in bytes, by a field of /proc/self/status: VmRSS is what it has now,
    VmHWM the most it has had, RssAnon what it has now without memory-mapped files.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def in_turn(functions, repeats, device="cpu"):
    """Median seconds of each function in a dict, called in turn after one warm-up call each.

    Calling them in turn keeps their ratio meaningful if the speed of the machine drifts.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: statistics.median(values) for name, values in times.items()}


def per_image(times, count):
    """Print and return milliseconds per image; `times` are seconds for `count` images."""
    values = {name: 1000 * value / count for name, value in times.items()}
    for name, value in values.items():
        print(f"{name:12} {value:8.3f} ms per image")
    return values


def save(folder, name, content):
    """Write the results and the hardware to folder/name.json, if a folder is given."""
    if folder:
        write_json(Path(folder) / f"{name}.json", {**content, **hardware()})
