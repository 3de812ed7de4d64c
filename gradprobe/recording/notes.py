"""Notes: facts about a recording that no event carries, stored as kind, text and count.

Most are sentences for the reader. Some kinds are records, stored as a line of JSON each: they are rare, and a table of
their own for each kind would be more than they need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")

Note = tuple[str, str, int]
"""Kind, text and count of something that a reader of the recording must know."""


class NoteKind(str, Enum):
    """Kinds of notes; the values are stored."""

    LEVEL = "level"
    """Something that the recording's level does not count with this PyTorch."""
    FULL = "full"
    """Events left out because the limit was reached."""
    FAULT = "fault"
    """Error inside gradprobe."""
    UNSEEN_THREAD = "unseen thread"
    """A thread that is older than the recording, whose operators were not observed."""
    DEVICE = "device"
    """Something about device time that was not measured."""
    CUT_OFF = "cut off"
    """Reason why the recording could not be written to its end. Never stored."""
    DETECTION = "sighting"
    """A ``Detection``."""
    COMPILATION = "compiled"
    """A ``Compilation``."""
    STARTED_PROCESS = "started"
    """A ``StartedProcess``."""
    FLOW_SITE = "flow site"
    """A site of the flow ledger, as are the kinds that follow; see ``flow.py``."""
    FLOW_LEAF = "flow leaf"
    FLOW_EDGE = "flow edge"
    FLOW_FLAG = "flow flag"
    GRAPH_PATH = "graph path"
    GRAPH_COUNT = "graph count"
    MEMORY_LINE = "memory line"
    """A line whose results hold graphs, to which the samples of memory refer; see ``graph_memory.py``."""
    MEMORY_SAMPLE = "memory sample"
    MODULE_ROOT = "module root"
    """An outermost module, to whose name the paths of modules refer; see ``module_roots.py``."""
    SOURCE = "source"
    """Text of recorded lines; see ``source_lines.py``."""

    __str__ = str.__str__


class SourceLocation(NamedTuple):
    """A line that is related to something that was detected, and its role."""

    role: str
    file: str
    line: int
    function: str

    @classmethod
    def parse(cls, values: Sequence[Any]) -> SourceLocation:
        """Return the location that JSON has as a list."""
        role, file, line, function = values
        return cls(str(role), str(file), int(line), str(function))


class BlockAt(NamedTuple):
    """Moment of a thread, given by its identifier; the block open at it is related, in this role."""

    role: str
    thread: int
    time_ns: int

    @classmethod
    def parse(cls, values: Sequence[Any]) -> BlockAt:
        """Return the moment that JSON has as a list."""
        role, thread, time_ns = values
        return cls(str(role), int(thread), int(time_ns))


REVISES = "revises"
"""Name of the fact of a detection that replaces those of its rule and lines which are in the recording already."""


@dataclass(frozen=True)
class Detection:
    """Something wrong that was detected while the program ran.

    ``rule`` is the code of the rule. ``locations`` has the main line first. ``facts`` is what else the rule needs for its
    message.
    """

    rule: str
    locations: Sequence[SourceLocation]
    under: Sequence[BlockAt] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def read_count(self, name: str) -> int:
        """Return a fact that is a number, 0 if there is none or an edited file has something else there."""
        value = self.facts.get(name)
        return value if type(value) is int and value >= 0 else 0

    def text(self) -> str:
        """Return the detection as a line of JSON."""
        return json.dumps([self.rule, self.locations, self.under, self.facts])

    @classmethod
    def parse(cls, values: Any) -> Detection:
        """Return the detection that ``text`` wrote."""
        rule, locations, under, facts = values
        return cls(
            str(rule),
            [*map(SourceLocation.parse, locations)],
            [*map(BlockAt.parse, under)],
            {str(name): value for name, value in facts.items()},
        )


