"""Interrupts every stage at random moments, starts it again, and compares the bytes at the end.

    python tests/kill_harness.py --moments 100

Each moment is drawn over the time that the stage takes without interruption, and so is the signal:
SIGKILL, SIGTERM or SIGINT (Ctrl-C). A stage is interrupted up to three times before it may finish.
SIGTERM and SIGINT have to end it within ten seconds, with 143 or 130 and one line (there is none
yet in the first tenths of a second, while Python starts). Then all files must have the bytes of an
undisturbed run's, but for times in logs. Prints a line per moment, and exits with 1 if one has
failed.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 10  # seconds to leave in
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
IMAGES = 60
LEFT_OUT = {"inputs.json", "last.pt", "env.json"}  # times of files and epochs; the checkout


def stages(base):
    """name -> words of a command without --out, in the order in which they need each other."""
    data, pretrain, cluster = (base / f"whole-{name}" for name in ("data", "pretrain", "cluster"))
    loop = "--width 4 --initial 8 --per-round 6 --rounds 2 --epochs 6 --epochs-round 4 --batch 4"
    loop += " --lr 0.003 --passes 10 --init all --cold-start saal --query ceal"
    return {
        "data": ["preprocess.py", "--demo", IMAGES, "--size", 64],
        "pretrain": [
            "self_supervised/pretrain.py",
            *("--data", data, "--width", 4, "--batch", 8, "--epochs", 6, "--optimizer", "adam"),
        ],
        "cluster": [
            "cluster.py",
            *("--data", data, "--weights", pretrain / "best.pt", "--k", 4, "--budget", 12),
        ],
        "seg": [
            "segmentation/active_learning.py",
            *("--data", data, "--weights", pretrain / "best.pt", "--clusters", cluster),
            *loop.split(),
        ],
        "masks": [
            "segmentation/predict.py",
            *("--weights", base / "whole-seg" / "round_02" / "weights.pt", base / "photos"),
            "--drafts",
            "coco",
        ],
    }


def start(words, out):
    command = [sys.executable, str(ROOT / words[0]), *map(str, words[1:]), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


def content(folder):
    """Relative path -> bytes of what is not hidden.

    Logs are without their last column, the seconds, and JSON files without the folder's own name.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or any(part.startswith(".") for part in name.parts):
            continue
        data = path.read_bytes()
        if path.name == "log.csv":
            data = b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())
        if path.suffix == ".json":
            data = data.replace(str(folder).encode(), b"").replace(folder.name.encode(), b"")
        if path.name in LEFT_OUT:
            continue
        found[str(name)] = data
    return found


def photographs(folder):
    """Pictures for predict.py."""
    sys.path.insert(0, str(ROOT))
    from PIL import Image

    from segmentation.data.synthetic import draw_lesion

    folder.mkdir(parents=True)
    for index in range(40):
        Image.fromarray(draw_lesion(index, 1, (96, 128))[0]).save(folder / f"{index}.png")


def wrong_exit(number, code, error, took):
    """What is wrong with how a process has ended after a signal; empty if nothing is."""
    lines = error.splitlines()
    loading = code == -number or "KeyboardInterrupt" in error
    if number == signal.SIGKILL or code == 0:
        return ""
    if took > LIMIT:
        return f"took {took:.0f} s to leave"
    if loading and "run_script" not in error:
        return ""
    if code != CODES[number]:
        return f"left with {code}"
    if len(lines) != 1 or "stopped by" not in lines[0]:
        return f"said {lines}"
    return ""


def interrupt(words, out, rng, seconds):
    """Start a stage, send a signal at a random moment: (what is wrong, is it done, what was)."""
    number, wait = rng.choice(list(CODES)), rng.uniform(0, seconds)
    process = start(words, out)
    try:
        error = process.communicate(timeout=wait)[1]
        return "", process.returncode == 0, f"done before {wait:.1f} s"
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    sent = time.monotonic()
    try:
        error = process.communicate(timeout=6 * LIMIT)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"had not left after {6 * LIMIT:g} s", False, f"{number.name} at {wait:.1f} s"
    wrong = wrong_exit(number, process.returncode, error, time.monotonic() - sent)
    return wrong, process.returncode == 0, f"{number.name} at {wait:.1f} s"


def moment(name, words, base, expected, seconds, rng):
    """Interrupt one stage and let it finish: (what is wrong, what was done)."""
    out, told = base / f"killed-{name}", []
    shutil.rmtree(out, ignore_errors=True)
    for _ in range(rng.randint(1, 3)):
        wrong, done, what = interrupt(words, out, rng, seconds)
        told.append(what)
        if wrong or done:
            break
    else:
        done = False
    if not wrong and not done:
        process = start(words, out)
        error = process.communicate(timeout=600)[1]
        wrong = "" if process.returncode == 0 else f"did not finish: {error.strip()[-300:]}"
    if not wrong:
        found = content(out)
        same = found.keys() | expected.keys()
        other = sorted(key for key in same if found.get(key) != expected.get(key))
        wrong = f"other files: {', '.join(other)}" if other else ""
    return wrong, ", ".join(told)


def run(count, seed, base, say=print):
    """Carry out `count` moments: the number of those that failed."""
    photographs(base / "photos")
    rng, undisturbed, failed = random.Random(seed), {}, 0
    for name, words in stages(base).items():
        started = time.monotonic()
        whole = base / f"whole-{name}"
        process = start(words, whole)
        error = process.communicate(timeout=600)[1]
        assert process.returncode == 0, error
        undisturbed[name] = content(whole), time.monotonic() - started
    for number in range(count):
        name, words = rng.choice(list(stages(base).items()))
        wrong, told = moment(name, words, base, *undisturbed[name], rng)
        failed += bool(wrong)
        say(f"{number + 1}/{count} {name}: {told}: {wrong or 'equal'}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = run(args.moments, args.seed, Path(folder))
    print(f"{args.moments - failed} of {args.moments} as they should be")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
