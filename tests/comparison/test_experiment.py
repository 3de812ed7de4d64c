"""Comparisons with a clock that only the workload moves, so that every number is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.analysis.comparison_json import parse_outcome
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.comparison import measured_modes
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.comparison.experiment import Experiment, MeasuredWorkload
from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.call_timer import HostCallTimer
from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.verdicts import judge_workload
from gradprobe.comparison.workers.worker_handles import InProcessWorker, WorkerDied
from gradprobe.comparison.workloads.workload import Workload
from gradprobe.errors import GradprobeError

COST_NS = {"grad": 1500, "no_grad": 1000, "inference_mode": 900}


class Time:
    """Clock whose nanoseconds pass only by ``spend``, and whose budget seconds pass with every reading."""

    def __init__(self) -> None:
        self.ns = 0
        self._looks = count()

    def now(self) -> int:
        return self.ns

    def spend(self, ns: int) -> None:
        self.ns += ns

    def seconds(self) -> float:
        return next(self._looks) * 0.01


def mode() -> str:
    if torch.is_inference_mode_enabled():
        return "inference_mode"
    return "grad" if torch.is_grad_enabled() else "no_grad"


def comparison(call: Callable[[], object], time: Time, **settings: Any) -> Comparison:
    chosen = ComparisonSettings(**{"budget_s": 3.0, "precision": 0.02, **settings})
    bench = Bench(chosen.modes, seed=chosen.seed, timer=HostCallTimer(time.now))
    bench.add([Workload("work", lambda: call)])
    experiment = Experiment([InProcessWorker(bench)], chosen, now=time.seconds)
    found, _ = experiment.run(["work"])
    plain = {
        "modes": list(chosen.modes),
        "precision": chosen.precision,
        "budget_s": 3.0,
        "seed": chosen.seed,
        "took_s": 1.0,
    }
    return Comparison(ComparisonOutcome((judge_workload(found[0], chosen, None),), {"processes": 1}, plain))


def test_every_number_of_the_table_is_what_the_clock_was_moved_by() -> None:
    time = Time()
    result = comparison(lambda: time.spend(COST_NS[mode()]), time)
    table = result.table.set_index("mode")
    assert table["median_ns"].to_dict() == COST_NS
    assert table["ratio"].to_dict() == pytest.approx({"grad": 1.5, "no_grad": 1.0, "inference_mode": 0.9})
    assert table["ci_low"].to_dict() == pytest.approx(table["ratio"].to_dict())
    assert result.verdicts == {"work": {"grad": "slower", "no_grad": "baseline", "inference_mode": "faster"}}
    assert result.advice["work"].startswith("inference_mode is 10.0 % faster (95 % CI 10.0 to 10.0 %)")
    control = result._outcome.workloads[0].control
    assert control is not None
    assert (control.ratio, control.median_ns) == (1.0, 1000)
    for text in (str(result), result.to_markdown()):
        assert "0.900" in text
        assert "1.500" in text


def test_modes_that_take_the_same_time_are_equivalent() -> None:
    time = Time()
    result = comparison(lambda: time.spend(1000), time)
    assert result.verdicts["work"] == {"grad": "equivalent", "no_grad": "baseline", "inference_mode": "equivalent"}
    assert "makes no relevant difference" in result.advice["work"]


def test_a_baseline_that_differs_from_itself_forbids_a_claim_within_that() -> None:
    time, drifting = Time(), count()

    def call() -> None:
        # Every fifth call is a tenth slower, in any mode: noise, of which inference mode has 2 % less.
        slow = 100 * (next(drifting) % 5 == 0)
        time.spend((980 if mode() == "inference_mode" else 1000) + slow * 3)

    result = comparison(call, time, modes=("no_grad", "inference_mode"))
    control = result._outcome.workloads[0].control
    assert control is not None
    arm = result._outcome.workloads[0].arm("inference_mode")
    assert arm is not None
    if arm.verdict == "faster":
        assert math.log(arm.ci_high) < -max(abs(math.log(control.ci_low)), abs(math.log(control.ci_high)))


class Order:
    """Log of the calls. A type is not part of the state of a call, so this is not restored."""

    modes: ClassVar[list[str]] = []


def rounds(seed: int) -> list[list[str]]:
    bench = Bench(measured_modes.DEFAULT_MODES, seed=seed, timer=HostCallTimer(lambda: 0))
    bench.add([Workload("work", lambda: lambda: Order.modes.append(mode()))])
    bench.prepare("work", warm_up_s=0.0)
    Order.modes.clear()
    bench.measure("work", seconds=0.0, rounds=20)
    calls = len(Order.modes) // 20 // 4
    taken = Order.modes[::calls]
    return [taken[i : i + 4] for i in range(0, len(taken), 4)]


def test_each_round_takes_each_arm_once_and_the_same_seed_gives_the_same_order() -> None:
    first = rounds(3)
    assert all(sorted(taken) == ["grad", "inference_mode", "no_grad", "no_grad"] for taken in first)
    again = rounds(3)
    assert again == first
    assert again != rounds(4)


class DyingBench(Bench):
    """Bench of a process that dies when it measures."""

    def measure(self, name: str, *, seconds: float, rounds: int = 1) -> dict[str, list[float]]:
        if name == "work":
            raise WorkerDied("the worker process ended with SIGKILL")
        return super().measure(name, seconds=seconds, rounds=rounds)


def test_a_process_that_dies_leaves_no_verdict_and_is_noted() -> None:
    chosen = ComparisonSettings(budget_s=3.0)
    bench = DyingBench(chosen.modes, seed=0)
    bench.add([Workload("work", lambda: lambda: torch.ones(3))])
    experiment = Experiment([InProcessWorker(bench)], chosen)
    found, _ = experiment.run(["work"])
    compared = judge_workload(found[0], chosen, None)
    assert {arm.verdict for arm in compared.arms} == {"undecided", "baseline"}
    assert any("SIGKILL" in note for note in experiment.notes)


@pytest.fixture(scope="module")
def some() -> Comparison:
    time = Time()
    return comparison(lambda: time.spend(COST_NS[mode()]), time)


def test_json_holds_all_of_a_comparison(some: Comparison) -> None:
    import json

    again = Comparison(parse_outcome(json.loads(some.to_json()), "here"))
    assert again.to_json() == some.to_json()
    assert str(again) == str(some)
    assert again.table.equals(some.table)


def test_claims_are_asserted_and_a_failure_shows_the_interval(some: Comparison) -> None:
    some.assert_faster()
    some.assert_faster("inference_mode", by=0.09)
    with pytest.raises(AssertionError, match=r"not faster than no_grad by 20.0%: 0.900 of its time \(0.900 to 0.900\)"):
        some.assert_faster(by=0.2)
    with pytest.raises(AssertionError, match=r"grad is not equivalent to no_grad: 1\.500 of its time"):
        some.assert_equivalent("grad")
    with pytest.raises(GradprobeError, match="cannot check 'eval': it was not measured; use one of grad, no_grad"):
        some.assert_equivalent("eval")


@given(st.lists(st.lists(st.floats(10, 1000), min_size=4, max_size=9), min_size=1, max_size=5))
def test_no_ratio_depends_on_the_unit_of_time(times: list[list[float]]) -> None:
    def ratio(unit: float) -> float:
        measured = MeasuredWorkload("work")
        for number, values in enumerate(times):
            measured.add_times(
                number, {"no_grad": [v * unit for v in values], "grad": [v * unit * 1.25 for v in values]}
            )
        return measured.ratio("grad", 0).value

    assert ratio(1.0) == pytest.approx(math.log(1.25))
    assert ratio(1e6) == pytest.approx(math.log(1.25))
