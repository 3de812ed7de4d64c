"""A refusal names what has kept its tensor since the line that created it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe

CACHE: dict[str, torch.Tensor] = {}


class Holder:
    """An object of the program that keeps a tensor."""

    def __init__(self) -> None:
        self.last: Any = None


def attempt(use: Callable[[], Any]) -> None:
    """Run what autograd refuses. A test that expects an exception is no finding."""
    try:
        use()
    except RuntimeError:
        return
    raise AssertionError("nothing was raised")


def kept_by_attribute(holder: Holder) -> Callable[[], Any]:
    made = torch.ones(2)
    holder.last = made  # kept
    return lambda: holder.last.add_(1)


def kept_by_item(holder: Holder) -> Callable[[], Any]:
    made = torch.ones(2)
    CACHE["made"] = made  # kept
    return lambda: CACHE["made"].add_(1)


def kept_by_cache(holder: Holder) -> Callable[[], Any]:
    @functools.cache  # kept
    def scratch() -> torch.Tensor:
        return torch.ones(2)

    scratch()
    return lambda: scratch().add_(1)


@pytest.mark.parametrize("program", [kept_by_attribute, kept_by_item, kept_by_cache])
def test_refusal_names_what_kept_its_tensor(program: Callable[[Holder], Callable[[], Any]]) -> None:
    code = program.__code__
    source = Path(code.co_filename).read_text(encoding="utf-8").splitlines()
    kept = next(n for n, line in enumerate(source, 1) if n > code.co_firstlineno and line.endswith("# kept"))
    with gradprobe.record(level="ops") as recording:
        with torch.inference_mode():
            use = program(Holder())
        attempt(use)
    CACHE.clear()
    (finding,) = recording.findings[recording.findings["rule"] == "GP401"].to_dict("records")
    assert kept in {place["line"] for place in finding["related"]}


def carry(net: torch.nn.Module, window: list[torch.Tensor]) -> None:
    loss = net(torch.ones(1, 2)).square().mean()
    window.append(loss)  # carried
    torch.autograd.backward([sum(window, torch.zeros(()))])


def test_graph_that_is_carried_on_is_told_from_what_the_failed_pass_freed() -> None:
    window: list[torch.Tensor] = []
    with gradprobe.record(level="ops") as recording:
        carry(torch.nn.Linear(2, 1), window)
        attempt(lambda: carry(torch.nn.Linear(2, 1), window))
    (finding,) = recording.findings[recording.findings["rule"] == "GP611"].to_dict("records")
    first = carry.__code__.co_firstlineno
    assert {first + 2} <= {place["line"] for place in finding["related"]}
