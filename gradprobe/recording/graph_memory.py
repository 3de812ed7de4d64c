"""Records of the memory that autograd graphs held at moments of a run, by the line whose results held them.

They are kept as notes: a line of JSON for each line of the program, and one for each moment, which refers to the lines by
number. The lines are written again with the moments that need them, because a recording may begin after others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gradprobe.recording.notes import Note, NoteKind

AT_BACKWARD, BETWEEN = "backward", "between"
MOMENTS = (AT_BACKWARD, BETWEEN)
"""Moments at which graphs are looked at: as a backward pass begins, or at another operator and at the end."""

_FURTHER = 0
"""Number of what is no line: the sum of further ones."""
_MAX_INTEGER = 2**63 - 1


class GraphLine(NamedTuple):
    """An operator at a line of the program, whose results hold graphs. Without a file it is the sum of further lines."""

    file: str
    line: int
    function: str
    op: str


FURTHER_LINES = GraphLine("", 0, "", "")


class HeldMemory(NamedTuple):
    """Tensors that hold graphs, the nodes of these graphs, and the bytes that the nodes saved."""

    tensors: int
    nodes: int
    bytes: int


NOTHING = HeldMemory(0, 0, 0)


class MemorySample(NamedTuple):
    """The memory of graphs at a moment.

    ``time_ns`` is on the clock of the recording, ``iteration`` the number of ``backward()`` calls that had begun.
    """

    time_ns: int
    iteration: int
    moment: str
    phase: str
    held: dict[GraphLine, HeldMemory]

    @property
    def bytes(self) -> int:
        """Bytes of all lines."""
        return sum(memory.bytes for memory in self.held.values())


class MemoryNotes:
    """Writer of samples, which numbers their lines."""

    def __init__(self) -> None:
        self._numbers = {FURTHER_LINES: _FURTHER}

    def write(self, samples: Sequence[MemorySample]) -> Iterator[Note]:
        """Yield the notes of ``samples``, those of their lines first."""
        for line in dict.fromkeys(line for sample in samples for line in sample.held if line != FURTHER_LINES):
            number = self._numbers.setdefault(line, len(self._numbers))
            yield NoteKind.MEMORY_LINE.value, json.dumps([number, *line]), 1
        for sample in samples:
            held = [[self._numbers[line], *memory] for line, memory in sample.held.items()]
            yield NoteKind.MEMORY_SAMPLE.value, json.dumps([*sample[:-1], held]), 1


def read_memory_samples(notes: Iterable[Note]) -> list[MemorySample]:
    """Return the samples that a recording's notes hold, by time. Notes that do not parse are left out."""
    lines = {_FURTHER: FURTHER_LINES}
    texts = []
    for kind, text, _ in notes:
        if kind == NoteKind.MEMORY_SAMPLE:
            texts.append(text)
        elif kind == NoteKind.MEMORY_LINE:
            try:
                number, file, line, function, op = json.loads(text)
                lines.setdefault(_read_count(number), GraphLine(str(file), _read_count(line), str(function), str(op)))
            except _MALFORMED:
                continue
    samples = []
    for text in dict.fromkeys(texts):
        try:
            samples.append(_parse_sample(json.loads(text), lines))
        except _MALFORMED:
            continue
    return sorted(samples, key=lambda sample: sample.time_ns)


def _parse_sample(values: Any, lines: dict[int, GraphLine]) -> MemorySample:
    time_ns, iteration, moment, phase, held = values
    if moment not in MOMENTS:
        raise ValueError(f"moment must be one of {MOMENTS}, got {moment!r}")
    memory = {lines[_read_count(number)]: HeldMemory(*map(_read_count, counts)) for number, *counts in held}
    return MemorySample(_read_count(time_ns), _read_count(iteration), moment, str(phase), memory)


def _read_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise ValueError(f"count must be an integer from 0 to {_MAX_INTEGER}, got {value!r}")
    return value


_MALFORMED = (ValueError, TypeError, KeyError, RecursionError)
"""Errors of reading a note of an edited file: no JSON, other values, lines that are not there, lists that are too deep."""
