"""Source files as they ran: beside each line its mode, calls, time, nodes, bytes, bumps, inference tensors and findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gradprobe.analysis.line_costs import NO_COST, LineCost, Place, sum_by_line
from gradprobe.errors import GradprobeError
from gradprobe.history.records import MODES, encode_modes
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import mode_name
from gradprobe.recording.source_lines import SourceLines
from gradprobe.report.units import escape_unprintable, format_bytes, format_count, format_duration, format_location
from gradprobe.tables.mode_rows import name_owner
from gradprobe.tables.recording_tables import RecordingTables

MAX_FILES = 12
"""Number of files of a page, those that cost most first."""
_MAX_FILE_BYTES = 1 << 20
_LINE_WIDTH = 160
_SHORT_FILE, _CONTEXT, _MAX_LINES = 300, 4, 1_000
"""Lines of a file that a page shows whole; lines shown around a recorded one in others; maximum of those."""
COLUMNS = ("calls", "time", "nodes", "saved", "bumps", "inference")


@dataclass(frozen=True)
class SourceLine:
    """A line with what was recorded at it; ``mode`` is empty where nothing ran that was observed."""

    number: int
    text: str
    mode: str = ""
    cells: Sequence[str] = ("",) * len(COLUMNS)
    findings: Sequence[tuple[str, str]] = ()
    """Severity and text of each finding at the line."""
    is_named: bool = False
    """True if a finding names the line, as its own or as a related one."""


@dataclass(frozen=True)
class SourceFile:
    """A file and its lines. ``is_partial`` if only the recorded lines are known, or the file has changed since."""

    path: str
    lines: Sequence[SourceLine]
    is_partial: bool

    @property
    def name(self) -> str:
        """Path as reports show it."""
        return format_location(self.path, None)

    @property
    def used(self) -> list[int]:
        """Positions of the ``COLUMNS`` in which a line has a number."""
        return [at for at, _ in enumerate(COLUMNS) if any(line.cells[at] for line in self.lines)]

    def without_unused_lines(self) -> SourceFile:
        """Return a long file without the lines that are far from any recorded one."""
        if len(self.lines) <= _SHORT_FILE:
            return self
        used = [line.number for line in self.lines if line.mode or line.is_named]
        near = {number + step for number in used for step in range(-_CONTEXT, _CONTEXT + 1)}
        return replace(self, lines=[line for line in self.lines if line.number in near][:_MAX_LINES])


def build_files(tables: RecordingTables, wanted: str | None = None) -> list[SourceFile]:
    """Build the program's files that anything was recorded in, or the one that ``wanted`` names by the end of its path.

    Raises ``GradprobeError`` if nothing was recorded in such a file.
    """
    costs = sum_by_line(tables)
    by_file: dict[str, dict[int, LineCost]] = defaultdict(dict)
    for (file, line), cost in costs.items():
        by_file[file][line] = cost
    named = _find_named_lines(tables)
    for file, line in named:
        by_file[file].setdefault(line, NO_COST)
    files = sorted(by_file, key=lambda file: -sum(_weigh(cost) for cost in by_file[file].values()))
    if wanted is None:
        files = [file for file in files if name_owner(file) == "program"][:MAX_FILES]
    else:
        files = [_choose_file(wanted, files)]
    modes, findings = _find_modes(tables), _find_findings(tables)
    texts = {place: text for process in tables.processes for place, text in process.source_lines.items()}
    built = [_build_file(file, by_file[file], modes, findings, named, texts) for file in files]
    return built if wanted is not None else [file for file in built if any(line.text for line in file.lines)]


def _weigh(cost: LineCost) -> int:
    return cost.calls + cost.blocks


def _choose_file(wanted: str, files: Sequence[str]) -> str:
    parts = Path(wanted).parts
    fitting = [file for file in files if file == wanted or Path(file).parts[-len(parts) :] == parts]
    if not fitting:
        known = ", ".join(dict.fromkeys(escape_unprintable(Path(file).name) for file in files[:5])) or "none"
        raise GradprobeError(f"cannot show {wanted}: nothing was recorded in such a file; use one of {known}")
    return fitting[0]


def _find_modes(tables: RecordingTables) -> Mapping[Place, str]:
    """Return the modes under which the operators of each line ran, and those that blocks set, separated by commas."""
    found: dict[Place, dict[str, None]] = defaultdict(dict)
    for process in tables.processes:
        columns, operators = process.history.regions.columns, process.op_totals.ops.columns
        # The last one is that of no region, whose number is -1.
        inside = np.append(columns.inside, encode_modes((True, False)))[operators.region]
        for numbers in group_rows(operators.site, inside):
            file, line, _ = process.place(int(operators.site[numbers[0]]))
            if file is not None and line is not None:
                found[file, line][mode_name(*MODES[inside[numbers[0]]])] = None
        for numbers in group_rows(columns.site):
            file, line, _ = process.place(int(columns.site[numbers[0]]))
            if file is not None and line is not None:
                found[file, line].setdefault(mode_name(*MODES[columns.inside[numbers[-1]]]))
    return {place: ", ".join(modes) for place, modes in found.items()}


def _find_findings(tables: RecordingTables) -> Mapping[Place, list[tuple[str, str]]]:
    found: dict[Place, list[tuple[str, str]]] = defaultdict(list)
    for row in tables.findings.to_dict("records"):
        if isinstance(row["file"], str) and row["line"] == row["line"]:
            text = f"{row['rule']}: {row['message']}"
            found[row["file"], int(row["line"])].append((str(row["severity"]), escape_unprintable(text)))
    return found


def _find_named_lines(tables: RecordingTables) -> set[Place]:
    """Return the lines of the findings, and those that are related to them."""
    found = set()
    for row in tables.findings.to_dict("records"):
        related = ((at["file"], at["line"]) for at in row["related"] or ())
        for file, line in ((row["file"], row["line"]), *related):
            if isinstance(file, str) and line is not None and line == line:
                found.add((file, int(line)))
    return found


def _build_file(
    file: str,
    costs: Mapping[int, LineCost],
    modes: Mapping[Place, str],
    findings: Mapping[Place, list[tuple[str, str]]],
    named: Collection[Place],
    texts: SourceLines,
) -> SourceFile:
    lines = _read_lines(file)
    recorded = {number: text for (other, number), text in texts.items() if other == file}
    is_current = bool(lines) and all(
        number <= len(lines) and lines[number - 1].strip().startswith(text) for number, text in recorded.items()
    )
    # Where the file is another one by now, only the recorded lines are what ran.
    source = dict(enumerate(lines, 1)) if is_current else recorded
    numbers = sorted({*source, *costs})
    shown = [
        SourceLine(
            number,
            escape_unprintable(source.get(number, "").expandtabs())[:_LINE_WIDTH],
            modes.get((file, number), ""),
            _format_cells(costs.get(number, NO_COST)),
            findings.get((file, number), ()),
            (file, number) in named,
        )
        for number in numbers
    ]
    return SourceFile(file, shown, not is_current)


def _read_lines(file: str) -> list[str]:
    """Read a file. A recording may come from anyone and a report may go to anyone: only Python source is read."""
    path = Path(file)
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
            return []
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []


def _format_cells(cost: LineCost) -> Sequence[str]:
    """Format the numbers of a line in the order of ``COLUMNS``, nothing where they are 0."""
    return (
        str(format_count(cost.calls or cost.blocks)) if cost.calls or cost.blocks else "",
        str(format_duration(cost.block_ns)) if cost.block_ns else "",
        str(format_count(cost.nodes)) if cost.nodes else "",
        str(format_bytes(cost.saved_bytes)) if cost.saved_bytes else "",
        str(format_count(cost.version_bumps)) if cost.version_bumps else "",
        str(format_count(cost.inference_tensors)) if cost.inference_tensors else "",
    )
