"""Faults around a recording: the program loses nothing, the recording at most its last second."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradprobe
from gradprobe.__main__ import main
from tests.commands.running import PATIENCE_S
from tests.commands.running import warm_gradprobe as run_gradprobe
from tests.thoroughness import IS_THOROUGH
from tests.warm_python import run as python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals, limits and forks of POSIX")


@contextlib.contextmanager
def started(folder: Path, program: str, name: str = "r") -> Iterator[subprocess.Popen[bytes]]:
    """``gradprobe run`` of ``program``, once that has printed a line."""
    (folder / f"{name}.py").write_text(program)
    words = [sys.executable, "-m", "gradprobe", "run", "-o", f"{name}.gradprobe", f"{name}.py"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


PACED = """
import time, torch
print("ready", flush=True)
while True:
    with torch.no_grad():
        pass
    time.sleep(0.01)
"""

BUSY = """
import torch
print("ready", flush=True)
while True:
    with torch.no_grad():
        pass
"""


def test_a_killed_program_leaves_all_that_was_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Events reach the disk while the program runs, and a kill takes none of them away.

    How soon they do depends on the load of the machine: ``make fidelity`` measures that it takes less than a second.
    """
    path = tmp_path / "r.gradprobe"
    with started(tmp_path, PACED) as process:
        on_disk = 0
        while on_disk < 50:
            on_disk = exits(path)
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert exits(path) >= on_disk
    assert not gradprobe.load(path)._tables.is_complete
    assert main(["report", str(path)]) == 0
    assert "is still running or was killed" in capsys.readouterr().out


def exits(path: Path) -> int:
    return int((gradprobe.load(path).transitions["event"] == "exit").sum())


