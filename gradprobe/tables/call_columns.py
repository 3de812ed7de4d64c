"""Columns of the table of probed calls."""

from __future__ import annotations

from gradprobe.tables.column_definition import (
    FILE,
    FUNCTION,
    LINE,
    Table,
    count_column,
    flag_column,
    optional_count_column,
    size_column,
    text_column,
    time_column,
)
from gradprobe.tables.mode_columns import WHERE

CALLS = Table(
    "calls",
    "One row per call of a probed function.",
    (
        FUNCTION,
        FILE,
        LINE,
        *WHERE,
        time_column("start_ns", "Time of the call since the recording began."),
        time_column("duration_ns", "Time in which the body ran, without the time that a generator or coroutine waits."),
        count_column("steps", "Number of times the body started or was resumed; 1 for a plain function."),
        optional_count_column("nodes", "Autograd nodes constructed while the body ran.", level="graph"),
        text_column("error", "Type of the exception that ended the call; empty if there was none."),
        flag_column("closed", "Whether the call ended before the recording did."),
        optional_count_column(
            "returned_nodes", "Autograd nodes in the graph behind the returned tensors.", level="graph"
        ),
        size_column("returned_saved_bytes", "Size of the storages that this graph saved for backward.", level="graph"),
        size_column("returned_graph_bytes", "Part of these storages that only this graph keeps alive.", level="graph"),
        optional_count_column(
            "returned_hooked",
            "Saved tensors of this graph that went to saved-tensor hooks of the program.",
            level="graph",
        ),
        optional_count_column("returned_unread", "Saved tensors of this graph that could not be read.", level="graph"),
        optional_count_column("parameter_bumps", "Increments of version counters of parameters.", level="graph"),
        optional_count_column("buffer_bumps", "Increments of version counters of buffers.", level="graph"),
        optional_count_column(
            "argument_bumps", "Increments of version counters of tensors among the arguments.", level="graph"
        ),
        optional_count_column("result_bumps", "Increments of version counters of the returned tensors.", level="graph"),
    ),
)
