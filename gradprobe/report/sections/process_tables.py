"""Sections on several processes: which started which, and where ranks diverge."""

from __future__ import annotations

from gradprobe.analysis.process_relations import (
    find_collective_calls,
    find_graph_divergences,
    group_by_rank,
    relate_processes,
)
from gradprobe.analysis.time_by_mode import MODES, sum_by_mode
from gradprobe.recording.events import mode_name
from gradprobe.recording.rows import Modes
from gradprobe.report.document import Section, Table
from gradprobe.report.units import MISSING, escape_unprintable, format_count, format_duration, format_location
from gradprobe.tables.recording_tables import RecordingTables


def build_process_section(tables: RecordingTables, top: int) -> Section | None:
    """Build a row per process; None for a single process."""
    found = relate_processes(tables.processes)
    if len(found) < 2:
        return None
    rows = []
    for relation in found[:top]:
        process, start = relation.process, relation.start
        times = {time.mode: time for time in sum_by_mode([process])}
        nodes = [time.nodes for time in times.values() if time.nodes is not None]
        rows.append(
            (str(process.pid), MISSING if process.rank is None else str(process.rank))
            + (MISSING if relation.parent is None else str(relation.parent.pid),)
            + (MISSING if start is None else format_location(start.file or None, start.line or None),)
            + (
                _format_modes(None if start is None else (start.grad, start.inference)),
                _format_modes(relation.initial_modes),
            )
            + tuple(format_duration(times[mode].ns) if mode in times and times[mode].ns else MISSING for mode in MODES)
            + (format_count(sum(nodes) if nodes else None),)
        )
    columns = ("process", "rank", "parent", "started at", "started under", "initial mode", *MODES, "nodes")
    shown = [at for at, _ in enumerate(columns) if at == 0 or any(row[at] != MISSING for row in rows)]
    table = Table(
        tuple(columns[at] for at in shown),
        [tuple(row[at] for at in shown) for row in rows],
        frozenset((*MODES, "nodes")),
        max(len(found) - top, 0),
    )
    return Section("Processes", table=table)


def build_rank_section(tables: RecordingTables, top: int) -> Section | None:
    """Build a row per line at which the ranks of a job do different things."""
    found = group_by_rank(tables.processes)
    if not found:
        return None
    columns = ("line", "quantity", *(f"rank {rank}" for rank in found))
    rows = [
        (format_location(*parting.line), "nodes", *(format_count(parting.nodes.get(rank)) for rank in found))
        for parting in find_graph_divergences(found)
    ]
    rows += [
        (format_location(*meeting.line), f"{escape_unprintable(meeting.op)} under")
        + tuple(", ".join(sorted(meeting.modes.get(rank, ()))) or MISSING for rank in found)
        for meeting in find_collective_calls(found)
        if len(set(meeting.modes.values())) > 1
    ]
    if not rows:
        return Section(
            "Ranks",
            [f"The {len(found)} ranks build graphs at the same lines and run collectives under the same modes."],
        )
    return Section("Ranks", table=Table(columns, rows[:top], left_out=max(len(rows) - top, 0)))


def _format_modes(state: Modes | None) -> str:
    return MISSING if state is None else mode_name(*state)
