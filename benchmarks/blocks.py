"""Measure the cost of recording per block, in interleaved pairs with and without a recording.

    python benchmarks/blocks.py [--processes 5] [--pairs 200] [--write]

In each fresh process short samples of an empty block alternate, in random order, between a plain and a recorded run. The
result is the difference of each pair, then the median over the pairs of a process, then the median over processes (and
their range). The writer thread runs during a recorded sample as in any recording, but a sample is shorter than its pause,
so its work falls between samples; its cost is in the last lines, where a long loop pays for all of it. Prints Markdown;
with ``--write`` also writes the table of docs/costs.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

from tabulate import tabulate

BLOCKS = {
    "no_grad": "with torch.no_grad(): pass",
    "enable_grad": "with torch.enable_grad(): pass",
    "set_grad_enabled, block": "with torch.set_grad_enabled(False): pass",
    "set_grad_enabled, call": "torch.set_grad_enabled(True)",
    "inference_mode": "with torch.inference_mode(): pass",
    "@no_grad()": "decorated()",
}
SAMPLE = 1000
COSTS = Path(__file__).parents[1] / "docs" / "costs.md"
BEGIN, END = "<!-- the cost of blocks -->", "<!-- end of the cost of blocks -->"


def measure(pairs: int) -> dict[str, object]:
    """Return all figures of one process: per block, pairs of (plain, recorded) nanoseconds; and the rest."""
    import torch

    import gradprobe
    from gradprobe.recorder import Recorder

    @torch.no_grad()
    def decorated() -> None:
        pass

    names = {"torch": torch, "decorated": decorated}
    order = random.Random(os.getpid())
    figures: dict[str, object] = {}
    for level in ("modes", "graph"):
        for name, statement in BLOCKS.items():
            timer = timeit.Timer(statement, globals=names)
            pairs_ns = []
            for _ in range(pairs):
                pair = [0.0, 0.0]
                for is_recorded in order.sample([0, 1], 2):
                    recorder = Recorder(level=level)
                    if is_recorded:
                        recorder.start()
                    timer.timeit(100)
                    pair[is_recorded] = timer.timeit(SAMPLE) / SAMPLE * 1e9
                    if is_recorded:
                        recorder.stop()
                pairs_ns.append(pair)
            figures[f"{level}: {name}"] = pairs_ns
            torch.set_grad_enabled(True)

    def plain() -> None:
        pass

    probed = gradprobe.probe(plain)
    calls = 200_000
    gradprobe.disable()
    figures["probe, off"] = [
        [timeit.timeit(f, number=calls) / calls * 1e9 for f in (plain, probed)] for _ in range(max(pairs // 10, 5))
    ]
    gradprobe.enable()
    figures["probe, on"] = [
        [timeit.timeit(f, number=500) / 500 * 1e9 for f in (plain, probed)] for _ in range(max(pairs // 10, 5))
    ]
    figures.update(measure_million())
    return figures


def measure_million() -> dict[str, object]:
    """Record half a million blocks, a million transitions, on disk, with the work of the writer thread."""
    import torch

    from gradprobe.recorder import Recorder

    def loop() -> float:
        begin = time.perf_counter()
        for _ in range(500_000):
            with torch.no_grad():
                pass
        return (time.perf_counter() - begin) * 2000  # ns per block

    plain = loop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "million.gradprobe")
        with Recorder(Path(folder, "warm-up.gradprobe")):
            torch.set_grad_enabled(True)
        before = resident()
        recorder = Recorder(path, level="modes")
        recorder.start()
        peak = resident_peak_during(loop_result := [], loop)
        begin = time.perf_counter()
        recorder.stop()
        rest = (time.perf_counter() - begin) * 2000
        return {
            "long loop": [[plain, loop_result[0] + rest]],
            "added memory, MB": peak - before,
            "bytes per transition": path.stat().st_size / 1e6,
        }


def resident() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def resident_peak_during(result: list[float], work: object) -> float:
    """Return the peak resident memory in MB, sampled every 20 ms, while ``work`` runs; append its result."""
    import threading

    done = threading.Event()
    peak = resident()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident())

    sampler = threading.Thread(target=watch)
    sampler.start()
    result.append(work())  # type: ignore[operator]
    done.set()
    sampler.join()
    return max(peak, resident())


def measure_imports() -> dict[str, list[float]]:
    """Measure the milliseconds of imports in fresh interpreters, above those of an empty one."""

    def best(code: str) -> float:
        command = [sys.executable, "-c", code]
        return min(timeit.repeat(lambda: subprocess.run(command, check=True), number=1, repeat=7)) * 1000

    empty = best("pass")
    return {
        "import gradprobe": [best("import gradprobe") - empty],
        "report's imports": [best("import gradprobe.commands.report, gradprobe.tables.dataframes") - empty],
    }


def write_between(page: Path, begin: str, end: str, shown: str) -> None:
    """Write ``shown`` between two comments of a page, in place of what is there."""
    text = page.read_text(encoding="utf-8")
    page.write_text(f"{text[: text.index(begin)]}{begin}\n\n{shown}\n\n{text[text.index(end) :]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="write the table into docs/costs.md")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.pairs)))
        return
    runs = []
    for number in range(options.processes):
        print(f"process {number + 1} of {options.processes}", file=sys.stderr)
        command = [sys.executable, __file__, "--measure", "--pairs", str(options.pairs)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(format_table(runs))
    if options.write:
        write_between(COSTS, BEGIN, END, format_table(runs))
    for name in ("added memory, MB", "bytes per transition"):
        print(f"\na million transitions, {name}: {statistics.median(run[name] for run in runs):.1f}")
    for name, (value,) in measure_imports().items():
        print(f"\n{name}: {value:.0f} ms")


def format_table(runs: list[dict[str, list[list[float]]]]) -> str:
    rows = []
    for name, first in runs[0].items():
        if not isinstance(first, list):
            continue
        own = statistics.median(statistics.median(pair[0] for pair in run[name]) for run in runs)
        added = [statistics.median(pair[1] - pair[0] for pair in run[name]) for run in runs]
        ratio = [statistics.median(pair[1] / pair[0] for pair in run[name]) for run in runs]
        rows.append(
            (name, f"{own:.0f}", f"{statistics.median(added):+.0f}", f"{min(added):+.0f} to {max(added):+.0f}")
            + (f"{statistics.median(ratio):.2f}",)
        )
    columns = ("block", "PyTorch's own, ns", "recording adds, ns", "range over processes", "ratio")
    return tabulate(rows, columns, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))


if __name__ == "__main__":
    main()
