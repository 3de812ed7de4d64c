"""Modes that were left changed: what the recording knows of each, and whether it did harm.

A function may be meant to end with the mode changed: a helper that sets it for each batch, the start of an inference
script. So a mode that was left is no problem in itself. It is one where a gradient was lost that the program wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.history.process import Process
from gradprobe.recording.events import BACKWARD_PASS

LEFT_MODE = "left-mode"
"""Name under which the detections are stored."""


@dataclass(frozen=True)
class LeftMode:
    """A line that disabled grad, and all that was detected after its function was left with grad disabled."""

    process: Process
    file: str
    line: int
    function: str
    form: str
    """``call``, ``enter`` for a context manager that was entered without ``with``, ``generator`` or ``task``."""
    seen: tuple[LocatedDetection, ...]

    @property
    def called_from(self) -> RelatedLine | None:
        """The line that called the function, or that used the helper class."""
        return next((at for each in self.seen for at in each.related if at.role == "called from here"), None)

    @cached_property
    def harm(self) -> tuple[LocatedDetection, ...]:
        """Detections that show a lost gradient which the program wanted; empty if none does."""
        kinds = defaultdict(list)
        for each in self.seen:
            if _is_after_block(each.detection.facts.get("within")):
                kinds[each.detection.facts.get("kind")].append(each)
        certain = [*kinds["fresh"], *kinds["backward"]]
        if certain:
            return (*[*kinds["leaf"], *kinds["operator"]][:1], *certain)
        if self.form != "generator" and self.is_undone:
            return ()
        in_use = [each for each in kinds["operator"] if each.detection.facts.get("training") is not False]
        # Parameters require grad in programs that only infer, too.
        wants_theirs = self.form == "generator" or _ran_backward(self.process)
        return (*kinds["leaf"], *(in_use if wants_theirs else ()))

    @property
    def victims(self) -> list[RelatedLine]:
        """The lines that lost a gradient."""
        known: dict[tuple[str, int], RelatedLine] = {}
        for each in self.harm:
            for at in each.lines[1:]:
                if at.role != "called from here":
                    known.setdefault((at.file, at.line), at)
        return list(known.values())

    @cached_property
    def is_undone(self) -> bool:
        """True if the thread enabled grad again after the line disabled it for the last time."""
        threads = {int(each.detection.facts.get("thread", 0)) for each in self.seen}
        since = max(int(each.detection.facts.get("set_ns", 0)) for each in self.seen)
        since -= int(self.process.contents.meta.get("began_ns", 0))
        numbers = {t.id for t in self.process.contents.threads.values() if t.ident in threads}
        undone = False
        transitions = self.process.history.transitions
        columns = transitions.columns
        is_later = np.isin(columns.thread, list(numbers)) & (columns.time_ns >= since)
        for change in transitions.where(is_later):
            file, line, _ = self.process.place(change.site)
            if (file, line) == (self.file, self.line) and not change.after[0]:
                undone = False
            elif change.event != "enter" and change.after == (True, False):
                undone = True
        return undone


def find_left_modes(evidence: Evidence) -> list[LeftMode]:
    """Return the lines that left the mode changed, each once per process."""
    groups: dict[tuple[int, str, int], list[LocatedDetection]] = defaultdict(list)
    for each in evidence.select_detections(LEFT_MODE):
        groups[id(each.process), each.main.file, each.main.line].append(each)
    return [_build(seen) for seen in groups.values()]


def _build(seen: Iterable[LocatedDetection]) -> LeftMode:
    all_seen = tuple(seen)
    first = all_seen[0]
    facts = first.detection.facts
    form = str(facts.get("suspends") or facts.get("form") or "call")
    return LeftMode(first.process, first.main.file, first.main.line, first.main.function, form, all_seen)


def _is_after_block(within: object) -> bool:
    """Return whether a line is outside of the ``with`` statement that a helper class was used in, if it was."""
    if not isinstance(within, list) or len(within) != 3:
        return True
    file, entered, now = within
    source = parse_file(str(file))
    block = None if source is None else source.find_block_at(int(entered))
    return block is not None and not block.lineno <= int(now) <= (block.end_lineno or block.lineno)


def _ran_backward(process: Process) -> bool:
    return process.history.marks.has(BACKWARD_PASS)
