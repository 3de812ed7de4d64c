"""Detector of running totals that keep graphs alive (GP201).

A line adds to its own last result again and again, and no backward reaches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

_MIN_STEPS = 5
"""Minimum number of additions at one line; shorter sums, such as of several losses, are ordinary."""
_MAX_RELATED_LINES = 3


@dataclass
class _Total:
    code: CodeType
    offset: int
    first: int
    last: int
    steps: int = 1


Origin = tuple[int, int]
"""Identity of the code object and offset of the line that constructed a node."""


class RunningTotalDetector:
    """Running totals of one thread.

    Args:
        log: Receives the detections.
        origins_between: Returns the lines of the thread's nodes whose sequence numbers are in a range.
    """

    def __init__(self, log: DetectionLog, origins_between: Callable[[int, int], list[Origin]]) -> None:
        self._log, self._origins_between = log, origins_between
        self._known: dict[tuple[int, int], _Total] = {}
        self._reached: set[tuple[int, int]] = set()

    def on_sum(self, args: Any, result: Any, code: CodeType | None, offset: int, node: int) -> None:
        """Note that an addition constructed the node with sequence number ``node``."""
        if code is None or result.numel() != 1:
            return
        key = (id(code), offset)
        known = self._known.get(key)
        if known is not None and any(_is_result_of(operand, code, offset) for operand in iter_tensors(args)):
            known.steps, known.last = known.steps + 1, node
        else:
            self._known[key] = _Total(code, offset, node, node)

    def on_backward(self, runs: Iterable[tuple[int, int]]) -> None:
        """Note that a backward goes through the nodes in ``runs``."""
        for key, total in self._known.items():
            if any(first <= total.last <= last for first, last in runs):
                self._reached.add(key)

    def on_thread_end(self) -> None:
        """Report the totals that no backward reached."""
        for key, total in self._known.items():
            if total.steps >= _MIN_STEPS and key not in self._reached:
                at = locate_instruction("added up here", total.code, total.offset)
                self._log.add("GP201", [at, *self._locate_nodes(total, key)], steps=total.steps)
        self._known.clear()

    def _locate_nodes(self, total: _Total, own: tuple[int, int]) -> list[SourceLocation | None]:
        """Return the lines that constructed most of the nodes that ``total`` keeps."""
        places = Counter(place for place in self._origins_between(total.first, total.last) if place != own)
        found: dict[SourceLocation | None, None] = {}
        for (code, offset), _ in places.most_common(4 * _MAX_RELATED_LINES):
            found[locate_instruction("graph built here", self._log.codes.held.get(code), offset)] = None
        return list(found)[:_MAX_RELATED_LINES]


def _is_result_of(tensor: Any, code: CodeType, offset: int) -> bool:
    entry = REGISTRY.get(tensor)
    return entry is not None and entry[2] is code and entry[3] == offset
