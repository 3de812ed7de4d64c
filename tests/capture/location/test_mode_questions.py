"""Functions that decide by the mode are told from those that only read or set a flag."""

from __future__ import annotations

from typing import Any

import torch

from gradprobe.capture.location.mode_questions import ModeQuestions, asks_for_mode


def by_grad_mode(x: Any) -> Any:
    return x * 2 if torch.is_grad_enabled() else x


def by_tensor(x: Any) -> Any:
    if not x.requires_grad:
        return x + 1
    return x


def sets_flag(x: Any) -> Any:
    x.requires_grad = True
    return x


def reads_flag(x: Any) -> Any:
    return [x.requires_grad]


def test_only_decisions_are_questions() -> None:
    asking = [f for f in (by_grad_mode, by_tensor, sets_flag, reads_flag) if asks_for_mode(f.__code__)]
    assert asking == [by_grad_mode, by_tensor]


class Layer:
    @property
    def exact(self) -> bool:
        return torch.is_grad_enabled()

    def forward(self, x: Any) -> Any:
        return x if self.exact else x.round()

    def other(self, x: Any) -> Any:
        return x + 1


def test_a_function_that_asks_by_a_property_is_looked_at_too() -> None:
    questions = ModeQuestions()
    assert questions.are_asked_in(Layer.forward.__code__)
    assert not questions.are_asked_in(Layer.other.__code__)
