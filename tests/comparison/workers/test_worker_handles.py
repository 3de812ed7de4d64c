"""Worker processes: what a module does when they import it neither spreads nor stays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gradprobe.comparison.workers.worker_handles import SubprocessWorker
from tests.commands.running import refused
from tests.commands.running import warm_gradprobe as command


def test_a_module_that_compares_when_it_is_imported_starts_no_processes_of_processes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The variable marks a worker process. Without the refusal the comparison would start workers forever.
    monkeypatch.setenv("GRADPROBE_MEASURING", "1")
    assert "__main__" in refused(capfd, "compare", f"{tmp_path}/any.py:f")


def test_a_process_that_measures_is_marked_and_ends_with_what_it_started(tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(
        "import os, subprocess\n"
        "assert os.environ['GRADPROBE_MEASURING']\n"
        "print(subprocess.Popen(['sleep', '600']).pid, file=open('pid', 'w'))\n"
        "def f(): return 1\n"
    )
    done = command("compare", "starts.py:f", "--budget", "0.1", "--processes", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    started, patience = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while time.monotonic() < patience and _runs(started):
        time.sleep(0.05)
    assert not _runs(started)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_module_that_reads_its_input_finds_none_and_takes_no_question(tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text("import sys\ndef f(): return len(sys.stdin.read())\n")
    done = command("compare", "reads.py:f", "--budget", "0.1", "--processes", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"fails" not in done.stdout


def test_folders_of_the_path_may_be_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    worker = SubprocessWorker(0, modes=("no_grad",), seed=0)
    try:
        assert worker.wait_until_ready() >= 1
    finally:
        worker.close()
