"""Count the instructions that recording adds to blocks and operators, which no load disturbs.

    python benchmarks/instructions.py [--check]

Counts one call of each with valgrind, the minimum of several: without gradprobe, at every level, and under a dispatch mode
that does nothing. Prints Markdown. With ``--check`` it fails if a count is more than 10 % above its budget, the number
measured when the budget was set: a change that makes a hook cheaper should lower it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from arms import observed_by
from tabulate import tabulate

ARMS = ("unwatched", "nothing", "modes", "graph", "ops")
SLACK = 1.1
BUDGETS = {
    "with no_grad()": {"modes": 20_000, "graph": 23_800, "ops": 22_700},
    "with inference_mode()": {"modes": 23_400, "graph": 27_400, "ops": 26_600},
    "set_grad_enabled(True)": {"modes": 7_600, "graph": 9_900, "ops": 9_200},
    "add": {"modes": 9_600, "graph": 9_600, "ops": 13_200},
    "add in place": {"ops": 22_700},
    "view": {"ops": 12_000},
    "add, with a node": {"ops": 16_900},
    "multiply, with a node that saves": {"ops": 18_000},
}


def calls() -> dict[str, Callable[[], object]]:
    import torch

    x, weight = torch.ones(4), torch.ones(4, requires_grad=True)
    held = [x]  # kept until the next operator, as programs keep most results

    def hold(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            held[0] = call()

        return run

    def no_grad() -> None:
        with torch.no_grad():
            pass

    def inference_mode() -> None:
        with torch.inference_mode():
            pass

    return {
        "with no_grad()": no_grad,
        "with inference_mode()": inference_mode,
        "set_grad_enabled(True)": lambda: torch.set_grad_enabled(True),
        "add": hold(lambda: torch.add(x, x)),
        "add in place": lambda: x.add_(1),
        "view": hold(lambda: x[1:]),
        "add, with a node": hold(lambda: torch.add(weight, weight)),
        "multiply, with a node that saves": hold(lambda: torch.mul(weight, x)),
    }


def count(folder: str) -> dict[str, dict[str, float]]:
    """Count the instructions of one call by name and arm, above an empty call's; runs under callgrind."""
    import torch

    from gradprobe.comparison.measure.callgrind import InstructionCounter

    torch.set_num_threads(1)
    counter = InstructionCounter(folder)
    found: dict[str, dict[str, float]] = {}
    for name, call in calls().items():
        for arm in ARMS:
            with observed_by(arm):
                found.setdefault(name, {})[arm] = counter.count_one_call(lambda call=call: call)
    return found


def count_in_callgrind() -> dict[str, dict[str, float]]:
    """Return the result of ``count`` in a process under callgrind; exit with the reason if it cannot run."""
    from gradprobe.comparison.workers.instruction_counts import build_callgrind_command, explain_unavailable

    reason = explain_unavailable()
    if reason is not None:
        sys.exit(f"cannot count instructions: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        command = [*build_callgrind_command(folder), sys.executable, __file__, "--count", folder]
        # Hashes of strings decide how long their look-up takes.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a budget is exceeded")
    parser.add_argument("--count", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        print(json.dumps(count(options.count)))
        return
    found = count_in_callgrind()
    rows = [(name, *(f"{by_arm[arm]:,.0f}" for arm in ARMS)) for name, by_arm in found.items()]
    heads = (
        "instructions of",
        "unwatched",
        "a mode that does nothing",
        "`modes`",
        "`graph`",
        "`ops`",
    )
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * len(ARMS))))
    if options.check:
        sys.exit("\n".join(find_exceeded(found)) or None)


def find_exceeded(found: dict[str, dict[str, float]]) -> list[str]:
    """Return a line for each count above its budget by more than the slack."""
    return [
        f"{name} at level {level}: {found[name][level]:,.0f} instructions, the budget is {budget:,}"
        for name, budgets in BUDGETS.items()
        for level, budget in budgets.items()
        if found[name][level] > budget * SLACK
    ]


if __name__ == "__main__":
    main()
