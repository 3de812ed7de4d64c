"""Calls that cannot be measured are reported and get no verdict that they do not deserve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch

import gradprobe
from gradprobe.errors import GradprobeError

MOMENT_S = 0.05


async def coroutine() -> None:
    """Do nothing before it is awaited."""


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("call", [coroutine, generator])
def test_coroutines_and_generators_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(GradprobeError, match="does nothing by itself"):
        gradprobe.compare(call, budget_s=MOMENT_S, processes=1)


@pytest.mark.parametrize("failing", [3, 7, 12, 40, 4000])
def test_a_call_that_fails_after_it_had_run_before_is_a_result(failing: int) -> None:
    calls = count()

    def call() -> None:
        if next(calls) >= failing:
            raise ValueError("no more")

    result = gradprobe.compare(call, budget_s=0.5)
    assert "no more" in str(result)
    assert "unusable" in next(iter(result.verdicts.values())).values()


def test_a_slow_call_that_draws_from_its_own_generator_is_no_difference_between_modes() -> None:
    own = torch.Generator()

    def call() -> torch.Tensor:
        time.sleep(0.21)
        return torch.rand(3, generator=own)

    result = gradprobe.compare(call, budget_s=MOMENT_S)
    assert not result.table["difference"].any()
    assert "seed its other sources of randomness" in " ".join(result.notes)


def test_parameters_that_inference_mode_did_not_make_are_no_arm_of_their_own() -> None:
    layer = torch.nn.Linear(2, 2)
    modes = ("inference_mode", "inference_mode+parameters")
    result = gradprobe.compare(lambda: layer(torch.ones(1, 2)), modes=modes, budget_s=MOMENT_S)
    assert next(iter(result.verdicts.values()))["inference_mode+parameters"] == "unusable"
    assert "created in inference mode" in str(result)


def test_a_call_that_leaves_grad_disabled_is_noted() -> None:
    result = gradprobe.compare(lambda: torch.set_grad_enabled(False), budget_s=MOMENT_S)
    assert "leaves grad mode changed" in " ".join(result.notes)
    assert torch.is_grad_enabled()
