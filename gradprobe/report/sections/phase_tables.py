"""Section about the phases of the program, as pure functions from the tables."""

from __future__ import annotations

from collections import Counter

import numpy as np

from gradprobe.report.document import Section, Table
from gradprobe.report.units import escape_unprintable, format_count, format_duration, format_location
from gradprobe.tables.recording_tables import RecordingTables

_COLUMNS = ("phase", "begun at", "runs", "time", "blocks", "threads")


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Return the section with the phases, the longest time first; None if the program named none."""
    phases = tables.phases
    if phases["automatic"].all():
        return None
    blocks: Counter[str] = Counter()
    for process in tables.processes:
        phase = process.history.regions.columns.phase
        blocks.update(
            dict(zip(phase.texts, np.bincount(phase.numbers, minlength=len(phase.texts)).tolist(), strict=True))
        )
    groups = []
    for (name, file, line), runs in phases.groupby(["phase", "file", "line"], dropna=False, sort=False):
        place = "found by gradprobe" if runs["automatic"].all() else format_location(file, line)
        cells = (escape_unprintable(str(name)), place, format_count(len(runs)))
        total = int(runs["duration_ns"].sum())
        threads = format_count(runs[["process", "thread"]].drop_duplicates().shape[0])
        groups.append((total, (*cells, format_duration(total), format_count(blocks[str(name)]), threads)))
    rows = [row for _, row in sorted(groups, key=lambda group: -group[0])]
    sentence = (
        "Blocks count in the phase that they began in; one that the program names comes before one that was found."
    )
    return Section("Phases", [sentence], Table(_COLUMNS, rows[:top], frozenset(_COLUMNS[2:]), max(len(rows) - top, 0)))
