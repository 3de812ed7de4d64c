"""Bench: prepares and times the workloads of one process. A round takes each arm once, in a random order."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Sequence
from itertools import repeat
from typing import Final

from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure import counting_passes
from gradprobe.comparison.measure.bench_protocol import WARM_UP_S, CountingPass, PreparationFacts
from gradprobe.comparison.measure.call_errors import WorkloadError
from gradprobe.comparison.measure.call_preparation import LONG_CALL_NS, PreparedWorkload, call_in_each_mode
from gradprobe.comparison.measure.call_timer import HostCallTimer
from gradprobe.comparison.measure.callgrind import InstructionCounter
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.comparison.workloads.suites.ops_suite import build_mixtures
from gradprobe.comparison.workloads.workload import Workload

BLOCK_NS: Final = 300_000
"""Minimum nanoseconds of a block: much longer than a reading of the clock, much shorter than changes of clock speed."""
CLOCK_READS_PER_BLOCK: Final = 2000
MAX_CALLS: Final = 10_000
MAX_CALLS_BEFORE_RESTORING: Final = 10
WARM_UP_RATIO: Final = 1.02
"""Speed-up between consecutive groups of warm-up rounds below which a workload counts as warm."""
WARM_UP_GROUP: Final = 3
MANAGER_ENTRIES: Final = 200


class Bench:
    """Workloads of this process. Implements ``BenchProtocol``.

    The order of the arms follows from the seed and from the number of the process.
    """

    def __init__(self, modes: Sequence[str], *, seed: int, number: int = 0, timer: HostCallTimer | None = None) -> None:
        self._modes = tuple(modes)
        self._seed = seed
        self._order = random.Random(f"{seed}/{number}")
        self._timer = timer or HostCallTimer()
        self._prepared: dict[str, PreparedWorkload] = {}
        self._workloads: dict[str, Workload] = {}
        self._counter: InstructionCounter | None = None

    def open(self, source: WorkloadSource) -> list[str]:
        """Open the workloads of a source and return their names."""
        return self.add(source.load_workloads())

    def add(self, workloads: Sequence[Workload]) -> list[str]:
        """Add workloads and return their names."""
        self._workloads.update({workload.name: workload for workload in workloads})
        return [workload.name for workload in workloads]

    def add_mixtures(self, count: int) -> list[str]:
        """Add mixtures of small operators, from which the costs of mechanisms are fitted, and return their names."""
        return self.add(build_mixtures(count, seed=self._seed))

    def prepare(self, name: str, *, warm_up_s: float = WARM_UP_S, to_time: bool = True) -> PreparationFacts:
        """Build a workload, call it in each mode, compare the outputs, and warm it up if ``to_time``."""
        # Registered before the first call, so that an interrupted preparation is restored as well.
        prepared = self._prepared[name] = PreparedWorkload(name, self._seed)
        call_in_each_mode(prepared, self._workloads[name], self._modes)
        while to_time and prepared.states and prepared.call_ns <= LONG_CALL_NS:
            try:
                self._calibrate(prepared)
                prepared.warm_up_rounds = self._warm_up(prepared, warm_up_s)
                break
            except WorkloadError as error:
                del prepared.states[error.mode]
                prepared.errors[error.mode] = f"failed in a later call although the first ones succeeded: {error}"
        return prepared.facts

    def restore_all(self) -> None:
        """Restore what the calls changed, for the program that goes on after the comparison."""
        for prepared in self._prepared.values():
            prepared.restore_all()

    def _calibrate(self, prepared: PreparedWorkload) -> None:
        """Set the number of calls that makes a block long compared with a reading of the clock."""
        arm = next(arm for arm in (measured_modes.BASELINE, *prepared.states) if arm in prepared.states)
        least = max(BLOCK_NS, CLOCK_READS_PER_BLOCK * self._timer.resolution_ns)
        states = prepared.states.values()
        most = MAX_CALLS
        if prepared.states[arm].is_random or any(state.changes for state in states):
            most = MAX_CALLS_BEFORE_RESTORING
        if any(state.grows for state in states):
            most = 1
        calls = 1
        while True:
            taken = min(self._time_block(prepared, arm, calls) for _ in range(3 if calls > 1 else 1))
            prepared.call_ns = taken / calls
            if taken >= least / 2 or calls >= most:
                break
            calls = min(most, max(calls * 2, int(calls * least / max(taken, 1.0) / 2)))
        prepared.calls = max(1, min(most, math.ceil(least / max(prepared.call_ns, 1.0))))

    def _warm_up(self, prepared: PreparedWorkload, seconds: float) -> int:
        """Run rounds until the last ones are not 2 % faster than those before, and return their number."""
        begun, taken = time.perf_counter(), [self._time_round(prepared)]
        while time.perf_counter() - begun < seconds:
            taken.append(self._time_round(prepared))
            if len(taken) >= 2 * WARM_UP_GROUP:
                recent, before = (
                    statistics.median(sum(times.values()) for times in group)
                    for group in (taken[-WARM_UP_GROUP:], taken[-2 * WARM_UP_GROUP : -WARM_UP_GROUP])
                )
                if recent * WARM_UP_RATIO >= before:
                    return len(taken)
        if len(taken) > 2 * WARM_UP_GROUP:
            prepared.add_note(f"was still getting faster after {len(taken)} warm-up rounds")
        return len(taken)

    def measure(self, name: str, *, seconds: float, rounds: int = 1) -> dict[str, list[float]]:
        """Return nanoseconds per call by arm, one value per round, for ``seconds`` and at least ``rounds`` rounds."""
        prepared = self._prepared[name]
        taken: dict[str, list[float]] = {arm: [] for arm in prepared.arms}
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            self._timer.issued.clear()
            begun = time.perf_counter()
            while len(taken[prepared.arms[0]]) < rounds or time.perf_counter() - begun < seconds:
                for arm, ns in self._time_round(prepared).items():
                    taken[arm].append(ns)
        finally:
            if collects:
                gc.enable()
            prepared.issued += self._timer.issued
            for state in prepared.states.values():
                state.restore()
        return taken

    def _time_round(self, prepared: PreparedWorkload) -> dict[str, float]:
        """Return nanoseconds per call by arm, from one block of each arm."""
        order = self._order.sample(prepared.arms, len(prepared.arms))
        return {arm: self._time_block(prepared, arm, prepared.calls) / prepared.calls for arm in order}

    def _time_block(self, prepared: PreparedWorkload, arm: str, calls: int) -> float:
        """Return nanoseconds of ``calls`` consecutive calls. The mode is entered before the clock is read."""
        call = prepared.states[measured_modes.BASELINE if arm == measured_modes.CONTROL else arm].restore()
        try:
            with measured_modes.make_mode_context(arm):
                begin = self._timer.start()
                for _ in repeat(None, calls):
                    call()
                return self._timer.stop(begin)
        except Exception as error:
            raise WorkloadError(arm, error) from error

    def managers(self, *, seconds: float) -> dict[str, list[float]]:
        """Return nanoseconds to enter and exit each context manager, one value per round."""
        taken: dict[str, list[float]] = {
            mode: [] for mode in self._modes if mode != measured_modes.INFERENCE_PARAMETERS
        }
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds or not taken[measured_modes.BASELINE]:
            for arm in self._order.sample(list(taken), len(taken)):
                begin = time.perf_counter_ns()
                for _ in repeat(None, MANAGER_ENTRIES):
                    with measured_modes.make_mode_context(arm):
                        pass
                taken[arm].append((time.perf_counter_ns() - begin) / MANAGER_ENTRIES)
        return taken

    def mechanisms(self, name: str) -> CountingPass:
        """Return the counts of each mechanism for one call, by arm."""
        return counting_passes.count_in_each_arm(self._prepared[name], counting_passes.count_mechanisms_in_arm)

    def account(self, name: str) -> CountingPass:
        """Return what a recording at level `ops` shows of one call, by arm."""
        return counting_passes.count_in_each_arm(self._prepared[name], counting_passes.record_call)

    def instructions(self, name: str, folder: str) -> dict[str, float]:
        """Return the machine instructions of one call by arm. Requires that this process runs under callgrind."""
        self._counter = self._counter or InstructionCounter(folder)
        return counting_passes.count_instructions_in_each_arm(self._prepared[name], self._counter)

    def issued(self, name: str) -> float | None:
        """Return the median share of a block in which the host was issuing work; None without an accelerator."""
        shares = self._prepared[name].issued
        return statistics.median(shares) if shares else None
