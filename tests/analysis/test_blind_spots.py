"""Blind spots of several processes: what they share is said once."""

from __future__ import annotations

from dataclasses import replace

from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.recording.contents import Contents
from gradprobe.tables.recording_tables import RecordingTables
from tests.report import samples


def make_contents(process: int, *, is_complete: bool) -> Contents:
    made = samples.contents()
    meta = {key: value for key, value in made.meta.items() if is_complete or key != "ended_ns"}
    return replace(made, meta={**meta, "environment": {**meta["environment"], "process": process}}, notes=[])


def describe(*contents: Contents) -> list[str]:
    return [
        text
        for text in describe_blind_spots(RecordingTables(contents, include_torch=None).processes)
        if "incomplete" in text
    ]


def test_processes_that_share_a_blind_spot_are_named_in_one_sentence() -> None:
    cut = [make_contents(number, is_complete=False) for number in range(1, 8)]
    whole = make_contents(9, is_complete=True)
    (alone,) = describe(cut[0])
    assert alone.startswith("the recording is incomplete")
    assert describe(cut[0], whole) == [f"process 1: {alone}"]
    assert describe(*cut, whole) == [f"processes 1, 2, 3, 4, 5 and 2 more: {alone}"]
