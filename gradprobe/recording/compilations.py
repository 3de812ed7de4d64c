"""What ``torch.compile`` made of the program's functions: kept as lines of JSON among the notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradprobe.recording.notes import SourceLocation

KIND = "compiled"
"""Of a note that holds one."""


@dataclass(frozen=True)
class TracedModeChange:
    """A change of a mode that the compiler made part of a graph: what is set to what, and the first line after it."""

    manager: str
    enabled: bool
    file: str
    line: int


@dataclass(frozen=True)
class Compilation:
    """One graph: the function it is of, the call it was made for, the mode then, its size, why the earlier did not do."""

    function: SourceLocation
    called: SourceLocation | None
    mode: str
    operators: int
    folded: tuple[TracedModeChange, ...] = ()
    reasons: tuple[str, ...] = ()
    takes_inference: bool = False
    """Whether it was given an inference tensor."""

    def text(self) -> str:
        """As a line of JSON."""
        folded = [[f.manager, f.enabled, f.file, f.line] for f in self.folded]
        return json.dumps(
            [self.function, self.called, self.mode, self.operators, folded, self.reasons, self.takes_inference]
        )


def compilations(notes: Sequence[tuple[str, str, int]]) -> Iterator[tuple[Compilation, int]]:
    """Those among the notes, each with how often it was made; what is none, as in a file edited by hand, is not."""
    for kind, text, count in notes:
        if kind == KIND:
            try:
                function, called, mode, operators, folded, reasons, takes_inference = json.loads(text)
                yield (
                    Compilation(
                        _spot(function),
                        None if called is None else _spot(called),
                        str(mode),
                        int(operators),
                        tuple(TracedModeChange(str(m), bool(e), str(f), int(n)) for m, e, f, n in folded),
                        tuple(map(str, reasons)),
                        bool(takes_inference),
                    ),
                    count,
                )
            except (ValueError, TypeError):
                continue


def _spot(values: Sequence[object]) -> SourceLocation:
    role, file, line, function = values
    return SourceLocation(str(role), str(file), int(str(line)), str(function))
