"""Log of detections, each one once with its count, until the recordings take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.autograd.creation import CreationRecord
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.sites import line_span
from gradprobe.phases import current_phase
from gradprobe.recording.events import ACTION_MASK, DECORATED, ENTER, EXIT, GENERATOR, Event
from gradprobe.recording.notes import REVISES, BlockAt, Detection, SourceLocation

_MAX_EVENTS = 2_000
"""Maximum number of events of a thread that are kept to find the block in which a tensor was created."""
_MAX_DETECTIONS = 1_000
"""Maximum number of distinct detections kept between two flushes."""


class DetectionLog:
    """The detections since the log was last taken, and the latest manager events of each thread."""

    def __init__(self, codes: FrameClassifier, now: Callable[[], int]) -> None:
        self.codes, self.now = codes, now
        self.find_user_frame = codes.find_user_frame
        self._found: dict[tuple[Any, ...], tuple[Detection, int]] = {}
        self._events: dict[int, deque[Event]] = {}
        self.find_last_escaped: Callable[[], CreationRecord | None] = find_no_escaped
        """Returns the record of the last inference tensor that escaped from its mode, without a reference to it."""

    def add(
        self, rule: str, locations: Sequence[SourceLocation | None], under: Sequence[BlockAt] = (), **facts: Any
    ) -> None:
        """Add a detection of ``rule``. The first location is the main one; without any, nothing is added.

        A detection repeated at the same lines keeps the ``under`` and ``facts`` of the first time.
        """
        known = [location for location in locations if location is not None]
        if not known:
            return
        key = (rule, *known)
        phase = current_phase()
        if phase:
            facts["phase"] = phase
        detection, count = self._found.get(key) or (Detection(rule, known, list(under), facts), 0)
        if count or len(self._found) < _MAX_DETECTIONS:
            self._found[key] = detection, count + 1

    def revise(
        self,
        rule: str,
        locations: Sequence[SourceLocation | None],
        under: Sequence[BlockAt],
        facts: dict[str, Any],
    ) -> None:
        """Replace the facts of a detection, whether it is still in the log or a recording has taken it by now."""
        key = (rule, *(location for location in locations if location is not None))
        found = self._found.get(key)
        if found is None:
            self.add(rule, locations, under, **facts, **{REVISES: True})
            return
        phase = found[0].facts.get("phase")
        self._found[key] = replace(found[0], facts=facts if phase is None else {**facts, "phase": phase}), found[1]

    def events_of(self, thread: int) -> deque[Event]:
        """Return the latest manager events of a thread, to which its next ones are to be added."""
        return self._events.setdefault(thread, deque(maxlen=_MAX_EVENTS))

    def locate_block(self, under: BlockAt) -> SourceLocation | None:
        """Return the line of the innermost block that disabled grad at a moment, if it was entered of late."""
        exited: list[int] = []
        for event in reversed(self._events.get(under.thread, ())):
            op, time, _, code, offset, _, _, grad_after, _, key = event[:10]
            action = op & ACTION_MASK
            if time > under.time_ns or (time == under.time_ns and action == EXIT):
                continue
            if action == EXIT:
                exited.append(key)
            elif action == ENTER and key in exited:
                exited.remove(key)
            elif action == ENTER and not grad_after and code is not None:
                return locate_instruction(under.role, code, offset)
        return None

    def time_of_entry(self, thread: int, key: int, otherwise: int) -> int:
        """Return when the block with this key was last entered in a thread."""
        for event in reversed(self._events.get(thread, ())):
            if event[9] == key and event[0] & ACTION_MASK == ENTER:
                return int(event[1])
        return otherwise

    def take(self) -> list[tuple[str, int]]:
        """Return all detections as text with their counts, and clear the log."""
        found, self._found = self._found, {}
        return [(detection.text(), count) for detection, count in found.values()]

    def locate_frame(self, role: str, frame: FrameType | None) -> SourceLocation | None:
        """Return the program's line at or outside of ``frame``."""
        found = self.find_user_frame(frame)
        return None if found is None else locate_instruction(role, found.f_code, found.f_lasti)


def find_no_escaped() -> None:
    """Find no inference tensor that escaped from its mode, because no operators are observed."""


def locate_instruction(role: str, code: CodeType | None, offset: int) -> SourceLocation | None:
    """Return the line of an instruction."""
    if code is None:
        return None
    if offset in (DECORATED, GENERATOR):
        return SourceLocation(role, code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name))
    return SourceLocation(
        role, code.co_filename, line_span(code, offset)[0], getattr(code, "co_qualname", code.co_name)
    )