@dataclass(frozen=True)
class TracedModeChange:
    """A mode change that the compiler made part of a graph: the new setting, and the first line after it."""

    manager: str
    enabled: bool
    file: str
    line: int

    @classmethod
    def parse(cls, values: Sequence[Any]) -> TracedModeChange:
        """Return the mode change that JSON has as a list."""
        manager, enabled, file, line = values
        return cls(str(manager), bool(enabled), str(file), int(line))


@dataclass(frozen=True)
class Compilation:
    """A graph that ``torch.compile`` made of a function.

    ``called`` is the call for which it was compiled, ``mode`` the mode then, ``reasons`` why no earlier graph was used.
    """

    function: SourceLocation
    called: SourceLocation | None
    mode: str
    operators: int
    folded: tuple[TracedModeChange, ...] = ()
    reasons: tuple[str, ...] = ()
    takes_inference: bool = False
    """True if an argument was an inference tensor."""

    def text(self) -> str:
        """Return the compilation as a line of JSON."""
        folded = [astuple(change) for change in self.folded]
        return json.dumps(
            [self.function, self.called, self.mode, self.operators, folded, self.reasons, self.takes_inference]
        )

    @classmethod
    def parse(cls, values: Any) -> Compilation:
        """Return the compilation that ``text`` wrote."""
        function, called, mode, operators, folded, reasons, takes_inference = values
        return cls(
            SourceLocation.parse(function),
            None if called is None else SourceLocation.parse(called),
            str(mode),
            int(operators),
            tuple(map(TracedModeChange.parse, folded)),
            tuple(map(str, reasons)),
            bool(takes_inference),
        )


@dataclass(frozen=True)
class StartedProcess:
    """A process that was started, the modes of the thread that started it, and the line where it did."""

    pid: int
    grad: bool
    inference: bool
    file: str
    line: int
    function: str

    def text(self) -> str:
        """Return the record as a line of JSON."""
        return json.dumps(astuple(self))

    @classmethod
    def parse(cls, values: Any) -> StartedProcess:
        """Return the record that ``text`` wrote."""
        pid, grad, inference, file, line, function = values
        return cls(int(pid), bool(grad), bool(inference), str(file), int(line), str(function))


def read_detections(notes: Sequence[tuple[str, str, int]]) -> Iterator[tuple[Detection, int]]:
    """Yield the detections among ``notes``, each with its count.

    What was known of a detection may change after it was written. The revision takes the place of the others of its
    rule and lines, as if they had not been written in between.
    """
    found = list(_parse(notes, NoteKind.DETECTION, Detection.parse))
    revisions = {_identify(detection): detection for detection, _ in found if REVISES in detection.facts}
    counts = dict.fromkeys(revisions, 0)
    for detection, count in found:
        key = _identify(detection)
        if key not in revisions:
            yield detection, count
        elif REVISES not in detection.facts:
            counts[key] += count
    for key, detection in revisions.items():
        facts = {name: fact for name, fact in detection.facts.items() if name != REVISES}
        yield replace(detection, facts=facts), counts[key] or 1


def _identify(detection: Detection) -> tuple[str, tuple[SourceLocation, ...]]:
    return detection.rule, tuple(detection.locations)


def read_compilations(notes: Sequence[tuple[str, str, int]]) -> Iterator[tuple[Compilation, int]]:
    """Yield the compilations among ``notes``, each with its count."""
    return _parse(notes, NoteKind.COMPILATION, Compilation.parse)


def read_started_processes(notes: Sequence[tuple[str, str, int]]) -> Iterator[StartedProcess]:
    """Yield the started processes among ``notes``."""
    return (process for process, _ in _parse(notes, NoteKind.STARTED_PROCESS, StartedProcess.parse))


def _parse(
    notes: Sequence[tuple[str, str, int]], kind: NoteKind, parse: Callable[[Any], _T]
) -> Iterator[tuple[_T, int]]:
    """Yield the records of one kind, skipping texts that do not parse, as in a file edited by hand."""
    for known, text, count in notes:
        if known != kind:
            continue
        try:
            record = parse(json.loads(text))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        yield record, count
