"""Collects what detectors see go wrong, each thing once with its count, until the recordings take it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.autograd.creation import CreationRecord
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.sites import line_span
from gradprobe.recording.events import DECORATED, GENERATOR
from gradprobe.recording.notes import BlockAt, Detection, SourceLocation

_BLOCKS = 1_000
"""How many blocks of a thread are remembered for those who ask which one a tensor was born in."""
_MOST = 1_000
"""Of so many different ones in one round of writing; what comes after that is more of the same."""


@dataclass(slots=True)
class _Block:
    key: int
    entered_ns: int
    code: CodeType
    offset: int
    left_ns: int | None = None


class DetectionLog:
    """What was seen since it was last taken."""

    def __init__(self, codes: FrameClassifier, now: Callable[[], int]) -> None:
        self.codes, self.now = codes, now
        self.find_user_frame = codes.find_user_frame
        self._found: dict[tuple[Any, ...], tuple[Detection, int]] = {}
        self._blocks: dict[int, deque[_Block]] = {}
        self.changed: tuple[SourceLocation, ...] | None = None
        """What was last seen of a saved tensor that was changed: the backward that follows will raise."""
        self.outlived: CreationRecord | None = None
        """The inference tensor that last outlived its mode, without a reference to it."""
        self._last_error: tuple[int, str] = (0, "")

    def add(
        self, rule: str, locations: Sequence[SourceLocation | None], under: Sequence[BlockAt] = (), **facts: Any
    ) -> None:
        """Notes a sighting of ``rule``; the first spot is the main one. Without a line of the program there is none.

        Of what is seen again at the same lines, the first time's ``under`` and ``facts`` are kept.
        """
        known = [spot for spot in locations if spot is not None]
        if not known:
            return
        key = (rule, *known)
        sighting, count = self._found.get(key) or (Detection(rule, known, list(under), facts), 0)
        if count or len(self._found) < _MOST:
            self._found[key] = sighting, count + 1

    def is_known(self, error: BaseException) -> bool:
        """Whether ``error`` is the one that was asked about last, as each frame that it passes does."""
        known, self._last_error = self._last_error, (id(error), str(error))
        return known == self._last_error

    def enter(self, thread: int, key: int, time_ns: int, code: CodeType, offset: int) -> None:
        """A block without gradients was entered."""
        blocks = self._blocks.get(thread)
        if blocks is None:
            blocks = self._blocks[thread] = deque(maxlen=_BLOCKS)
        blocks.append(_Block(key, time_ns, code, offset))

    def leave(self, thread: int, key: int, time_ns: int) -> None:
        """The block of this key was left."""
        for block in reversed(self._blocks.get(thread, ())):
            if block.key == key and block.left_ns is None:
                block.left_ns = time_ns
                return

    def block_at(self, under: BlockAt) -> SourceLocation | None:
        """The line of the innermost of these blocks at a moment; of the latest of them, since others are forgotten."""
        for block in reversed(self._blocks.get(under.thread, ())):
            if block.entered_ns <= under.time_ns and (block.left_ns is None or block.left_ns >= under.time_ns):
                return locate_instruction(under.role, block.code, block.offset)
        return None

    def take(self) -> list[tuple[str, int]]:
        """All of them as text with their counts, and forgets them."""
        found, self._found = self._found, {}
        return [(sighting.text(), count) for sighting, count in found.values()]

    def locate_frame(self, role: str, frame: FrameType | None) -> SourceLocation | None:
        """The program's line behind ``frame``."""
        found = self.find_user_frame(frame)
        return None if found is None else locate_instruction(role, found.f_code, found.f_lasti)


def locate_instruction(role: str, code: CodeType | None, offset: int) -> SourceLocation | None:
    """The line of an instruction."""
    if code is None:
        return None
    if offset in (DECORATED, GENERATOR):
        return SourceLocation(role, code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name))
    return SourceLocation(
        role, code.co_filename, line_span(code, offset)[0], getattr(code, "co_qualname", code.co_name)
    )
