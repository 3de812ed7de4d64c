"""Counting passes: single calls of a prepared workload, by arm, that are counted and not timed.

Two engines count, because they answer different questions, and one row of the comparison table has columns of both.

- `mechanisms.count_mechanisms` counts nodes, counters, bumps and views with a dispatch mode, below autograd. Costs are
  fitted from these counts, and the parts of a composite operator cost what other operators do, so it decomposes those
  that inference mode dispatches whole.
- `record_call` records the call at level `ops`, as a user's recording does, above autograd: saved bytes, inference
  tensors, operators as the program called them, composite ones whole in every mode, and tensors that the call leaves
  behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure import mechanisms
from gradprobe.comparison.measure.bench_protocol import CountingPass
from gradprobe.comparison.measure.call_errors import describe_error
from gradprobe.comparison.measure.call_preparation import PreparedWorkload
from gradprobe.comparison.measure.callgrind import InstructionCounter
from gradprobe.comparison.workloads.workload import WorkloadCall
from gradprobe.recorder import record


def count_in_each_arm(prepared: PreparedWorkload, count: Callable[[str, WorkloadCall], dict[str, Any]]) -> CountingPass:
    """Return the counts of one call by arm, and the error of each arm in which it could not be counted."""
    result = CountingPass()
    for arm, state in prepared.states.items():
        call = state.restore()
        try:
            result.counts[arm] = count(arm, call)
        except Exception as error:
            result.errors[arm] = describe_error(error)
        state.restore()
    return result


def count_mechanisms_in_arm(arm: str, call: WorkloadCall) -> dict[str, float]:
    """Return the counts of each mechanism for one call in an arm."""
    with measured_modes.make_mode_context(arm):
        return mechanisms.count_mechanisms(call)


def record_call(arm: str, call: WorkloadCall) -> dict[str, Any]:
    """Return what a recording at level `ops` shows of one call in an arm."""
    with record(level="ops") as recording:
        with measured_modes.make_mode_context(arm):
            result = call()  # referenced until the block has ended: a freed graph does not show what it saved
        del result
    ops, births = recording.ops, recording.births
    return {
        "saved_bytes": float(ops["saved_bytes"].sum()) if ops["saved_bytes"].notna().all() else float("nan"),
        "inference_tensors": float(ops["inference_outputs"].sum()),
        "operators": float(ops["count"].sum()),
        "kinds": sorted(set(ops["op"])),
        "left_behind": int(births["alive"].sum()),
        "held_by": sorted({holder for held in births["held_by"] if held for holder in held.split(", ")}),
    }


def count_instructions_in_each_arm(prepared: PreparedWorkload, counter: InstructionCounter) -> dict[str, float]:
    """Return the machine instructions of one call by arm."""
    counts = {}
    for arm, state in prepared.states.items():
        with measured_modes.make_mode_context(arm):
            counts[arm] = counter.count_one_call(state.restore)
        state.restore()
    return counts
