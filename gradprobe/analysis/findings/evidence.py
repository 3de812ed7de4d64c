"""What rules ask of a recording: its sightings with the blocks they happened in, and what ran where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.recording.notes import BlockAt, Detection, SourceLocation, read_detections
from gradprobe.tables.recording_tables import RecordingTables


@dataclass(frozen=True)
class LocatedDetection:
    """A sighting with the places it is about, its own lines first, then those of the blocks that were open."""

    process: Process
    sighting: Detection
    count: int
    places: tuple[RelatedLine, ...]

    @property
    def main(self) -> SourceLocation:
        """Where it is."""
        return self.sighting.locations[0]

    @property
    def related(self) -> tuple[RelatedLine, ...]:
        """All places but the main one, each once."""
        main = (self.main.file, self.main.line)
        known: dict[tuple[str, int], RelatedLine] = {}
        for place in self.places[1:]:
            if (place.file, place.line) != main:
                known.setdefault((place.file, place.line), place)
        return tuple(known.values())


class Evidence:
    """A recording, as rules look at it."""

    def __init__(self, tables: RecordingTables) -> None:
        self.tables = tables

    @property
    def processes(self) -> list[Process]:
        return self.tables.processes

    @cached_property
    def seen(self) -> list[LocatedDetection]:
        """All sightings."""
        found = []
        for process in self.processes:
            for sighting, count in read_detections(process.contents.notes):
                if sighting.locations:
                    places = [RelatedLine(spot.file, spot.line, spot.role) for spot in sighting.locations]
                    places += [p for under in sighting.under if (p := _block(process, under)) is not None]
                    found.append(LocatedDetection(process, sighting, count, tuple(places)))
        return found

    def of(self, rule: str) -> list[LocatedDetection]:
        """The sightings of one rule."""
        return [seen for seen in self.seen if seen.sighting.rule == rule]

    def regions(self) -> Iterator[tuple[Process, Region]]:
        """The program's blocks."""
        for process in self.processes:
            for region in process.history.regions:
                if not region.internal:
                    yield process, region

    def ops_in(self, process: Process, region: Region) -> pd.DataFrame:
        """The operators that ran directly in a block."""
        found: pd.DataFrame = self._by_region.get(process.first_region + region.number, self.tables.ops.iloc[:0])
        return found

    @cached_property
    def _by_region(self) -> dict[int, pd.DataFrame]:
        ops = self.tables.ops
        return {int(str(number)): rows for number, rows in ops.groupby("region")} if len(ops) else {}


def locate_site(process: Process, site: int, role: str) -> RelatedLine | None:
    """The line of a site; None where it is not known."""
    file, line, _ = process.place(site)
    return None if file is None or line is None else RelatedLine(file, line, role)


def rank_lines(rows: pd.DataFrame, role: str, most: int) -> list[RelatedLine]:
    """The lines of operators, those with most nodes first."""
    if rows.empty:
        return []
    sums = rows.groupby(["file", "line"], sort=False)[["nodes", "count"]].sum()
    sums = sums.sort_values("nodes", ascending=False, kind="stable")
    keys: list[Any] = list(sums.index[:most])
    return [RelatedLine(str(file), int(line), role) for file, line in keys]


def _block(process: Process, under: BlockAt) -> RelatedLine | None:
    """The innermost block without gradients that a thread was in at a moment."""
    moment = under.time_ns - int(process.contents.meta.get("began_ns", 0))
    threads = {t.id for t in process.contents.threads.values() if t.ident == under.thread}
    found: Region | None = None
    for region in process.history.regions:
        if region.start_ns > moment:
            break
        is_open = region.thread in threads and (region.end_ns is None or region.end_ns >= moment)
        if is_open and region.inside != (True, False):
            found = region
    return None if found is None else locate_site(process, found.site, under.role)


def is_library(file: object) -> bool:
    """Whether a file is installed rather than written by those who ran the program."""
    return not isinstance(file, str) or "site-packages" in file or is_comparison_code(file)


def is_comparison_code(file: object) -> bool:
    """Whether gradprobe itself entered the modes there, to measure them."""
    return isinstance(file, str) and f"{os.sep}gradprobe{os.sep}comparison{os.sep}" in file
