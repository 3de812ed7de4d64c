"""Measure the seconds, memory and bytes of a report of a large recording, for each format.

python benchmarks/reporting.py [TRANSITIONS | training [STEPS [blocks]]]

The recordings are those of ``large_recording.py``. Times are those of the whole command, interpreter and imports included;
the processor's time is the same on a machine that does other work meanwhile.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKER = Path(__file__).with_name("large_recording.py")
FORMATS = (".txt", ".brief.txt", ".md", ".html", ".json", ".csv", ".trace.json.gz")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "large.gradprobe"
        subprocess.run([sys.executable, MAKER, recording, *sys.argv[1:]], check=True)
        print(f"{recording.stat().st_size / 1e6:.1f} MB on disk")
        print(f"{'format':>16} {'seconds':>8} {'of processor':>13} {'MB of memory':>13} {'MB written':>11}")
        for suffix in FORMATS:
            output = folder / f"out{suffix}"
            begun = time.perf_counter()
            command = [sys.executable, "-m", "gradprobe", "report", str(recording), "-o", str(output)]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                _, status, usage = wait(process.pid)
            took, processor = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime
            written = sum(file.stat().st_size for file in folder.glob("out*"))
            print(f"{suffix:>16} {took:8.1f} {processor:13.1f} {usage.ru_maxrss / 1024:13.0f} {written / 1e6:11.2f}")
            assert status == 0
            for file in folder.glob("out*"):
                file.unlink()


def wait(pid: int) -> tuple[int, int, resource.struct_rusage]:
    return os.wait4(pid, 0)


if __name__ == "__main__":
    main()
