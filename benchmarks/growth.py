"""Time and memory of the steps that process the whole pool, against the size of the pool.

    python benchmarks/growth.py --out benchmarks/results

For pools of 1000 to 33126 images (33126 is ISIC 2020) of 64 x 64 pixels: features of a U-Net,
k-means on 2048 dimensions, the cold-start choice, CEAL's scoring (20 passes) and its query. Each
size runs in its own process, on images of noise: their content affects only the number of
iterations of k-means. Memory is that of the process, without the page cache of the arrays.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.measure import memory, save, seconds
from segmentation.common import pictures
from segmentation.common.door import run_script
from segmentation.common.precision import Precision
from segmentation.common.runfiles import Parser, positive
from segmentation.data.datafolder import Data
from segmentation.data.images import Images
from segmentation.model.unet import UNet
from segmentation.selection import coldstart, geometry, query
from segmentation.selection.uncertainty import score_ceal
from self_supervised.features import genesis

SIZES = (1000, 4000, 16000, 33126)
PIXELS = 64


class Peak(threading.Thread):
    """A thread that records the largest memory of this process, memory-mapped files apart."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self):
        while True:
            self.bytes = max(self.bytes, memory("RssAnon"))
            time.sleep(0.02)


def make_data(folder, count):
    """A `Data` with images of noise, its arrays on disk."""
    arrays = {}
    for name, shape in (("images", (count, PIXELS, PIXELS, 1)), ("masks", (count, PIXELS, PIXELS))):
        path = folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, count, 1000):
            part = array[start : start + 1000]
            part[:] = np.random.default_rng(start).integers(0, 2, part.shape, np.uint8)
            if name == "images":
                part *= 255
        array.flush()
        del array
        arrays[name] = np.load(path, mmap_mode="r")
    ids = [f"N{row:06d}" for row in range(count)]
    known = dict.fromkeys(ids, True)
    return Data(
        folder,
        ids,
        has_mask=known,
        pool=ids,
        linked=[],
        test=[],
        synthetic=True,
        fingerprint="",
        **arrays,
    )


def measure(count, width):
    """Seconds of each step on a pool of `count` images, and the peak memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), count)
        peak = Peak()
        peak.start()
        torch.manual_seed(0)
        model, rng = UNet(1, 1, width, dropout=0.5), np.random.default_rng(0)
        precision = Precision(torch.device("cpu"))
        images = Images(data, data.pool, precision.device)
        content, times = {}, {}

        def step(name, function):
            def keep():
                content[name] = function()

            times[name] = seconds(keep)

        step("features", lambda: genesis(model, images, 2, 32))
        features = rng.standard_normal((count, 2048), dtype=np.float32)
        features[:, :8] += rng.integers(0, 3, (count, 8)) * 4
        step("k-means", lambda: geometry.kmeans(features, 10, 0))
        found, none = content["k-means"], np.zeros(count, dtype=bool)
        step("cold start", lambda: coldstart.saal(found.cluster, found.distance, none, 300))
        step("scoring", lambda: score_ceal(model, images, 20, (0, "growth"), 10, precision))
        settings = query.CealSettings()
        step("query", lambda: query.ceal(rng.random(count), 35, rng, settings))
        return {"images": count, "seconds": times, "peak_bytes": peak.bytes}


def draw(path, rows):
    """Time and memory against the size of the pool."""
    figure = pictures.new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    counts = [row["images"] for row in rows]
    for name in rows[0]["seconds"]:
        left.plot(counts, [row["seconds"][name] for row in rows], "o-", label=name)
    left.plot(counts, [count * 1e-3 for count in counts], "k:", label="1 ms per image")
    left.set(xscale="log", yscale="log", xlabel="images in the pool", ylabel="seconds")
    left.legend(fontsize=8, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    right.plot(counts, [row["peak_bytes"] / 2**30 for row in rows], "o-")
    right.set(xlabel="images in the pool", ylabel="peak memory without page cache (GiB)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    pictures.save(figure, path)


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--sizes", type=positive, nargs="+", default=SIZES, help="pool sizes to measure")
    add("--width", type=positive, default=4, help="U-Net channels at full resolution")
    add("--only", type=positive, help="measure only this size and print JSON")
    add("--out", type=Path, help="folder for growth.json and growth.png")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.width)))
        return
    rows = []
    for count in args.sizes:
        command = [sys.executable, __file__, "--only", str(count), "--width", str(args.width)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        steps = ", ".join(f"{name} {value:.2f} s" for name, value in rows[-1]["seconds"].items())
        print(f"{count:6d} images: {steps}; {rows[-1]['peak_bytes'] / 2**30:.2f} GiB", flush=True)
    save(args.out, "growth", {"rows": rows})
    if args.out:
        draw(args.out / "growth.png", rows)


if __name__ == "__main__":
    run_script(main)
