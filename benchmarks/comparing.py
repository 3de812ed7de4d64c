"""Benchmark of comparisons: how often their verdicts are right, and how long they take.

    python benchmarks/comparing.py [--processes 15] [--comparisons 200] [--loaded]

It compares a mode with itself, and with a planted difference of 3 %. Fresh processes each measure the same workloads in
many turns, as the experiment does. The third arm enters ``no_grad`` as the baseline and the control do; in the planted
workload it repeats its operator 103 times instead of 100. A comparison draws five processes and, in each, a first turn; it
takes turns until its intervals are within +-2 %, and its verdict is decided as usual. With ``--loaded`` a busy process per
core runs at the same time.

For contrast, in each process two timers of torch.utils.benchmark run one after the other, each until its interquartile
range is within +-2 % of its median. They claim a difference if the two ranges do not overlap. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from tabulate import tabulate

TURNS = 24
MEMBERS = 5
PRECISION = 0.02
TIMER_LIMIT_S = 5.0
REPEATS, PLANTED = 100, 103
THIRD = "inference_mode"


def measure_turns(number: int) -> dict[str, Any]:
    """Measure in this process: nanoseconds by workload, turn and arm, and the claims of torch's timers."""
    import torch

    from gradprobe.comparison import measured_modes
    from gradprobe.comparison.experiment import TURN_S
    from gradprobe.comparison.measure.bench import Bench
    from gradprobe.comparison.workloads.workload import Workload

    torch.set_num_threads(1)
    extra = [0]

    class Third(torch.no_grad):
        def __enter__(self) -> None:
            super().__enter__()
            extra[0] = PLANTED - REPEATS

        def __exit__(self, *error: Any) -> None:
            extra[0] = 0
            super().__exit__(*error)

    def make_mode_context(arm: str) -> AbstractContextManager[object]:
        return Third() if arm == THIRD else torch.no_grad()

    measured_modes.make_mode_context = make_mode_context
    x, big = torch.rand(8), torch.rand(64, 64)
    linear, act = torch.nn.Linear, torch.nn.ReLU
    mlp = torch.nn.Sequential(linear(16, 16), act(), linear(16, 16), act(), linear(16, 4))
    rows = torch.rand(4, 16)

    def planted() -> None:
        for _ in range(REPEATS + extra[0]):
            torch.add(x, x)

    calls = {"one add": lambda: x + x, "tiny MLP": lambda: mlp(rows), "product of 64": lambda: big @ big}
    bench = Bench(("no_grad", THIRD), seed=0, number=number)
    bench.add([Workload(name, lambda call=call: call) for name, call in {**calls, "planted": planted}.items()])
    found: dict[str, Any] = {"times": {}, "timers": {}}
    for name in [*calls, "planted"]:
        bench.prepare(name)
        found["times"][name] = [bench.measure(name, seconds=TURN_S) for _ in range(TURNS)]
    for name, call in calls.items():
        found["timers"][name] = run_timers(call)
    return found


def run_timers(call: Callable[[], object]) -> dict[str, float]:
    """Time one call in one mode twice: whether the timers claim a difference, by how much, and how long they took."""
    import torch
    from torch.utils.benchmark import Timer

    begin = time.perf_counter()
    with torch.no_grad():
        one, other = (
            Timer("call()", globals={"call": call}).adaptive_autorange(
                threshold=2 * PRECISION, min_run_time=0.05, max_run_time=TIMER_LIMIT_S
            )
            for _ in "ab"
        )
    took = time.perf_counter() - begin
    (low, high), (other_low, other_high) = (np.quantile(m.times, (0.25, 0.75)) for m in (one, other))
    apart = bool(high < other_low or other_high < low)
    return {"apart": apart, "beyond": abs(one.median / other.median - 1) > PRECISION, "seconds": took}


def judge(processes: list[dict[str, Any]], name: str, order: random.Random) -> tuple[str, float]:
    """Return the verdict of one comparison, and the seconds that its turns took."""
    from gradprobe.comparison import measured_modes
    from gradprobe.comparison.experiment import TURN_S, MeasuredWorkload
    from gradprobe.comparison.measure.bench_protocol import PreparationFacts
    from gradprobe.comparison.settings import validate_settings
    from gradprobe.comparison.stats.intervals import decide_verdict

    settings = validate_settings(modes=("no_grad", THIRD), precision=PRECISION, seed=0)
    measured = MeasuredWorkload(name)
    begins = {number: order.randrange(TURNS) for number in order.sample(range(len(processes)), MEMBERS)}
    while measured.turns < TURNS and not (measured.turns and measured.is_precise(settings)):
        for number, begin in begins.items():
            measured.add_times(number, processes[number]["times"][name][(begin + measured.turns) % TURNS])
        measured.facts = PreparationFacts(arms=list(measured.times[min(begins)]))
        measured.turns += 1
    verdict = decide_verdict(measured.ratio(THIRD, 0), measured.ratio(measured_modes.CONTROL, 0), PRECISION)
    return verdict, measured.turns * MEMBERS * TURN_S


def keep_busy() -> None:
    """Use a core until this process is ended."""
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--loaded", action="store_true", help="keep every core busy at the same time")
    parser.add_argument("--turns", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns is not None:
        print(json.dumps(measure_turns(options.turns)))
        return
    loads = [
        multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(os.cpu_count() or 1) if options.loaded
    ]
    for load in loads:
        load.start()
    processes = [
        json.loads(
            subprocess.run([sys.executable, __file__, "--turns", str(n)], check=True, capture_output=True).stdout
        )
        for n in range(options.processes)
    ]
    for load in loads:
        load.terminate()
    print(tabulate(tabulate_verdicts(processes, options.comparisons), headers="keys", tablefmt="github"))
    print()
    print(tabulate(tabulate_timers(processes), headers="keys", tablefmt="github"))


def tabulate_verdicts(processes: list[dict[str, Any]], comparisons: int) -> list[dict[str, str]]:
    order = random.Random(0)
    rows = []
    for name in processes[0]["times"]:
        judged = [judge(processes, name, order) for _ in range(comparisons)]
        verdicts = Counter(verdict for verdict, _ in judged)
        claims = verdicts["slower"] if name == "planted" else verdicts["faster"] + verdicts["slower"]
        rows.append(
            {
                "workload": name,
                "required": "at least 90 % slower" if name == "planted" else "at most 5 % different",
                "measured": f"{100 * claims / comparisons:.1f} %",
                "verdicts": ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common()),
                "seconds": f"{statistics.median(seconds for _, seconds in judged):.1f}",
            }
        )
    return rows


def tabulate_timers(processes: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for name in processes[0]["timers"]:
        taken = [process["timers"][name] for process in processes]
        rows.append(
            {
                "two timers, one after the other": name,
                "ranges apart": f"{100 * statistics.mean(t['apart'] for t in taken):.0f} %",
                "medians differ by more than 2 %": f"{100 * statistics.mean(t['beyond'] for t in taken):.0f} %",
                "seconds": f"{statistics.median(t['seconds'] for t in taken):.1f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
