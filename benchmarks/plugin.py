"""What the installed plugin costs a run that does not use it: pytest on 2,000 empty tests, with and without it.

python benchmarks/plugin.py [PAIRS]

Seconds of processor time, of the interpreter and pytest whole. Runs alternate; the median of the paired differences, with
an interval of 95 % from the order of the differences.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import binom

TESTS = 2_000
# Neighbours that take longer than everything else.
NEIGHBOURS = (
    "cacheprovider",
    "hypothesispytest",
    "anyio",
    "asyncio",
    "benchmark",
    "memray",
    "randomly",
    "timeout",
    "xdist",
)
QUIET = ("-q", *(word for name in NEIGHBOURS for word in ("-p", f"no:{name}")))


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = "".join(f"def test_{number}(): pass\n" for number in range(TESTS))
        (folder / "test_empty.py").write_text(body)
        took(folder)  # byte code is written, files are read
        differences, alone = [], []
        for number in range(pairs):
            order = ((), ("-p", "no:gradprobe"))
            first, second = order if number % 2 else order[::-1]
            times = {first: took(folder, *first), second: took(folder, *second)}
            differences.append(times[()] - times[("-p", "no:gradprobe")])
            alone.append(times[("-p", "no:gradprobe")])
    differences.sort()
    # The order statistics that hold the median with 95 %.
    skipped = int(binom.ppf(0.025, pairs, 0.5))
    low, high = differences[skipped], differences[-1 - skipped]
    print(f"{TESTS:,} empty tests without the plugin: {statistics.median(alone):.3f} s")
    print(
        f"with it: {1e3 * statistics.median(differences):+.1f} ms "
        f"({1e3 * low:+.1f} to {1e3 * high:+.1f}), {pairs} pairs"
    )


def took(folder: Path, *words: str) -> float:
    command = [sys.executable, "-m", "pytest", *QUIET, *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
