"""Each call starts from the state of the first one, and the program goes on with that state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

import gradprobe
from gradprobe.comparison.state import call_state
from gradprobe.comparison.state.call_state import CallState

MOMENT_S = 0.05


class Cache:
    def __init__(self) -> None:
        self.keys = torch.ones(1, 2)


def lengthen(cache: Cache) -> torch.Tensor:
    cache.keys = torch.cat([cache.keys, torch.ones(1, 2)])
    return cache.keys


def exchange(cache: list[torch.Tensor]) -> torch.Tensor:
    cache[0] = torch.cat([cache[0], torch.ones(1, 2)])
    return cache[0]


def add(cache: dict[str, list[int]]) -> None:
    cache["steps"].append(1)
    cache["last"] = [2]


@pytest.mark.parametrize("modes", [("no_grad",), ("grad", "no_grad", "inference_mode")])
def test_a_list_dict_or_object_holds_what_it_held(modes: tuple[str, ...]) -> None:
    one, several, named = Cache(), [torch.ones(1, 2)], {"steps": [0]}
    before = one.keys, several[0]

    def call(cache: Cache, caches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        add(named)
        return lengthen(cache), exchange(caches)

    result = gradprobe.compare(call, one, several, modes=modes, budget_s=MOMENT_S)
    assert (one.keys, several[0]) == before
    assert named == {"steps": [0]}
    notes = " ".join(result.notes)
    assert "changes 4 of its inputs, which were restored" in notes
    assert "different values at each call" not in notes


def test_a_gradient_that_was_there_is_not_added_to() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = mine = torch.zeros(2)

    def call() -> None:
        if torch.is_grad_enabled():
            (weight * 2).sum().backward()

    gradprobe.compare(call, budget_s=MOMENT_S)
    assert weight.grad is mine
    assert torch.equal(mine, torch.zeros(2))


def test_a_tensor_that_results_were_written_into_has_no_history() -> None:
    weight, buffer = torch.ones(3, requires_grad=True), torch.zeros(3)
    gradprobe.compare(lambda: buffer.copy_(weight * 2), budget_s=MOMENT_S)
    assert buffer.grad_fn is None
    assert not buffer.requires_grad
    assert torch.equal(buffer, torch.zeros(3))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.expand(4, 3),
        lambda x: x.unfold(0, 2, 1),
        lambda x: x[::2],
        lambda x: x.unfold(0, 2, 1)[:, :1].expand(2, 5),
    ],
)
def test_views_that_share_memory_are_restored(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    base = torch.arange(3.0)
    seen = CallState(partial(lambda base, shared: base.add_(1.0), base, view(base)), 0)
    seen.restore()()
    seen.detect_changes()
    seen.restore()
    assert seen.changes == 2
    assert torch.equal(base, torch.arange(3.0))


def test_modules_keep_their_buffers_attributes_and_training_flags() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.register_buffer("steps", torch.zeros(1))
    before = module.steps

    def call() -> torch.Tensor:
        module.steps = module.steps + 1
        module.last = module[0](torch.ones(1, 2))
        module.eval()
        return module.last

    gradprobe.compare(call, budget_s=MOMENT_S)
    assert module.steps is before
    assert not hasattr(module, "last")
    assert module.training
    assert module[0].training


def test_changes_before_a_failure_or_an_interrupt_are_restored() -> None:
    x, calls = torch.zeros(2), iter(range(1000))

    def call() -> None:
        x.add_(1.0)
        if next(calls) == 9:
            raise KeyboardInterrupt
        if torch.is_inference_mode_enabled():
            raise ValueError("not here")

    with pytest.raises(KeyboardInterrupt):
        gradprobe.compare(call, budget_s=MOMENT_S)
    assert torch.equal(x, torch.zeros(2))


def test_inputs_are_restored_if_the_budget_ends_before_a_first_turn() -> None:
    norm = torch.nn.BatchNorm1d(3)
    gradprobe.compare(lambda: norm(torch.ones(4, 3)), budget_s=1e-9)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_var, torch.ones(3))


def test_tensors_without_a_copy_are_not_said_to_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_state, "MAX_COPIED_BYTES", 0)
    result = gradprobe.compare(torch.ones(3).add_, 1.0, budget_s=MOMENT_S, processes=1)
    notes = " ".join(result.notes)
    assert "each call starts from what the previous one left" in notes
    assert "restored before" not in notes


def test_lazy_modules_can_be_measured() -> None:
    result = gradprobe.compare(torch.nn.LazyLinear(2), torch.ones(1, 3), budget_s=MOMENT_S, processes=1)
    assert not result.table["error"].any()
