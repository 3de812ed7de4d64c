"""Which processes a process started, from which line and under which modes: kept as lines of JSON among the notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

KIND = "started"
"""Of a note that holds one."""


@dataclass(frozen=True)
class StartedProcess:
    """The process that was started, the modes of the thread that did, and the line where."""

    pid: int
    grad: bool
    inference: bool
    file: str
    line: int
    function: str

    def text(self) -> str:
        """As a line of JSON."""
        return json.dumps(astuple(self))


def started(notes: Sequence[tuple[str, str, int]]) -> Iterator[StartedProcess]:
    """Those among the notes; what is none, as in a file edited by hand, is not."""
    for kind, text, _ in notes:
        if kind == KIND:
            try:
                pid, grad, inference, file, line, function = json.loads(text)
                yield StartedProcess(int(pid), bool(grad), bool(inference), str(file), int(line), str(function))
            except (ValueError, TypeError):
                continue
