"""Measure the cost of gradprobe's levels and other tools for whole programs, interleaved and paired.

    python benchmarks/operators.py [--processes 5] [--pairs 12] [--only NAME] [--all] [--write]

In each fresh process every program runs in samples of half a second, long enough for the writer thread to do its work
within them. Each round takes one sample per arm in random order, among them a second plain one as a control. The results
are ratios of the samples of one round, then the median over the rounds, then over processes, with the range of these.
Tools start and stop outside of the samples: the work of torch.profiler on its events when it stops is not in its figures,
the work of gradprobe's writer thread is in gradprobe's. Prints Markdown; with ``--write`` also writes the table of
docs/costs.md and its chart.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arms import NAMES, observed_by
from blocks import resident, write_between
from programs import FIVE, programs
from tabulate import tabulate

SAMPLE_S = 0.5
ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- the cost of programs -->", "<!-- end of the cost of programs -->"
BASE, NOTHING = "unwatched", "nothing"
Run = dict[str, list[dict[str, float]]]
"""Results of one process: per program a dict for each round, seconds of a call by arm."""


def measure(pairs: int, only: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the run of this process, and the cost of a million operators in it."""
    order = random.Random(os.getpid())
    run: Run = {}
    for name, call in programs():
        if only in name and (not names or name in names):
            calls = {arm: _choose_calls(arm, call) for arm in NAMES}
            run[name] = [
                {arm: _time_sample(arm, call, calls[arm]) for arm in order.sample(list(NAMES), len(NAMES))}
                for _ in range(pairs)
            ]
    return {"programs": run, "long recordings": measure_long_recordings()}


def _choose_calls(arm: str, call: Callable[[], object]) -> int:
    """Return the number of calls in a sample under ``arm``: few would only measure the first ones."""
    calls = 1
    while (each := _time_sample(arm, call, calls)) * calls < SAMPLE_S / 4:
        calls *= 2
    return max(int(SAMPLE_S / each), 1)


def _time_sample(arm: str, call: Callable[[], object], calls: int) -> float:
    with observed_by(arm):
        call()
        gc.collect()  # garbage of the arm before
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) / calls


def measure_long_recordings() -> dict[str, float]:
    """Measure microseconds per operator in ever longer recordings, and the longest one's memory and disk."""
    import torch

    from gradprobe.recorder import Recorder

    x = torch.ones(4)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in (1_000, 10_000, 100_000, 1_000_000):
            path = Path(folder, f"{number}.gradprobe")
            before = resident()
            recorder = Recorder(path, level="ops")
            recorder.start()
            begin = time.perf_counter()
            with torch.no_grad():
                for _ in range(number):
                    x + x
            found[f"{number:,}"] = (time.perf_counter() - begin) / number * 1e6
            grown = resident() - before
            recorder.stop()
            found["MB"], found["file, kB"] = grown, path.stat().st_size / 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--only", default="", help="only programs whose name contains this")
    parser.add_argument("--all", action="store_true", help="all programs, not only those of docs/costs.md")
    parser.add_argument("--write", action="store_true", help="write the table and the chart of docs/costs.md")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.pairs, options.only, () if options.all else FIVE)))
        return
    runs = []
    for number in range(options.processes):
        print(f"process {number + 1} of {options.processes}", file=sys.stderr)
        command = [sys.executable, __file__, "--measure", "--pairs", str(options.pairs), "--only", options.only]
        command += ["--all"] if options.all else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        runs.append(json.loads(done.stdout))
    measured = [run["programs"] for run in runs]
    print(table(measured))
    print("\nOne region of so many operators, microseconds each; megabytes and kilobytes are of the longest:")
    for name in runs[0]["long recordings"]:
        print(f"- {name}: {statistics.median(run['long recordings'][name] for run in runs):.2f}")
    if options.write:
        write_page(measured)


def ratio(runs: list[Run], program: str, arm: str, base: str = BASE) -> tuple[float, float, float]:
    """Return the median over processes of the medians over rounds, their minimum and their maximum."""
    medians = [statistics.median(taken[arm] / taken[base] for taken in run[program]) for run in runs]
    return statistics.median(medians), min(medians), max(medians)


def table(runs: list[Run]) -> str:
    """Format a row per tool and a column per program: ratios to the plain run, with their range."""
    rows = [
        (text, *("{:.2f} ({:.2f} to {:.2f})".format(*ratio(runs, program, arm)) for program in runs[0]))
        for arm, text in NAMES.items()
        if arm != BASE
    ]
    to_empty_mode = ("{:.2f} ({:.2f} to {:.2f})".format(*ratio(runs, program, "ops", NOTHING)) for program in runs[0])
    rows.append(("`ops` to the mode that does nothing", *to_empty_mode))
    return tabulate(rows, ["", *runs[0]], tablefmt="github", disable_numparse=True)


def write_page(runs: list[Run]) -> None:
    """Replace the table in docs/costs.md, and draw the chart beside it."""
    import altair

    rows = [
        (text, *(f"{ratio(runs, program, arm)[0]:.2f}" for program in runs[0]))
        for arm, text in NAMES.items()
        if arm != BASE
    ]
    shown = tabulate(
        rows, ["", *runs[0]], tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * len(runs[0]))
    )
    write_between(ROOT / "docs" / "costs.md", BEGIN, END, shown)

    points = [
        {"tool": text.replace("`", ""), "program": program, "ratio": ratio(runs, program, arm)[0]}
        for arm, text in NAMES.items()
        if arm not in (BASE, "control")
        for program in runs[0]
    ]
    order = [text.replace("`", "") for text in NAMES.values()]
    chart = (
        altair.Chart(altair.Data(values=points))  # type: ignore[no-untyped-call]
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=altair.X(
                "ratio:Q",
                scale=altair.Scale(type="log", nice=False),
                axis=altair.Axis(values=[1, 1.5, 2, 3, 5, 10, 20, 50, 100], format="~r"),
                title="time of a call, to the unwatched one",
            ),
            y=altair.Y("tool:N", sort=order, title=None, axis=altair.Axis(labelLimit=240, grid=True)),
            color=altair.Color("program:N", sort=list(runs[0]), legend=altair.Legend(title=None, labelLimit=260)),
        )
        .properties(width=460, height=200, background="white")
    )
    chart.save(str(ROOT / "docs" / "cost.svg"))


if __name__ == "__main__":
    main()
