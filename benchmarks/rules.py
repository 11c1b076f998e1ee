"""Time and memory of every rule that chooses by features, in a large pool.

    OMP_NUM_THREADS=1 python benchmarks/rules.py --out benchmarks/results

Each rule chooses --budget images of --count (33126 is ISIC 2020) with --width features each, in its
own process; those that need a model begin with as many labels, the others with none. Memory is the
largest resident size, less that before the call: the features are in it already. The features are
drawn: clusters of unequal size, nearly parallel as those of a network are, one in a hundred a copy.

Also prints how many times faster the rules of coverage are than their definitions by all pairs
(plain_rules.py), both taken in turn at --ratio-count images, and that they choose the same.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import plain_rules
from benchmarks.measure import in_turn, memory, save
from segmentation.common.door import run_script
from segmentation.common.runfiles import Parser, positive, write_text
from segmentation.selection import coldstart, query, sizefree
from segmentation.selection.strategies import COLD_STARTS, View, ask

BY_MODEL = {  # (features, scores, labelled, budget, rng) -> positions
    "coreset": lambda x, scores, known, budget, rng: coldstart.k_center(x, known, budget, rng),
    "badge": lambda x, scores, known, budget, rng: query.badge(
        x[~known], scores[~known], budget, rng, x[known]
    ),
    "clue": lambda x, scores, known, budget, rng: sizefree.clue(
        x[~known], scores[~known], budget, rng
    ),
    "uherding": lambda x, scores, known, budget, rng: coldstart.uncertainty_herding(
        x, known, budget, rng, np.where(known, 0, scores)
    ),
}
RULES = [*(name for name, rule in COLD_STARTS.items() if "features" in rule.reads), *BY_MODEL]
PLAIN = {  # name -> the definition by all pairs
    "maxherding": lambda x, known, budget, rng: plain_rules.herding(x, known, budget),
    "probcover": plain_rules.probcover,
    "typicover": lambda x, known, budget, rng: plain_rules.typical_cover(x, known, budget),
}


def draw(count, width):
    """Features float32 count x width."""
    rng = np.random.default_rng(0)
    group = rng.choice(40, count, p=rng.dirichlet(np.full(40, 2.0)))
    strength = np.arange(1, width + 1) ** -0.5  # of the directions
    parts = rng.standard_normal((40, width))[group] + 0.7 * rng.standard_normal((count, width))
    basis, _ = np.linalg.qr(rng.standard_normal((width, width)))
    features = (parts * strength) @ basis
    features = np.maximum(1 + features / features.std() / 2, 0).astype(np.float32)
    copies = rng.choice(count, count // 100, replace=False)
    features[copies] = features[rng.choice(count, len(copies))]
    return features


def choose(name, features, budget):
    """What a rule chooses: int64 positions in the pool, or among the unlabelled images."""
    count = len(features)
    scores, known = np.random.default_rng(1).random(count), np.zeros(count, dtype=bool)
    rng = np.random.default_rng(2)
    if name in BY_MODEL:
        known[rng.permutation(count)[:budget]] = True
        return BY_MODEL[name](features, scores, known, budget, rng)
    arrays = {"features": features, "pretext_loss": scores}
    return ask(COLD_STARTS[name], View(known, rng, arrays.__getitem__), budget).places


def measure(name, path, budget):
    """Seconds, seconds of processor time, and bytes of memory above the features."""
    features = np.load(path)
    before, wall, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    choose(name, features, budget)
    return {
        "rule": name,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - busy,
        "peak_bytes": memory("VmHWM") - before,
    }


def compare(count, width, budget):
    """Seconds of ours and of the definition for each rule of coverage, and their ratio."""
    features, none, rows = draw(count, width), np.zeros(count, dtype=bool), []
    for name, plain in PLAIN.items():
        found = {}

        def ours(name=name, found=found):
            found["ours"] = choose(name, features, budget).tolist()

        def slow(plain=plain, found=found):
            found["plain"] = list(plain(features, none, budget, np.random.default_rng(2)))

        times = in_turn({"ours": ours, "plain": slow}, 1)
        ratio, same = times["plain"] / times["ours"], found["ours"] == found["plain"]
        print(f"{name:10} ratio {ratio:.1f} at {count} images, same choices: {same}", flush=True)
        rows.append({"rule": name, **times, "ratio": ratio, "same_choices": same})
    return rows


def table(rows):
    """The rows as Markdown."""
    yield "| rule | seconds | of processor time | peak memory above the features, MiB |"
    yield "| :-- | --: | --: | --: |"
    for row in rows:
        yield (
            f"| {row['rule']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | "
            f"{row['peak_bytes'] / 2**20:.0f} |"
        )


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--count", type=positive, default=33126, help="images in the pool")
    add("--width", type=positive, default=256, help="features of an image")
    add("--budget", type=positive, default=300, help="images to choose")
    add("--ratio-count", type=positive, default=2000, help="images for the comparison")
    add("--rules", nargs="+", choices=RULES, default=RULES, help="rules to measure")
    add("--only", type=Path, help="measure the first of --rules on this .npy, and print JSON")
    add("--out", type=Path, help="folder for rules.json and rules.md")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.rules[0], args.only, args.budget)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, draw(args.count, args.width))
        for name in args.rules:
            command = [sys.executable, __file__, "--only", path, "--rules", name]
            command += ["--budget", args.budget]
            words = list(map(str, command))
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(*list(table(rows))[-1 if rows[1:] else 0 :], sep="\n", flush=True)
    ratios = compare(args.ratio_count, args.width, args.budget)
    sizes = {"images": args.count, "features": args.width, "budget": args.budget}
    save(args.out, "rules", {**sizes, "rows": rows, "ratios": ratios})
    if args.out:
        title = f"# {args.count} images, {args.width} features, {args.budget} to choose\n"
        write_text(args.out / "rules.md", "\n".join([title, *table(rows)]) + "\n")


if __name__ == "__main__":
    run_script(main)
