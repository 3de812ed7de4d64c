"""Section about inference tensors that the program keeps, as pure functions from the tables."""

from __future__ import annotations

from typing import Any

from gradprobe.report.document import Section, Table
from gradprobe.report.units import MISSING, escape_unprintable, format_count, format_location
from gradprobe.tables.recording_tables import RecordingTables

_COLUMNS = ("kept in", "created at", "event", "status", "at", "phase", "count")


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Return the section with the lifecycle of each kept inference tensor; None if none is kept."""
    lifecycle = tables.lifecycle
    if lifecycle.empty:
        return None
    rows = [_build_row(event) for event in lifecycle.head(top).to_dict("records")]
    sentence = (
        "These tensors were created in inference mode and outlast their block. Uses inside inference mode are not listed; "
        "a foretold one was found in the source and has not run."
    )
    table = Table(_COLUMNS, rows, frozenset({"count"}), max(len(lifecycle) - top, 0))
    return Section("Inference tensors that are kept", [sentence], table)


def _build_row(event: dict[Any, Any]) -> tuple[str, ...]:
    return (
        escape_unprintable(str(event["holder"])),
        format_location(event["file"], event["line"]),
        str(event["event"]),
        str(event["status"]),
        format_location(event["event_file"], event["event_line"]),
        escape_unprintable(str(event["event_phase"])) or MISSING,
        format_count(event["count"]),
    )
