"""From operators to tallies: what the writing thread adds up before anything is stored.

The operators that a thread ran between two of its events belong to one region. Those of one kind and place become one
tally, which stands before the event that ends the stretch.
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
_LONG, _STRETCHES = 256, 1_024
"""Stretches of up to so many operators are remembered, and so many of them."""
_Key = tuple[tuple[Any, ...], "str | None"]
_Saved = dict[int, list[Any]]
"""Size, when it was made and whether it is an input, by the number of a storage."""
_Line = tuple["CodeType | None", int, "str | None", bytes]
"""Where the operators of a tally stand, in which task they ran, and the tally's row."""


class OpSequence:
    """The tallies between two events of a thread. They stand in one event, its extra, until they are packed: a program runs
    the same stretches over and over, so what they come to is found once."""

    __slots__ = ("lines", "of", "rows", "sites", "tasks")

    def __init__(self, lines: list[_Line]) -> None:
        self.lines = lines
        self.of: list[int] = []
        """For each operator which tally it is in, where the stretch is remembered."""
        self.rows = b"".join(row for *_, row in lines)
        self.tasks = [task for _, _, task, _ in lines]
        self.sites: bytes | None = None
        """The numbers of their places, once they have been given."""

    def __len__(self) -> int:
        return len(self.lines)


class _Tally:
    """What the operators of one kind did at one place."""

    __slots__ = ("accounts", "saved")

    def __init__(self) -> None:
        self.accounts: dict[OpCounts, int] = {}
        self.saved: _Saved = {}

    def total(self) -> tuple[int, ...]:
        """The sum of the accounts."""
        if len(self.accounts) == 1:
            ((account, number),) = self.accounts.items()
            return account if number == 1 else account.times(number)
        columns = zip(*self.accounts, strict=True)
        return tuple(sum(map(mul, column, self.accounts.values())) for column in columns)


class _Rows:
    """Rows of accounts on their way to arrays.

    A program runs the same operators over and over, so the row of a tally is looked up as bytes: to make an array of tuples
    takes ten times as long.
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

    def accounts(self) -> OpRows:
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
    """Adds operators up, thread by thread, and gives numbers to what they were."""

    def __init__(self, operations: dict[int, Operation], codes: dict[int, CodeType], now: Callable[[], int]) -> None:
        self._operations = operations
        self._numbers: dict[tuple[str, str | None, str, int], int] = {}
        self._codes = codes
        self._now = now
        self._open: dict[int, dict[_Key, _Tally]] = {}
        self._next = 1
        self._stretches: dict[tuple[Any, ...], OpSequence] = {}

    @property
    def has_open_tallies(self) -> bool:
        return bool(self._open)

    def expand(self, events: Sequence[Event], *, close_tallies: bool) -> tuple[list[Event], OpRows]:
        """``events`` with stretches in place of operators, and the tallies' rows; ``to_the_end`` leaves none open."""
        found: list[Event] = []
        rows = _Rows()
        start = 0
        for index in [i for i, event in enumerate(events) if event[0] not in _OPERATORS]:
            event, operators = events[index], events[start:index]
            start = index + 1
            if event[0] == OP_ROWS:
                self._add(operators)
                self._ledger(event, found, rows)
            else:
                self._end(event[2], operators, found, rows)
                found.append(event)
        self._add(events[start:])
        if close_tallies:
            for thread in list(self._open):
                self._close(thread, found, rows)
        return found, rows.accounts()

    def _add(self, operators: Sequence[Event]) -> None:
        for (_, thread, place, node, account), number in Counter(_without_saved(_each(operators))).items():
            tallies = self._open.setdefault(thread, {})
            tally = tallies.get((place, node))
            if tally is None:
                tally = tallies[place, node] = _Tally()
            tally.accounts[account] = tally.accounts.get(account, 0) + number
        for _, thread, (_, _, place, node, _), saved in [event for event in operators if event[0] == SAVING]:
            self._open[thread][place, node].saved.update((storage, known) for storage, *known in saved)

    def _end(self, thread: int, operators: Sequence[Event], found: list[Event], rows: _Rows) -> None:
        """Ends a stretch of ``thread``, the last of which are among ``operators``."""
        if not operators and thread not in self._open:
            return
        if thread in self._open or len(operators) > _LONG:
            self._add(operators)
            self._close(thread, found, rows)
            return
        # Regions of one kind run the same operators, whose events are the same objects.
        stretch: tuple[Any, ...] = (thread, *_without_saved(operators))
        known = self._stretches.get(stretch)
        if known is None:
            self._add(operators)
            kinds = list(self._open.get(thread, ()))
            known = self._close(thread, found, rows)
            if all(event[1] == thread for event in operators):
                if len(self._stretches) >= _STRETCHES:
                    self._stretches.clear()
                known.of = [kinds.index((event[2], event[3])) for event in _each(stretch[1:])]
                self._stretches[stretch] = known
            return
        keys = self._emit(thread, known, found, rows)
        saved: dict[int, _Saved] = {}
        is_saving = any(event[0] == SAVING for event in operators)
        for event, tally in zip(_each(operators), known.of, strict=True) if is_saving else ():
            if event[0] == SAVING:
                saved.setdefault(tally, {}).update((storage, entry) for storage, *entry in event[3])
        for tally, storages in saved.items():
            rows.add_saved(keys[tally], storages)

    def _close(self, thread: int, found: list[Event], rows: _Rows) -> OpSequence:
        """Adds the event and the rows of what ``thread`` has open."""
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

    def _emit(self, thread: int, stretch: OpSequence, found: list[Event], rows: _Rows) -> range:
        """Adds the event and the rows of a stretch; gives back the keys of its tallies."""
        keys = range(self._next, self._next + len(stretch.lines))
        self._next = keys.stop
        if keys:
            found.append((OP_SEQUENCE, self._now(), thread, None, 0, *_UNREAD, keys.start, stretch, NOT_COUNTED))
            rows.add_tallies(keys, stretch.rows)
        return keys

    def _ledger(self, event: Event, found: list[Event], rows: _Rows) -> None:
        """Rows that came with an event of their own, or belong to a call's."""
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
    """Whether any of ``events`` must be expanded before it can be packed."""
    return any(event[0] in _RAW for event in events)


def _each(operators: Iterable[Event]) -> list[Event]:
    """The events of single operators."""
    return [one for event in operators for one in (event[2] if event[0] == OP_BATCH else (event,))]


def _without_saved(operators: Iterable[Event]) -> list[Event]:
    """The events of operators without what they saved."""
    return [event[2] if event[0] == SAVING else event for event in operators]
