"""What the benchmarks share: times taken in turn, and the record of where they were taken."""

import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from segmentation.common.runfiles import write_json
from segmentation.common.stages import environment

OWN = ("host",)  # of the environment: nobody else's business


def hardware():
    """Command, commit, processor, card and versions."""
    known = {name: value for name, value in environment().items() if name not in OWN}
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {"command": command, "environment": known}


def seconds(function, device="cpu"):
    """Wall time of one call, until a CUDA device has finished too."""
    synchronise = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def in_turn(functions, repeats, device="cpu"):
    """Median seconds of each of a dict of functions, called in turn after one call to warm up.

    Taking turns keeps their ratio meaningful where the speed of the machine drifts.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: statistics.median(values) for name, values in times.items()}


def per_image(times, count):
    """Print and return the milliseconds per image of what took so many seconds for `count`."""
    values = {name: 1000 * value / count for name, value in times.items()}
    for name, value in values.items():
        print(f"{name:12} {value:8.3f} ms per image")
    return values


def save(folder, name, content):
    """Write what was measured, and on what, to folder/name.json, if a folder was given."""
    if folder:
        write_json(Path(folder) / f"{name}.json", {**content, **hardware()})
