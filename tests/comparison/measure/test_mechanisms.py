"""Counts of mechanisms, against recordings and against tensors that are inspected one by one."""

from __future__ import annotations

import sys

import pytest
import torch

import gradprobe
from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure.mechanisms import MECHANISM_NAMES, count_mechanisms
from gradprobe.comparison.stats.cost_model import CostDifference, fit_costs
from gradprobe.comparison.workloads.suites import models_suite, ops_suite
from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from tests.thoroughness import IS_THOROUGH, share


def under(mode: str, call: WorkloadCall) -> dict[str, float]:
    with measured_modes.make_mode_context(mode):
        return count_mechanisms(call)


@pytest.mark.parametrize("workload", ops_suite.build_workloads()[:: share(1)], ids=lambda workload: workload.name)
@pytest.mark.parametrize("mode", ["grad", "no_grad"])
def test_counts_equal_those_of_a_recording(workload: Workload, mode: str) -> None:
    call = workload.build()
    call()
    counts = under(mode, call)
    with gradprobe.record(level="ops") as recording, measured_modes.make_mode_context(mode):
        call()
    sums = recording.ops[["nodes", "version_bumps", "counters_created"]].sum()
    assert (counts["nodes"], counts["bumps"]) == (sums["nodes"], sums["version_bumps"])
    # A recording has no rows for what the parts of a composite operator return to each other.
    assert counts["counters"] >= sums["counters_created"]


def test_inference_mode_is_counted_in_the_parts_that_other_modes_show() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    plain, inference = (under(mode, lambda: layer(x)) for mode in ("no_grad", "inference_mode"))
    assert plain == {
        **dict.fromkeys(MECHANISM_NAMES, 0),
        "tracked_views": 1,
        "counters": 1,
        "dispatch_steps": 2,
        "normal_inputs": 2,
    }
    # The weight is a normal tensor, and so is its transposed view; the product is an inference tensor.
    assert inference == {**dict.fromkeys(MECHANISM_NAMES, 0), "tracked_views": 1, "normal_inputs": 2}


def test_views_are_tracked_of_normal_tensors_only() -> None:
    x = torch.ones(4)
    assert under("inference_mode", lambda: x.view(2, 2).t())["tracked_views"] == 2
    assert under("inference_mode", lambda: (x + x).view(2, 2).t())["tracked_views"] == 0
    assert under("no_grad", lambda: (x + x).view(2, 2).t())["tracked_views"] == 2


def test_counting_leaves_results_and_gradients_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_THOROUGH:
        monkeypatch.setitem(sys.modules, "transformers", None)  # its import takes seconds
    for workload in models_suite.build_workloads():
        call = workload.build()
        with torch.no_grad():
            before = call()
            count_mechanisms(call)
            after = call()
        first, second = (torch.utils._pytree.tree_leaves(result) for result in (before, after))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, torch.Tensor))


def test_costs_are_found_again_where_times_follow_from_them() -> None:
    costs = dict(zip(MECHANISM_NAMES, (400.0, 0.0, 100.0, 30.0, 200.0, 100.0, 50.0, 0.0), strict=True))
    generator = torch.Generator().manual_seed(0)
    differences = []
    for _ in range(40):
        counts = dict(
            zip(
                MECHANISM_NAMES,
                torch.randint(-9, 9, (len(MECHANISM_NAMES),), generator=generator).tolist(),
                strict=True,
            )
        )
        differences.append(CostDifference(counts, sum(costs[name] * counts[name] for name in MECHANISM_NAMES)))
    found = fit_costs(differences)
    assert found.ns == pytest.approx(costs, abs=1e-6)
    assert found.explained == pytest.approx(1.0)


def test_no_cost_is_negative_whatever_the_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        differences = [
            CostDifference(
                dict(
                    zip(
                        MECHANISM_NAMES,
                        torch.randint(-3, 9, (len(MECHANISM_NAMES),), generator=generator).tolist(),
                        strict=True,
                    )
                ),
                float(torch.randn((), generator=generator)) * 1000,
            )
            for _ in range(12)
        ]
        assert all(ns >= 0 for ns in fit_costs(differences).ns.values())


def test_the_suite_of_operators_covers_what_it_promises() -> None:
    names = [workload.name for workload in ops_suite.build_workloads()]
    assert len(set(names)) == len(names) >= 30
    assert sum(name.endswith("parameter") for name in names) >= 10
