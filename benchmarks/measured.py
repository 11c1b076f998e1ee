"""What benchmarks/gpu.sh has measured: the mark of a piece that is done, and the page of all.

    python benchmarks/measured.py mark PIECE --run runs/gpu
    python benchmarks/measured.py page --run runs/gpu --out results/gpu --data isic2017

`mark` writes pieces/PIECE.json to --run: the seconds of all calls that it took, from
pieces/PIECE.times, and the hardware. `page` makes --out anew from what is done: README.md,
pieces.csv, the ratios as JSON, and of each table its Markdown, CSV and learning curves, but no
picture of an image.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import OWN
from segmentation.common.door import run_script
from segmentation.common.runfiles import (
    Parser,
    UserError,
    read_json,
    write_csv,
    write_json,
    write_text,
)
from segmentation.common.stages import environment, pick_device

ROOT = Path(__file__).resolve().parents[1]
RATIOS = {  # piece -> what it is, and the goal
    "ratio-corruptions": ("corruptions, batch 64, against the plain loop on one core", "300"),
    "ratio-pretraining": ("pretraining, against the released settings", "25, and 400 images/s"),
    "ratio-deterministic": ("the same with --deterministic", "none"),
    "ratio-scoring": ("CEAL's scoring, T = 20, against the one-image loop", "20"),
    "ratio-encoders": ("training with a pretrained encoder, against a plain U-Net", "1.5"),
}
TABLES = {  # piece -> its title
    "paper": "The protocol of the paper",
    "encoder": "EfficientNet-Lite0 with ImageNet weights",
}
CUT = {
    "paper": "Cut: two seeds of ten, and a pretraining of 60 epochs in batches of 64 by Adam in "
    "place of up to 10000 one by one by SGD.",
    "encoder": "Cut: two seeds of five, three networks of eight, no pretraining.",
}
KEPT = ("*.md", "*.csv", "learning_curves*.png")


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("what", choices=("mark", "page"), help="what to write")
    add("piece", nargs="?", help="the piece that is done, for mark")
    add("--run", type=Path, required=True, help="folder in which benchmarks/gpu.sh works")
    add("--out", type=Path, help="folder for the page")
    add("--data", default="isic2017", help="DATA of benchmarks/gpu.sh")
    add("--device", default="cuda", help="DEVICE of benchmarks/gpu.sh; cpu: it was a rehearsal")
    args = parser.parse_args()
    missing = {"mark": ("piece", args.piece), "page": ("--out", args.out)}[args.what]
    if missing[1] is None:
        raise UserError(f"{args.what} needs {missing[0]}; see measured.py --help")
    return args


def mark(run, piece):
    """Write that a piece is done. UserError if its time was not noted."""
    path = run / "pieces" / f"{piece}.times"
    try:
        seconds = sum(map(int, path.read_text().split()))
    except (OSError, ValueError):
        raise UserError(f"{path}: holds no seconds; give benchmarks/gpu.sh again") from None
    known = {name: value for name, value in environment().items() if name not in OWN}
    known["uncommitted_changes"] = has_changes()
    write_json(run / "pieces" / f"{piece}.json", {"seconds": seconds, **known})


def has_changes():
    """Whether the code differs from the commit; results/, which earlier calls wrote, apart."""
    words = ["git", "status", "--porcelain", "--", ".", ":!results"]
    try:
        found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return bool(found.stdout.strip())


def read_marks(run):
    """The pieces that are done, in the order in which they ended: name -> content of its mark."""
    paths = sorted((run / "pieces").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {path.stem: read_json(path) for path in paths}


def all_of(marks, name, default="none"):
    """What the marks say under a name; several values are listed."""
    values = dict.fromkeys(str(mark[name]) for mark in marks.values() if mark[name] is not None)
    return ", ".join(values) or default


def head(args, marks):
    """The title, and the table of how it was measured."""
    if args.device == "cpu":
        yield "# A rehearsal of benchmarks/gpu.sh on a CPU: these numbers say nothing\n"
    else:
        yield f"# Measured on a GPU: {all_of(marks, 'gpu')}\n"
    given = args.data if args.data in ("isic2017", "demo") else "path/to/isic2017"
    device = "" if args.device == "cuda" else f"DEVICE={args.device} "
    dirty = " (with changes)" if any(one["uncommitted_changes"] for one in marks.values()) else ""
    cores = all_of(marks, "cpu_cores")
    rows = {
        "command": f"`{device}DATA={given} bash benchmarks/gpu.sh`",
        "commit": f"`{all_of(marks, 'commit', 'unknown')}`{dirty}",
        "GPU": all_of(marks, "gpu"),
        "CPU": f"{all_of(marks, 'cpu')}, {cores} cores",
        "versions": f"Python {all_of(marks, 'python')}, torch {all_of(marks, 'torch')}, "
        f"CUDA {all_of(marks, 'cuda')}, cuDNN {all_of(marks, 'cudnn')}",
        "time": f"{sum(one['seconds'] for one in marks.values()) / 60:.0f} min in all, see Pieces",
    }
    yield "| | |\n|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def tests(run, marks):
    """The last line of the CUDA tests."""
    if "tests" in marks:
        lines = (run / "pieces" / "tests.log").read_text(encoding="utf-8").strip().splitlines()
        yield f"\n## CUDA tests\n\n`bash run.sh test -m gpu`: {lines[-1].strip('= ')}"


def ratios(run, marks, out):
    """A table of the ratios; copies what the benchmarks have written."""
    done = [piece for piece in RATIOS if piece in marks]
    if done:
        yield "\n## Ratios\n\n| what | ratio | goal | details |\n| :-- | --: | --: | :-- |"
    for piece in done:
        (path,) = (run / piece).glob("*.json")
        shutil.copyfile(path, out / f"{piece}.json")
        content = read_json(path)
        found = content.get("ratio") or content["training"]["ratio"]
        more = [f"[json]({piece}.json)"]
        if "images_per_second" in content:
            more.append(f"{content['images_per_second']['ours']:.0f} images/s")
            more.append(f"corruption {100 * content['corruption_share']:.0f} % of a step")
        if content.get("utilisation"):
            more.append(f"utilisation {100 * content['utilisation']:.0f} %")
        if "prediction" in content:
            more.append(f"prediction {content['prediction']['ratio']:.1f}")
        what, goal = RATIOS[piece]
        yield f"| {what} | {found:.1f} | {goal} | {', '.join(more)} |"


def table(run, marks, out, name):
    """The Dice of each round of a table, and what else there is; copies its files."""
    if f"{name}-tables" not in marks:
        return
    made = out / name
    made.mkdir()
    for pattern in KEPT:
        for path in sorted((run / name / "tables").glob(pattern)):
            shutil.copyfile(path, made / path.name)
    settings = (run / "pieces" / f"{name}.settings").read_text(encoding="utf-8").splitlines()
    last = dict(line.split("=", 1) for line in settings if not line.startswith("DATA_OUT="))
    words = " ".join(
        f'{key}="{value}"' if " " in value else f"{key}={value}" for key, value in last.items()
    )
    yield f"\n## {TABLES[name]}\n\n`{words} bash run.sh`\n\n{CUT[name]}\n"
    rounds = (made / "rounds.md").read_text(encoding="utf-8").splitlines()
    yield from (line for line in rounds if line.startswith("|"))
    files = ", ".join(f"[{path.name}]({name}/{path.name})" for path in sorted(made.glob("*.md")))
    yield f"\nMean ± sd over two seeds. {files}"
    if (made / "learning_curves.png").exists():
        yield f"\n![Dice against labels]({name}/learning_curves.png)"


def pieces(marks, out):
    """The time of each piece."""
    rows = [
        {"piece": name, "seconds": one["seconds"], "gpu": one["gpu"], "commit": one["commit"]}
        for name, one in marks.items()
    ]
    write_csv(out / "pieces.csv", rows)
    yield "\n## Pieces\n\n| piece | s | commit |\n| :-- | --: | :-- |"
    for row in rows:
        yield f"| {row['piece']} | {row['seconds']} | {str(row['commit'])[:8]} |"


def page(args):
    """Write the page anew. UserError if no piece is done, or --out is not such a page."""
    marks = read_marks(args.run)
    if not marks:
        raise UserError(f"{args.run}: no piece is done yet; see {args.run / 'pieces'}")
    if args.out.exists():
        if not (args.out / "pieces.csv").exists():
            raise UserError(f"{args.out}: is no page of benchmarks/gpu.sh; give another OUT")
        shutil.rmtree(args.out)
    args.out.mkdir(parents=True)
    lines = [*head(args, marks), *tests(args.run, marks), *ratios(args.run, marks, args.out)]
    for name in TABLES:
        lines += table(args.run, marks, args.out, name)
    lines += pieces(marks, args.out)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    write_text(args.out / "README.md", f"{text}\n")
    print(f"wrote {args.out}/README.md")


def main():
    args = parse_args()
    if args.what == "mark":
        if ":" in args.device:
            pick_device(args.device)  # makes this card the one that is named
        mark(args.run, args.piece)
    else:
        page(args)


if __name__ == "__main__":
    run_script(main)
