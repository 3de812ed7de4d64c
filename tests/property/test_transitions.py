"""Whatever a program does to the modes, its recording holds exactly that."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd
import torch
from hypothesis import given, settings

from gradprobe.recorder import Recorder, get_session
from tests.property.programs import FILE, Body, Interpreter, Raised, Real, Source, programs
from tests.thoroughness import examples

COLUMNS = ["manager", "form", "event", "grad_before", "inference_before", "grad_after", "inference_after"]


def drain() -> None:
    session = get_session()
    with session.lock:
        session.drain()


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(programs())
def test_every_transition_and_region_of_a_random_program_is_as_the_rules_say(program: Body) -> None:
    text = Source(program).text
    real, rules = Real(drain, lambda ns: None), Interpreter()
    recorder = Recorder(level="modes")
    recorder.start()
    try:
        real.run(text)
    finally:
        recording = recorder.stop()
        torch._C._set_grad_enabled(True)
    with contextlib.suppress(Raised):
        rules.run(program)
    rules.notice(None)  # the end of a recording looks at the modes, too
    assert real.states == rules.states
    seen, regions = recording.transitions, recording.regions
    assert as_rows(seen, [*COLUMNS, "redundant", "depth", "line", "region"]) == rules.rows
    columns = ["manager", "form", "line", "parent", "error", "closed"]
    assert as_rows(regions, columns) == [tuple(r[c] for c in columns) for r in rules.regions]
    assert (regions["self_ns"] >= 0).all()
    assert (regions["self_ns"] <= regions["duration_ns"]).all()
    assert set(regions["irregular"]) <= {"", "entered again while open"}


def as_rows(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """The rows of a table; lines outside of the random program are None, as are missing numbers."""
    frame = frame[columns].assign(line=frame["line"].where(frame["file"] == FILE))
    return [tuple(None if v is pd.NA else v for v in row) for row in frame.itertuples(index=False, name=None)]
