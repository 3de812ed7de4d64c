"""The latest backward passes of a thread: where each began, the nodes that it went through, and whether it freed them."""

from __future__ import annotations

from collections import deque
from types import CodeType
from typing import NamedTuple

from gradprobe.capture.detectors.detection_log import locate_instruction
from gradprobe.recording.notes import SourceLocation

_MAX_PASSES, _MAX_RANGES = 256, 1_024


class _KnownPass(NamedTuple):
    """A backward pass, with the sequence numbers of its nodes as ranges of a first and a last one."""

    code: CodeType | None
    offset: int
    ranges: tuple[tuple[int, int], ...]
    frees: bool


class BackwardPasses:
    """The latest backward passes of one thread."""

    def __init__(self) -> None:
        self._passes: deque[_KnownPass] = deque(maxlen=_MAX_PASSES)

    def add(self, code: CodeType | None, offset: int, ranges: list[tuple[int, int]], *, frees: bool) -> None:
        """Add a pass that begins at an instruction of the program."""
        kept = ranges if len(ranges) <= _MAX_RANGES else [(ranges[0][0], ranges[-1][1])]
        self._passes.append(_KnownPass(code, offset, tuple(kept), frees))

    def find_freeing(self, number: int) -> SourceLocation | None:
        """Return where the pass began, before the present one, that freed the node with this sequence number."""
        for known in list(reversed(self._passes))[1:]:
            if known.frees and any(first <= number <= last for first, last in known.ranges):
                return locate_instruction("backward here", known.code, known.offset)
        return None
