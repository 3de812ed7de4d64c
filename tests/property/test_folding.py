"""Blocks that were added up say the same as blocks that were kept."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradprobe.analysis.modes import by_mode
from gradprobe.recorder import Recorder, session_for
from gradprobe.recording.folding import class_middle, duration_class
from gradprobe.result import Recording
from tests.conftest import FakeClock
from tests.property.programs import Body, Manager, Real, Source, programs


def both(program: Body, limit: int) -> tuple[Recording, Recording]:
    """One run of a program, recorded as a whole and with all that can be added up beyond ``limit`` events."""
    clock = FakeClock()
    session = session_for(clock.clock)

    def drain() -> None:
        with session.lock:
            session.drain()

    def step(ns: int = 1) -> None:
        clock.advance(ns)

    text = Source(program).text
    kept, folded = Recorder(clock=clock.clock), Recorder(clock=clock.clock, limit=limit)
    recordings = kept.start(), folded.start()
    try:
        Real(drain, step).run(text)
    finally:
        folded.stop()
        kept.stop()
        torch._C._set_grad_enabled(True)
    return recordings


def sums(recording: Recording) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    keys = ["file", "line", "manager", "form"]
    columns = ["count", "total_ns", "self_ns", "nodes", "self_nodes", "redundant", "errors"]
    table = recording.sites
    rows = table[[*keys, *columns]].itertuples(index=False, name=None)
    return {row[: len(keys)]: row[len(keys) :] for row in rows}


def times(recording: Recording) -> dict[str, tuple[int, int | None]]:
    return {t.mode: (t.ns, t.nodes) for t in by_mode(recording.tables.processes) if t.ns or t.nodes}


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from([0, 10]))
def test_sites_and_time_by_mode_are_the_same_whether_blocks_were_kept_or_added_up(program: Body, limit: int) -> None:
    kept, folded = both(program, limit)
    assert sums(folded) == sums(kept)
    assert times(folded) == times(kept)
    assert kept.tables.contents[0].folds == []


def test_what_is_kept_does_not_grow_with_the_length_of_the_program() -> None:
    def manager(name: str, argument: bool = True) -> Manager:
        return Manager(name, argument, False)

    body: Body = [
        ("with", [manager("no_grad"), manager("set_grad_enabled")], [("wait", 3)]),
        ("set", manager("set_grad_enabled", False)),
        ("decorated", manager("inference_mode"), True, [("set", manager("set_grad_enabled"))]),
        ("generator", manager("enable_grad"), True, [[], []], []),
        ("kept", manager("no_grad"), [], []),
        ("stack", [(manager("no_grad"), []), (manager("set_grad_enabled"), [])]),
        ("set", manager("set_grad_enabled")),
    ]
    kept, folded = both([("with", [manager("no_grad")], [("repeat", 300, body)])], 0)
    assert sums(folded) == sums(kept)
    events = [sum(len(block) for block in r.tables.contents[0].blocks) for r in (kept, folded)]
    assert events[0] > 300 * 20
    # Each time that the queue is emptied leaves a handful, and how often that is depends on the machine.
    assert events[1] < events[0] / 10
    assert len(folded.tables.contents[0].folds) < 30


def test_a_kept_object_that_is_entered_again_and_again_is_added_up() -> None:
    clock = FakeClock()
    recorder = Recorder(clock=clock.clock, limit=0)
    recording = recorder.start()
    kept = torch.set_grad_enabled(False)
    for _ in range(300):
        with kept:
            clock.advance(2)
    recorder.stop()
    contents = recording.tables.contents[0]
    assert sum(map(len, contents.blocks)) < 40
    assert recording.sites.set_index("form")["total_ns"].to_dict() == {"with": 600, "call": 600}


def test_medians_of_blocks_added_up_are_within_their_class() -> None:
    body: Body = [("with", [Manager("no_grad", True, False)], [("wait", 1000)]) for _ in range(3)]
    kept, folded = both([("repeat", 5, body)], 0)
    for one, other in zip(kept.sites["median_ns"], folded.sites["median_ns"], strict=True):
        assert abs(one - other) <= 0.0625 * one


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 10**15))
def test_the_middle_of_a_duration_class_is_within_a_sixteenth_and_classes_are_in_order(duration: int) -> None:
    middle = class_middle(duration_class(duration))
    assert abs(middle - duration) <= 0.0625 * duration
    assert duration_class(duration) <= duration_class(duration + 1)
