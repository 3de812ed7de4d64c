"""Columns of the tables about phases of the program."""

from __future__ import annotations

from gradprobe.tables.column_definition import (
    FILE,
    LINE,
    PROCESS,
    RANK,
    SOURCE,
    Table,
    count_column,
    flag_column,
    optional_count_column,
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

LIFECYCLE = Table(
    "lifecycle",
    "One row per event in the life of an inference tensor that an attribute, global variable, closure or cache of the "
    "program keeps after its block; empty below level `ops`. Uses inside inference mode are not recorded.",
    (
        text_column("holder", "Expression that leads to the tensor, such as `Model.cache['k'][...]`.", level="ops"),
        text_column(
            "holder_kind",
            "Kind of the holder.",
            choices=("attribute", "parameter", "buffer", "global", "closure", "cache"),
            level="ops",
        ),
        *SOURCE,
        text_column(
            "phase", "Phase in which the tensor left inference mode first; empty if there was none.", level="ops"
        ),
        optional_text_column(
            "mode_file", "File of the line that entered inference mode; missing if unknown.", level="ops"
        ),
        optional_count_column("mode_line", "That line.", level="ops"),
        text_column(
            "event",
            "What happened to the tensor: `created`, `kept`, `read`, `viewed`, `copied`, `written in place`, `saved for "
            "backward`, `loaded into`, `asked for its version` or `made to require grad`.",
            level="ops",
        ),
        text_column(
            "status",
            "Whether the event was seen, was refused by PyTorch, is known from the source, or is foretold: found in the "
            "source before it has run.",
            choices=("seen", "refused", "source", "foretold"),
            level="ops",
        ),
        optional_text_column("event_file", "File of the event.", level="ops"),
        optional_count_column("event_line", "Line of the event.", level="ops"),
        text_column("event_phase", "Phase of the event; empty if there was none or it has not run.", level="ops"),
        count_column("count", "Number of times that it was seen; 1 for what the source shows.", level="ops"),
        PROCESS,
        RANK,
    ),
)
