"""Columns of the tables about blocks: one row per region, and the sums by line."""

from __future__ import annotations

from dataclasses import replace

from gradprobe.tables.column_definition import (
    SOURCE,
    Column,
    Table,
    count_column,
    flag_column,
    optional_count_column,
    size_column,
    text_column,
    time_column,
)
from gradprobe.tables.mode_columns import FORM, MANAGER, WHERE
from gradprobe.tables.phase_columns import PHASE

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
VERSION_BUMPS = optional_count_column("version_bumps", "Increments of version counters.", level="ops")
COUNTERS_CREATED = optional_count_column(
    "counters_created", "Normal tensors returned by operators that are not views.", level="ops"
)
TRACKED_VIEWS = optional_count_column("tracked_views", "Views that keep a reference to their base.", level="ops")
UNTRACKED_VIEWS = optional_count_column(
    "untracked_views", "Views that do not keep a reference to their base.", level="ops"
)
_INFERENCE = optional_count_column("inference_tensors", "Inference tensors returned by operators.", level="ops")
UNCOUNTED_WRITES = "In-place writes to tensors that have no version counter."
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
        MANAGER,
        FORM,
        *SOURCE,
        *WHERE,
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
        VERSION_BUMPS,
        COUNTERS_CREATED,
        TRACKED_VIEWS,
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
        UNTRACKED_VIEWS,
        _GRAPH_BYTES,
        optional_count_column("uncounted_writes", UNCOUNTED_WRITES, level="ops"),
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
        MANAGER,
        FORM,
        count_column("count", "Number of blocks and plain calls."),
        time_column("total_ns", "Sum of the durations, including the regions inside."),
        time_column("self_ns", "Sum of the durations, without the regions inside."),
        Column("median_ns", "float64", "Median duration of one block.", "ns"),
        _sum_over_regions(_NODES),
        _sum_over_regions(_SAVED_BYTES),
        _sum_over_regions(VERSION_BUMPS),
        _sum_over_regions(_DEVICE_NS),
        _sum_over_regions(_SELF_NODES),
        count_column("redundant", "Number of blocks and plain calls that changed neither mode."),
        count_column(
            "errors",
            "Number of blocks that an exception passed through, except those by which generators and coroutines end.",
        ),
        _sum_over_regions(_GRAPH_BYTES),
        _sum_over_regions(COUNTERS_CREATED),
        _sum_over_regions(TRACKED_VIEWS),
        _sum_over_regions(UNTRACKED_VIEWS),
        _sum_over_regions(_INFERENCE),
        _sum_over_regions(_BACKWARD),
    ),
)
