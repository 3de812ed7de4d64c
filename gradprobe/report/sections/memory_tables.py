"""Section on the memory of graphs: which lines save how much, with those of libraries under the line that called them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gradprobe._counted_nouns import pluralize
from gradprobe.recording.flow import Frame, PathCounts
from gradprobe.report.document import Section, Table
from gradprobe.report.units import FormattedLocation, format_bytes, format_count, format_location, format_percentage
from gradprobe.tables.mode_rows import name_owner
from gradprobe.tables.recording_tables import RecordingTables

_COLUMNS = ("site", "nodes", "not reached by backward", "saved bytes", "share")
_SHOWN_INSIDE = 3
"""Number of library lines shown under the program's line that called them."""


@dataclass
class _Sum:
    """Sums over the paths of calls that go through a line, and those of the library lines that it called."""

    nodes: int = 0
    unused: int = 0
    saved: int = 0
    inside: dict[tuple[str, int], _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def add(self, nodes: int, unused: int, saved: int) -> None:
        """Add numbers of nodes, of those that no backward reached, and of bytes."""
        self.nodes += nodes
        self.unused += unused
        self.saved += saved

    def add_path(self, counts: PathCounts) -> None:
        """Add the counts of a path."""
        self.add(counts.built, max(counts.unused, 0), counts.saved_bytes)


def _add_up(sums: Iterable[_Sum]) -> _Sum:
    whole = _Sum()
    for one in sums:
        whole.add(one.nodes, one.unused, one.saved)
    return whole


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build the section; None if no graph was recorded with its path of calls."""
    sums = _sum_by_program_line(tables)
    whole = _add_up(sums.values())
    if not whole.nodes:
        return None
    ordered = sorted(sums.items(), key=lambda item: (-item[1].saved, -item[1].nodes))
    rows = [row for place, one in ordered[:top] for row in _build_rows(place, one, whole, top)]
    rows.append(_build_row("total", whole, whole))
    table = Table(_COLUMNS, rows, frozenset(_COLUMNS[1:]), max(len(ordered) - top, 0), sums=1)
    sentence = (
        "A line of a library is below the program's line that called it. Bytes count every time that they are saved; "
        "inputs and parameters do not count."
    )
    return Section("Graphs by line", [sentence], table)


def _sum_by_program_line(tables: RecordingTables) -> dict[tuple[str, int], _Sum]:
    found: dict[tuple[str, int], _Sum] = defaultdict(_Sum)
    for process in tables.processes:
        for path, counts in process.flow.paths.items():
            if not path:
                continue
            caller = find_program_frame(path)
            one = found[caller.file, caller.line]
            one.add_path(counts)
            if caller is not path[0]:
                one.inside[path[0].file, path[0].line].add_path(counts)
    return found


def find_program_frame(path: Sequence[Frame]) -> Frame:
    """Return the innermost line of the program in a path of calls, or of a library if there is none."""
    return next((frame for frame in path if name_owner(frame.file) == "program"), path[0])


def _build_rows(place: tuple[str, int], one: _Sum, whole: _Sum, top: int) -> Iterator[Sequence[str]]:
    yield _build_row(format_location(*place), one, whole)
    inside = sorted(one.inside.items(), key=lambda item: (-item[1].saved, -item[1].nodes))
    shown = min(_SHOWN_INSIDE, top)
    for at, inner in inside[:shown]:
        yield _build_row(FormattedLocation(f"  in {format_location(*at)}"), inner, whole)
    if len(inside) > shown:
        rest = _add_up(inner for _, inner in inside[shown:])
        yield _build_row(f"  in {pluralize(len(inside) - shown, 'more line')}", rest, whole)


def _build_row(name: str, one: _Sum, whole: _Sum) -> Sequence[str]:
    share = one.saved / whole.saved if whole.saved else one.nodes / whole.nodes
    return (name, format_count(one.nodes), format_count(one.unused), format_bytes(one.saved), format_percentage(share))
