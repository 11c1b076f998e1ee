"""The door of the scripts: one line and an exit code for what the outside world can cause."""

import ctypes
import errno
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch

from segmentation import predict
from segmentation.common import pictures, stages
from segmentation.common.door import run_script
from segmentation.common.runfiles import UserError, write_csv, write_json, write_npz, write_text

ROOT = Path(__file__).resolve().parents[1]


def fails(error, capsys):
    """(exit code, what is on stderr) of a script that raises `error`."""

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code, capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.png: is empty; remove it"), "a.png: is empty; remove it"),
        (OSError(errno.ENOSPC, "No space left on device", "x.npy"), "x.npy: No space left"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space and call it again"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"\xff.npy"), "\\udcff.npy: No such file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), "there is a file"),
        (MemoryError(), "the memory is full"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 4 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "the memory is full; free some",
        ),
        (
            RuntimeError("median_cuda does not have a deterministic implementation, but you set"),
            "--deterministic: median_cuda has no such algorithm; leave it out",
        ),
        (OutOfMemoryError("CUDA"), "the memory of the GPU is full; give a smaller --batch"),
    ],
)
def test_what_the_world_causes_is_one_line(error, line, capsys):
    code, text = fails(error, capsys)
    assert code == 2
    assert text.startswith("error: ") and line in text and text.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), OSError("no number")])
def test_what_a_mistake_causes_is_a_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run_script(main)


def figure():
    made = matplotlib.figure.Figure()
    made.add_subplot().plot(np.random.default_rng(0).random(500))
    return made


NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
WRITERS = {
    "a.txt": lambda path: write_text(path, "x" * 50_000),
    "a.json": lambda path: write_json(path, {"x": ["y" * 50_000]}),
    "a.csv": lambda path: write_csv(path, [{"x": "y" * 50_000}]),
    "a.npz": lambda path: write_npz(path, x=np.zeros(50_000)),
    "a.pt": lambda path: stages.write_torch(path, {"x": torch.zeros(50_000)}),
    "a.png": lambda path: pictures.save(figure(), path),
    "b.png": lambda path: predict.save(path, NOISE),
    "c.jpg": lambda path: predict.save(path, NOISE, quality=95),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_names_the_file_that_has_no_room(name, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / name).write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError) as error:
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(f"cannot write {tmp_path / name}: File too large")
    assert (tmp_path / name).read_text() == "old"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_names_the_file_in_the_way(name, tmp_path):
    (tmp_path / "folder").write_text("I am a file")
    with pytest.raises(UserError, match=rf"cannot write .*folder/{name}: .*there is a file"):
        WRITERS[name](tmp_path / "folder" / name)


# Signals ----------------------------------------------------------------------------------------

STUB = """
import sys, time
sys.path.insert(0, {root!r})
from segmentation.common.door import call, run_script
def main():
    try:
        print("ready", flush=True)
        {body}
    finally:
        {tidy}
run_script(main)
"""


def stub(body="time.sleep(60)", tidy="print('tidied', flush=True)"):
    """A script that has just said that it is ready."""
    code = STUB.format(root=str(ROOT), body=body, tidy=tidy)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_tidies_up_and_says_one_line(number, code, name):
    process = stub()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert out == "tidied\n"
    assert err == f"stopped by {name}; the same command goes on from here\n"


