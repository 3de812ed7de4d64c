"""Aggregation of operators into tallies, by the writer thread before anything is stored.

The operators that a thread ran between two of its events belong to one region. Those of one kind and place become one
tally, which comes before the event that ends the sequence. The observer's library adds them up; what is here numbers their
kinds, and makes arrays of rows of all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.recording.events import NOT_COUNTED, NOT_READ, OP_ROWS, Event
from gradprobe.recording.op_rows import ROW_DTYPES, Operation, OpRows, make_rows

_UNREAD = (NOT_READ,) * 4
_SUMMED = ("tallies", "saved", "inputs")
"""Kinds of rows that the library makes, in its order."""


class OpAggregator:
    """Sums of operators by thread, with a number for each kind of operator.

    Args:
        operations: Receives the kinds of operators by number.
        codes: The code objects by identity.
        number_site: Returns the number of a place in the code.
        now: The clock, in nanoseconds.
    """

    def __init__(
        self,
        operations: dict[int, Operation],
        codes: dict[int, CodeType],
        number_site: Callable[[CodeType | None, int], int],
        now: Callable[[], int],
    ) -> None:
        self._operations = operations
        self._numbers: dict[tuple[str, str | None, str, int], int] = {}
        self._codes, self._number_site, self._now = codes, number_site, now
        self._sums: Any = None
        self._keys = 0
        self._rows: dict[str, list[tuple[int, ...]]] = {}

    def expand(self, events: list[Event], *, close_tallies: bool) -> tuple[list[Event], OpRows]:
        """Return ``events`` with sequences in place of operators, and the rows of their tallies.

        ``close_tallies`` also ends the sequences that no event has ended yet.
        """
        if self._sums is None and REGISTRY.library is not None:
            self._sums = REGISTRY.library.OpSums(self._number, self._site, self._add_rows, self._now)
        if self._sums is None:
            found, rows = self._expand_rows(events), {}
        else:
            found, *summed = self._sums.expand(events, close_tallies)
            rows = {
                kind: np.frombuffer(data, ROW_DTYPES[kind]) for kind, data in zip(_SUMMED, summed, strict=True) if data
            }
        if self._rows:
            others, self._rows = self._rows, {}
            rows |= {kind: make_rows(kind, values) for kind, values in others.items() if values}
        return found, rows

    def _expand_rows(self, events: Sequence[Event]) -> list[Event]:
        """Do the same without the library, where there are no operators."""
        found = []
        for event in events:
            if event[0] == OP_ROWS:
                self._keys += event[2] is not None
                replacement = self._add_rows(event, self._keys)
                found += [] if replacement is None else [replacement]
            else:
                found.append(event)
        return found

    def _add_rows(self, event: Event, key: int) -> Event | None:
        """Add rows that come with an event of their own, and return it; or rows that belong to the event of a call."""
        _, kind, marker, values = event
        rows = self._rows.setdefault(kind, [])
        if marker is None:
            rows.extend(values)
            return None
        op, time, thread, code, offset, operation = marker
        head = (key,) if operation is None else (key, self._number(*operation))
        rows.extend((*head, *value) for value in values)
        return (op, time, thread, self._codes.get(code), offset, *_UNREAD, key, None, NOT_COUNTED)

    def _number(self, op: str, node: str | None, module: str, phase: int) -> int:
        """Return the number of a kind of operator."""
        what = (op, node, module, phase)
        known = self._numbers.get(what)
        if known is None:
            known = self._numbers[what] = len(self._operations) + 1
            self._operations[known] = Operation(known, *what)
        return known

    def _site(self, code: int, offset: int) -> int:
        """Return the number of a place in a code object, which is given by its identity."""
        return self._number_site(self._codes.get(code), offset)
