"""Columns of every table: name, dtype, unit, recording level and meaning, each defined once.

The DataFrames, ``docs/columns.md`` and the rows of the JSON schemas are built from these definitions, so that they cannot
differ. Names and units stay as they are; columns may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradprobe.tables.column_definition import (
    FILE,
    FUNCTION,
    LINE,
    PROCESS,
    RANK,
    SOURCE,
    Column,
    Table,
    count_column,
    flag_column,
    optional_count_column,
    optional_text_column,
    size_column,
    text_column,
    time_column,
)
from gradprobe.tables.ledger_columns import CUSTODY, FLOW, GRAPH_MEMORY, GRAPHS, MODULES, PARAMETERS
from gradprobe.tables.phase_columns import LIFECYCLE, PHASE, PHASES

MANAGERS = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "unknown")
FORMS = ("with", "decorator", "generator", "call")
OWNERS = ("program", "library", "torch")
COMPARED_MODES = ("grad", "no_grad", "inference_mode", "inference_mode+parameters")
VERDICTS = ("baseline", "faster", "slower", "equivalent", "undecided", "unusable")


_THREAD = text_column(
    "thread", "Name of the thread, with a number if an earlier thread of the process had the same name."
)
_TASK = optional_text_column("task", "Name of the asyncio task; missing outside of one.")
_WHERE = (PROCESS, RANK, _THREAD, _TASK)
_MANAGER = text_column(
    "manager",
    "Context manager that set the mode; `unknown` if the mode was found changed and no context manager had announced it.",
    choices=MANAGERS,
)
_FORM = text_column(
    "form",
    "How the context manager was used: in a `with` statement, as a decorator of a function or of a generator function, "
    "or as a plain call of `set_grad_enabled`.",
    choices=FORMS,
)

TRANSITIONS = Table(
    "transitions",
    "One row per enter, exit and set of a mode, in the order in which they happened.",
    (
        count_column("order", "Position of the transition in the recording, from 0."),
        time_column("time_ns", "Time since the recording began."),
        *_WHERE,
        _MANAGER,
        _FORM,
        text_column(
            "event",
            "Whether a block was entered or exited, or a plain call set the mode.",
            choices=("enter", "exit", "set"),
        ),
        flag_column("grad_before", "Grad mode before the transition."),
        flag_column("inference_before", "Inference mode before the transition."),
        flag_column("grad_after", "Grad mode after the transition."),
        flag_column("inference_after", "Inference mode after the transition."),
        flag_column("redundant", "Whether both modes are the same before and after."),
        count_column("depth", "Number of blocks that were open around it in its thread and task."),
        optional_count_column(
            "region", "Row of `regions` that the transition begins or ends; missing if it does neither."
        ),
        *SOURCE,
        PHASE,
    ),
)

MODES = Table(
    "modes",
    "One row per line and way in which a mode came about: a change of the mode, or what a thread or process began with.",
    (
        PROCESS,
        RANK,
        text_column("thread", "Name of the thread that was in the mode; of a thread or process that began, its own."),
        text_column(
            "origin",
            "What set the mode: a block of one of the forms, a plain call, or the beginning of a thread or process, which "
            "does not take over the mode of the one that started it.",
            choices=(*FORMS, "thread", "process"),
        ),
        text_column("manager", "Context manager that set the mode; `unknown` where there is none.", choices=MANAGERS),
        *SOURCE,
        text_column("owner", "Whose code the line is.", choices=OWNERS),
        flag_column(
            "grad_before", "Grad mode before; of a thread or process that began, in the thread that started it."
        ),
        flag_column(
            "inference_before",
            "Inference mode before; of a thread or process that began, in the one that started it.",
        ),
        flag_column("grad", "Grad mode from then on."),
        flag_column("inference", "Inference mode from then on."),
        count_column(
            "count", "Number of times; blocks that were added up because the recording reached its limit do not count."
        ),
        flag_column("outlived", "Whether the mode was found active after its function had returned or was suspended."),
        optional_text_column(
            "lost_file", "File of the first line found to lose a gradient then; missing if none was found."
        ),
        optional_count_column("lost_line", "That line."),
    ),
)

_NODES = optional_count_column(
    "nodes",
    "Autograd nodes constructed, including those of regions inside; `AccumulateGrad` nodes do not count.",
    level="graph",
)
_SELF_NODES = optional_count_column(
    "self_nodes", "Autograd nodes constructed outside of regions inside.", level="graph"
)
_SAVED_BYTES = size_column("saved_bytes", "Size of the storages saved for backward, each counted once per region.")
_GRAPH_BYTES = size_column(
    "graph_bytes", "Part of `saved_bytes` that was allocated within the region, so that only the graph keeps it alive."
)
_BUMPS = optional_count_column("version_bumps", "Increments of version counters.", level="ops")
_COUNTERS = optional_count_column(
    "counters_created", "Normal tensors returned by operators that are not views.", level="ops"
)
_TRACKED = optional_count_column("tracked_views", "Views that keep a reference to their base.", level="ops")
_UNTRACKED = optional_count_column("untracked_views", "Views that do not keep a reference to their base.", level="ops")
_INFERENCE = optional_count_column("inference_tensors", "Inference tensors returned by operators.", level="ops")
_WRITES = "In-place writes to tensors that have no version counter."
_BACKWARD = optional_count_column(
    "backward_nodes",
    "Nodes of the region that a later `backward` or `grad` call in the same thread could reach; missing in a recording "
    "that reached its limit.",
    level="graph",
)
_DEVICE_NS = Column(
    "device_ns",
    "float64",
    "Time from when the device passed the beginning of the block to when it passed the end; missing without a device.",
    "ns",
    "graph",
    is_optional=True,
)

REGIONS = Table(
    "regions",
    "One row per block of a mode, and per plain call with what followed it.",
    (
        Column(
            "region",
            "Int64",  # as in the tables that refer to it, although it is never missing
            "Number of the region, to which other tables refer.",
            json={"type": "integer", "minimum": 0},
        ),
        optional_count_column("parent", "Region around this one; missing for an outermost region."),
        _MANAGER,
        _FORM,
        *SOURCE,
        *_WHERE,
        count_column(
            "depth", "Number of blocks that were open around it in its thread and task; plain calls do not count."
        ),
        time_column("start_ns", "Time of its beginning since the recording began."),
        time_column("duration_ns", "Time from enter to exit, including the regions inside."),
        time_column("self_ns", "Time from enter to exit, without the regions inside."),
        _DEVICE_NS,
        _NODES,
        _SELF_NODES,
        _SAVED_BYTES,
        _BUMPS,
        _COUNTERS,
        _TRACKED,
        _INFERENCE,
        text_column("error", "Type of the exception that passed through the block; empty if there was none."),
        flag_column(
            "closed", "Whether the block was exited; a plain call that is still active at the end is not closed."
        ),
        flag_column("redundant", "Whether both modes are the same before and inside."),
        text_column("irregular", "What was unusual about the region, separated by commas; empty if nothing was."),
        size_column("self_saved_bytes", "Size of the storages saved for backward outside of regions inside."),
        size_column("self_graph_bytes", "Part of `self_saved_bytes` that was allocated within the region."),
        optional_count_column(
            "self_version_bumps", "Increments of version counters outside of regions inside.", level="ops"
        ),
        optional_count_column(
            "self_counters_created", "Normal tensors returned outside of regions inside.", level="ops"
        ),
        optional_count_column(
            "self_tracked_views",
            "Views with a reference to their base, created outside of regions inside.",
            level="ops",
        ),
        _UNTRACKED,
        _GRAPH_BYTES,
        optional_count_column("uncounted_writes", _WRITES, level="ops"),
        _BACKWARD,
        text_column(
            "compiled",
            "Functions compiled by `torch.compile` that ran directly in the region, with the number of calls if it is "
            "not one; empty if there were none.",
        ),
        optional_count_column("device", "Index of the accelerator; missing without one.", level="graph"),
        optional_count_column(
            "device_lag_ns", "Time by which the device was behind the processor at the exit.", level="graph", unit="ns"
        ),
        Column(
            "device_allocated_bytes",
            "Int64",
            "Growth of the memory that tensors use on the device, from enter to exit; negative if it shrank.",
            "bytes",
            "graph",
            json={},
        ),
        size_column(
            "device_peak_bytes",
            "Maximum growth of that memory within the block; missing if the process had used more before.",
            level="graph",
        ),
        replace(PHASE, meaning=f"Phase that the region began in. {PHASE.meaning}"),
    ),
)


def _sum_over_regions(column: Column) -> Column:
    return replace(column, meaning=f"Sum of `{column.name}` over the regions; missing if one of them lacks it.")


SITES = Table(
    "sites",
    "One row per context manager and source line, the longest total time first; includes blocks that were added up because "
    "the recording reached its limit.",
    (
        *SOURCE,
        _MANAGER,
        _FORM,
        count_column("count", "Number of blocks and plain calls."),
        time_column("total_ns", "Sum of the durations, including the regions inside."),
        time_column("self_ns", "Sum of the durations, without the regions inside."),
        Column("median_ns", "float64", "Median duration of one block.", "ns"),
        _sum_over_regions(_NODES),
        _sum_over_regions(_SAVED_BYTES),
        _sum_over_regions(_BUMPS),
        _sum_over_regions(_DEVICE_NS),
        _sum_over_regions(_SELF_NODES),
        count_column("redundant", "Number of blocks and plain calls that changed neither mode."),
        count_column(
            "errors",
            "Number of blocks that an exception passed through, except those by which generators and coroutines end.",
        ),
        _sum_over_regions(_GRAPH_BYTES),
        _sum_over_regions(_COUNTERS),
        _sum_over_regions(_TRACKED),
        _sum_over_regions(_UNTRACKED),
        _sum_over_regions(_INFERENCE),
        _sum_over_regions(_BACKWARD),
    ),
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
        _BUMPS,
        _COUNTERS,
        _TRACKED,
        count_column("inference_outputs", "Inference tensors returned."),
        count_column("normal_outputs", "Normal tensors returned."),
        _UNTRACKED,
        size_column(
            "graph_bytes",
            "Part of `saved_bytes` that only the graph keeps alive: activations, but not parameters and inputs.",
        ),
        optional_count_column("uncounted_writes", _WRITES),
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
        _THREAD,
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
        _THREAD,
        count_column("count", "Number of tensors."),
        count_column("bytes", "Size of the tensors when their thread left inference mode.", unit="bytes"),
        count_column("alive", "Number of tensors that were still alive at the end of the recording."),
        text_column(
            "held_by", "Module attributes that keep references to these tensors, separated by commas; empty if none do."
        ),
        replace(PHASE, meaning=f"Phase in which the first of them was created. {PHASE.meaning}"),
    ),
)

FINDINGS = Table(
    "findings",
    "One row per finding, the worst first.",
    (
        text_column("rule", "Code of the rule, such as `GP101`."),
        text_column("severity", "Severity of the finding.", choices=("error", "warning", "note")),
        text_column("message", "What happens, under which mode, and what it costs."),
        *SOURCE,
        Column("count", "int64", "Number of times it happened.", json={"minimum": 1}),
        Column(
            "related",
            "object",
            "Other lines that belong to the finding, each a dict of `file`, `line` and `role`.",
            json={
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["file", "line", "role"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": ["string", "null"]},
                        "line": {"type": ["integer", "null"], "minimum": 0},
                        "role": {"type": "string"},
                    },
                },
            },
        ),
        text_column("fix", "What to write instead."),
        text_column("evidence", "What was seen, in numbers; empty if the message says it."),
        replace(PHASE, meaning=f"Phases in which it happened, separated by commas. {PHASE.meaning}"),
    ),
)

CALLS = Table(
    "calls",
    "One row per call of a probed function.",
    (
        FUNCTION,
        FILE,
        LINE,
        *_WHERE,
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

_RATIO = {"exclusiveMinimum": 0}


def _measured(name: str, meaning: str, unit: str = "", *, json: Mapping[str, Any] | None = None) -> Column:
    bounds = {"minimum": 0} if json is None else json
    return Column(name, "float64", meaning, unit, "", is_optional=True, json=bounds)


COMPARISON = Table(
    "comparison",
    "One row per workload and mode of a comparison.",
    (
        text_column("workload", "Name of the workload.", level=""),
        text_column("mode", "Mode under which the workload ran.", choices=COMPARED_MODES, level=""),
        _measured("median_ns", "Median time of one call.", "ns"),
        _measured("ratio", "Time relative to `no_grad`; below 1 is faster.", json=_RATIO),
        _measured("ci_low", "Lower end of the 95 % confidence interval of `ratio`.", json=_RATIO),
        _measured("ci_high", "Upper end of the 95 % confidence interval of `ratio`.", json=_RATIO),
        text_column("verdict", "How the mode compares with `no_grad`.", choices=VERDICTS, level=""),
        _measured("nodes", "Autograd nodes constructed by one call."),
        _measured("counters_created", "Version counters created by one call."),
        _measured("version_bumps", "Increments of version counters by one call."),
        _measured("tracked_views", "Views created by one call that keep a reference to their base."),
        _measured("saved_bytes", "Size of the storages that one call saves for backward.", "bytes"),
        _measured("instructions", "Machine instructions of one call; missing unless they were asked for."),
        _measured("saved_tensors", "Tensors that one call saves for backward."),
        _measured("inference_tensors", "Inference tensors created by one call."),
        _measured("operators", "Operators that one call runs; a composite operator counts once."),
        _measured(
            "explained",
            "Share of the measured difference to `no_grad` that the costs of the mechanisms explain.",
            json={},
        ),
        Column("rounds", "int64", "Number of measured rounds, over all processes.", level=""),
        text_column("difference", "How the outputs differ from those under `no_grad`; empty if they do not.", level=""),
        text_column("error", "Why the mode cannot be used; empty if it can.", level=""),
    ),
)

RECORDING_TABLES = (
    TRANSITIONS,
    REGIONS,
    SITES,
    MODES,
    PHASES,
    OPS,
    BIRTHS,
    LIFECYCLE,
    CALLS,
    FLOW,
    PARAMETERS,
    MODULES,
    GRAPHS,
    GRAPH_MEMORY,
    CUSTODY,
    FINDINGS,
)
"""Tables of a recording, in the order of the JSON report."""
