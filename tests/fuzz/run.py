"""Fuzz every parser of files: a value or a UserError comes out, in bounded time and memory.

    pip install -r tests/fuzz/requirements.txt
    python tests/fuzz/run.py --seconds 600                  # each target for ten minutes
    python tests/fuzz/run.py --seconds 60 annotations masks
    python tests/fuzz/run.py --replay annotations FILE      # a finding again, with its traceback

Coverage guides the mutation of small valid files (atheris, libFuzzer). A target fails on any other
exception, after 20 s for one input, or above 2 GiB. The input that failed stays in --findings. It
prints a line per target, and exits with 1 if one has failed. Once mended, a finding becomes a case
of tests/test_fuzz.py.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1"]


def child(name, corpus, findings, seconds):
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["segmentation"]):
        import targets
    target = targets.TARGETS[name](Path(tempfile.mkdtemp()))
    words = [sys.argv[0], str(corpus), *LIMITS, f"-max_total_time={seconds}"]
    atheris.Setup([*words, f"-artifact_prefix={findings}/"], target)
    atheris.Fuzz()


def fuzz(name, seconds, findings):
    """Fuzz one target in a process of its own: (has it failed, what came of it)."""
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder)
        words = [
            sys.executable,
            __file__,
            "--child",
            name,
            str(corpus),
            str(findings),
            str(seconds),
        ]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    count = stats.get("number_of_executed_units", "?")
    if done.returncode == 0:
        return False, f"{count} inputs, nothing found"
    lines = done.stderr.strip().splitlines()
    failure = r"[\w.]*(Error|Exception|Warning)\b|.*ERROR: libFuzzer: (timeout|out-of-memory)"
    raised = [line for line in lines if re.match(failure, line)]
    return True, f"{count} inputs, {raised[-1] if raised else lines[-1] if lines else 'died'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="targets; else all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"))
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]
    import targets

    if args.replay:
        name, path = args.replay
        targets.TARGETS[name](Path(tempfile.mkdtemp()))(Path(path).read_bytes())
        return
    failed = False
    for name in args.names or targets.TARGETS:
        bad, told = fuzz(name, args.seconds, args.findings / name)
        failed |= bad
        print(f"{name}: {args.seconds} s, {told}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]
        _, _, name, corpus, findings, seconds = sys.argv
        import targets

        targets.write_corpus(name, Path(corpus))
        child(name, corpus, findings, seconds)
    main()
