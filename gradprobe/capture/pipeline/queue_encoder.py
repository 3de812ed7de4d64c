"""Encoding of the queue by the writer thread, before anything is stored.

The operators that a thread ran between two of its events belong to one region. Those of one kind and place become one
tally, which comes before the event that ends the sequence. Where the observer's library is loaded, it adds them up and
encodes all events, in a tenth of the time; what is here numbers what they refer to, and makes arrays of other rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import CodeType
from typing import Any

import numpy as np

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.pipeline.encoding import EventEncoder
from gradprobe.recording.events import NOT_COUNTED, NOT_READ, OP_ROWS, Event, EventBlock
from gradprobe.recording.op_rows import ROW_DTYPES, Operation, OpRows, make_rows

_UNREAD = (NOT_READ,) * 4
_SUMMED = ("tallies", "saved", "inputs")
"""Kinds of rows that the library makes, in its order."""


class QueueEncoder:
    """Encoder of events and rows, with a number for each kind of operator.

    Args:
        encoder: The numbers of places, threads and names, and the encoder of events where there is no library.
        operations: Receives the kinds of operators by number.
        codes: The code objects by identity.
        now: The clock, in nanoseconds.
        fault: Receives the error of an event that cannot be encoded; that event is lost alone.
    """

    def __init__(
        self,
        encoder: EventEncoder,
        operations: dict[int, Operation],
        codes: dict[int, CodeType],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
    ) -> None:
        self._encoder, self._operations, self._codes, self._now, self._fault = encoder, operations, codes, now, fault
        self._numbers: dict[tuple[str, str | None, str, int], int] = {}
        self._in_library: Any = None
        self._keys = 0
        self._rows: dict[str, list[tuple[int, ...]]] = {}

    def encode(self, events: list[Event], *, close_tallies: bool) -> list[EventBlock]:
        """Return ``events`` as blocks, with tallies in place of operators, and the rows that belong to them.

        ``close_tallies`` also ends the sequences of operators that no event has ended yet.
        """
        if self._in_library is None and REGISTRY.library is not None:
            self._in_library = REGISTRY.library.QueueEncoder(self._numbering(), self._keys + 1)
        rows: OpRows = {}
        if self._in_library is None:
            blocks = self._encode_each(self._expand_rows(events))
        else:
            encoded = self._in_library.encode(events, close_tallies)
            columns, summed = encoded[: -len(_SUMMED)], encoded[-len(_SUMMED) :]
            blocks = [EventBlock.from_columns(columns)] if columns[0] else []
            rows = {
                kind: np.frombuffer(data, ROW_DTYPES[kind]) for kind, data in zip(_SUMMED, summed, strict=True) if data
            }
        if self._rows:
            others, self._rows = self._rows, {}
            rows |= {kind: make_rows(kind, values) for kind, values in others.items() if values}
        return [*blocks, replace(EventBlock.of([]), accounts=rows)] if rows else blocks

    def _numbering(self) -> dict[str, Callable[..., Any]]:
        return {
            "operation": self._number,
            "site": self._encoder.number_site,
            "place": lambda code, offset: self._encoder.number_site(self._codes.get(code), offset),
            "thread": self._encoder.number_thread,
            "name": self._encoder.number_name,
            "add_rows": self._add_rows,
            "now": self._now,
            "fault": self._fault,
        }

    def _encode_each(self, events: list[Event]) -> list[EventBlock]:
        if not events:
            return []
        try:
            return [self._encoder.encode(events)]
        except Exception as error:
            if len(events) == 1:
                self._fault(error)
                return []
            middle = len(events) // 2
            return self._encode_each(events[:middle]) + self._encode_each(events[middle:])

    def _expand_rows(self, events: list[Event]) -> list[Event]:
        """Take the rows out of ``events``; where there is no library, there are no operators."""
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
