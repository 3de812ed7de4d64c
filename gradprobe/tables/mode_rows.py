"""Rows of the table of modes, from the transitions of a recording and from what was detected of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradprobe.history.process import Process
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import UNKNOWN
from gradprobe.recording.notes import Detection, SourceLocation, read_detections, read_started_processes
from gradprobe.recording.rows import INITIAL_MODES

_LEFT_MODE, _HANDED_OVER = "left-mode", "handed-over"


def build_mode_rows(processes: Sequence[Process]) -> list[tuple[Any, ...]]:
    """Return one row per line and way in which a mode came about, the most frequent of each process first."""
    return [row for process in processes for row in (*_list_changes(process), *_list_beginnings(process))]


def _list_changes(process: Process) -> list[tuple[Any, ...]]:
    transitions = process.history.transitions
    columns = transitions.columns
    changes = np.flatnonzero((columns.before != columns.after) & ~columns.event.find("exit".__eq__))
    alike = (columns.thread, columns.form.numbers, columns.manager.numbers, columns.site, columns.before, columns.after)
    groups = sorted(group_rows(*(column[changes] for column in alike)), key=lambda group: -len(group))
    left = _find_left(process)
    rows = []
    for group in groups:
        change = transitions[int(changes[group[0]])]
        file, line, function = process.place(change.site)
        outlived = not change.after[0] and (file, line) in left
        lost = left[file, line] if outlived else None
        found = (None, None) if lost is None else (lost.file, lost.line)
        where = (process.pid, process.rank, process.thread(change.thread), change.form, change.manager)
        modes = (*change.before, *change.after)
        rows.append((*where, file, line, function, name_owner(file), *modes, len(group), outlived, *found))
    return rows


def _find_left(process: Process) -> dict[tuple[str | None, int | None], SourceLocation | None]:
    """Return the lines whose mode was found in force after their function was left, with the first line that lost by it."""
    found: dict[tuple[str | None, int | None], SourceLocation | None] = {}
    for detection in _select(process, _LEFT_MODE):
        if detection.facts.get("within"):
            continue  # the function is running; the block in it may be as well
        main, *others = detection.locations
        lost = next((at for at in others if at.role != "called from here"), None)
        found[main.file, main.line] = found.get((main.file, main.line)) or lost
    return found


def _list_beginnings(process: Process) -> list[tuple[Any, ...]]:
    """Return the rows of threads and processes that began in other modes than the thread had that started them."""
    rows = []
    for detection in _select(process, _HANDED_OVER):
        at, facts = detection.locations[0], detection.facts
        place = (at.file, at.line, at.function, name_owner(at.file))
        before = (False, bool(facts.get("inference")))
        where = (process.pid, process.rank, str(facts.get("thread")), "thread", UNKNOWN, *place)
        rows.append((*where, *before, *INITIAL_MODES, 1, False, None, None))
    for start in read_started_processes(process.contents.notes):
        if (start.grad, start.inference) != INITIAL_MODES:
            place = (start.file, start.line, start.function, name_owner(start.file))
            where = (process.pid, process.rank, f"process {start.pid}", "process", UNKNOWN, *place)
            rows.append((*where, start.grad, start.inference, *INITIAL_MODES, 1, False, None, None))
    return rows


def _select(process: Process, rule: str) -> list[Detection]:
    notes = read_detections(process.contents.notes)
    return [detection for detection, _ in notes if detection.rule == rule and detection.locations]


def name_owner(file: str | None) -> str:
    """Return whose code a file is."""
    parts = (file or "").split(os.sep)
    if "site-packages" not in parts and "dist-packages" not in parts:
        return "program"
    return "torch" if "torch" in parts else "library"
