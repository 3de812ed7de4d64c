"""Blocks that were added up say the same as blocks that were kept."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradprobe.analysis.time_by_mode import sum_by_mode
from gradprobe.probing import Probe
from gradprobe.recorder import Recorder, get_session
from gradprobe.recording.durations import class_middle, duration_class
from gradprobe.result import Recording
from tests.conftest import FakeClock
from tests.property.programs import Body, Manager, Real, Source, programs
from tests.thoroughness import examples


def both(program: Body, limit: int) -> tuple[Recording, Recording]:
    """Record a run of a random program twice: as a whole, and folded beyond ``limit`` events."""
    clock = FakeClock()
    session = get_session(clock.clock)

    def drain() -> None:
        with session.lock:
            session.drain()

    def step(ns: int = 1) -> None:
        clock.advance(ns)

    text = Source(program).text
    return recorded_twice(lambda: Real(drain, step).run(text), clock, limit)


def recorded_twice(run: Callable[[], object], clock: FakeClock, limit: int = 0) -> tuple[Recording, Recording]:
    kept, folded = Recorder(clock=clock.clock), Recorder(clock=clock.clock, limit=limit)
    recordings = kept.start(), folded.start()
    try:
        run()
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
    return {t.mode: (t.ns, t.nodes) for t in sum_by_mode(recording._tables.processes) if t.ns or t.nodes}


@settings(max_examples=examples(100), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from([0, 10]))
def test_sites_and_time_by_mode_are_the_same_whether_blocks_were_kept_or_added_up(program: Body, limit: int) -> None:
    kept, folded = both(program, limit)
    assert sums(folded) == sums(kept)
    assert times(folded) == times(kept)
    assert kept._tables.contents[0].folds == []


USES = """
def block(manager, body):
    with manager():
        body()

def plain(mode):
    set_grad_enabled(mode)
