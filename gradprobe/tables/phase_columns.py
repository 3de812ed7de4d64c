"""Columns of the tables about phases of the program."""

from __future__ import annotations

from gradprobe.tables.column_definition import (
    FILE,
    LINE,
    PROCESS,
    RANK,
    Table,
    count_column,
    flag_column,
    optional_text_column,
    text_column,
    time_column,
)

PHASE = text_column(
    "phase",
    "Phase of the program, by the name that the program gave it with `gradprobe.phase`, otherwise by that of one that "
    "gradprobe found; empty if there was none.",
)

PHASES = Table(
    "phases",
    "One row per run of a phase; a decorated generator or coroutine has one for each time that its body runs.",
    (
        PHASE,
        FILE,
        LINE,
        PROCESS,
        RANK,
        text_column(
            "thread", "Name of the thread, with a number if an earlier thread of the process had the same name."
        ),
        optional_text_column("task", "Name of the asyncio task; missing outside of one."),
        count_column("depth", "Number of phases around it."),
        text_column("parent", "Name of the phase around it; empty if there is none."),
        time_column(
            "start_ns", "Time of its beginning since the recording began; 0 or close to it if it began before."
        ),
        time_column("duration_ns", "Time until its end, or until that of the recording."),
        flag_column("automatic", "Whether gradprobe found the phase; otherwise the program named it."),
        flag_column("closed", "Whether the phase ended before the recording did."),
    ),
)
