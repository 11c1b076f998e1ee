"""Carry out many calls, a few at a time, and say how far it is.

    python segmentation/schedule.py --jobs 2 < list
    python segmentation/schedule.py --jobs 2 -- segmentation/active_learning.py --width 8 < list

Each line of standard input is a call, quoted as for a shell: its name, by which it is reported, and
the words for Python, which follow those after --. Calls start in the order of the list. One that
finds itself finished is done in seconds; after an interruption the same list goes on where it was.
A call that fails does not stop the others: they are named at the end, with exit code 2. Ctrl-C and
SIGTERM (`kill`) end all calls first. The cores are shared out among the calls, unless
OMP_NUM_THREADS is set.
"""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from segmentation.common.door import leave_at_once

    leave_at_once()  # while modules are imported

from segmentation.common.door import Stopped, end, run_script
from segmentation.common.runfiles import Parser, UserError, positive

FINISHED = "finished already"  # what a script says that has nothing left to do


def jobs(text):
    """An argparse type: a positive number, or auto."""
    return text if text == "auto" else positive(text)


def parse_args():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--jobs", type=jobs, default=1, help="calls at a time; auto: 1 on a GPU, else 1 per core")
    add("--device", default="auto", help="what the calls run on, for --jobs auto")
    add("script", nargs="*", help="a script and options of all calls, after --")
    return parser.parse_args()


def cores():
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_gpu(device):
    """Whether calls with this --device use a GPU."""
    if device != "auto":
        return device.startswith("cuda")
    import torch  # takes seconds

    return torch.cuda.is_available()


def read_calls(lines, script):
    """Lists of words, one per line that is not blank.

    UserError for an open quote, and for a name alone if there is no `script` of all calls.
    """
    calls = []
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UserError(f"call {number}: {error}; quote it as for a shell") from None
        if words and not (words[1:] or script):
            raise UserError(f"call {number}: {words[0]} is a name alone; add a script and options")
        if words:
            calls.append(words)
    return calls


def clock(seconds):
    """Seconds as H:MM:SS."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def time_left(durations, waiting, jobs):
    """Seconds until `waiting` calls are done, by the mean of `durations`; None without any."""
    if not durations:
        return None
    return sum(durations) / len(durations) * waiting / jobs


class Schedule:
    """The calls of a list, and what has become of them."""

    def __init__(self, script, calls, jobs):
        self.script, self.count, self.jobs = script, len(calls), jobs
        self.waiting = queue.SimpleQueue()
        for call in calls:
            self.waiting.put(call)
        self.environment = {"OMP_NUM_THREADS": str(max(1, cores() // jobs)), **os.environ}
        self.lock = threading.Lock()
        self.stopping, self.running, self.error = False, set(), None
        self.started = time.monotonic()
        self.durations = []  # of the calls that had something to do
        self.done, self.failed = 0, {}

    def work(self):
        """Carry out calls until none is waiting; one thread of several.

        What keeps it from that, as a full disk below the output, ends all calls.
        """
        try:
            self.carry_out()
        except BaseException as error:
            self.error = self.error or error
            self.stop()

    def carry_out(self):
        while True:
            try:
                name, *options = self.waiting.get_nowait()
            except queue.Empty:
                return
            started = time.monotonic()
            found = self.call(name, options)
            if found is None:
                return
            code, skipped, last = found
            with self.lock:
                self.done += 1
                if code:
                    self.failed[name] = last
                elif not skipped:
                    self.durations.append(time.monotonic() - started)
                self.report()

    def call(self, name, options):
        """One call in a process of its own: exit code, was it finished before, its last line.

        None if all calls are being stopped.
        """
        words = [sys.executable, *self.script, *options]
        skipped, last = False, ""
        with self.lock:
            if self.stopping:
                return None
            self.say(f"[{name}] + {shlex.join(words)}")
            process = subprocess.Popen(
                words,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
            )
            self.running.add(process)
        assert process.stdout is not None  # it is a pipe
        with process.stdout:
            for line in process.stdout:
                skipped |= FINISHED in line
                last = line.rstrip()
                self.say(f"[{name}] {last}")
        code = process.wait()
        with self.lock:
            self.running.discard(process)
            self.stopping |= code == 128 + signal.SIGINT  # Ctrl-C is for all of them
        return None if self.stopping else (code, skipped, last)

    def stop(self):
        """Start no more calls, and end those that run."""
        with self.lock:
            self.stopping = True
            running = list(self.running)
        end(running)

    def say(self, line):
        print(f"{line}\n", end="", flush=True)  # in one piece: two threads may speak at once

    def report(self):
        left = time_left(self.durations, self.count - self.done, self.jobs)
        left = "" if left is None else f", about {clock(left)} left"
        passed = clock(time.monotonic() - self.started)
        self.say(f"{self.done} of {self.count} calls done after {passed}{left}")


def main():
    args = parse_args()
    calls = read_calls(sys.stdin, args.script)
    if not calls:
        return
    at_once = args.jobs
    if at_once == "auto":
        at_once = 1 if is_gpu(args.device) else cores()
    schedule = Schedule(args.script, calls, min(at_once, len(calls)))
    threads = [threading.Thread(target=schedule.work) for _ in range(schedule.jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        schedule.stop()
        for thread in threads:
            thread.join()
        raise
    if schedule.error is not None:
        raise schedule.error
    if schedule.stopping:
        raise Stopped(signal.SIGINT)
    if schedule.failed:
        names, reason = ", ".join(schedule.failed), next(iter(schedule.failed.values()))
        raise UserError(
            f"{len(schedule.failed)} of {schedule.count} calls failed: {names}; "
            f"fix that and call again. The first said: {reason.removeprefix('error: ')}"
        )


if __name__ == "__main__":
    run_script(main)
