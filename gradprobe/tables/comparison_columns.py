"""Columns of the table of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradprobe.tables.column_definition import Column, Table, text_column

COMPARED_MODES = ("grad", "no_grad", "inference_mode", "inference_mode+parameters")
VERDICTS = ("baseline", "faster", "slower", "equivalent", "undecided", "unusable")

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
