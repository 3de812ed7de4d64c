"""Running totals that keep graphs: a line that adds to its own last result, again and again, and no backward reaches it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

_STEPS = 5
"""Sums of fewer steps are written out by hand, as those of several losses are."""
_LINES = 3
_ORIGINS = 200_000


@dataclass
class _Total:
    code: CodeType
    offset: int
    first: int
    last: int
    steps: int = 1


class RunningTotalDetector:
    """Those of one thread. ``origins`` tells which line constructed a node, by its number, of the latest nodes."""

    def __init__(self, sightings: DetectionLog) -> None:
        self._sightings = sightings
        self._known: dict[tuple[int, int], _Total] = {}
        self._reached: set[tuple[int, int]] = set()
        self.origins: dict[int, tuple[int, int]] = {}

    def look(self, args: Any, result: Any, code: CodeType | None, offset: int, node: int) -> None:
        """A sum was constructed as node number ``node``."""
        if code is None or result.numel() != 1:
            return
        key = (id(code), offset)
        known = self._known.get(key)
        if known is not None and any(_was_made_at(operand, code, offset) for operand in iter_tensors(args)):
            known.steps, known.last = known.steps + 1, node
        else:
            self._known[key] = _Total(code, offset, node, node)

    def on_node_created(self, node: int, code: int, offset: int) -> None:
        """A node was constructed at a place."""
        if len(self.origins) >= _ORIGINS:
            self.origins.clear()
        self.origins[node] = code, offset

    def reach(self, runs: Iterable[tuple[int, int]]) -> None:
        """A backward goes through the nodes of these numbers."""
        for key, total in self._known.items():
            if any(first <= total.last <= last for first, last in runs):
                self._reached.add(key)

    def finish(self) -> None:
        """Tells of the totals that no backward reached."""
        for key, total in self._known.items():
            if total.steps >= _STEPS and key not in self._reached:
                at = locate_instruction("added up here", total.code, total.offset)
                self._sightings.add("GP201", [at, *self._behind(total, key)], steps=total.steps)
        self._known.clear()

    def _behind(self, total: _Total, own: tuple[int, int]) -> list[SourceLocation | None]:
        """The lines that constructed most of the nodes that it keeps."""
        places = Counter(
            place for number, place in self.origins.items() if total.first <= number <= total.last and place != own
        )
        found: dict[SourceLocation | None, None] = {}
        for (code, offset), _ in places.most_common(4 * _LINES):
            found[locate_instruction("graph built here", self._sightings.codes.held.get(code), offset)] = None
        return list(found)[:_LINES]


def _was_made_at(tensor: Any, code: CodeType, offset: int) -> bool:
    entry = REGISTRY.get(tensor)
    return entry is not None and entry[2] is code and entry[3] == offset