def test_a_program_killed_while_its_recording_is_written_leaves_whole_batches(tmp_path: Path) -> None:
    for number, size in enumerate((100_000, 700_000) if IS_THOROUGH else (200_000,)):
        name = f"busy{number}"
        path = tmp_path / f"{name}.gradprobe"
        with started(tmp_path, BUSY, name) as process:
            while path.stat().st_size < size:
                time.sleep(0.003)
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
        recording = gradprobe.load(path)
        events = recording.transitions["event"].tolist()
        assert events == ["enter", "exit"] * (len(events) // 2) + ["enter"] * (len(events) % 2)
        assert not recording._tables.is_complete
    assert events


FILLING = """
import contextlib, resource, sqlite3, sys, time, torch
with torch.no_grad():                                      # line 3, on disk before that is full
    pass
with contextlib.closing(sqlite3.connect("file:r.gradprobe?mode=ro", uri=True, timeout=300)) as file:
    while not file.execute("SELECT count(*) FROM sites").fetchone()[0]:
        time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for number in range(40_000):
    with torch.no_grad():
        pass
    with torch.inference_mode():
        pass
print("to the end", flush=True)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(("own", "expected"), [(0, 2), (7, 7)])
def test_a_full_disk_ends_the_recording_and_not_the_program(
    own: int, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.py").write_text(FILLING)
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", str(own), cwd=tmp_path)
    assert ended.stdout == b"to the end\n"
    assert ended.returncode == expected
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("gradprobe: r.gradprobe is incomplete: ")
    assert "free some space there, or name another place with -o" in line
    recording = gradprobe.load(tmp_path / "r.gradprobe")
    assert recording.transitions["line"].iloc[0] == 3
    assert not recording._tables.is_complete
    assert main(["report", str(tmp_path / "r.gradprobe")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "could no longer be written, for example because the disk is full" in out


@pytest.mark.parametrize("warning", ["default", "error"])
def test_a_full_disk_under_a_recorder_is_a_warning_that_stops_nothing(warning: str, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import resource, torch, gradprobe\n"
        "with gradprobe.record('r.gradprobe') as recording:\n"
        "    assert 'is incomplete: it still runs' in str(recording)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "    for _ in range(40_000):\n"
        "        with torch.no_grad():\n"
        "            pass\n"
        "print(recording._tables.is_complete, 'events after that are missing' in str(recording))\n"
    )
    ended = python("-W", f"{warning}::RuntimeWarning", "s.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"False True\n"), ended.stderr.decode()
    if warning == "default":
        assert b"RuntimeWarning: r.gradprobe is incomplete: " in ended.stderr
        assert b"events after that are missing; free some space there" in ended.stderr


def test_a_file_removed_while_it_is_recorded_is_missed_and_not_the_program(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import os, time, torch\n"
        "os.unlink('r.gradprobe')\n"
        "for _ in range(3):\n"
        "    with torch.no_grad():\n"
        "        time.sleep(0.3)\n"
        "print('to the end')\n"
    )
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert ended.stdout == b"to the end\n"
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("gradprobe: r.gradprobe is gone: ")


FORKING = """
import os, sys, threading, time
import torch
stop = threading.Event()

def noise():
    while not stop.is_set():
        for _ in range(500):
            with torch.no_grad():                              # line 9
                pass
        time.sleep(0.005)

def child():
    # Nothing of the tool is left in the child: no hook, no thread that writes, no handler that waits.
    for name in ("no_grad", "enable_grad", "inference_mode"):
        assert "gradprobe" not in getattr(torch, name).__enter__.__code__.co_filename
    for _ in range(50):
        with torch.enable_grad():
            pass

def reap(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    codes.append(code)

codes = []
thread = threading.Thread(target=noise)
thread.start()
for number in range(15):
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(number) if number else sys.exit(0)
    reap(pid)
pid = os.fork()
if pid == 0:
    raise RuntimeError("in the child")
reap(pid)
pid = os.fork()
if pid == 0:
    import gradprobe
    with gradprobe.record("child.gradprobe"):
        with torch.inference_mode():
            pass
    sys.exit(0)
reap(pid)
stop.set()
thread.join()
with torch.no_grad():                                          # line 48
    pass
print(codes)
"""


def test_a_forked_child_neither_records_nor_writes_nor_hangs(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(FORKING)
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.decode() == f"{[*range(15), 1, 0]}\n"
    *trace, last = ended.stderr.decode().splitlines()
    assert trace == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path / "s.py"}", line 36, in <module>',
        '    raise RuntimeError("in the child")',
        "RuntimeError: in the child",
    ]
    assert last.startswith("gradprobe: recorded to r.gradprobe")
    seen = gradprobe.load(tmp_path / "r.gradprobe").transitions
    assert set(seen["manager"]) == {"no_grad"}
    assert set(seen["line"]) == {9, 48}
    of_child = gradprobe.load(tmp_path / "child.gradprobe")
    assert list(of_child.transitions["manager"]) == ["inference_mode"] * 2
    assert of_child._tables.is_complete


RECORDING_CHILDREN = """
import os, threading, torch, gradprobe
gradprobe.record  # loaded on first use: a fork amid an import leaves its lock closed
running = True

def recordings():
    while running:
        with gradprobe.record(level="ops"):
            with torch.no_grad():
                torch.ones(2) * 2

def forks():
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            try:
                with gradprobe.record() as recording:
                    with torch.inference_mode():
                        pass
                os._exit(len(recording.regions))
            except gradprobe.GradprobeError as error:
                os._exit(1 if "held SQLite's lock" in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    ended.append(1)

ended = []
others = [threading.Thread(target=recordings) for _ in range(2)]
forking = [threading.Thread(target=forks) for _ in range(2)]
for thread in others + forking: thread.start()
for thread in forking: thread.join()
running = False
for thread in others: thread.join()
print(len(ended))
"""


def test_children_forked_by_any_thread_amid_recordings_of_others_record_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(RECORDING_CHILDREN)
    ended = python("s.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"2\n"), ended.stderr.decode()


POOL = """
import multiprocessing, torch
def work(number):
    with torch.no_grad():
        return torch.is_grad_enabled(), number
if __name__ == "__main__":
    with torch.inference_mode():                               # line 7
        pass
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(sorted(pool.map(work, range(20))) == [(False, n) for n in range(20)])
        pool.close()
        pool.join()
"""


def test_a_pool_of_forked_workers_leaves_one_whole_recording(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(POOL)
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"True\n"), ended.stderr.decode()
    recording = gradprobe.load(tmp_path / "r.gradprobe")
    assert set(recording.transitions["line"]) == {7}
    assert recording._tables.is_complete


def test_a_recorder_that_is_never_stopped_is_stopped_at_exit(tmp_path: Path) -> None:
    program = (
        "import sys, torch, gradprobe\n"
        "recorder = gradprobe.record('r.gradprobe')\n"
        "recorder.start()\n"
        "with torch.no_grad(): pass\n"
        "sys.exit(4)\n"
    )
    ended = python("-c", program, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (4, b"", b"")
    recording = gradprobe.load(tmp_path / "r.gradprobe")
    assert len(recording.transitions) == 2
    assert recording._tables.is_complete


READ = """
import sys, torch
print("ready", flush=True)
def blocks(number):
    for _ in range(number):
        with torch.no_grad():
            pass
while True:
    command = sys.stdin.readline()
    blocks(1000)
    print("done", flush=True)
    if command == "last\\n":
        break
"""


def test_readers_do_not_disturb_a_recording_that_is_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.gradprobe"
    seen = []
    with started(tmp_path, READ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(6):
            process.stdin.write(b"more\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            assert main(["report", str(path)]) == 0
            assert "is still running" in capsys.readouterr().out
            seen.append(len(gradprobe.load(path).transitions))
            time.sleep(0.15)
        # A reader that keeps the file locked for longer than a batch may wait.
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM blocks").fetchone()
            process.stdin.write(b"more\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            time.sleep(1)
        process.stdin.write(b"last\n")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    assert seen == sorted(seen)
    recording = gradprobe.load(path)
    assert len(recording.transitions) == 2 * 8 * 1000
    assert recording._tables.is_complete


def test_a_reader_at_the_moment_of_the_end_costs_the_recording_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.gradprobe"
    with started(tmp_path, READ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM blocks").fetchone()
            process.stdin.write(b"last\n")
            process.stdin.close()
            assert process.stdout.readline() == b"done\n"
            time.sleep(1.5)
        assert process.wait(PATIENCE_S) == 0
    recording = gradprobe.load(path)
    assert len(recording.transitions) == 2 * 1000
    assert recording._tables.is_complete
