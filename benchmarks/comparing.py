"""Whether the verdicts of a comparison can be believed: a mode against itself, and a planted difference of 3 per cent.

    python benchmarks/comparing.py [--processes 15] [--comparisons 200] [--loaded]

Fresh processes each measure the same workloads in several sessions, with the experiment's own rounds. The third arm enters
``no_grad`` as the baseline and the control do; in the planted workload it repeats its operator 103 times instead of 100. A
comparison takes one session of each of five processes, drawn at random, and is judged as any other. With ``--loaded`` a
busy process per core runs meanwhile. The same sessions then tell what two timers of torch.utils.benchmark, run one after
the other in each process, would have claimed: a difference where their interquartile ranges do not overlap. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from tabulate import tabulate

SESSIONS, SESSION_S = 6, 0.18
MEMBERS = 5
REPEATS, PLANTED = 100, 103
THIRD = "inference_mode"


def sessions(number: int) -> dict[str, Any]:
    """In a process of its own: nanoseconds by workload, session and arm, and what torch's timers claim."""
    import torch
    from torch.utils.benchmark import Timer

    from gradprobe.comparison import arms
    from gradprobe.comparison.bench import Bench
    from gradprobe.comparison.workload import Workload

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

    arms.entered = entered
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
    found: dict[str, Any] = {"times": {}, "claims": []}
    for name in [*calls, "planted"]:
        bench.prepare(name)
        found["times"][name] = [bench.measure(name, seconds=SESSION_S) for _ in range(SESSIONS)]
    for call in calls.values():
        with torch.no_grad():
            one, other = (
                Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=SESSION_S) for _ in "ab"
            )
        quartiles = [sorted(m.times)[round(q * (len(m.times) - 1))] for m in (one, other) for q in (0.25, 0.75)]
        found["claims"].append(quartiles[1] < quartiles[2] or quartiles[3] < quartiles[0])
    return found


def judge(processes: list[dict[str, Any]], name: str, order: random.Random) -> str:
    """The verdict of one comparison."""
    from gradprobe.comparison import arms
    from gradprobe.comparison.experiment import Measured
    from gradprobe.comparison.statistics import verdict

    measured = Measured(name)
    for number in order.sample(range(len(processes)), MEMBERS):
        measured.keep(number, order.choice(processes[number]["times"][name]))
    return verdict(measured.ratio(THIRD, 0), measured.ratio(arms.CONTROL, 0), 0.02)


def busy() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--loaded", action="store_true", help="keep every core busy meanwhile")
    parser.add_argument("--session", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.session is not None:
        print(json.dumps(sessions(options.session)))
        return
    loads = [multiprocessing.Process(target=busy, daemon=True) for _ in range(os.cpu_count() or 1) if options.loaded]
    for load in loads:
        load.start()
    processes = [
        json.loads(
            subprocess.run([sys.executable, __file__, "--session", str(n)], check=True, capture_output=True).stdout
        )
        for n in range(options.processes)
    ]
    for load in loads:
        load.terminate()
    order = random.Random(0)
    rows = []
    for name in processes[0]["times"]:
        said = Counter(judge(processes, name, order) for _ in range(options.comparisons))
        told = said["slower"] if name == "planted" else said["faster"] + said["slower"]
        asked = "at least 90 % slower" if name == "planted" else "at most 5 % told apart"
        share = f"{100 * told / options.comparisons:.1f} %"
        rows.append((name, asked, share, ", ".join(f"{number} {verdict}" for verdict, number in said.most_common())))
    print(tabulate(rows, headers=("workload", "asked", "measured", "verdicts"), tablefmt="github"))
    claims = [claim for process in processes for claim in process["claims"]]
    print(
        f"\ntimers of torch.utils.benchmark, one after the other: {100 * sum(claims) / len(claims):.0f} % of "
        f"{len(claims)} told a mode apart from itself"
    )


if __name__ == "__main__":
    main()
