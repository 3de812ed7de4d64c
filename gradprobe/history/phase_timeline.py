"""Phases of a history: the stretches of a thread or asyncio task to which the program, or gradprobe, gave a name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from gradprobe.recording.contents import Site
from gradprobe.recording.events import ACTION_MASK, AUTOMATIC_PHASE, EXIT
from gradprobe.recording.rows import RawRow


@dataclass(eq=False, slots=True)
class Phase:
    """One run of a phase; ``parent`` is the phase around it, ``closed`` is false if it was not left."""

    number: int
    name: str
    site: int
    thread: int
    task: str | None
    start_ns: int
    is_automatic: bool
    parent: Phase | None
    end_ns: int | None = None
    closed: bool = False

    @property
    def depth(self) -> int:
        """Number of phases around it."""
        return 0 if self.parent is None else self.parent.depth + 1

    def is_of(self, task: str | None) -> bool:
        """Return whether the phase is one of ``task``, or of the thread that runs it."""
        return self.task is None or self.task == task


class PhaseBuilder:
    """Phases found so far, by the numbers that their runs have in their process."""

    def __init__(self, sites: dict[int, Site]) -> None:
        self.found: list[Phase] = []
        self._sites = sites
        self._running: dict[int, Phase] = {}
        self._open: dict[int, list[Phase]] = defaultdict(list)
        self._by_thread: dict[int, list[Phase]] = defaultdict(list)

    def add(self, row: RawRow, task: str | None) -> None:
        """Take in that a phase begins or ends. One that runs already began before the recording."""
        op, time, thread, site, _, key, _, _ = row
        if op & ACTION_MASK == EXIT:
            ended = self._running.pop(key, None)
            if ended is not None:
                ended.end_ns, ended.closed = time, True
                self._open[ended.thread].remove(ended)
        elif key not in self._running:
            known = self._sites.get(site)
            name = (known.function if known is not None else None) or f"phase {key}"
            around = [phase for phase in self._open[thread] if phase.is_of(task)]
            automatic = op == AUTOMATIC_PHASE
            phase = Phase(len(self.found), name, site, thread, task, time, automatic, around[-1] if around else None)
            self.found.append(phase)
            self._running[key] = phase
            self._open[thread].append(phase)
            self._by_thread[thread].append(phase)

    def finish(self, end: int) -> None:
        """End what was not left with the recording."""
        for phase in self._running.values():
            phase.end_ns = max(end, phase.start_ns)

    def current(self, thread: int, task: str | None) -> str:
        """Return the name of the phase of a task of a thread now, an empty string if there is none."""
        phases = self._open.get(thread)
        return choose_name(phases, task) if phases else ""

    def at(self, thread: int, task: str | None, time_ns: int) -> str:
        """Return the name of the phase of a task of a thread at a moment."""
        phases = [
            phase
            for phase in self._by_thread.get(thread, ())
            if phase.start_ns <= time_ns and (phase.end_ns is None or time_ns <= phase.end_ns)
        ]
        return choose_name(phases, task)


def choose_name(phases: list[Phase], task: str | None) -> str:
    """Return the name of the innermost of ``phases`` that is one of ``task``; one that the program named comes first."""
    mine = [phase for phase in reversed(phases) if phase.is_of(task)]
    return min(mine, key=lambda phase: phase.is_automatic).name if mine else ""
