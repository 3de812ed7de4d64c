"""Measure the seconds, memory and bytes of a report of a large recording, for each format.

python benchmarks/reporting.py [TRANSITIONS]

Times are those of the whole command, interpreter and imports included.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import gradprobe

FORMATS = (".txt", ".md", ".html", ".json", ".csv", ".trace.json.gz")
SITES = [f"def f{number}(): \n with torch.no_grad():\n  with torch.enable_grad(): pass\n" for number in range(20)]


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "large.gradprobe"
        record(recording, wanted)
        print(f"{wanted:,} transitions, {recording.stat().st_size / 1e6:.1f} MB on disk")
        print(f"{'format':>16} {'seconds':>8} {'MB of memory':>13} {'MB written':>11}")
        for suffix in FORMATS:
            output = folder / f"out{suffix}"
            begun = time.perf_counter()
            command = [sys.executable, "-m", "gradprobe", "report", str(recording), "-o", str(output)]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                _, status, usage = wait(process.pid)
            took = time.perf_counter() - begun
            written = sum(file.stat().st_size for file in folder.glob("out*"))
            print(f"{suffix:>16} {took:8.1f} {usage.ru_maxrss / 1024:13.0f} {written / 1e6:11.2f}")
            assert status == 0
            for file in folder.glob("out*"):
                file.unlink()


def wait(pid: int) -> tuple[int, int, resource.struct_rusage]:
    return os.wait4(pid, 0)


def record(path: Path, wanted: int) -> None:
    """Record nested blocks at forty sites."""
    functions = {}
    for source in SITES:
        exec(compile(source, str(Path(__file__)), "exec"), {"torch": torch}, functions)
    with gradprobe.record(path):
        for _ in range(wanted // (4 * len(functions))):
            for function in functions.values():
                function()


if __name__ == "__main__":
    main()
