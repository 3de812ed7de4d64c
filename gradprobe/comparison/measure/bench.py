"""The workloads of one process, prepared and timed: a round takes each arm once, in an order of its own."""

from __future__ import annotations

import contextlib
import gc
import math
import random
import statistics
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, Final

import torch

from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure import mechanisms
from gradprobe.comparison.measure.bench_protocol import WARM_UP_S, PreparationFacts
from gradprobe.comparison.measure.call_timer import HostCallTimer
from gradprobe.comparison.measure.callgrind import InstructionCounter
from gradprobe.comparison.state import outputs
from gradprobe.comparison.state.call_state import CallState
from gradprobe.comparison.state.reachable import ReachableState
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.comparison.workloads.suites.ops_suite import build_mixtures
from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from gradprobe.errors import GradprobeError
from gradprobe.recorder import record

BLOCK_NS: Final = 300_000
"""A block of calls is long beside the clock that times it, and short beside the changes of a machine's speed."""
CLOCK_READS_PER_BLOCK: Final = 2000
MAX_CALLS: Final = 10_000
MAX_CALLS_BEFORE_RESTORING: Final = 10
WARM_UP_RATIO: Final = 1.02
LONG_CALL_NS: Final = 200_000_000


class WorkloadError(GradprobeError):
    """A call that had run before fails in a block."""

    def __init__(self, arm: str, error: Exception) -> None:
        super().__init__(describe_error(error))
        self.mode = measured_modes.BASELINE if arm == measured_modes.CONTROL else arm


