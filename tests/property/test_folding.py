"""Blocks that were added up say the same as blocks that were kept."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradprobe.analysis.modes import by_mode
from gradprobe.capture.clocks import Clock
from gradprobe.recorder import Recorder, session_for
from gradprobe.recording.folding import class_middle, duration_class
from gradprobe.result import Recording

MANAGERS = [torch.no_grad, torch.enable_grad, lambda: torch.set_grad_enabled(False), torch.inference_mode]

leaves = st.one_of(st.tuples(st.just("set"), st.booleans()), st.tuples(st.just("drain")), st.tuples(st.just("raise")))
programs = st.lists(
    st.recursive(
        leaves,
        lambda inner: st.tuples(st.just("block"), st.integers(0, 3), st.integers(1, 3), st.lists(inner, max_size=4)),
        max_leaves=14,
    ),
    max_size=6,
)


def run(body: Sequence[tuple[Any, ...]], clock: Clock) -> None:
    for kind, *rest in body:
        if kind == "set":
            torch.set_grad_enabled(rest[0])
        elif kind == "drain":
            session = session_for(clock)
            with session.lock:
                session.drain()
        elif kind == "raise":
            raise LookupError
        else:
            manager, times, inner = rest
            for _ in range(times):
                with contextlib.suppress(LookupError), MANAGERS[manager]():
                    run(inner, clock)


def sums(recording: Recording) -> dict[tuple[Any, ...], tuple[int, ...]]:
    columns = ["count", "total_ns", "self_ns", "errors"]
    return {
        (row["line"], row["manager"], row["form"]): tuple(int(row[column]) for column in columns)
        for row in recording.sites.to_dict("records")
    }


def both(body: Sequence[tuple[Any, ...]]) -> tuple[Recording, Recording]:
    """One run of a program, recorded as a whole and with everything folded that can be."""
    ticks = itertools.count(0, 7)
    clock = Clock(now=lambda: next(ticks), wall=lambda: 0)
    kept, folded = Recorder(level="modes", clock=clock), Recorder(level="modes", clock=clock, limit=0)
    recordings = kept.start(), folded.start()
    try:
        with contextlib.suppress(LookupError):
            run(body, clock)
    finally:
        folded.stop()
        kept.stop()
        torch.set_grad_enabled(True)
    return recordings


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_sites_and_time_by_mode_are_the_same_whether_blocks_were_kept_or_added_up(body: list[tuple[Any, ...]]) -> None:
    kept, folded = both(body)
    # The two were not started and stopped at the same instant: what spans a start or an end differs by that.
    slack = 7 * 12

    def close(one: Sequence[int], other: Sequence[int]) -> bool:
        return all(abs(a - b) <= slack for a, b in zip(one, other, strict=True))

    ours, theirs = sums(kept), sums(folded)
    assert ours.keys() == theirs.keys()
    for site, values in ours.items():
        assert values[0] == theirs[site][0], f"{site} was counted otherwise"
        assert close(values, theirs[site]), f"{site}: {values} kept, {theirs[site]} added up"
    times = [{t.mode: t.ns for t in by_mode(r.tables.processes)} for r in (kept, folded)]
    for mode in {*times[0], *times[1]}:
        assert abs(times[0].get(mode, 0) - times[1].get(mode, 0)) <= slack
    assert "unknown" not in set(folded.transitions["manager"]), "what was taken out left a gap"


def test_what_is_kept_does_not_grow_with_the_length_of_the_program() -> None:
    def kept_events(times: int) -> int:
        body = [("block", 0, times, [("set", True), ("block", 2, 1, []), ("block", 3, 1, [])])]
        folded = both(body)[1]
        return sum(len(block) for block in folded.tables.contents[0].blocks)

    assert kept_events(300) == kept_events(30)


@given(st.integers(0, 10**15))
def test_the_middle_of_a_duration_class_is_within_seven_per_cent(duration: int) -> None:
    middle = class_middle(duration_class(duration))
    assert abs(middle - duration) <= 0.0625 * duration
    assert duration_class(duration) <= duration_class(duration + 1)
