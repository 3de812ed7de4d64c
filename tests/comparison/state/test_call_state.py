"""Changes of a call are restored before the next one, wherever the call keeps them."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradprobe
from gradprobe.comparison.state.call_state import CallState
from gradprobe.comparison.state.reachable import ReachableState

counter = 0
rows: list[torch.Tensor] = []


def counts_by_a_global() -> int:
    global counter
    counter += 1
    return counter


def appends_to_a_global() -> int:
    rows.append(torch.ones(1))
    return len(rows)


def in_a_closure() -> Callable[[], object]:
    calls = 0
    cache: dict[str, list[int]] = defaultdict(list)

    def call() -> tuple[int, int]:
        nonlocal calls
        calls += 1
        cache["a"].append(calls)
        return calls, len(cache["a"])

    return call


class Cached(nn.Module):
    """Layer with a cache that grows, in an attribute and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.keys: torch.Tensor | None = None
        self.steps = 0

    def forward(self, x: torch.Tensor) -> tuple[int, int, int]:
        self.keys = x if self.keys is None else torch.cat([self.keys, x])
        self.seen = torch.cat([self.seen, x])
        self.steps += 1
        return len(self.keys), len(self.seen), self.steps


class Object:
    def __init__(self) -> None:
        self.last: list[int] = []
        self.window: deque[int] = deque(maxlen=2)
        self.names: set[str] = set()

    def call(self) -> tuple[int, int, int]:
        self.last = [*self.last, 1]
        self.window.append(1)
        self.names.add(f"{len(self.names)}")
        return len(self.last), len(self.window), len(self.names)


def appended(values: list[int], table: dict[str, int]) -> tuple[int, int]:
    values.append(1)
    table[str(len(table))] = 1
    return len(values), len(table)


CALLS: dict[str, Callable[[], Callable[[], Any]]] = {
    "a global number": lambda: counts_by_a_global,
    "a global list": lambda: appends_to_a_global,
    "a closure": in_a_closure,
    "a module": lambda: partial(Cached(), torch.ones(1)),
    "an object": lambda: Object().call,
    "arguments": lambda: partial(appended, [], {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_finds_what_the_first_one_found(name: str) -> None:
    call = CALLS[name]()
    inputs = CallState(call, 0)
    first = inputs.restore()()
    inputs.detect_changes(call)
    assert inputs.changes
    for _ in range(3):
        assert inputs.restore()() == first
    inputs.restore_initial()
    assert call() == first
    inputs.restore_initial()


@pytest.mark.parametrize("name", ["a global list", "a closure", "a module", "an object", "arguments"])
def test_growth_is_distinguished_from_change(name: str) -> None:
    call = CALLS[name]()
    inputs = CallState(call, 0)
    call()
    inputs.detect_changes(call)
    inputs.restore_initial()
    assert inputs.grows
    number = CallState(counts_by_a_global, 0)
    counts_by_a_global()
    number.detect_changes(counts_by_a_global)
    number.restore_initial()
    assert not number.grows


def test_what_a_first_call_sets_up_once_stays_until_the_end() -> None:
    class Lazy:
        table: torch.Tensor | None = None
        built = 0

        def call(self) -> None:
            if self.table is None:
                self.table = torch.arange(4)
                Lazy.built += 1

    lazy = Lazy()
    inputs = CallState(lazy.call, 0)
    for _ in range(3):
        inputs.restore()()
        inputs.detect_changes(lazy.call)
    assert Lazy.built == 1
    assert not inputs.changes
    inputs.restore_initial()
    assert lazy.table is None


def test_tensors_that_a_first_call_set_up_are_restored_as_well() -> None:
    class Writes:
        cache: torch.Tensor | None = None

        def call(self) -> float:
            if self.cache is None:
                self.cache = torch.zeros(2)
            self.cache += 1
            return float(self.cache[0])

    writes = Writes()
    inputs = CallState(writes.call, 0)
    writes.call()
    inputs.detect_changes(writes.call)
    inputs.restore()
    writes.call()
    inputs.detect_changes()
    found = {inputs.restore()() for _ in range(3)}
    assert len(found) == 1


@pytest.mark.parametrize("name", ["a closure", "a module", "an object"])
def test_a_comparison_leaves_what_a_call_keeps_as_it_was(name: str) -> None:
    call = CALLS[name]()
    comparison = gradprobe.compare(lambda: call(), budget_s=0.3)
    assert set(comparison.table["error"]) == {""}
    assert call()[0] == 1


LOG = logging.getLogger("tests.inputs")


def test_what_the_whole_program_shares_is_left_alone() -> None:
    """Loggers, registries of libraries and recordings keep their changes."""
    with gradprobe.record() as recording:

        def call() -> None:
            LOG.isEnabledFor(logging.DEBUG)
            LOG.setLevel(logging.DEBUG)
            recording.transitions

        reachable = ReachableState(
            call, gradprobe.compare, logging.getLogger, np.sum, torch.nn.functional.relu, recording
        )
    named = {id(holder) for holder in (vars(LOG), vars(logging.root.manager), vars(recording))}
    assert not named & set(reachable.containers)