@dataclass
class PreparedWorkload:
    """One workload in this process: a call per usable arm, and what the first calls showed."""

    name: str
    inputs: dict[str, CallState] = field(default_factory=dict)
    met: list[CallState] = field(default_factory=list)
    """Those of arms that cannot be used among them: these are put back as well in the end."""
    errors: dict[str, str] = field(default_factory=dict)
    differences: dict[str, outputs.OutputDifference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_deterministic: bool = True
    """Whether it returns the same at each call."""
    calls: int = 1
    call_ns: float = math.nan
    warm_up_rounds: int = 0
    issued: list[float] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The arms that can be timed, the control among them where its baseline can."""
        usable = list(self.inputs)
        return [*usable, measured_modes.CONTROL] if measured_modes.BASELINE in usable else usable

    def inputs_of(self, call: WorkloadCall, seed: int) -> CallState:
        """The inputs of a call, as they were before it was called first."""
        known = next((inputs for inputs in self.met if inputs.call is call), None)
        if known is None:
            self.met.append(known := CallState(call, seed))
        return known

    def facts(self) -> PreparationFacts:
        """Return what the experiment needs to know."""
        return PreparationFacts(
            arms=self.arms,
            errors=dict(self.errors),
            differences=dict(self.differences),
            notes=list(self.notes),
            calls=self.calls,
            call_ns=self.call_ns,
            warm_up_rounds=self.warm_up_rounds,
        )


class Bench:
    """Prepares and times workloads in this process. Its order of arms follows from the seed and the process's number."""

    def __init__(self, modes: Sequence[str], *, seed: int, number: int = 0, timer: HostCallTimer | None = None) -> None:
        self._modes = tuple(modes)
        self._seed = seed
        self._order = random.Random(f"{seed}/{number}")
        self._timer = timer or HostCallTimer()
        self._prepared: dict[str, PreparedWorkload] = {}
        self._workloads: dict[str, Workload] = {}
        self._counter: InstructionCounter | None = None

    def open(self, source: WorkloadSource) -> list[str]:
        """Takes up the workloads of a source, and names them."""
        found = source.workloads()
        self.add(found)
        return [workload.name for workload in found]

    def add(self, workloads: Sequence[Workload]) -> None:
        self._workloads.update({workload.name: workload for workload in workloads})

    def add_mixtures(self, count: int) -> list[str]:
        """Takes up mixtures of the suite of operators, from which the costs of mechanisms are fitted."""
        found = build_mixtures(count, seed=self._seed)
        self.add(found)
        return [workload.name for workload in found]

    def prepare(self, name: str, *, warm_up_s: float = WARM_UP_S, to_time: bool = True) -> PreparationFacts:
        """Builds a workload, calls it in each mode, compares what comes out, and warms it up if it is to be timed."""
        prepared = self._prepared[name] = PreparedWorkload(name)
        results: dict[str, list[Any]] = {}
        shared: WorkloadCall | None = None
        for arm in self._modes:
            try:
                if arm == measured_modes.INFERENCE_PARAMETERS:
                    with torch.inference_mode():
                        call = self._workloads[name].build()
                    _check_made_in_inference(call)
                else:
                    call = shared = shared or self._workloads[name].build()
                results[arm] = self._tried(prepared, arm, call)
            except GradprobeError:
                raise
            except Exception as error:
                prepared.inputs.pop(arm, None)
                prepared.errors[arm] = describe_error(error)
        self._judge(prepared, results)
        while to_time and prepared.inputs and prepared.call_ns <= LONG_CALL_NS:
            try:
                self._calibrate(prepared)
                prepared.warm_up_rounds = self._warm_up(prepared, warm_up_s)
                break
            except WorkloadError as broken:
                del prepared.inputs[broken.mode]
                prepared.errors[broken.mode] = f"failed when it was called again, after it had run before: {broken}"
        return prepared.facts()

    def restore_all(self) -> None:
        """Puts back what the calls changed, for the program that goes on after the comparison."""
        for prepared in self._prepared.values():
            for inputs in reversed(prepared.met):
                inputs.leave()

    def _tried(self, prepared: PreparedWorkload, arm: str, call: WorkloadCall) -> list[Any]:
        """What the call returns in an arm, from the same inputs and seeds as in any other."""
        inputs = prepared.inputs[arm] = prepared.inputs_of(call, self._seed)
        kept, taken = self._once(prepared, arm, inputs)
        if prepared.call_ns > LONG_CALL_NS:
            prepared.call_ns = min(taken, prepared.call_ns)
            return kept  # one call per mode is all that such a function gets before it is measured
        # Of the second call: the first one also imports and allocates.
        again, prepared.call_ns = self._once(prepared, arm, inputs)
        if outputs.compare_outputs(kept, again).matters:
            prepared.is_deterministic = False
            _say(
                prepared,
                "returns something else at each call, with the generators of torch, random and NumPy at the same "
                "seed: seed what else it draws from, or its outputs cannot be compared",
            )
        return kept

    def _once(self, prepared: PreparedWorkload, arm: str, inputs: CallState) -> tuple[list[Any], float]:
        """What one call returns, from the state that all of them begin with, and how many nanoseconds it takes."""
        taken = math.inf
        try:
            with measured_modes.make_mode_context(arm):
                call = inputs.restore()
                begun = time.perf_counter_ns()
                result = call()
                taken = float(time.perf_counter_ns() - begun)
                if torch.is_grad_enabled() != (arm == measured_modes.GRAD):
                    _say(prepared, "leaves gradients switched on or off: its later calls do not run in the mode named")
                _check_ran(result, prepared.name)
                if result is None:
                    _say(prepared, "returns nothing: only its effect on its inputs, not its outputs, can be the same")
                return outputs.copy_outputs(result), taken
        finally:
            has_time = math.isfinite(taken) and not prepared.call_ns > LONG_CALL_NS
            inputs.look(partial(_quietly, arm, inputs.call) if has_time else None)
            inputs.reseed()
            inputs.restore()

    def _judge(self, prepared: PreparedWorkload, results: dict[str, list[Any]]) -> None:
        first = measured_modes.BASELINE if measured_modes.BASELINE in results else next(iter(results), None)
        for arm, result in results.items():
            if prepared.is_deterministic and first is not None and arm != first:
                prepared.differences[arm] = outputs.compare_outputs(results[first], result)
        changed = max((inputs.changes - inputs.lost for inputs in prepared.inputs.values()), default=0)
        lost = max((inputs.lost for inputs in prepared.inputs.values()), default=0)
        if lost:
            _say(
                prepared,
                f"changes {lost} of its inputs of which no copy is kept, because they are large or not dense: each call "
                "meets what the one before it left",
            )
        if changed:
            _say(prepared, f"changes {changed} of its inputs, which were put back before each block of calls")
        if any(inputs.is_random for inputs in prepared.inputs.values()):
            _say(prepared, f"draws random numbers: generators were set to seed {self._seed} before each block of calls")

    def _calibrate(self, prepared: PreparedWorkload) -> None:
        """As many calls to a block as make it long beside the clock."""
        arm = next(arm for arm in (measured_modes.BASELINE, *prepared.inputs) if arm in prepared.inputs)
        least = max(BLOCK_NS, CLOCK_READS_PER_BLOCK * self._timer.resolution_ns)
        inputs = prepared.inputs[arm]
        most = MAX_CALLS
        if inputs.is_random or any(i.changes for i in prepared.inputs.values()):
            most = MAX_CALLS_BEFORE_RESTORING
        if any(i.grows for i in prepared.inputs.values()):
            most = 1
        calls = 1
        while True:
            taken = min(self._block(prepared, arm, calls) for _ in range(3 if calls > 1 else 1))
            prepared.call_ns = taken / calls
            if taken >= least / 2 or calls >= most:
                break
            calls = min(most, max(calls * 2, int(calls * least / max(taken, 1.0) / 2)))
        prepared.calls = max(1, min(most, math.ceil(least / max(prepared.call_ns, 1.0))))

    def _warm_up(self, prepared: PreparedWorkload, seconds: float) -> int:
        """Rounds until they get no faster: the later half of them is not 2 per cent below the earlier one."""
        begun, taken = time.perf_counter(), [self._round(prepared)]
        while time.perf_counter() - begun < seconds:
            taken.append(self._round(prepared))
            if len(taken) >= 6:
                recent, before = (
                    statistics.median(sum(r.values()) for r in part) for part in (taken[-3:], taken[-6:-3])
                )
                if recent * WARM_UP_RATIO >= before:
                    return len(taken)
        if len(taken) > 6:
            _say(prepared, f"was still getting faster after {len(taken)} rounds of warming up")
        return len(taken)

    def measure(self, name: str, *, seconds: float, rounds: int = 1) -> dict[str, list[float]]:
        """Nanoseconds per call, round by round, by arm: as long as ``seconds`` last, and at least ``rounds``."""
        prepared = self._prepared[name]
        taken: dict[str, list[float]] = {arm: [] for arm in prepared.arms}
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            self._timer.issued.clear()
            begun = time.perf_counter()
            while len(taken[prepared.arms[0]]) < rounds or time.perf_counter() - begun < seconds:
                for arm, ns in self._round(prepared).items():
                    taken[arm].append(ns)
        finally:
            if collects:
                gc.enable()
            prepared.issued += self._timer.issued
            for inputs in prepared.inputs.values():
                inputs.restore()
        return taken

    def _round(self, prepared: PreparedWorkload) -> dict[str, float]:
        order = self._order.sample(prepared.arms, len(prepared.arms))
        return {arm: self._block(prepared, arm, prepared.calls) / prepared.calls for arm in order}

    def _block(self, prepared: PreparedWorkload, arm: str, calls: int) -> float:
        """Nanoseconds of ``calls`` calls in a row. The manager is entered before the clock is read."""
        call = prepared.inputs[measured_modes.BASELINE if arm == measured_modes.CONTROL else arm].restore()
        try:
            with measured_modes.make_mode_context(arm):
                begin = self._timer.start()
                for _ in repeat(None, calls):
                    call()
                return self._timer.stop(begin)
        except Exception as error:
            raise WorkloadError(arm, error) from error

    def managers(self, *, seconds: float) -> dict[str, list[float]]:
        """Nanoseconds to enter and leave each manager, round by round."""
        taken: dict[str, list[float]] = {
            mode: [] for mode in self._modes if mode != measured_modes.INFERENCE_PARAMETERS
        }
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds or not taken[measured_modes.BASELINE]:
            for arm in self._order.sample(list(taken), len(taken)):
                begin = time.perf_counter_ns()
                for _ in repeat(None, 200):
                    with measured_modes.make_mode_context(arm):
                        pass
                taken[arm].append((time.perf_counter_ns() - begin) / 200)
        return taken

    def mechanisms(self, name: str) -> dict[str, dict[str, float]]:
        """What one call makes PyTorch do, by arm and mechanism. An arm in which that cannot be counted is left out."""

        def counted(arm: str, call: WorkloadCall) -> dict[str, float]:
            with measured_modes.make_mode_context(arm):
                return mechanisms.count_mechanisms(call)

        return self._each(name, counted)

    def account(self, name: str) -> dict[str, dict[str, Any]]:
        """One call by arm as a recording at level `ops` has it: saved bytes, inference tensors, operators, what stays."""
        return self._each(name, _recorded)

    def instructions(self, name: str, folder: str) -> dict[str, float]:
        """Machine instructions of one call by arm, where this process runs under valgrind."""
        self._counter = self._counter or InstructionCounter(folder)
        found = {}
        for arm, inputs in self._prepared[name].inputs.items():
            with measured_modes.make_mode_context(arm):
                found[arm] = self._counter.count_one_call(inputs.restore)
            inputs.restore()
        return found

    def _each(self, name: str, look: Callable[[str, WorkloadCall], dict[str, Any]]) -> dict[str, dict[str, Any]]:
        found = {}
        for arm, inputs in self._prepared[name].inputs.items():
            call = inputs.restore()
            with contextlib.suppress(Exception):
                found[arm] = look(arm, call)
            inputs.restore()
        return found

    def issued(self, name: str) -> float | None:
        """The median share of a block in which the host was still issuing work; None without an accelerator."""
        shares = self._prepared[name].issued
        return statistics.median(shares) if shares else None


def _quietly(arm: str, call: WorkloadCall) -> None:
    """Calls once more; what that says is of no interest."""
    with contextlib.suppress(Exception), measured_modes.make_mode_context(arm):
        call()


def _check_ran(result: object, name: str) -> None:
    """Refuses what only begins when it is waited for or looped over: nothing of it would be measured."""
    if isinstance(result, types.CoroutineType):
        result.close()
        raise GradprobeError(f"{name} returns a coroutine, which does nothing by itself; name a function that runs it")
    if isinstance(result, types.GeneratorType | types.AsyncGeneratorType):
        raise GradprobeError(
            f"{name} returns a generator, which does nothing by itself; name a function that uses it up"
        )


def _check_made_in_inference(call: WorkloadCall) -> None:
    if not any(tensor.is_inference() for tensor in ReachableState(call).tensors.values()):
        raise ValueError(
            "nothing of it was made in inference mode; give the model to compare, or name a function that builds it"
        )


def _recorded(arm: str, call: WorkloadCall) -> dict[str, Any]:
    with record(level="ops") as recording:
        with measured_modes.make_mode_context(arm):
            result = call()  # kept until the block has ended: a graph that is gone tells nothing of what it saved
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


def describe_error(error: BaseException) -> str:
    """An error as a reader meets it: its type and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _say(prepared: PreparedWorkload, note: str) -> None:
    if note not in prepared.notes:
        prepared.notes.append(note)
