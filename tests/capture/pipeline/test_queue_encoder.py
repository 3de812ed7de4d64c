"""The library encodes the queue as Python does, which is slower; and what it cannot encode is lost alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.capture.pipeline.encoding import EventEncoder
from gradprobe.capture.pipeline.queue_encoder import QueueEncoder
from gradprobe.recording.events import (
    BACKWARD_PASS,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    NOT_READ,
    OP_ROWS,
    PHASE,
    THREAD,
    Event,
    EventBlock,
)
from gradprobe.recording.symbols import SymbolTables


def encode(events: list[Event], chunk: int) -> tuple[EventBlock, SymbolTables, list[Exception]]:
    tables, faults = SymbolTables(), list[Exception]()
    encoder = QueueEncoder(EventEncoder(tables), tables.operations, {}, lambda: 0, faults.append)
    blocks = []
    for start in range(0, len(events), chunk):
        blocks += encoder.encode(events[start : start + chunk], close_tallies=False)
    return EventBlock.joined(blocks), tables, faults


def random_events(seed: int, number: int) -> list[Event]:
    """Return events of threads that begin, end and reuse identifiers, with tasks, exceptions, named sites and rows."""
    choose = random.Random(seed)
    codes = [None, test_both_ways_give_the_same.__code__, encode.__code__, random_events.__code__]
    events: list[Event] = []
    for time in range(number):
        op = choose.choice(
            [NO_GRAD | ENTER, NO_GRAD | EXIT, INFERENCE_MODE | ENTER, PHASE | ENTER, THREAD | ENTER, THREAD | EXIT]
        )
        thread, key = choose.randrange(1, 5), choose.choice([7, 2**63 + 5])
        if choose.random() < 0.1:
            marker = (BACKWARD_PASS, time, thread, 0, 0, None)
            events.append((OP_ROWS, "backwards", marker, [(choose.randrange(9), 10), (20, 30)]))
            continue
        offset: Any = (4, "a name") if op == PHASE | ENTER else choose.choice([-1, 0, 12, 300, 70_000])
        modes = [choose.choice([False, True, NOT_READ]) for _ in range(4)]
        extra = "worker" if op == THREAD | ENTER else choose.choice([None, None, "task", ValueError])
        events.append((op, time, thread, choose.choice(codes), offset, *modes, key, extra, choose.randrange(100)))
    return events


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_give_the_same(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Every column, row and table, however the events are cut into chunks."""
    events = random_events(seed, 400)
    monkeypatch.setattr(REGISTRY, "library", None)
    expected, tables, _ = encode(events, 400)
    monkeypatch.setattr(REGISTRY, "library", load_core())
    for chunk in (1, 37, 400):
        found, found_tables, faults = encode(events, chunk)
        assert faults == []
        for name in ("op", "time_ns", "thread", "site", "state", "key", "extra", "nodes"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        np.testing.assert_array_equal(found.accounts["backwards"], expected.accounts["backwards"])
        assert found_tables.sites == tables.sites
        assert found_tables.names == tables.names
        assert {n: (t.name, t.began_ns) for n, t in found_tables.threads.items()} == {
            n: (t.name, t.began_ns) for n, t in tables.threads.items()
        }


@pytest.mark.parametrize("is_in_library", [False, True])
def test_an_event_that_cannot_be_encoded_is_lost_alone(monkeypatch: pytest.MonkeyPatch, is_in_library: bool) -> None:
    monkeypatch.setattr(REGISTRY, "library", load_core() if is_in_library else None)
    events = random_events(1, 20)
    broken = [(NO_GRAD | ENTER, 0, 1, None, 0, "neither", 0, 0, 0, 1, None, 0), (NO_GRAD | ENTER, 0)]

    expected, _, _ = encode(events, 50)
    found, _, faults = encode([*events[:10], *broken, *events[10:]], 50)

    assert len(faults) == len(broken)
    np.testing.assert_array_equal(found.time_ns, expected.time_ns)


def test_numbers_of_rows_go_on_when_the_library_is_found_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level ``graph`` begins without it."""
    tables = SymbolTables()
    encoder = QueueEncoder(EventEncoder(tables), tables.operations, {}, lambda: 0, lambda error: None)
    event: Event = (OP_ROWS, "backwards", (BACKWARD_PASS, 0, 1, 0, 0, None), [(1, 2)])

    keys = []
    for library in (None, load_core()):
        monkeypatch.setattr(REGISTRY, "library", library)
        keys += EventBlock.joined(encoder.encode([event, event], close_tallies=False)).key.tolist()

    assert len(set(keys)) == 4
