"""Columns of the tables about operators and the inference tensors that they created."""

from __future__ import annotations

from dataclasses import replace

from gradprobe.tables.column_definition import (
    PROCESS,
    RANK,
    SOURCE,
    Column,
    Table,
    count_column,
    optional_count_column,
    optional_text_column,
    size_column,
    text_column,
)
from gradprobe.tables.mode_columns import THREAD
from gradprobe.tables.phase_columns import PHASE
from gradprobe.tables.region_columns import (
    COUNTERS_CREATED,
    TRACKED_VIEWS,
    UNCOUNTED_WRITES,
    UNTRACKED_VIEWS,
    VERSION_BUMPS,
)

_MODULE = text_column(
    "module",
    "Dotted path of the innermost module whose call was running; empty if there was none. It begins with the class of the "
    "outermost module, or with the variable of that if several of a class were outermost.",
    level="ops",
)


def _at_level_ops(*columns: Column) -> tuple[Column, ...]:
    return tuple(replace(column, level="ops") for column in columns)


OPS = Table(
    "ops",
    "One row per region, operator, source line and module; empty below level `ops`.",
    _at_level_ops(
        optional_count_column(
            "region", "Region in which the operator ran; missing if it ran in none, or was added up."
        ),
        text_column("op", "Name of the operator, such as `aten.mm`."),
        *SOURCE,
        count_column("count", "Number of calls."),
        optional_count_column("nodes", "Autograd nodes constructed by these calls."),
        size_column(
            "saved_bytes",
            "Size of the storages saved for backward; each counts in the first row of its region that saved it.",
        ),
        VERSION_BUMPS,
        COUNTERS_CREATED,
        TRACKED_VIEWS,
        count_column("inference_outputs", "Inference tensors returned."),
        count_column("normal_outputs", "Normal tensors returned."),
        UNTRACKED_VIEWS,
        size_column(
            "graph_bytes",
            "Part of `saved_bytes` that only the graph keeps alive: activations, but not parameters and inputs.",
        ),
        optional_count_column("uncounted_writes", UNCOUNTED_WRITES),
        count_column(
            "hooked", "Saved tensors that went to saved-tensor hooks of the user's program, whose bytes are not known."
        ),
        count_column("failed_version_reads", "Reads of `_version` that raised an exception."),
        count_column(
            "normal_without_counter",
            "Parameters read and tensors written that report to be normal and have no version counter.",
        ),
        count_column(
            "inference_with_counter",
            "Parameters read and tensors written that report to be inference tensors and have a version counter.",
        ),
        _MODULE,
        optional_text_column("node", "Name of the autograd node that was constructed; missing if there was none."),
        text_column(
            "phase", "Part of training in which the operator ran.", choices=("forward", "backward", "optimizer")
        ),
        PROCESS,
        RANK,
        THREAD,
    ),
)

BIRTHS = Table(
    "births",
    "One row per place and region where inference tensors were created that were still alive when their thread left "
    "inference mode; empty below level `ops`.",
    _at_level_ops(
        text_column("op", "Name of the operator that created the tensors."),
        *SOURCE,
        _MODULE,
        optional_count_column("region", "Region in which they were created; missing if it is not known."),
        PROCESS,
        RANK,
        THREAD,
        count_column("count", "Number of tensors."),
        count_column("bytes", "Size of the tensors when their thread left inference mode.", unit="bytes"),
        count_column("alive", "Number of tensors that were still alive at the end of the recording."),
        text_column(
            "held_by", "Module attributes that keep references to these tensors, separated by commas; empty if none do."
        ),
        replace(PHASE, meaning=f"Phase in which the first of them was created. {PHASE.meaning}"),
    ),
)
