"""preprocess.py with one worker against all cores, on images at camera resolution.

    python benchmarks/preprocessing.py --root path/to/full_resolution_images

Both call the script as a user would, in turn. Each call reads every image --copies times, under
different names, so that the start-up time of Python matters little.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import in_turn, save
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, positive
from segmentation.data.ids import flat_name
from segmentation.data.sources import find_folders, pair

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder, as for preprocess.py")
    add("--copies", type=positive, default=3, help="how many times each image is read")
    add("--repeats", type=positive, default=3, help="number of timings")
    add("--out", type=Path, help="folder for preprocessing.json")
    args = parser.parse_args()
    sources, _ = pair(*find_folders(args.root))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for copy in range(args.copies):
            for source in sources:
                for kind, path in (("images", source.image), ("masks", source.mask)):
                    (folder / kind).mkdir(exist_ok=True)
                    link = folder / kind / f"{flat_name(source.id)}_{copy}{path.suffix}"
                    link.symlink_to(path.resolve())

        def call(workers):
            out = folder / f"out{workers}"
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, "preprocess.py", "--root", str(folder), "--out", str(out)]
            command += ["--workers", str(workers)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

        cores = len(os.sched_getaffinity(0))
        functions = {"one worker": lambda: call(1), f"{cores} workers": lambda: call(cores)}
        times = in_turn(functions, args.repeats)
    one, several = times.values()
    count = args.copies * len(sources)
    for name, value in times.items():
        print(f"{name:12} {value:6.2f} s for {count} pairs, including the start of Python")
    print(f"ratio {one / several:.2f} on {cores} cores")
    content = {"seconds": times, "pairs": count, "ratio": one / several}
    save(args.out, "preprocessing", content)


if __name__ == "__main__":
    run_script(main)
