"""DataFrames of the ledgers: the flow of gradient, parameters, graphs by path of calls, their memory, kept graphs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradprobe.history.process import Process
from gradprobe.recording.flow import PASSAGES, FlowLedger, Frame
from gradprobe.recording.graph_memory import FURTHER_LINES, NOTHING
from gradprobe.recording.notes import Detection, read_detections
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.ledger_columns import CUSTODY, FLOW, GRAPH_MEMORY, GRAPHS, PARAMETERS

_KEPT = "GP201"
"""Rule of the detections of kept graphs."""


def build_flow(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of the flow, the ways that were taken most often first."""
    rows = [
        (*_source_cells(p.flow, source), *_site_cells(p.flow, target), PASSAGES[passage], count, p.pid, p.rank)
        for p in processes
        for (source, target), counts in p.flow.edges.items()
        for passage, count in enumerate(counts)
        if count > 0
    ]
    return make_dataframe(FLOW, sorted(rows, key=lambda row: -row[-3]))


def _source_cells(ledger: FlowLedger, number: int) -> tuple[Any, ...]:
    leaf = ledger.leaves.get(number)
    if leaf is None:
        file, line, function, op, module = _site_cells(ledger, number)
        return file, line, function, op or None, module, None
    return (*_site_cells(ledger, leaf.made_at)[:3], None, "", ledger.name_of(number))


def _site_cells(ledger: FlowLedger, number: int) -> tuple[Any, ...]:
    site = ledger.sites.get(number)
    return (None, None, None, "", "") if site is None else (*_place_cells(*site[:3]), site.op, site.module)


def _place_cells(file: str, line: int, function: str) -> tuple[str | None, int | None, str | None]:
    return (file, line, function) if file and line >= 0 else (None, None, None)


def build_parameters(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of leaves, those with names first, in the order in which the program used them."""
    rows = []
    for p in processes:
        for use in p.leaf_uses.values():
            leaf = use.leaf
            rows.append(
                (leaf.name, "x".join(map(str, leaf.shape)), leaf.optimizer, leaf.is_parameter)
                + (*_site_cells(p.flow, leaf.made_at)[:3], use.uses, use.uses_with_grad, use.backwards, use.grads)
                + (use.steps_with_grad, use.steps_without_grad, use.writes, p.pid, p.rank)
            )
    return make_dataframe(PARAMETERS, sorted(rows, key=lambda row: not row[0]))


def build_graphs(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of the paths of calls that constructed nodes, those with the most nodes first."""
    rows = [
        (*_place_cells(*(path[0] if path else Frame("", 0, ""))), describe_path(path), counts.built, counts.reached)
        + (max(counts.unused, 0), counts.calls, counts.saved_bytes if p.counts_saved else None, p.pid, p.rank)
        for p in processes
        for path, counts in p.flow.paths.items()
    ]
    return make_dataframe(GRAPHS, sorted(rows, key=lambda row: -row[4]))


def describe_path(path: Sequence[Frame]) -> str:
    """Return a path of calls as text, from the outermost line inwards; ``path`` begins with the innermost."""
    return " > ".join(f"{os.path.basename(at.file) or '?'}:{at.line} ({at.function})" for at in reversed(path))


def build_graph_memory(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of the memory of graphs, by process and time, the most bytes of a moment first."""
    rows = []
    for p in processes:
        for sample in p.memory_samples:
            moment = (sample.time_ns + p.offset_ns, sample.moment, sample.iteration, sample.phase)
            held = sample.held or {FURTHER_LINES: NOTHING}
            rows += [
                (*moment, *_place_cells(at.file, at.line, at.function), at.op, *memory, p.pid, p.rank)
                for at, memory in sorted(held.items(), key=lambda item: -item[1].bytes)
            ]
    return make_dataframe(GRAPH_MEMORY, rows)


def build_custody(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of what keeps graphs, the most nodes first."""
    rows = [
        _custody_row(p, detection)
        for p in processes
        for detection, _ in read_detections(p.contents.notes)
        if detection.rule == _KEPT and detection.locations
    ]
    return make_dataframe(CUSTODY, sorted(rows, key=lambda row: -row[7]))


def _custody_row(p: Process, detection: Detection) -> tuple[Any, ...]:
    at, facts, read = detection.locations[0], detection.facts, detection.read_count
    return (
        (str(facts.get("holder", "")), str(facts.get("holder_kind", "")), *_place_cells(at.file, at.line, at.function))
        + (str(facts.get("op", "")), read("number"), read("nodes"), read("bytes"))
        + (read("iterations"), p.pid, p.rank)
    )  # fmt: skip
