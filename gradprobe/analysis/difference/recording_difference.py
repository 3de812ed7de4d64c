"""Difference of two recordings, computed from their tables: sites, operators by line, modes and findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.analysis.difference.matched_lines import Line, LineMatching, Place, match_lines
from gradprobe.analysis.difference.time_change import NOT_COMPARED, TimeChange, compare_times
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.time_by_mode import MODES, sum_by_mode
from gradprobe.history.row_groups import group_rows
from gradprobe.tables.recording_tables import RecordingTables

SITE_NUMBERS = ("count", "total_ns", "nodes", "saved_bytes", "version_bumps", "inference_tensors")
LINE_NUMBERS = ("count", "nodes", "saved_bytes", "version_bumps", "inference_outputs")
TOTALS = ("nodes", "saved_bytes", "version_bumps", "inference_outputs")

Numbers = Mapping[str, int | None]
"""Numbers by name; None for what was not measured."""


@dataclass(frozen=True)
class Entry:
    """A site, or the operators of a line, in one recording. ``manager`` is empty for a line."""

    file: str | None
    line: int | None
    function: str | None
    manager: str
    form: str
    numbers: Numbers
    text: str = ""

    @property
    def place(self) -> Place:
        """File and line."""
        return self.file, self.line


@dataclass(frozen=True)
class Change:
    """An entry before and after; None where one of the recordings does not have it."""

    before: Entry | None
    after: Entry | None
    time: TimeChange = NOT_COMPARED

    @property
    def shown(self) -> Entry:
        """The entry that says where it is: the later one if there is one."""
        entry = self.after or self.before
        assert entry is not None
        return entry

    @property
    def status(self) -> str:
        """``new``, ``gone``, ``changed`` or ``same``; a change of time alone is none unless noise cannot explain it."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        counted = [name for name in self.after.numbers if name != "total_ns"]
        has_changed = any(self.difference(name) for name in counted) or self.before.manager != self.after.manager
        return "changed" if has_changed or self.time.verdict in ("faster", "slower") else "same"

    def numbers(self, name: str) -> tuple[int | None, int | None]:
        """Return a number before and after: 0 where the entry does not exist, None where it was not measured."""
        before, after = ((0 if one is None else one.numbers[name]) for one in (self.before, self.after))
        return before, after

    def difference(self, name: str) -> int:
        """Return by how much a number has grown, 0 if it was not measured in both."""
        before, after = self.numbers(name)
        return 0 if before is None or after is None else after - before


@dataclass(frozen=True)
class RecordingDifference:
    """Everything that changed from one recording to another."""

    sites: Sequence[Change]
    lines: Sequence[Change]
    new: Sequence[Finding]
    gone: Sequence[Finding]
    kept: Sequence[Finding]
    """Findings of both recordings, as the later one has them."""
    totals: Mapping[str, tuple[int | None, int | None]]
    modes: Mapping[str, tuple[int, int]]
    """Nanoseconds of all threads under each mode, before and after."""
    environments: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]


def compute_difference(
    before: RecordingTables, after: RecordingTables, findings: tuple[Sequence[Finding], Sequence[Finding]]
) -> RecordingDifference:
    """Compare two recordings, whose findings are given."""
    sides = before, after
    lines = tuple(list(_collect_lines(tables, found)) for tables, found in zip(sides, findings, strict=True))
    matching = match_lines(lines[0], lines[1], (_name_program(before), _name_program(after)))
    sites = _pair_entries(_read_sites(before), _read_sites(after), matching)
    durations = _collect_durations(before), _collect_durations(after)
    new, gone, kept = _compare_findings(*findings, matching)
    return RecordingDifference(
        sites=_sort_by_harm([Change(a, b, _compare_time(a, b, durations)) for a, b in sites]),
        lines=_sort_by_harm(
            [Change(a, b) for a, b in _pair_entries(_read_lines(before), _read_lines(after), matching)]
        ),
        new=new,
        gone=gone,
        kept=kept,
        totals={name: (_sum_total(before, name), _sum_total(after, name)) for name in TOTALS},
        modes=_compare_modes(before, after),
        environments=([p.environment for p in before.processes], [p.environment for p in after.processes]),
    )


def _name_program(tables: RecordingTables) -> str:
    return str(tables.processes[0].environment.get("program") or "") if tables.processes else ""


def _read_texts(tables: RecordingTables) -> Mapping[tuple[str, int], str]:
    return {place: text for process in tables.processes for place, text in process.source_lines.items()}


def _collect_lines(tables: RecordingTables, findings: Iterable[Finding]) -> Iterator[Line]:
    """Yield the lines that anything compared refers to."""
    texts = _read_texts(tables)
    places = [(f.file, f.line, f.function) for f in findings]
    for frame in (tables.sites, tables.ops):
        rows = frame[["file", "line", "function"]].drop_duplicates()
        places += rows.itertuples(index=False, name=None)
    for file, line, function in places:
        if isinstance(file, str) and not pd.isna(line):
            text = texts.get((file, int(line)), "")
            yield Line(file, int(line), function if isinstance(function, str) else "", text)


def _read_sites(tables: RecordingTables) -> list[Entry]:
    texts = _read_texts(tables)
    return [
        _make_entry(row, SITE_NUMBERS, texts, str(row["manager"]), str(row["form"]))
        for row in tables.sites.to_dict("records")
    ]


