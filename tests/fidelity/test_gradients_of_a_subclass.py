"""Autograd's own work on tensors of a subclass calls no more of its methods while recording."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import gradprobe


class Hearing(torch.Tensor):
    heard: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.heard.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


class Mode(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Hearing.heard.append(function)
        return function(*args, **(kwargs or {}))


def test_accumulation_unseen_by_subclass() -> None:
    """Accumulating a gradient of a subclass calls none of its methods."""
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.zeros(3).as_subclass(Hearing)
    loss = (weight * 2).sum()
    Hearing.heard.clear()

    with gradprobe.record(level="ops") as recording:
        loss.backward()

    assert Hearing.heard == []
    assert weight.grad.tolist() == [2, 2, 2]
    assert recording.ops["version_bumps"].sum() == 1


def test_accumulation_unseen_by_modes() -> None:
    """Accumulating a gradient of a subclass is not seen by modes."""
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * 2).sum()
    weight.grad = torch.zeros(3)
    Hearing.heard.clear()

    with gradprobe.record(level="ops"), Mode():
        torch.autograd.Variable._execution_engine.run_backward(  # type: ignore[attr-defined]
            (loss,), (torch.ones(()),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )

    assert [f.__name__ for f in Hearing.heard] == ["ones"]
