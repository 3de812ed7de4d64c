"""What bytecode shows of a mode change: whether it can last longer than its function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.capture.location.mode_sites import can_outlive_function

SETTER = torch.set_grad_enabled


def enters(training: bool) -> None:
    for _ in range(2):
        with torch.set_grad_enabled(training):
            pass


def enters_among_others(training: bool) -> int:
    with torch.no_grad(), torch.autograd.set_grad_enabled(training) as entered:
        return id(entered)


def enters_no_setter() -> None:
    with torch.no_grad():
        pass


def calls(training: bool) -> None:
    torch.set_grad_enabled(training)


def calls_after_a_block(training: bool) -> None:
    with torch.set_grad_enabled(training):
        pass
    torch.set_grad_enabled(True)


def gives_it_to_what_is_entered(wrap: Callable[..., Any]) -> None:
    with wrap(torch.set_grad_enabled(False)):
        pass


def enters_a_variable() -> None:
    setter = torch.set_grad_enabled
    with setter(False):
        pass


def enters_one_of_two(first: Any, is_first: bool) -> None:
    with first if is_first else torch.set_grad_enabled(False):
        torch.set_grad_enabled(True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="instructions have no positions")
@pytest.mark.parametrize("function", [enters, enters_among_others, enters_no_setter])
def test_what_a_with_statement_enters_ends_with_it(function: Callable[..., object]) -> None:
    assert not can_outlive_function(function.__code__)


@pytest.mark.parametrize(
    "function", [calls, calls_after_a_block, gives_it_to_what_is_entered, enters_a_variable, enters_one_of_two]
)
def test_what_is_called_or_kept_may_last(function: Callable[..., object]) -> None:
    assert can_outlive_function(function.__code__)


def test_a_call_through_another_name_beside_blocks_is_found() -> None:
    def validate() -> None:
        with torch.set_grad_enabled(False):
            pass
        SETTER(False)

    weight = torch.ones(2, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        for _ in range(3):
            validate()
            with pytest.raises(RuntimeError, match="does not require grad"):
                (weight * 2).sum().backward()
            torch.set_grad_enabled(True)
    assert "GP101" in set(recording.findings["rule"])