"""


def uses(file: str) -> dict[str, Any]:
    names: dict[str, Any] = {"set_grad_enabled": torch.set_grad_enabled}
    exec(compile(USES, file, "exec"), names)
    return names


WHERE = {"program": uses("random_program.py"), "torch": uses(str(Path(torch.__file__).with_name("pretended.py")))}
STEPS = st.recursive(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 100)),
        st.tuples(st.just("plain"), st.sampled_from(list(WHERE)), st.booleans()),
    ),
    lambda inner: st.tuples(
        st.just("block"),
        st.sampled_from(list(WHERE)),
        st.sampled_from([torch.no_grad, torch.enable_grad, torch.inference_mode]),
        st.lists(inner, max_size=5),
    ),
    max_leaves=20,
)


@settings(max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=8), st.sampled_from([0, 6]))
def test_blocks_of_pytorch_itself_are_in_the_own_time_of_those_around_them_kept_or_added_up(
    program: list[tuple[Any, ...]], limit: int
) -> None:
    clock = FakeClock()

    def run(steps: list[tuple[Any, ...]]) -> None:
        for kind, *arguments in steps:
            if kind == "wait":
                clock.advance(arguments[0])
            elif kind == "plain":
                where, mode = arguments
                WHERE[where]["plain"](mode)
            else:
                where, manager, body = arguments
                WHERE[where]["block"](manager, functools.partial(run, body))

    kept, folded = recorded_twice(lambda: run(program), clock, limit)
    assert sums(folded) == sums(kept)
    assert times(folded) == times(kept)


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
    events = [sum(len(block) for block in r._tables.contents[0].blocks) for r in (kept, folded)]
    assert events[0] > 300 * 20
    # Each time that the queue is emptied leaves a handful, and how often that is depends on the machine.
    assert events[1] < events[0] / 10
    assert len(folded._tables.contents[0].folds) < 30


def test_a_kept_object_that_is_entered_again_and_again_is_added_up() -> None:
    clock = FakeClock()
    recorder = Recorder(clock=clock.clock, limit=0)
    recording = recorder.start()
    kept = torch.set_grad_enabled(False)
    for _ in range(300):
        with kept:
            clock.advance(2)
    recorder.stop()
    contents = recording._tables.contents[0]
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


def tasks_that_take_turns(clock: FakeClock) -> None:
    async def work(steps: int) -> None:
        for _ in range(steps):
            with torch.no_grad():
                clock.advance(3)
                with torch.set_grad_enabled(True):
                    await asyncio.sleep(0)
                clock.advance(1)
            with torch.inference_mode():
                clock.advance(2)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work(n) for n in (5, 3, 4)))

    asyncio.run(main())


def blocks_left_out_of_order(clock: FakeClock) -> None:
    for _ in range(5):
        first, second = torch.no_grad(), torch.enable_grad()
        first.__enter__()
        clock.advance(1)
        second.__enter__()
        torch.set_grad_enabled(False)
        clock.advance(2)
        torch.set_grad_enabled(True)
        first.__exit__(None, None, None)
        with torch.inference_mode():
            clock.advance(4)
        second.__exit__(None, None, None)
        with torch.no_grad():
            clock.advance(8)


def threads_one_after_another(clock: FakeClock) -> None:
    def work() -> None:
        torch.set_grad_enabled(False)
        clock.advance(5)
        with torch.enable_grad():
            clock.advance(6)

    for _ in range(4):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


def an_object_entered_while_open(clock: FakeClock) -> None:
    def work() -> None:
        for _ in range(3):
            kept = torch.inference_mode()
            with kept:
                clock.advance(2)
                with kept:
                    clock.advance(3)
            clock.advance(1)
            with torch.no_grad():
                clock.advance(9)

    thread = threading.Thread(target=work)  # PyTorch leaves it in inference mode for good
    thread.start()
    thread.join()


def probed_calls(clock: FakeClock) -> None:
    @Probe(clock=clock.clock)
    def step() -> None:
        clock.advance(5)
        with torch.no_grad():
            clock.advance(2)

    with torch.inference_mode():
        for _ in range(5):
            clock.advance(1)
            step()


@pytest.mark.parametrize(
    "program",
    [
        tasks_that_take_turns,
        blocks_left_out_of_order,
        threads_one_after_another,
        an_object_entered_while_open,
        probed_calls,
    ],
)
def test_programs_out_of_the_ordinary_are_added_up_as_they_are_kept(
    program: Callable[[FakeClock], None], clock: FakeClock
) -> None:
    kept, folded = recorded_twice(lambda: program(clock), clock)
    # Whose nodes those of tasks' overlapping blocks are is known only of blocks that were kept.
    known = {key: [value is not pd.NA for value in row] for key, row in sums(kept).items()}
    for key, row in sums(kept).items():
        assert list(compress(sums(folded)[key], known[key])) == list(compress(row, known[key]))
    assert sums(folded).keys() == known.keys()
    assert times(folded) == times(kept)
    assert kept._tables.processes[0].history.timelines
    assert len(folded.transitions) <= len(kept.transitions)


def test_a_recording_that_is_full_and_stops_takes_nothing_later(clock: FakeClock) -> None:
    recorder = Recorder(clock=clock.clock, limit=8, on_full="stop")
    recording = recorder.start()
    for blocks in (2, 10, 1):
        for _ in range(blocks):
            with torch.no_grad():
                clock.advance(1)
        assert len(recording.transitions) == 4, "the batch that did not fit, and all after it"
    recorder.stop()
    assert "the limit of 8 events was reached" in str(recording)


def test_the_recording_of_a_probe_adds_up_calls_as_it_keeps_them(clock: FakeClock) -> None:
    probes = Probe(clock=clock.clock), Probe(clock=clock.clock)
    with get_session(clock.clock).lock:
        probes[1]._calls._ensure_writer(get_session(clock.clock))._limit = 0

    def step() -> None:
        clock.advance(5)
        with torch.no_grad():
            clock.advance(2)

    inner, outer = probes[0](step), probes[1](step)
    with torch.inference_mode():
        for _ in range(40):
            inner()
            clock.advance(100)
            outer()
            clock.advance(1000)
    assert sums(probes[0].recording) == sums(probes[1].recording)
    assert times(probes[0].recording) == times(probes[1].recording)
    assert len(probes[1].recording.calls) < 10
