"""Aggregation of operators into tallies, by the writer thread before anything is stored.

The operators that a thread ran between two of its events belong to one region. Those of one kind and place become one
tally, which comes before the event that ends the sequence.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import mul
from types import CodeType
from typing import Any

import numpy as np

from gradprobe.recording.events import NOT_COUNTED, NOT_READ, OP_BATCH, OP_ROWS, OP_SEQUENCE, OPERATOR, SAVING, Event
from gradprobe.recording.op_rows import SAVED, TALLIES, OpCounts, Operation, OpRows, make_rows

_UNREAD = (NOT_READ,) * 4
_OPERATORS = (OPERATOR, SAVING, OP_BATCH)
_RAW = (*_OPERATORS, OP_ROWS)
_MAX_LENGTH, _MAX_SEQUENCES = 256, 1_024
"""Maximum length of a remembered sequence, and maximum number of them."""
_Key = tuple[tuple[Any, ...], "str | None"]
_Saved = dict[int, list[Any]]
"""Size, time of creation and whether it is an input, by the number of a storage."""
_Line = tuple["CodeType | None", int, "str | None", bytes]
"""Code object, offset and task of the operators in a tally, and the row of the tally."""


class OpSequence:
    """The tallies between two events of a thread.

    They stay together in the extra of one event until they are encoded: a program runs the same sequences over and over,
    so each is summed up only once.
    """

    __slots__ = ("lines", "rows", "sites", "tally_of", "tasks")

    def __init__(self, lines: list[_Line]) -> None:
        self.lines = lines
        self.tally_of: list[int] = []
        """The index of the tally of each operator, if the sequence is remembered."""
        self.rows = b"".join(row for *_, row in lines)
        self.tasks = [task for _, _, task, _ in lines]
        self.sites: bytes | None = None
        """The site numbers of the tallies, once they are known."""

    def __len__(self) -> int:
        return len(self.lines)


class _Tally:
    """The counts of the operators of one kind at one place."""

    __slots__ = ("counts", "saved")

    def __init__(self) -> None:
        self.counts: dict[OpCounts, int] = {}
        self.saved: _Saved = {}

    def total(self) -> tuple[int, ...]:
        """Return the sum of the counts."""
        if len(self.counts) == 1:
            ((counts, number),) = self.counts.items()
            return counts if number == 1 else counts.times(number)
        columns = zip(*self.counts, strict=True)
        return tuple(sum(map(mul, column, self.counts.values())) for column in columns)


class _Rows:
    """Rows that are collected for arrays.

    A program runs the same operators over and over, so the row of a tally is looked up as bytes: building an array from
    tuples takes ten times as long.
    """

    def __init__(self) -> None:
        self._keys = array("Q")
        self._tallies: list[bytes] = []
        self._saved = array("q")
        self._others: dict[str, list[tuple[int, ...]]] = {}

    def add_tallies(self, keys: range, rows: bytes) -> None:
        self._keys.extend(keys)
        self._tallies.append(rows)

    def add_saved(self, key: int, storages: _Saved) -> None:
        for storage, (size, made, is_input) in storages.items():
            self._saved.extend((key, storage, size, made))
            if is_input:
                self.add("inputs", [(key, storage)])

    def add(self, kind: str, rows: Iterable[tuple[int, ...]]) -> None:
        self._others.setdefault(kind, []).extend(rows)

    def build(self) -> OpRows:
        """Return the rows as arrays."""
        found = {kind: make_rows(kind, rows) for kind, rows in self._others.items() if rows}
        if self._tallies:
            found["tallies"] = np.frombuffer(bytearray().join(self._tallies), TALLIES)
            found["tallies"]["key"] = self._keys
        if self._saved:
            found["saved"] = np.frombuffer(self._saved, SAVED)
        return found


@lru_cache(16_384)
def _row(operation: int, total: tuple[int, ...]) -> bytes:
    return np.array((0, operation, *total), TALLIES).tobytes()


class OpAggregator:
    """Sums of operators by thread, with a number for each kind of operator."""

    def __init__(self, operations: dict[int, Operation], codes: dict[int, CodeType], now: Callable[[], int]) -> None:
        self._operations = operations
        self._numbers: dict[tuple[str, str | None, str, int], int] = {}
        self._codes = codes
        self._now = now
        self._open: dict[int, dict[_Key, _Tally]] = {}
        self._next = 1
        self._sequences: dict[tuple[Any, ...], OpSequence] = {}

    @property
    def has_open_tallies(self) -> bool:
        return bool(self._open)

    def expand(self, events: Sequence[Event], *, close_tallies: bool) -> tuple[list[Event], OpRows]:
        """Return ``events`` with sequences in place of operators, and the rows of their tallies.

        ``close_tallies`` also ends the sequences that no event has ended yet.
        """
        found: list[Event] = []
        rows = _Rows()
        start = 0
        for index in [i for i, event in enumerate(events) if event[0] not in _OPERATORS]:
            event, operators = events[index], events[start:index]
            start = index + 1
            if event[0] == OP_ROWS:
                self._add(operators)
                self._add_rows(event, found, rows)
            else:
                self._end(event[2], operators, found, rows)
                found.append(event)
        self._add(events[start:])
        if close_tallies:
            for thread in list(self._open):
                self._close(thread, found, rows)
        return found, rows.build()

    def _add(self, operators: Sequence[Event]) -> None:
        for (_, thread, place, node, counts), number in Counter(_without_saved(_each(operators))).items():
            tallies = self._open.setdefault(thread, {})
            tally = tallies.get((place, node))
            if tally is None:
                tally = tallies[place, node] = _Tally()
            tally.counts[counts] = tally.counts.get(counts, 0) + number
        for _, thread, (_, _, place, node, _), saved in [event for event in operators if event[0] == SAVING]:
            self._open[thread][place, node].saved.update((storage, known) for storage, *known in saved)

    def _end(self, thread: int, operators: Sequence[Event], found: list[Event], rows: _Rows) -> None:
        """End a sequence of ``thread`` that ends with ``operators``."""
        if not operators and thread not in self._open:
            return
        if thread in self._open or len(operators) > _MAX_LENGTH:
            self._add(operators)
            self._close(thread, found, rows)
            return
        # Regions of one kind run the same operators, and their events are the same objects.
        sequence: tuple[Any, ...] = (thread, *_without_saved(operators))
        known = self._sequences.get(sequence)
        if known is None:
            self._add(operators)
            kinds = list(self._open.get(thread, ()))
            known = self._close(thread, found, rows)
            if all(event[1] == thread for event in operators):
                if len(self._sequences) >= _MAX_SEQUENCES:
                    self._sequences.clear()
                known.tally_of = [kinds.index((event[2], event[3])) for event in _each(sequence[1:])]
                self._sequences[sequence] = known
            return
        keys = self._emit(thread, known, found, rows)
        saved: dict[int, _Saved] = {}
        is_saving = any(event[0] == SAVING for event in operators)
        for event, tally in zip(_each(operators), known.tally_of, strict=True) if is_saving else ():
            if event[0] == SAVING:
                saved.setdefault(tally, {}).update((storage, entry) for storage, *entry in event[3])
        for tally, storages in saved.items():
            rows.add_saved(keys[tally], storages)

    def _close(self, thread: int, found: list[Event], rows: _Rows) -> OpSequence:
        """Add the event and the rows of the open tallies of ``thread``."""
        tallies = self._open.pop(thread, {})
        known = OpSequence(
            [
                (self._codes.get(code), offset, task, _row(self._operation((op, node, module, phase)), tally.total()))
                for ((code, offset, op, module, phase, task), node), tally in tallies.items()
            ]
        )
        keys = self._emit(thread, known, found, rows)
        for key, tally in zip(keys, tallies.values(), strict=True):
            if tally.saved:
                rows.add_saved(key, tally.saved)
        return known

    def _emit(self, thread: int, sequence: OpSequence, found: list[Event], rows: _Rows) -> range:
        """Add the event and the rows of a sequence, and return the keys of its tallies."""
        keys = range(self._next, self._next + len(sequence.lines))
        self._next = keys.stop
        if keys:
            found.append((OP_SEQUENCE, self._now(), thread, None, 0, *_UNREAD, keys.start, sequence, NOT_COUNTED))
            rows.add_tallies(keys, sequence.rows)
        return keys

    def _add_rows(self, event: Event, found: list[Event], rows: _Rows) -> None:
        """Add rows that come with an event of their own, or belong to the event of a call."""
        _, kind, marker, values = event
        if marker is None:
            rows.add(kind, values)
            return
        op, time, thread, code, offset, operation = marker
        self._close(thread, found, rows)
        key, self._next = self._next, self._next + 1
        found.append((op, time, thread, self._codes.get(code), offset, *_UNREAD, key, None, NOT_COUNTED))
        head = (key,) if operation is None else (key, self._operation(operation))
        rows.add(kind, [(*head, *value) for value in values])

    def _operation(self, what: tuple[str, str | None, str, int]) -> int:
        known = self._numbers.get(what)
        if known is None:
            known = self._numbers[what] = len(self._operations) + 1
            self._operations[known] = Operation(known, *what)
        return known


def has_raw_events(events: Iterable[Event]) -> bool:
    """Return whether any of ``events`` must be expanded before it can be encoded."""
    return any(event[0] in _RAW for event in events)


def _each(operators: Iterable[Event]) -> list[Event]:
    """Return the events of single operators."""
    return [one for event in operators for one in (event[2] if event[0] == OP_BATCH else (event,))]


def _without_saved(operators: Iterable[Event]) -> list[Event]:
    """Return the events of operators without the storages they saved."""
    return [event[2] if event[0] == SAVING else event for event in operators]
