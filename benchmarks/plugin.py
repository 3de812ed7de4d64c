"""Measure the cost of the installed but unused pytest plugin on 2,000 empty tests.

python benchmarks/plugin.py [PAIRS]

Prints seconds of processor time of the whole process. Runs alternate; the result is the median of the paired differences,
with a 95 % interval from their order statistics.
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
# Other plugins that take longer than everything else.
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
        took(folder)  # writes byte code and fills the file cache
        differences, alone = [], []
        for number in range(pairs):
            order = ((), ("-p", "no:gradprobe"))
            first, second = order if number % 2 else order[::-1]
            times = {first: took(folder, *first), second: took(folder, *second)}
            differences.append(times[()] - times[("-p", "no:gradprobe")])
            alone.append(times[("-p", "no:gradprobe")])
    differences.sort()
    # The order statistics that contain the median with a probability of 95 %.
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