def _read_lines(tables: RecordingTables) -> list[Entry]:
    """Return the sums of the operators of each line."""
    if tables.ops.empty:
        return []
    sums = tables.ops.groupby(["file", "line", "function"], dropna=False, sort=False)[list(LINE_NUMBERS)]
    texts = _read_texts(tables)
    return [_make_entry(row, LINE_NUMBERS, texts) for row in sums.sum(min_count=1).reset_index().to_dict("records")]


def _make_entry(
    row: Mapping[Any, Any],
    names: Sequence[str],
    texts: Mapping[tuple[str, int], str],
    manager: str = "",
    form: str = "",
) -> Entry:
    file, function = (None if pd.isna(row[name]) else str(row[name]) for name in ("file", "function"))
    line = None if pd.isna(row["line"]) else int(row["line"])
    numbers = {name: None if pd.isna(row[name]) else int(row[name]) for name in names}
    text = "" if file is None or line is None else texts.get((file, line), "")
    return Entry(file, line, function, manager, form, numbers, text)


def _pair_entries(
    before: Sequence[Entry], after: Sequence[Entry], matching: LineMatching
) -> list[tuple[Entry | None, Entry | None]]:
    """Pair the entries of matching lines: by manager and form, then by manager, then what is left on the line."""
    pairs: list[tuple[Entry | None, Entry | None]] = []
    keys: Sequence[Callable[[Entry], object]] = (
        lambda entry: (entry.manager, entry.form, entry.function),
        lambda entry: (entry.manager, entry.form),
        lambda entry: entry.manager,
        lambda entry: None,
    )
    left, right = list(before), list(after)
    for key in keys:
        free: dict[object, list[Entry]] = defaultdict(list)
        for entry in right:
            free[entry.place, key(entry)].append(entry)
        unpaired = []
        for entry in left:
            place = matching.find(entry.place)
            candidates = free.get((place, key(entry))) if place is not None else None
            if candidates:
                pairs.append((entry, candidates.pop(0)))
            else:
                unpaired.append(entry)
        left = unpaired
        right = [entry for entries in free.values() for entry in entries]
    return [*pairs, *((entry, None) for entry in left), *((None, entry) for entry in right)]


def _collect_durations(tables: RecordingTables) -> dict[tuple[Any, ...], list[float]]:
    """Return the durations of the blocks of each site that were kept one by one."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for process in tables.processes:
        columns = process.history.regions.columns
        for numbers in group_rows(columns.site, columns.manager, columns.form):
            first = process.history.regions[int(numbers[0])]
            key = (*process.place(first.site), first.manager, first.form)
            found[key] += columns.duration_ns[numbers].tolist()
    return found


def _compare_time(
    before: Entry | None, after: Entry | None, durations: tuple[Mapping[Any, list[float]], Mapping[Any, list[float]]]
) -> TimeChange:
    if before is None or after is None:
        return NOT_COMPARED
    old, new = (
        known.get((entry.file, entry.line, entry.function, entry.manager, entry.form), [])
        for entry, known in zip((before, after), durations, strict=True)
    )
    return compare_times(old, new)


def _sort_by_harm(changes: list[Change]) -> list[Change]:
    """Sort what has changed most first: by bytes, then nodes, then calls."""
    return sorted(
        changes,
        key=lambda c: (c.status == "same", *(-abs(c.difference(name)) for name in ("saved_bytes", "nodes", "count"))),
    )


def _sum_total(tables: RecordingTables, name: str) -> int | None:
    """Return a total of all operators; below level ``ops`` only the nodes are known, by mode."""
    if len(tables.ops):
        total = tables.ops[name].sum(min_count=1)
        return None if pd.isna(total) else int(total)
    nodes = [time.nodes for time in sum_by_mode(tables.processes) if time.nodes is not None]
    return sum(nodes) if name == "nodes" and nodes else None


def _compare_modes(before: RecordingTables, after: RecordingTables) -> dict[str, tuple[int, int]]:
    old, new = ({time.mode: time.ns for time in sum_by_mode(tables.processes)} for tables in (before, after))
    return {mode: (old.get(mode, 0), new.get(mode, 0)) for mode in MODES if mode in old or mode in new}


def _compare_findings(
    before: Sequence[Finding], after: Sequence[Finding], matching: LineMatching
) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """Return the findings that are new, gone and kept: the same rule at the same line, or else in the same function."""
    keys: Sequence[tuple[Callable[[Finding], object], Callable[[Finding], object]]] = (
        (lambda f: (f.rule, matching.find((f.file, f.line))), lambda f: (f.rule, (f.file, f.line))),
        (lambda f: (f.rule, f.function, f.message), lambda f: (f.rule, f.function, f.message)),
    )
    old, new, kept = list(before), list(after), []
    for key_before, key_after in keys:
        known: dict[object, list[Finding]] = defaultdict(list)
        for finding in old:
            known[key_before(finding)].append(finding)
        unmatched = []
        for finding in new:
            if known[key_after(finding)]:
                known[key_after(finding)].pop(0)
                kept.append(finding)
            else:
                unmatched.append(finding)
        old, new = [finding for findings in known.values() for finding in findings], unmatched
    return new, old, kept
