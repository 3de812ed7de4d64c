"""Whether the verdicts of a comparison can be believed, and how soon they are there.

    python benchmarks/comparing.py [--processes 15] [--comparisons 200] [--loaded]

A mode against itself, and a planted difference of 3 per cent. Fresh processes each measure the same workloads in many
turns, as the experiment does. The third arm enters ``no_grad`` as the baseline and the control do; in the planted workload
it repeats its operator 103 times instead of 100. A comparison draws five processes and, in each, a turn to begin with; it
takes turns until its intervals are within plus or minus 2 per cent, and is judged as any other. With ``--loaded`` a busy
process per core runs meanwhile.

Beside it, in each process, two timers of torch.utils.benchmark run one after the other, each until its interquartile range
is within plus or minus 2 per cent of its median. What they claim: a difference where the two ranges do not overlap. Prints
Markdown.
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


def turns(number: int) -> dict[str, Any]:
    """In a process of its own: nanoseconds by workload, turn and arm, and what torch's timers claim after how long."""
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

    def entered(arm: str) -> AbstractContextManager[object]:
        return Third() if arm == THIRD else torch.no_grad()

    measured_modes.make_mode_context = entered
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
        found["timers"][name] = timers(call)
    return found


def timers(call: Callable[[], object]) -> dict[str, float]:
    """Two timers of one call in one mode: whether they tell it apart from itself, by how much, and what they took."""
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
    """The verdict of one comparison, and the seconds that its turns took."""
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
    said = decide_verdict(measured.ratio(THIRD, 0), measured.ratio(measured_modes.CONTROL, 0), PRECISION)
    return said, measured.turns * MEMBERS * TURN_S


def busy() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--loaded", action="store_true", help="keep every core busy meanwhile")
    parser.add_argument("--turns", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns is not None:
        print(json.dumps(turns(options.turns)))
        return
    loads = [multiprocessing.Process(target=busy, daemon=True) for _ in range(os.cpu_count() or 1) if options.loaded]
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
    print(tabulate(compared(processes, options.comparisons), headers="keys", tablefmt="github"))
    print()
    print(tabulate(timed(processes), headers="keys", tablefmt="github"))


def compared(processes: list[dict[str, Any]], comparisons: int) -> list[dict[str, str]]:
    order = random.Random(0)
    rows = []
    for name in processes[0]["times"]:
        judged = [judge(processes, name, order) for _ in range(comparisons)]
        said = Counter(verdict for verdict, _ in judged)
        told = said["slower"] if name == "planted" else said["faster"] + said["slower"]
        rows.append(
            {
                "workload": name,
                "asked": "at least 90 % slower" if name == "planted" else "at most 5 % told apart",
                "measured": f"{100 * told / comparisons:.1f} %",
                "verdicts": ", ".join(f"{number} {verdict}" for verdict, number in said.most_common()),
                "seconds": f"{statistics.median(seconds for _, seconds in judged):.1f}",
            }
        )
    return rows


def timed(processes: list[dict[str, Any]]) -> list[dict[str, str]]:
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
