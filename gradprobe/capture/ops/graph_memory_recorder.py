"""Recorder of the memory that autograd graphs hold, over the time of a session.

It looks where a curve of it says most: as backward passes begin, when the graph of the iteration is complete, and as
phases of the program begin and end. Otherwise it takes what the detector of held graphs finds. The longer the run, the
rarer the samples: their number grows with the logarithm of the number of iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gradprobe.capture.detectors.detection_log import locate_instruction
from gradprobe.capture.detectors.held_graphs import HeldGraphs
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.time_share import TimeShare
from gradprobe.phases import current_phase
from gradprobe.recording.graph_memory import (
    AT_BACKWARD,
    BETWEEN,
    FURTHER_LINES,
    NOTHING,
    GraphLine,
    HeldMemory,
    MemoryNotes,
    MemorySample,
)
from gradprobe.recording.notes import Note

_SAMPLES_PER_STRIDE = 32
"""Number of samples after which only every other moment is looked at."""
_MAX_LINES = 12
"""Maximum number of lines of a sample; those with the fewest bytes are added up."""
_ALLOWANCE_S, _MAX_SHARE = 0.005, 0.005
"""Processor time in seconds that looking may take, and its share of the time beyond that."""


class _Thinning:
    """Choice of moments, all at first and then ever fewer."""

    def __init__(self) -> None:
        self._moments, self._chosen, self._stride = 0, 0, 1

    def choose_next(self) -> bool:
        """Return whether the next moment is one to look at."""
        self._moments += 1
        if self._moments % self._stride:
            return False
        self._chosen += 1
        if self._chosen % _SAMPLES_PER_STRIDE == 0:
            self._stride *= 2
        return True


class GraphMemoryRecorder:
    """The memory of graphs in one session.

    Args:
        codes: The code objects by which lines are found.
        now: The clock, in nanoseconds.
        list_held: Returns the graphs that the program holds.
    """

    def __init__(
        self, codes: FrameClassifier, now: Callable[[], int], list_held: Callable[[], Iterable[tuple[Any, ...]]]
    ) -> None:
        self._codes, self._now, self._list_held = codes, now, list_held
        self._samples: list[MemorySample] = []
        self._notes = MemoryNotes()
        self._time = TimeShare(_ALLOWANCE_S, _MAX_SHARE)
        self.forget()

    def on_backward(self) -> None:
        """Look at the graphs, if it is time, as ``backward()`` begins."""
        self._iteration += 1
        self._look(AT_BACKWARD, self._backwards)

    def on_phase(self) -> None:
        """Look at the graphs, if it is time, as a phase of the program begins or ends."""
        self._look(BETWEEN, self._phases)

    def on_look(self, held: Iterable[tuple[Any, ...]]) -> None:
        """Take the graphs that were found to be held at another moment."""
        if self._looks.choose_next():
            self._add(BETWEEN, held)

    def take(self) -> list[Note]:
        """Return the notes of the samples since the last time."""
        samples, self._samples = self._samples, []
        return list(self._notes.write(samples))

    def forget(self) -> None:
        """Begin again, because the session observes no thread any more; samples that were not taken stay."""
        self._iteration, self._has_held = 0, False
        self._backwards, self._phases, self._looks = _Thinning(), _Thinning(), _Thinning()
        self._time.restart()

    def _look(self, moment: str, moments: _Thinning) -> None:
        if moments.choose_next() and self._time.is_left():
            with self._time.spend():
                self._add(moment, self._list_held())

    def _add(self, moment: str, found: Iterable[tuple[Any, ...]]) -> None:
        held = self._sum_by_line(found)
        self._has_held |= bool(held)
        if self._has_held:
            self._samples.append(MemorySample(self._now(), self._iteration, moment, current_phase(), held))

    def _sum_by_line(self, found: Iterable[tuple[Any, ...]]) -> dict[GraphLine, HeldMemory]:
        sums: dict[GraphLine, HeldMemory] = {}
        for held in sorted((HeldGraphs(*each) for each in found), key=lambda held: -held.saved_bytes):
            if not held.nodes:
                continue
            at = self._locate(held) if len(sums) < _MAX_LINES else FURTHER_LINES
            before = sums.get(at, NOTHING)
            sums[at] = HeldMemory(
                before.tensors + held.number, before.nodes + held.nodes, before.bytes + held.saved_bytes
            )
        return sums

    def _locate(self, held: HeldGraphs) -> GraphLine:
        code, offset = held.place
        at = locate_instruction("", self._codes.held.get(code), offset)
        return FURTHER_LINES if at is None else GraphLine(at.file, at.line or 0, at.function, held.op)
