"""The door of every script: what the outside world can cause becomes one line and an exit code.

0 done, 2 bad input or a full disk, 130 stopped by Ctrl-C, 143 by SIGTERM (`kill`). What only a
mistake in the code can cause stays a traceback.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

from segmentation.common import lock
from segmentation.common.runfiles import UserError, cause

GRACE = 8  # seconds that a child has to leave in, before it is killed


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. No `except Exception` catches it, `finally` is carried out."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def run_script(main):
    """Call `main()`; errors, Ctrl-C and SIGTERM become one line on stderr and an exit code.

    Stopped once it cleans up and leaves; a second signal ends it at once. Names that the terminal
    cannot show are printed with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals():
            main()
            sys.stdout.flush()
    except UserError as error:
        leave(2, f"error: {error}")
    except Stopped as stop:
        name = "Ctrl-C" if stop.number == signal.SIGINT else "SIGTERM"
        leave(128 + stop.number, f"stopped by {name}; the same command goes on from here")
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:  # raised by a library for something else
            raise
        leave(2, f"error: {cause(error, error.filename)}")
    except MemoryError as error:
        leave(2, f"error: the memory is full ({error or 'no more given'}); free some, or use less")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        leave(2, "error: the memory of the GPU is full; give a smaller --batch or another --device")
    finally:
        lock.release()


def leave(code, line):
    """End with a line on stderr."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(line, file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def signals():
    """Within it, the first Ctrl-C or SIGTERM raises Stopped, and a second ends the process.

    What is ignored stays ignored (nohup, background jobs). Not in a thread: they get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]

    def stop(number, frame):
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(children):
    """End child processes: SIGTERM, and SIGKILL for those that are still there after GRACE."""
    for child in children:
        with contextlib.suppress(OSError):
            child.terminate()
    for child in children:
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def call(words, **options):
    """Run a command and wait for it: its exit code. If this process is stopped, it ends first."""
    child = subprocess.Popen(words, **options)
    try:
        return child.wait()
    except BaseException:
        end([child])
        raise
