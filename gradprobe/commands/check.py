"""Fails where a recording has findings, or more than a budget allows. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gradprobe.analysis.findings import find_all
from gradprobe.analysis.time_by_mode import sum_by_mode
from gradprobe.commands import findings_output
from gradprobe.errors import GradprobeError
from gradprobe.report.units import format_location
from gradprobe.result import merge
from gradprobe.tables.recording_tables import RecordingTables

_LINES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings, one per process")
    parser.add_argument("--max-nodes", type=_count, metavar="N", help="fail where more autograd nodes were constructed")
    parser.add_argument("--max-saved-bytes", type=_count, metavar="B", help="fail where more was saved for backward")
    findings_output.add_arguments(parser)


def execute(options: argparse.Namespace) -> int:
    tables = merge(options.files)._tables
    return findings_output.report_findings(options, find_all(tables), [*_broken(options, tables)])


def _broken(options: argparse.Namespace, tables: RecordingTables) -> Iterator[str]:
    """Each budget that the recording goes beyond, with the lines that took most of it."""
    if options.max_nodes is not None:
        counted = [time.nodes for time in sum_by_mode(tables.processes) if time.nodes is not None]
        if not counted:
            raise GradprobeError("--max-nodes needs a recording at level graph or ops; record again with --level graph")
        yield from _over("--max-nodes", options.max_nodes, sum(counted), "autograd nodes", "nodes", tables)
    if options.max_saved_bytes is not None:
        if tables.ops.empty:
            raise GradprobeError("--max-saved-bytes needs a recording at level ops; record again with --level ops")
        if not all(process.counts_saved for process in tables.processes):
            raise GradprobeError("--max-saved-bytes needs a recording of a torch that shows what its nodes saved")
        saved = sum(sum(process.op_totals.storages.values()) for process in tables.processes)
        yield from _over("--max-saved-bytes", options.max_saved_bytes, saved, "bytes", "saved_bytes", tables)


def _over(option: str, allowed: int, actual: int, noun: str, column: str, tables: RecordingTables) -> Iterator[str]:
    if actual <= allowed:
        return
    yield f"{option} {allowed:,} is broken: {actual:,} {noun}"
    rows, sums = (tables.ops, column) if len(tables.ops) else (tables.sites, "self_nodes")
    lines = rows.groupby(["file", "line"], sort=False)[sums].sum().sort_values(ascending=False).head(_LINES)
    for (file, line), amount in lines.items():
        if amount == amount and amount > 0:
            yield f"    {int(amount):,} at {format_location(file, line)}"


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return number
