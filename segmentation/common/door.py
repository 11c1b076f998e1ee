"""The door of every script: what the outside world can cause becomes one line and an exit code.

0 done, 2 bad input or a full disk, 130 stopped by Ctrl-C, 141 a pipe that nobody reads any more,
143 stopped by SIGTERM (`kill`). Two scripts have one of their own: 1 predict.py could not read some
images, 3 annotate.py awaits outlines. What only a mistake in the code can cause stays a traceback.
"""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from segmentation.common import lock
from segmentation.common.runfiles import UserError, cause

GRACE = 7  # seconds that a child has to leave in, before it is killed


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
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals():
            main()
            sys.stdout.flush()
    except UserError as error:
        leave(2, f"error: {error}")
    except Stopped as stop:
        say(stop.number)
        leave(128 + stop.number)
    except BrokenPipeError:  # `| head` has seen enough
        discard(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:  # raised by a library for something else
            raise
        leave(2, f"error: {cause(error, error.filename)}")
    except MemoryError as error:
        leave(2, f"error: the memory is full ({error or 'no more given'}); free some, or use less")
    except RuntimeError as error:
        if "does not have a deterministic implementation" in str(error):  # torch's, on a GPU
            name = str(error).split()[0]
            leave(2, f"error: --deterministic: {name} has no such algorithm; leave it out")
        if "DefaultCPUAllocator: " in str(error):  # torch's, on a CPU
            leave(2, "error: the memory is full; free some, or give a smaller --batch or --width")
        if type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        leave(2, "error: the memory of the GPU is full; give a smaller --batch or another --device")
    finally:
        lock.release()


def leave(code, line=""):
    """End with a line on stderr, if there is one."""
    try:
        sys.stdout.flush()
    except OSError:  # what is left goes nowhere; Python would try again, and exit with 120
        discard(sys.stdout)
    if line:
        print(line, file=sys.stderr)
    sys.exit(code)


def discard(stream):
    """Let all that is still written to a stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave_at_once():
    """Until `run_script`, while modules are imported, a signal ends the process with its line."""

    def now(number, frame):
        say(number)
        os._exit(128 + number)

    for number in heeded():
        signal.signal(number, now)


def say(number):
    """Print the line about a signal, unless run.sh or gpu.sh has called, which says it."""
    if os.environ.get("QUIET_STOP"):
        return
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    print(f"stopped by {name}; the same command goes on from here", file=sys.stderr, flush=True)


def heeded():
    """Ctrl-C and SIGTERM, but for those that are ignored, as of nohup and background jobs."""
    return [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]


_held = []  # a list for each `held_back`: numbers of signals that came meanwhile


@contextlib.contextmanager
def signals():
    """Within it, the first Ctrl-C or SIGTERM raises Stopped, and a second ends the process.

    Python raises only between two of its instructions. A thread therefore watches, and ends the
    process if it has not left GRACE + 1 seconds after the signal, in a long call of a library, say.
    Not in a thread: they get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers, seen, main = heeded(), threading.Event(), threading.get_ident()

    def stop(number, frame):
        seen.set()
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        if _held:
            _held[-1].append(number)
            return
        raise Stopped(number)

    def watch():
        with contextlib.suppress(OSError):
            number = next(iter(reader.recv(1)), 0)
            if number and not seen.wait(0.5):  # another thread got it, and the main one sleeps
                signal.pthread_kill(main, number)
            reader.settimeout(GRACE + 1)
            with contextlib.suppress(TimeoutError):
                while reader.recv(1):
                    pass
                return  # it has left
            say(number)
            os._exit(128 + number)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        writer.close()  # which ends the watcher
        watcher.join()
        reader.close()


@contextlib.contextmanager
def held_back():
    """A Stopped that comes within it is raised at its end."""
    _held.append([])
    try:
        yield
    finally:
        late = _held.pop()
    if late:
        raise Stopped(late[0])


def end(children):
    """End child processes: SIGTERM, and SIGKILL for those that are still there after GRACE."""
    for child in children:
        with contextlib.suppress(OSError):
            child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def call(words, **options):
    """Run a command and wait for it: its exit code. If this process is stopped, it ends first."""
    children = []
    try:
        with held_back():  # a child that has started is never lost
            children.append(subprocess.Popen(words, **options))
        return children[0].wait()
    except BaseException:
        end(children)
        raise
