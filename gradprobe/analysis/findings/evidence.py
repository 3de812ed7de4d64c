"""Evidence for rules: the detections of a recording, the blocks they happened in, and what ran where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.records import Region, encode_modes
from gradprobe.history.region_table import RegionColumns
from gradprobe.recording.events import mode_name
from gradprobe.recording.flow import FlowLedger, FlowSite, Frame
from gradprobe.recording.notes import BlockAt, Detection, SourceLocation, read_detections
from gradprobe.recording.rows import INITIAL_MODES
from gradprobe.tables.recording_tables import RecordingTables

INFERENCE_MODE_ENTERED = "inference mode entered here"
"""Role of the line that entered the inference mode in which something happened."""


@dataclass(frozen=True)
class LocatedDetection:
    """A detection, its own lines and those of the blocks around it; ``mode`` is that of the first block."""

    process: Process
    detection: Detection
    count: int
    lines: tuple[RelatedLine, ...]
    blocks: tuple[Region, ...]

    @property
    def mode(self) -> str | None:
        """Mode of the first block around it; None without one."""
        return mode_name(*self.blocks[0].inside) if self.blocks else None

    @property
    def main(self) -> SourceLocation:
        """Location that the detection is about."""
        return self.detection.locations[0]

    @property
    def related(self) -> tuple[RelatedLine, ...]:
        """All lines except the main one, each once."""
        main = (self.main.file, self.main.line)
        known: dict[tuple[str, int], RelatedLine] = {}
        for related in self.lines[1:]:
            if (related.file, related.line) != main:
                known.setdefault((related.file, related.line), related)
        return tuple(known.values())

    def make_finding(self, message: str, related: tuple[RelatedLine, ...] | None = None) -> Finding:
        """Return the finding of the detection at its main location, with its own related lines by default."""
        lines = self.related if related is None else related
        main = self.main
        return Finding(self.detection.rule, message, main.file, main.line, main.function, self.count, lines)


class Evidence:
    """A recording as rules query it."""

    def __init__(self, tables: RecordingTables) -> None:
        self.tables = tables

    @property
    def processes(self) -> list[Process]:
        """Processes of the recording."""
        return self.tables.processes

    @cached_property
    def detections(self) -> list[LocatedDetection]:
        """All detections of all processes."""
        found = []
        for process in self.processes:
            for detection, count in read_detections(process.contents.notes):
                if detection.locations:
                    lines = [RelatedLine(at.file, at.line, at.role) for at in detection.locations]
                    blocks = []
                    for under in detection.under:
                        block = _find_block(process, under)
                        line = None if block is None else _locate_block(process, block, under.role)
                        if block is not None and line is not None:
                            lines.append(line)
                            blocks.append(block)
                    found.append(LocatedDetection(process, detection, count, tuple(lines), tuple(blocks)))
        return found

    @cached_property
    def program_files(self) -> list[str]:
        """Source files of the program that ran, without those of installed packages."""
        files: dict[str, None] = {}
        for process in self.processes:
            for site in process.contents.sites.values():
                if not site.internal and isinstance(site.file, str):
                    files[os.path.realpath(site.file) if not os.path.isabs(site.file) else site.file] = None
        files.update((located.main.file, None) for located in self.detections)
        return [file for file in files if not is_library(file)]

    def select_detections(self, rule: str) -> list[LocatedDetection]:
        """Return the detections of one rule."""
        return [located for located in self.detections if located.detection.rule == rule]

    @cached_property
    def flows(self) -> list[FlowLedger]:
        """Flow of each process."""
        return [process.flow for process in self.processes]

    @cached_property
    def flow_graphs(self) -> list[FlowGraph]:
        """Flow of each process as a graph."""
        return [FlowGraph(ledger) for ledger in self.flows]

    def locate_mode(self, site: FlowSite) -> tuple[RelatedLine, str, str] | None:
        """Return the line that entered the mode under which most operators of a site ran, the manager and its form."""
        ops = self.tables.ops
        if ops.empty:
            return None
        rows = ops[(ops["file"] == site.file) & (ops["line"] == site.line) & (ops["op"] == site.op)]
        rows = rows[rows["region"].notna()]
        if rows.empty:
            return None
        process, region = self._find_region(int(rows.groupby("region")["count"].sum().idxmax()))
        while region is not None and region.inside == (True, False):
            region = region.parent
        # Of blocks within each other the outer one has set the mode: without the inner one, it would be the same.
        while region is not None and region.parent is not None and region.parent.inside == region.inside:
            region = region.parent
        return _locate_mode(process, region)

    def locate_region(self, number: int) -> tuple[RelatedLine, str, str] | None:
        """Return the line that entered the mode of a region, the manager and its form; None if grad is enabled there."""
        process, region = self._find_region(number)
        return None if region is None or region.inside == (True, False) else _locate_mode(process, region)

    def _find_region(self, number: int) -> tuple[Process | None, Region | None]:
        for process in self.processes:
            index = number - process.first_region
            if 0 <= index < len(process.history.regions):
                return process, process.history.regions[index]
        return None, None

    def locate_enabling(self, frame: Frame) -> RelatedLine | None:
        """Return the line that enabled grad for the operators of a line, if a block did."""
        ops = self.tables.ops
        rows = ops[
            (ops["file"] == frame.file) & (ops["line"] == frame.line) & ops["region"].notna() & (ops["nodes"] > 0)
        ]
        for number in rows["region"].unique().tolist():
            for process in self.processes:
                index = int(number) - process.first_region
                if 0 <= index < len(process.history.regions):
                    region = process.history.regions[index]
                    return locate_site(process, region.site, "grad enabled here") if region.inside[0] else None
        return None

    def iter_regions(self, chosen: Callable[[RegionColumns], Column]) -> Iterator[tuple[Process, Region]]:
        """Yield the user's blocks for which a column is true, without those of PyTorch's own code."""
        for process in self.processes:
            columns = process.history.regions.columns
            for region in process.history.regions.where(chosen(columns) & ~columns.internal):
                yield process, region

    def select_ops(self, process: Process, region: Region) -> pd.DataFrame:
        """Return the rows of the operators that ran directly in a block."""
        positions = self._ops_by_region.get(process.first_region + region.number)
        # Most blocks of a long recording have none, and taking rows of a DataFrame costs more than all else here.
        return self._no_ops if positions is None else self.tables.ops.iloc[positions]

    @cached_property
    def _no_ops(self) -> pd.DataFrame:
        nothing: pd.DataFrame = self.tables.ops.iloc[:0]
        return nothing

    @cached_property
    def _ops_by_region(self) -> Mapping[int, list[int]]:
        """Positions of the rows of operators, by the number of their region."""
        ops = self.tables.ops
        if ops.empty:
            return {}
        return {int(str(number)): list(rows) for number, rows in ops.groupby("region").indices.items()}


def _locate_mode(process: Process | None, region: Region | None) -> tuple[RelatedLine, str, str] | None:
    if process is None or region is None:
        return None
    at = locate_site(process, region.site, "mode entered here")
    return None if at is None else (at, region.manager, region.form)


def locate_site(process: Process, site: int, role: str) -> RelatedLine | None:
    """Return the line of a site, or None if it is not known."""
    file, line, _ = process.place(site)
    return None if file is None or line is None else RelatedLine(file, line, role)


def locate_inference_mode(process: Process, region: Region) -> RelatedLine | None:
    """Return the line of the innermost ``inference_mode`` that a region is or is in, or None if there is none."""
    around: Region | None = region
    while around is not None and around.manager != "inference_mode":
        around = around.parent
    return None if around is None else locate_site(process, around.site, INFERENCE_MODE_ENTERED)


def rank_lines(rows: pd.DataFrame, role: str, limit: int) -> list[RelatedLine]:
    """Return up to ``limit`` lines of operators, those with the most nodes first."""
    if rows.empty:
        return []
    sums = rows.groupby(["file", "line"], sort=False)[["nodes", "count"]].sum()
    sums = sums.sort_values("nodes", ascending=False, kind="stable")
    keys: list[Any] = list(sums.index[:limit])
    return [RelatedLine(str(file), int(line), role) for file, line in keys]


def _find_block(process: Process, under: BlockAt) -> Region | None:
    """Return the innermost block with grad disabled or inference mode in which a thread was at a moment."""
    moment = under.time_ns - int(process.contents.meta.get("began_ns", 0))
    threads = {t.id for t in process.contents.threads.values() if t.ident == under.thread}
    return process.history.regions.find_innermost(threads, moment, disables_grad)


def _locate_block(process: Process, block: Region, role: str) -> RelatedLine | None:
    # A block inside inference mode, such as enable_grad, may be the innermost one without having entered inference mode.
    inference = locate_inference_mode(process, block) if role == INFERENCE_MODE_ENTERED else None
    return inference or locate_site(process, block.site, role)


def disables_grad(columns: RegionColumns) -> Column:
    """Return where regions have grad disabled, or are in inference mode."""
    disabled: Column = columns.inside != encode_modes(INITIAL_MODES)
    return disabled


def is_library(file: object) -> bool:
    """Return whether a file is installed rather than part of the user's program."""
    return not isinstance(file, str) or "site-packages" in file or is_comparison_code(file)


def is_comparison_code(file: object) -> bool:
    """Return whether a file belongs to ``gradprobe.compare``, which enters modes to measure them."""
    return isinstance(file, str) and f"{os.sep}gradprobe{os.sep}comparison{os.sep}" in file
