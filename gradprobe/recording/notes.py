"""What was seen to go wrong while the program ran and no event tells: rare, and kept as lines of JSON among the notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KIND = "sighting"
"""Of a note that holds one."""


class SourceLocation(NamedTuple):
    """A line that has to do with it, and how."""

    role: str
    file: str
    line: int
    function: str


class BlockAt(NamedTuple):
    """A moment of a thread, by its identifier: the block that was open then belongs to the sighting, in this role."""

    role: str
    thread: int
    time_ns: int


@dataclass(frozen=True)
class Detection:
    """A rule's code, the lines with the main one first, and what else the rule needs to tell."""

    rule: str
    locations: Sequence[SourceLocation]
    under: Sequence[BlockAt] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As a line of JSON."""
        return json.dumps([self.rule, self.locations, self.under, self.facts])


def read_detections(notes: Sequence[tuple[str, str, int]]) -> Iterator[tuple[Detection, int]]:
    """Those among the notes, each with how often it was seen; what is no sighting, as in a file edited by hand, is not."""
    for kind, text, count in notes:
        if kind == KIND:
            try:
                rule, locations, under, facts = json.loads(text)
                yield (
                    Detection(
                        str(rule),
                        [
                            SourceLocation(str(role), str(file), int(line), str(name))
                            for role, file, line, name in locations
                        ],
                        [BlockAt(str(role), int(thread), int(time)) for role, thread, time in under],
                        {str(name): value for name, value in facts.items()},
                    ),
                    count,
                )
            except (ValueError, TypeError, AttributeError):
                continue
