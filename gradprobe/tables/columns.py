"""Columns of every table: name, dtype, unit, recording level and meaning, each defined once.

The DataFrames, ``docs/columns.md`` and the rows of the JSON schemas are built from these definitions, so that they cannot
differ. Names and units stay as they are; columns may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Dtype = Literal["bool", "int64", "Int64", "float64", "str", "object"]
"""pandas dtype of a column; ``str`` is the default dtype of pandas for text."""

Level = Literal["", "modes", "graph", "ops"]
"""Lowest recording level that fills a column; empty if levels do not apply."""

MANAGERS = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "unknown")
FORMS = ("with", "decorator", "generator", "call")
OWNERS = ("program", "library", "torch")
COMPARED_MODES = ("grad", "no_grad", "inference_mode", "inference_mode+parameters")
VERDICTS = ("baseline", "faster", "slower", "equivalent", "undecided", "unusable")


@dataclass(frozen=True)
class Column:
    """Column of a table."""

    name: str
    dtype: Dtype
    meaning: str
    unit: str = ""
    level: Level = "modes"
    choices: tuple[str, ...] = ()
    """Values of the column, if they are few."""
    is_optional: bool = False
    """True if a ``str`` or ``float64`` column may lack values; an ``Int64`` column always may."""
    json: Mapping[str, Any] = field(default_factory=lambda: {"minimum": 0})
    """Keywords of the JSON schema of a numeric or ``object`` column, in addition to its type."""

    @property
    def can_be_missing(self) -> bool:
        """True if a row may lack a value: NaN or NA in the DataFrame, null in JSON."""
        return self.is_optional or self.dtype == "Int64"


@dataclass(frozen=True)
class Table:
    """Table: its name, the description of a row, and its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns in order."""
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> Column:
        """Return the column with this name."""
        return next(column for column in self.columns if column.name == name)


def _text(name: str, meaning: str, *, choices: tuple[str, ...] = (), level: Level = "modes") -> Column:
    return Column(name, "str", meaning, choices=choices, level=level)


def _optional_text(name: str, meaning: str, *, level: Level = "modes") -> Column:
    return Column(name, "str", meaning, is_optional=True, level=level)


def _flag(name: str, meaning: str) -> Column:
    return Column(name, "bool", meaning)


def _count(name: str, meaning: str, *, level: Level = "modes", unit: str = "") -> Column:
    return Column(name, "int64", meaning, unit=unit, level=level)


def _optional_count(name: str, meaning: str, *, level: Level = "modes", unit: str = "") -> Column:
    return Column(name, "Int64", meaning, unit=unit, level=level)


def _bytes(name: str, meaning: str, *, level: Level = "ops") -> Column:
    return Column(name, "Int64", meaning, unit="bytes", level=level)


def _time(name: str, meaning: str) -> Column:
    return Column(name, "int64", meaning, unit="ns")


_FILE = _optional_text("file", "Source file; missing if it is not known.")
_LINE = _optional_count("line", "Line of the user's code in that file; missing if it is not known.")
_FUNCTION = _optional_text(
    "function", "Qualified name of the function that contains the line; missing if it is not known."
)
_SOURCE = (_FILE, _LINE, _FUNCTION)
_PROCESS = _count("process", "Process id.")
_RANK = _optional_count("rank", "Rank in the distributed job; missing outside of one.")
_THREAD = _text("thread", "Name of the thread, with a number if an earlier thread of the process had the same name.")
_TASK = _optional_text("task", "Name of the asyncio task; missing outside of one.")
_WHERE = (_PROCESS, _RANK, _THREAD, _TASK)
_MANAGER = _text(
    "manager",
    "Context manager that set the mode; `unknown` if the mode was found changed and no context manager had announced it.",
    choices=MANAGERS,
)
_FORM = _text(
    "form",
    "How the context manager was used: in a `with` statement, as a decorator of a function or of a generator function, "
    "or as a plain call of `set_grad_enabled`.",
    choices=FORMS,
)

TRANSITIONS = Table(
    "transitions",
    "One row per enter, exit and set of a mode, in the order in which they happened.",
    (
        _count("order", "Position of the transition in the recording, from 0."),
        _time("time_ns", "Time since the recording began."),
        *_WHERE,
        _MANAGER,
        _FORM,
        _text(
            "event",
            "Whether a block was entered or exited, or a plain call set the mode.",
            choices=("enter", "exit", "set"),
        ),
        _flag("grad_before", "Grad mode before the transition."),
        _flag("inference_before", "Inference mode before the transition."),
        _flag("grad_after", "Grad mode after the transition."),
        _flag("inference_after", "Inference mode after the transition."),
        _flag("redundant", "Whether both modes are the same before and after."),
        _count("depth", "Number of blocks that were open around it in its thread and task."),
        _optional_count("region", "Row of `regions` that the transition begins or ends; missing if it does neither."),
        *_SOURCE,
    ),
)

MODES = Table(
    "modes",
    "One row per line and way in which a mode came about: a change of the mode, or what a thread or process began with.",
    (
        _PROCESS,
        _RANK,
        _text("thread", "Name of the thread that was in the mode; of a thread or process that began, its own."),
        _text(
            "origin",
            "What set the mode: a block of one of the forms, a plain call, or the beginning of a thread or process, which "
            "does not take over the mode of the one that started it.",
            choices=(*FORMS, "thread", "process"),
        ),
        _text("manager", "Context manager that set the mode; `unknown` where there is none.", choices=MANAGERS),
        *_SOURCE,
        _text("owner", "Whose code the line is.", choices=OWNERS),
        _flag("grad_before", "Grad mode before; of a thread or process that began, in the thread that started it."),
        _flag(
            "inference_before",
            "Inference mode before; of a thread or process that began, in the one that started it.",
        ),
        _flag("grad", "Grad mode from then on."),
        _flag("inference", "Inference mode from then on."),
        _count(
            "count", "Number of times; blocks that were added up because the recording reached its limit do not count."
        ),
        _flag("outlived", "Whether the mode was found active after its function had returned or was suspended."),
        _optional_text("lost_file", "File of the first line found to lose a gradient then; missing if none was found."),
        _optional_count("lost_line", "That line."),
    ),
)

_NODES = _optional_count(
    "nodes",
    "Autograd nodes constructed, including those of regions inside; `AccumulateGrad` nodes do not count.",
    level="graph",
)
_SELF_NODES = _optional_count("self_nodes", "Autograd nodes constructed outside of regions inside.", level="graph")
_SAVED_BYTES = _bytes("saved_bytes", "Size of the storages saved for backward, each counted once per region.")
_GRAPH_BYTES = _bytes(
    "graph_bytes", "Part of `saved_bytes` that was allocated within the region, so that only the graph keeps it alive."
)
_BUMPS = _optional_count("version_bumps", "Increments of version counters.", level="ops")
_COUNTERS = _optional_count("counters_created", "Normal tensors returned by operators that are not views.", level="ops")
_TRACKED = _optional_count("tracked_views", "Views that keep a reference to their base.", level="ops")
_UNTRACKED = _optional_count("untracked_views", "Views that do not keep a reference to their base.", level="ops")
_INFERENCE = _optional_count("inference_tensors", "Inference tensors returned by operators.", level="ops")
_WRITES = "In-place writes to tensors that have no version counter."
_BACKWARD = _optional_count(
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
        _optional_count("parent", "Region around this one; missing for an outermost region."),
        _MANAGER,
        _FORM,
        *_SOURCE,
        *_WHERE,
        _count("depth", "Number of blocks that were open around it in its thread and task; plain calls do not count."),
        _time("start_ns", "Time of its beginning since the recording began."),
        _time("duration_ns", "Time from enter to exit, including the regions inside."),
        _time("self_ns", "Time from enter to exit, without the regions inside."),
        _DEVICE_NS,
        _NODES,
        _SELF_NODES,
        _SAVED_BYTES,
        _BUMPS,
        _COUNTERS,
        _TRACKED,
        _INFERENCE,
        _text("error", "Type of the exception that passed through the block; empty if there was none."),
        _flag("closed", "Whether the block was exited; a plain call that is still active at the end is not closed."),
        _flag("redundant", "Whether both modes are the same before and inside."),
        _text("irregular", "What was unusual about the region, separated by commas; empty if nothing was."),
        _bytes("self_saved_bytes", "Size of the storages saved for backward outside of regions inside."),
        _bytes("self_graph_bytes", "Part of `self_saved_bytes` that was allocated within the region."),
        _optional_count("self_version_bumps", "Increments of version counters outside of regions inside.", level="ops"),
        _optional_count("self_counters_created", "Normal tensors returned outside of regions inside.", level="ops"),
        _optional_count(
            "self_tracked_views",
            "Views with a reference to their base, created outside of regions inside.",
            level="ops",
        ),
        _UNTRACKED,
        _GRAPH_BYTES,
        _optional_count("uncounted_writes", _WRITES, level="ops"),
        _BACKWARD,
        _text(
            "compiled",
            "Functions compiled by `torch.compile` that ran directly in the region, with the number of calls if it is "
            "not one; empty if there were none.",
        ),
        _optional_count("device", "Index of the accelerator; missing without one.", level="graph"),
        _optional_count(
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
        _bytes(
            "device_peak_bytes",
            "Maximum growth of that memory within the block; missing if the process had used more before.",
            level="graph",
        ),
    ),
)


def _sum_over_regions(column: Column) -> Column:
    return replace(column, meaning=f"Sum of `{column.name}` over the regions; missing if one of them lacks it.")


SITES = Table(
    "sites",
    "One row per context manager and source line, the longest total time first; includes blocks that were added up because "
    "the recording reached its limit.",
    (
        *_SOURCE,
        _MANAGER,
        _FORM,
        _count("count", "Number of blocks and plain calls."),
        _time("total_ns", "Sum of the durations, including the regions inside."),
        _time("self_ns", "Sum of the durations, without the regions inside."),
        Column("median_ns", "float64", "Median duration of one block.", "ns"),
        _sum_over_regions(_NODES),
        _sum_over_regions(_SAVED_BYTES),
        _sum_over_regions(_BUMPS),
        _sum_over_regions(_DEVICE_NS),
        _sum_over_regions(_SELF_NODES),
        _count("redundant", "Number of blocks and plain calls that changed neither mode."),
        _count(
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

_MODULE = _text(
    "module", "Dotted path of the innermost module whose call was running; empty if there was none.", level="ops"
)


def _at_level_ops(*columns: Column) -> tuple[Column, ...]:
    return tuple(replace(column, level="ops") for column in columns)


OPS = Table(
    "ops",
    "One row per region, operator, source line and module; empty below level `ops`.",
    _at_level_ops(
        _optional_count("region", "Region in which the operator ran; missing if it ran in none, or was added up."),
        _text("op", "Name of the operator, such as `aten.mm`."),
        *_SOURCE,
        _count("count", "Number of calls."),
        _optional_count("nodes", "Autograd nodes constructed by these calls."),
        _bytes(
            "saved_bytes",
            "Size of the storages saved for backward; each counts in the first row of its region that saved it.",
        ),
        _BUMPS,
        _COUNTERS,
        _TRACKED,
        _count("inference_outputs", "Inference tensors returned."),
        _count("normal_outputs", "Normal tensors returned."),
        _UNTRACKED,
        _bytes(
            "graph_bytes",
            "Part of `saved_bytes` that only the graph keeps alive: activations, but not parameters and inputs.",
        ),
        _optional_count("uncounted_writes", _WRITES),
        _count(
            "hooked", "Saved tensors that went to saved-tensor hooks of the user's program, whose bytes are not known."
        ),
        _count("failed_version_reads", "Reads of `_version` that raised an exception."),
        _count(
            "normal_without_counter",
            "Parameters read and tensors written that report to be normal and have no version counter.",
        ),
        _count(
            "inference_with_counter",
            "Parameters read and tensors written that report to be inference tensors and have a version counter.",
        ),
        _MODULE,
        _optional_text("node", "Name of the autograd node that was constructed; missing if there was none."),
        _text("phase", "Part of training in which the operator ran.", choices=("forward", "backward", "optimizer")),
        _PROCESS,
        _RANK,
        _THREAD,
    ),
)

BIRTHS = Table(
    "births",
    "One row per place and region where inference tensors were created that were still alive when their thread left "
    "inference mode; empty below level `ops`.",
    _at_level_ops(
        _text("op", "Name of the operator that created the tensors."),
        *_SOURCE,
        _MODULE,
        _optional_count("region", "Region in which they were created; missing if it is not known."),
        _PROCESS,
        _RANK,
        _THREAD,
        _count("count", "Number of tensors."),
        _count("bytes", "Size of the tensors when their thread left inference mode.", unit="bytes"),
        _count("alive", "Number of tensors that were still alive at the end of the recording."),
        _text(
            "held_by", "Module attributes that keep references to these tensors, separated by commas; empty if none do."
        ),
    ),
)

FINDINGS = Table(
    "findings",
    "One row per finding, the worst first.",
    (
        _text("rule", "Code of the rule, such as `GP101`."),
        _text("severity", "Severity of the finding.", choices=("error", "warning", "note")),
        _text("message", "What happens, under which mode, and what it costs."),
        *_SOURCE,
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
        _text("fix", "What to write instead."),
        _text("evidence", "What was seen, in numbers; empty if the message says it."),
    ),
)

CALLS = Table(
    "calls",
    "One row per call of a probed function.",
    (
        _FUNCTION,
        _FILE,
        _LINE,
        *_WHERE,
        _time("start_ns", "Time of the call since the recording began."),
        _time("duration_ns", "Time in which the body ran, without the time that a generator or coroutine waits."),
        _count("steps", "Number of times the body started or was resumed; 1 for a plain function."),
        _optional_count("nodes", "Autograd nodes constructed while the body ran.", level="graph"),
        _text("error", "Type of the exception that ended the call; empty if there was none."),
        _flag("closed", "Whether the call ended before the recording did."),
        _optional_count("returned_nodes", "Autograd nodes in the graph behind the returned tensors.", level="graph"),
        _bytes("returned_saved_bytes", "Size of the storages that this graph saved for backward.", level="graph"),
        _bytes("returned_graph_bytes", "Part of these storages that only this graph keeps alive.", level="graph"),
        _optional_count(
            "returned_hooked",
            "Saved tensors of this graph that went to saved-tensor hooks of the program.",
            level="graph",
        ),
        _optional_count("returned_unread", "Saved tensors of this graph that could not be read.", level="graph"),
        _optional_count("parameter_bumps", "Increments of version counters of parameters.", level="graph"),
        _optional_count("buffer_bumps", "Increments of version counters of buffers.", level="graph"),
        _optional_count(
            "argument_bumps", "Increments of version counters of tensors among the arguments.", level="graph"
        ),
        _optional_count("result_bumps", "Increments of version counters of the returned tensors.", level="graph"),
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
        _text("workload", "Name of the workload.", level=""),
        _text("mode", "Mode under which the workload ran.", choices=COMPARED_MODES, level=""),
        _measured("median_ns", "Median time of one call.", "ns"),
        _measured("ratio", "Time relative to `no_grad`; below 1 is faster.", json=_RATIO),
        _measured("ci_low", "Lower end of the 95 % confidence interval of `ratio`.", json=_RATIO),
        _measured("ci_high", "Upper end of the 95 % confidence interval of `ratio`.", json=_RATIO),
        _text("verdict", "How the mode compares with `no_grad`.", choices=VERDICTS, level=""),
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
        _text("difference", "How the outputs differ from those under `no_grad`; empty if they do not.", level=""),
        _text("error", "Why the mode cannot be used; empty if it can.", level=""),
    ),
)

RECORDING_TABLES = (TRANSITIONS, REGIONS, SITES, MODES, OPS, BIRTHS, CALLS, FINDINGS)
"""Tables of a recording, in the order of the JSON report."""
