"""Fail if a recording has findings or exceeds a budget. Works without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gradprobe.analysis.findings import find_all
from gradprobe.analysis.time_by_mode import sum_nodes
from gradprobe.commands import findings_output
from gradprobe.errors import GradprobeError
from gradprobe.report.units import format_location
from gradprobe.stored_recordings import merge
from gradprobe.tables.recording_tables import RecordingTables

_MAX_LINES = 3
"""Number of source lines named for each exceeded budget."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings to check, one per process")
    parser.add_argument(
        "--max-nodes", type=_parse_count, metavar="N", help="fail if more than N autograd nodes were created"
    )
    parser.add_argument(
        "--max-saved-bytes", type=_parse_count, metavar="BYTES", help="fail if more than BYTES were saved for backward"
    )
    findings_output.add_arguments(parser)


def execute(options: argparse.Namespace) -> int:
    """Check the recordings, and return 1 if there are findings or exceeded budgets."""
    tables = merge(options.files)._tables
    return findings_output.report_findings(options, find_all(tables), [*_find_exceeded_budgets(options, tables)])


def _find_exceeded_budgets(options: argparse.Namespace, tables: RecordingTables) -> Iterator[str]:
    """Yield each budget that the recording exceeds, with the lines that used most of it."""
    if options.max_nodes is not None:
        nodes = sum_nodes(tables.processes)
        if nodes is None:
            raise GradprobeError(
                "cannot check --max-nodes: the recording has no nodes; record again with --level graph"
            )
        yield from _describe_excess("--max-nodes", options.max_nodes, nodes, "autograd nodes", "nodes", tables)
    if options.max_saved_bytes is not None:
        if tables.ops.empty:
            raise GradprobeError(
                "cannot check --max-saved-bytes: the recording has no operators; record again with --level ops"
            )
        if not all(process.counts_saved for process in tables.processes):
            raise GradprobeError(
                "cannot check --max-saved-bytes: the recorded torch does not expose saved tensors; record with a newer one"
            )
        saved = sum(process.op_totals.saved_bytes for process in tables.processes)
        yield from _describe_excess("--max-saved-bytes", options.max_saved_bytes, saved, "bytes", "saved_bytes", tables)


def _describe_excess(
    option: str, allowed: int, actual: int, noun: str, column: str, tables: RecordingTables
) -> Iterator[str]:
    if actual <= allowed:
        return
    yield f"{option} {allowed:,} is exceeded: {actual:,} {noun}"
    rows, sums = (tables.ops, column) if len(tables.ops) else (tables.sites, "self_nodes")
    lines = rows.groupby(["file", "line"], sort=False)[sums].sum().sort_values(ascending=False).head(_MAX_LINES)
    for (file, line), amount in lines.items():
        if amount == amount and amount > 0:
            yield f"    {int(amount):,} at {format_location(file, line)}"


def _parse_count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return number
