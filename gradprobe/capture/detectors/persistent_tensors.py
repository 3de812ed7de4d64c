"""Detector of inference tensors that attributes, globals, closures and caches of the program keep beyond their block.

That alone is harmless. Whether code exists that will write, save or load them is asked of the source, when the recording is
read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import find_creation_block, locate_creation
from gradprobe.capture.detectors.refusal_stories import find_source
from gradprobe.capture.location.code_phases import find_code_phase
from gradprobe.capture.location.persistent_places import PersistentPlace, find_persistent_places
from gradprobe.capture.time_share import TimeShare
from gradprobe.phases import AFTER_BACKWARD, current_phase

KEPT_INFERENCE_TENSOR = "kept-inference-tensor"
"""Name, in the place of a rule, of the detections of inference tensors that are kept."""
KEPT_TENSOR_USE = "kept-inference-tensor-use"
"""The same for what operators outside inference mode do with them."""

_MAX_LINES = 200
_ALLOWANCE_S, _MAX_SHARE = 0.05, 0.01
"""Processor time in seconds that looking as blocks end may take, and its share of the time beyond that."""
_COPIES = ("clone", "_to_copy", "contiguous")
_VIEWS = frozenset(
    (
        "view",
        "slice",
        "select",
        "t",
        "transpose",
        "permute",
        "expand",
        "detach",
        "alias",
        "squeeze",
        "unsqueeze",
        "narrow",
    )
    + ("reshape", "split", "chunk", "unbind", "as_strided", "diagonal", "flatten", "unflatten")
)
_MAX_TENSORS_OF_LINE = 4
_LAST_KEY = re.compile(r"\[[^\[\]]*\]\Z")


def describe_use(op: str) -> str:
    """Return what an operator does with an operand, as far as its name says it."""
    name = op.removeprefix("aten.").partition(".")[0]
    return "copied" if name in _COPIES else "viewed" if name in _VIEWS else "read"


def name_together(places: Sequence[PersistentPlace]) -> PersistentPlace:
    """Return the first place, without the key if several items of one container hold tensors of the same line."""
    first = places[0]
    if len({place.name for place in places}) == 1:
        return first
    names = {_LAST_KEY.sub("[...]", place.name) for place in places}
    return replace(first, name=names.pop()) if len(names) == 1 else first


@dataclass
class _Line:
    """A line that created such tensors, and the places in which one of them was found.

    ``records`` are of tensors that no operator returned, of which the observer of operators knows nothing.
    """

    records: list[CreationRecord] = field(default_factory=list)
    phase: str = ""
    places: set[PersistentPlace] = field(default_factory=set)


class PersistentTensorDetector:
    """The inference tensors that threads left behind when they left inference mode.

    Args:
        log: Log of detections.
        roots: Returns the outermost modules.
        latest: Returns the records of the latest tensors by the line that made them.
    """

    def __init__(
        self, log: DetectionLog, roots: Callable[[], list[Any]], latest: Callable[[], list[CreationRecord]]
    ) -> None:
        self._log, self._roots, self._latest = log, roots, latest
        self._lines: dict[tuple[int, int, str], _Line] = {}
        self._calls = 0
        self._time = TimeShare(_ALLOWANCE_S, _MAX_SHARE)

    def add_line(self, record: CreationRecord) -> None:
        """Take in a tensor that exists after its block, whose line has made none before that did."""
        self._find_line(record)

    def add_materialized(self, record: CreationRecord) -> None:
        """Take in a lazy parameter or buffer that has got its memory."""
        line = self._find_line(record)
        if line is not None:
            line.records = [*line.records[-_MAX_TENSORS_OF_LINE + 1 :], record]

    def _find_line(self, record: CreationRecord) -> _Line | None:
        """Return the line of a record, None if there are too many."""
        line = self._lines.get(_key_of(record))
        if line is not None or len(self._lines) == _MAX_LINES or record[2] is None:
            return line
        phase = current_phase()
        if phase in ("", AFTER_BACKWARD):
            phase = find_code_phase(record[2], sys._getframe(2)) or phase
        line = self._lines[_key_of(record)] = _Line(phase=phase)
        self._calls = 0
        return line

    @property
    def has_tensors(self) -> bool:
        """Return whether any inference tensor has left its block."""
        return bool(self._lines)

    def look_at_times(self, frame: FrameType | None) -> None:
        """Look where the tensors are, ever more rarely as calls of this go on without a new line."""
        self._calls += 1
        if not self._calls & (self._calls - 1):
            self.look(frame)

    def look_if_time(self, frame: FrameType | None) -> None:
        """Look where the tensors are, unless that has taken its share of time: it searches all that the process holds."""
        if self._time.is_left():
            with self._time.spend():
                self.look(frame)

    def look(self, frame: FrameType | None) -> None:
        """Look where the tensors are, and log those whose place is not known yet."""
        if all(line.places for line in self._lines.values()):
            return
        waiting: dict[int, tuple[_Line, CreationRecord]] = {}
        others = [record for line in self._lines.values() for record in line.records]
        for record in (*self._latest(), *others):
            line, tensor = self._lines.get(_key_of(record)), record[0]()
            if line is not None and not line.places and tensor is not None:
                waiting[id(tensor)] = line, record
        if not waiting:
            return
        found = find_persistent_places(set(waiting), self._log.codes, frame, self._roots())
        items: dict[tuple[int, str, str], list[PersistentPlace]] = {}
        for number, place in found.items():
            items.setdefault((id(waiting[number][0]), place.owner, place.key), []).append(place)
        for number, place in found.items():
            line, record = waiting[number]
            named = name_together(items[id(line), place.owner, place.key])
            if named not in line.places:
                line.places.add(named)
                self._report(line, record, named)

    def _report(self, line: _Line, record: CreationRecord, place: PersistentPlace) -> None:
        tensor = record[0]()
        shape = [] if tensor is None else [size for size in tensor.shape if isinstance(size, int)]
        source = find_source(record)
        made = None if tensor is None else REGISTRY.get_first(tensor)
        others = [
            None if source is record else locate_instruction("taken from it here", record[2], record[3]),
            None if made is None or made is record else locate_instruction("constructed here", made[2], made[3]),
        ]
        self._log.add(
            KEPT_INFERENCE_TENSOR,
            [locate_creation(source), *others],
            [find_creation_block(source)],
            holder=place.name,
            holder_kind=place.kind,
            variable=place.key,
            owner=place.owner,
            depth=place.depth,
            holder_file=place.file,
            shape=shape,
            op=record[4],
            created_in=line.phase,
        )

    def on_use(self, record: CreationRecord, op: str, code: CodeType | None, offset: int) -> None:
        """Log that an operator outside inference mode took one of the tensors, if the program keeps it."""
        line = self._lines.get(_key_of(record))
        if line is not None and line.places:
            at = locate_instruction("used here", code, offset)
            self._log.add(KEPT_TENSOR_USE, [at, locate_creation(record)], use=describe_use(op))

    def forget_tensor(self, tensor: Any) -> None:
        """Drop the weak reference to ``tensor``."""
        for line in self._lines.values():
            line.records = [record for record in line.records if record[0]() is not tensor]

    def forget(self) -> None:
        """Forget all tensors, since nothing observes them any more."""
        self._lines.clear()
        self._calls = 0
        self._time.restart()


def _key_of(record: CreationRecord) -> tuple[int, int, str]:
    return id(record[2]), record[3], record[4]
