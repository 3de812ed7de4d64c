"""Preparation of a workload: its first calls in each mode, from the same inputs and seeds, and their outputs compared."""

from __future__ import annotations

import contextlib
import math
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure.bench_protocol import PreparationFacts
from gradprobe.comparison.measure.call_errors import describe_error
from gradprobe.comparison.state import outputs
from gradprobe.comparison.state.call_state import CallState
from gradprobe.comparison.state.reachable import ReachableState
from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from gradprobe.errors import GradprobeError

LONG_CALL_NS: Final = 200_000_000
"""Nanoseconds above which a call is made only once per mode before it is measured."""


@dataclass
class PreparedWorkload:
    """Workload that was called in this process: a call for each usable arm, and the facts of its first calls."""

    name: str
    seed: int
    states: dict[str, CallState] = field(default_factory=dict)
    """Call by usable arm, the control excepted, which repeats the baseline's."""
    all_states: list[CallState] = field(default_factory=list)
    """State for each arm, unusable arms included: they too are restored in the end."""
    errors: dict[str, str] = field(default_factory=dict)
    differences: dict[str, outputs.OutputDifference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_deterministic: bool = True
    """True if each call returns the same."""
    calls: int = 1
    """Number of calls in one block."""
    call_ns: float = math.nan
    warm_up_rounds: int = 0
    issued: list[float] = field(default_factory=list)
    """Share of each block in which the host was issuing work, on an accelerator."""

    @property
    def arms(self) -> list[str]:
        """Arms that can be timed, the control among them if its baseline can."""
        usable = list(self.states)
        return [*usable, measured_modes.CONTROL] if measured_modes.BASELINE in usable else usable

    @property
    def facts(self) -> PreparationFacts:
        """Facts that the experiment needs."""
        return PreparationFacts(
            arms=self.arms,
            errors=dict(self.errors),
            differences=dict(self.differences),
            notes=list(self.notes),
            calls=self.calls,
            call_ns=self.call_ns,
            warm_up_rounds=self.warm_up_rounds,
        )

    def state_of(self, call: WorkloadCall) -> CallState:
        """Return the state of a call as it was before its first call."""
        known = next((state for state in self.all_states if state.call is call), None)
        if known is None:
            self.all_states.append(known := CallState(call, self.seed))
        return known

    def add_note(self, note: str) -> None:
        """Add a note unless it is there already."""
        if note not in self.notes:
            self.notes.append(note)

    def restore_all(self) -> None:
        """Restore what the calls changed, for the program that goes on after the comparison."""
        for state in reversed(self.all_states):
            state.restore_initial()


def call_in_each_mode(prepared: PreparedWorkload, workload: Workload, modes: Sequence[str]) -> None:
    """Build a workload, call it in each mode and compare the outputs. A mode in which it fails is left out.

    Raises ``GradprobeError`` if nothing of it can be measured in any mode.
    """
    results: dict[str, list[Any]] = {}
    shared: WorkloadCall | None = None
    for arm in modes:
        try:
            if arm == measured_modes.INFERENCE_PARAMETERS:
                with torch.inference_mode():
                    call = workload.build()
                _check_has_inference_tensors(call)
            else:
                call = shared = shared or workload.build()
            results[arm] = _call_first(prepared, arm, call)
        except GradprobeError:
            raise
        except Exception as error:
            prepared.states.pop(arm, None)
            prepared.errors[arm] = describe_error(error)
    _compare_results(prepared, results)
    _note_changes(prepared)


def _call_first(prepared: PreparedWorkload, arm: str, call: WorkloadCall) -> list[Any]:
    """Return the outputs of a first call in an arm, from the same inputs and seeds as in any other arm."""
    state = prepared.states[arm] = prepared.state_of(call)
    first, taken = _call_once(prepared, arm, state)
    if prepared.call_ns > LONG_CALL_NS:
        prepared.call_ns = min(taken, prepared.call_ns)
        return first
    # The time is that of the second call: the first one also imports and allocates.
    again, prepared.call_ns = _call_once(prepared, arm, state)
    if outputs.compare_outputs(first, again).matters:
        prepared.is_deterministic = False
        prepared.add_note(
            "returns different values at each call although the generators of torch, random and NumPy are seeded: seed "
            "its other sources of randomness, or its outputs cannot be compared between modes"
        )
    return first


def _call_once(prepared: PreparedWorkload, arm: str, state: CallState) -> tuple[list[Any], float]:
    """Return copies of the outputs of one call from the initial state, and the nanoseconds that it took."""
    taken = math.inf
    try:
        with measured_modes.make_mode_context(arm):
            call = state.restore()
            begun = time.perf_counter_ns()
            result = call()
            taken = float(time.perf_counter_ns() - begun)
            if torch.is_grad_enabled() != (arm == measured_modes.GRAD):
                prepared.add_note("leaves grad mode changed: its later calls do not run in the named mode")
            _check_ran(result, prepared.name)
            if result is None:
                prepared.add_note("returns None: only its effects on its inputs can be compared, not its outputs")
            return outputs.copy_outputs(result), taken
    finally:
        has_time = math.isfinite(taken) and not prepared.call_ns > LONG_CALL_NS
        state.detect_changes(partial(_call_quietly, arm, state.call) if has_time else None)
        state.reseed()
        state.restore()


def _compare_results(prepared: PreparedWorkload, results: dict[str, list[Any]]) -> None:
    first = measured_modes.BASELINE if measured_modes.BASELINE in results else next(iter(results), None)
    for arm, result in results.items():
        if prepared.is_deterministic and first is not None and arm != first:
            prepared.differences[arm] = outputs.compare_outputs(results[first], result)


def _note_changes(prepared: PreparedWorkload) -> None:
    states = prepared.states.values()
    restored = max((state.changes - state.unrestorable for state in states), default=0)
    unrestorable = max((state.unrestorable for state in states), default=0)
    if unrestorable:
        prepared.add_note(
            f"changes {unrestorable} of its inputs that are too large or not dense, and so are not restored: each call "
            "starts from what the previous one left"
        )
    if restored:
        prepared.add_note(f"changes {restored} of its inputs, which were restored before each block of calls")
    if any(state.is_random for state in states):
        prepared.add_note(
            f"draws random numbers: the generators were set to seed {prepared.seed} before each block of calls"
        )


def _call_quietly(arm: str, call: WorkloadCall) -> None:
    """Call once more and ignore an error."""
    with contextlib.suppress(Exception), measured_modes.make_mode_context(arm):
        call()


def _check_ran(result: object, name: str) -> None:
    """Raise ``GradprobeError`` for coroutines and generators: their work begins later and would not be measured."""
    kind = ""
    if isinstance(result, types.CoroutineType):
        result.close()
        kind = "coroutine"
    elif isinstance(result, types.GeneratorType | types.AsyncGeneratorType):
        kind = "generator"
    if kind:
        use = "runs" if kind == "coroutine" else "consumes"
        raise GradprobeError(
            f"cannot measure {name}: it returns a {kind}, which does nothing by itself; compare a function that {use} it"
        )


def _check_has_inference_tensors(call: WorkloadCall) -> None:
    if not any(tensor.is_inference() for tensor in ReachableState(call).tensors.values()):
        raise ValueError(
            "no tensor of the call was created in inference mode; pass the model itself to compare, or name a function "
            "that builds it"
        )