def test_a_second_signal_leaves_at_once():
    process = stub(tidy="print('tidying', flush=True); time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "tidying\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT and time.monotonic() - started < 5


@pytest.mark.slow
def test_a_long_call_of_a_library_is_not_waited_for():
    process = stub("__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**9)")
    time.sleep(1)  # it is in there
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - started < 10
    assert err == "stopped by Ctrl-C; the same command goes on from here\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modules_are_imported(number, code):
    code_of = f"""import sys, time
sys.path.insert(0, {str(ROOT)!r})
from segmentation.common.door import leave_at_once
leave_at_once()
print("ready", flush=True)
time.sleep(60)"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code_of], **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert err.startswith("stopped by") and err.count("\n") == 1


def test_nothing_is_left_open():
    """Python warns of sockets and files that are not closed, if it is asked to."""
    code = STUB.format(root=str(ROOT), body="pass", tidy="pass")
    words = [sys.executable, "-W", "error", "-c", code + "time.sleep(0.3)"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_script_leaves_at_once_while_it_loads():
    """Each has the call before its imports; torch alone takes seconds."""
    rooms = (ROOT, ROOT / "self_supervised", ROOT / "segmentation")
    scripts = [path for room in rooms for path in room.glob("*.py")]
    scripts = [path for path in scripts if "\n    run_script(main)" in path.read_text()]
    assert len(scripts) >= 15
    for path in scripts:
        text = path.read_text()
        assert "leave_at_once()" in text, path
        for slow in ("\nimport numpy", "\nimport torch", "\nfrom segmentation."):
            assert text.index("leave_at_once()  #") < (text + slow).index(slow), path


def test_what_is_ignored_stays_ignored():
    code = STUB.format(root=str(ROOT), body="time.sleep(1)", tidy="pass")
    words = ["bash", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, code]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 0


def alive(number):
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the system call of x86-64")
def test_a_signal_that_another_thread_gets_wakes_the_main_thread():
    body = """import threading
        for other in [threading.Thread(target=time.sleep, args=[60], daemon=True)]:
            other.start()
            print(other.native_id, flush=True)
            threading.Event().wait()"""
    process = stub(body)
    thread = int(process.stdout.readline())
    time.sleep(0.5)  # it waits
    ctypes.CDLL(None).syscall(234, process.pid, thread, signal.SIGTERM)  # tgkill, on x86-64
    out, err = process.communicate(timeout=10)
    assert process.returncode == 143 and out == "tidied\n" and err.count("\n") == 1


@pytest.mark.parametrize("_", range(3))  # it may come while the child is being started
def test_a_child_ends_first(_):
    process = stub("call(['bash', '-c', 'echo $$; exec sleep 60'])", tidy="pass")
    child = int(process.stdout.readline())
    assert alive(child)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143 and not alive(child)


def test_a_reader_that_has_seen_enough():
    code = STUB.format(root=str(ROOT), body="[print('line') for _ in range(100000)]", tidy="pass")
    command = '"$0" -c "$1" | head -n 1; exit "${PIPESTATUS[0]}"'
    words = ["bash", "-c", command, sys.executable, code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("ready\n", "", 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to write to")
@pytest.mark.parametrize("words", [["tables.py", "--help"], ["arms.py", "--list"]])
def test_what_is_printed_finds_no_room(words):
    command = [sys.executable, ROOT / "segmentation" / words[0], words[1]]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device; free some space and call it again\n"


def test_names_that_the_terminal_cannot_show():
    code = STUB.format(root=str(ROOT), body="print('\\udcff\\u4e2d')", tidy="pass")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0 and "\\udcff\\u4e2d" in done.stdout


# Schedule and run.sh ----------------------------------------------------------------------------


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


CHILD = """import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_schedule_ends_its_calls_and_starts_no_others(tmp_path, number, code):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    calls = "".join(f"call{n} {script} {tmp_path / str(n)}\n" for n in range(6))
    (tmp_path / "calls").write_text(calls)
    words = [sys.executable, str(ROOT / "segmentation" / "schedule.py"), "--jobs", "2"]
    with open(tmp_path / "calls") as stdin:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(words, stdin=stdin, **pipes)
    started = [tmp_path / "0", tmp_path / "1"]
    wait_for(lambda: all(path.exists() and path.read_text() for path in started))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code and err.count("\n") == 1, err
    assert not any(alive(path.read_text()) for path in started)
    assert not any((tmp_path / str(n)).exists() for n in range(2, 6))


class Shell:
    """run.sh or gpu.sh, which has started `child`, a command, in place of preprocess.py.

    A stand-in for Python shows what they start; it notes the child's number in a file.
    """

    def __init__(self, tmp_path, child, *words, **settings):
        stand_in, note = tmp_path / "python", tmp_path / "child"
        stand_in.write_text(
            "#!/bin/bash\n"
            'case "$*" in\n'
            '  *"--calls evaluate"*) exit ;;\n'
            '  *--calls*) echo "data data preprocess.py x" ; exit ;;\n'
            f"  preprocess.py*) echo $$ > {note}; exec {child} ;;\n"
            "esac\n"
            "cat > /dev/null\n"
        )
        stand_in.chmod(0o755)
        settings |= {"PYTHON": str(stand_in), "RUN": str(tmp_path / "run")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            ["bash", *words], env={**os.environ, **settings}, cwd=ROOT, **pipes
        )
        wait_for(lambda: note.exists() and note.read_text())
        self.child = int(note.read_text())

    def ends(self, timeout=20):
        """(exit code, what is on stderr), once the child is gone too."""
        _, err = self.process.communicate(timeout=timeout)
        wait_for(lambda: not alive(self.child), 5)
        return self.process.returncode, err


def script(tmp_path, tidy="pass"):
    """The command of a script as ours, which says that it is ready by a file, and the file."""
    ready, path = tmp_path / "ready", tmp_path / "script.py"
    body = f"open({str(ready)!r}, 'w').close(); time.sleep(60)"
    path.write_text(STUB.format(root=str(ROOT), body=body, tidy=tidy))
    return f"{sys.executable} {path}", ready


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
@pytest.mark.parametrize("ours", [False, True])
def test_run_sh_ends_what_it_has_started(tmp_path, number, code, name, ours):
    command, ready = script(tmp_path) if ours else ("sleep 60", tmp_path)
    shell = Shell(tmp_path, command, ROOT / "run.sh")
    wait_for(ready.exists)
    shell.process.send_signal(number)
    line = f"stopped by {name}; the same command goes on from here\n"
    assert shell.ends() == (code, line)


def test_run_sh_says_it_when_what_it_has_started_is_stopped(tmp_path):
    command, ready = script(tmp_path)
    shell = Shell(tmp_path, command, ROOT / "run.sh")
    wait_for(ready.exists)
    os.kill(shell.child, signal.SIGTERM)
    assert shell.ends() == (143, "stopped by SIGTERM; the same command goes on from here\n")


@pytest.mark.parametrize("words", [["run.sh"], ["benchmarks/gpu.sh", "paper-prepare"]])
def test_a_second_signal_ends_run_sh_and_gpu_sh_at_once(tmp_path, words):
    """Also a child that does not leave by itself, and the children of that."""
    command, ready = script(tmp_path, tidy=f"open({str(tmp_path / 'late')!r}, 'w'); time.sleep(60)")
    shell = Shell(tmp_path, command, *words, DEVICE="cpu")
    wait_for(ready.exists)
    shell.process.send_signal(signal.SIGINT)
    wait_for((tmp_path / "late").exists)
    started = time.monotonic()
    shell.process.send_signal(signal.SIGINT)
    assert shell.ends()[0] == 130 and time.monotonic() - started < 5
