"""From operators to tallies: what the writing thread adds up before anything is stored.

The operators that a thread ran between two of its events belong to one region. Those of one kind and place become one
event, which stands before the event that ends the stretch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from operator import mul
from types import CodeType
from typing import Any

from gradprobe.recording.accounts import Account, Accounts, Operation, rows_of
from gradprobe.recording.events import LEDGER, NOT_COUNTED, NOT_READ, OPERATOR, TALLY, Event

_Key = tuple[tuple[Any, ...], "str | None"]


class _Tally:
    """What the operators of one kind did at one place."""

    __slots__ = ("accounts", "saved")

    def __init__(self) -> None:
        self.accounts: dict[Account, int] = {}
        self.saved: dict[int, tuple[int, int]] = {}

    def totals(self) -> Iterable[int]:
        """The sum of the accounts."""
        if len(self.accounts) == 1:
            ((account, number),) = self.accounts.items()
            return account if number == 1 else account.times(number)
        columns = zip(*self.accounts, strict=True)
        return (sum(map(mul, column, self.accounts.values())) for column in columns)


class Tallier:
    """Adds operators up, thread by thread, and gives numbers to what they were."""

    def __init__(self, operations: dict[int, Operation], codes: dict[int, CodeType], now: Callable[[], int]) -> None:
        self._operations = operations
        self._numbers: dict[tuple[str, str | None, str, int], int] = {}
        self._codes = codes
        self._now = now
        self._open: dict[int, dict[_Key, _Tally]] = {}
        self._serials = count(1)

    @property
    def has_open(self) -> bool:
        return bool(self._open)

    def expand(self, events: Sequence[Event], *, to_the_end: bool) -> tuple[list[Event], Accounts]:
        """``events`` with tallies in place of operators, and the tallies' rows; ``to_the_end`` leaves none open."""
        found: list[Event] = []
        rows: dict[str, list[tuple[int, ...]]] = {}
        start = 0
        for index in [i for i, event in enumerate(events) if event[0] != OPERATOR]:
            event = events[index]
            self._add(events[start:index])
            start = index + 1
            if event[0] == LEDGER:
                self._ledger(event, found, rows)
            else:
                self._close(event[2], found, rows)
                found.append(event)
        self._add(events[start:])
        if to_the_end:
            for thread in list(self._open):
                self._close(thread, found, rows)
        return found, {kind: rows_of(kind, values) for kind, values in rows.items() if values}

    def _add(self, operators: Sequence[Event]) -> None:
        for (_, thread, place, node, account, saved), number in Counter(operators).items():
            tallies = self._open.setdefault(thread, {})
            tally = tallies.get((place, node))
            if tally is None:
                tally = tallies[place, node] = _Tally()
            tally.accounts[account] = tally.accounts.get(account, 0) + number
            for storage, size, made in saved:
                tally.saved[storage] = size, made

    def _close(self, thread: int, found: list[Event], rows: dict[str, list[tuple[int, ...]]]) -> None:
        """Adds the events and rows of what ``thread`` has open."""
        tallies = self._open.pop(thread, None)
        if not tallies:
            return
        time, unread, codes = self._now(), (NOT_READ,) * 4, self._codes
        counts, saved = rows.setdefault("tallies", []), rows.setdefault("saved", [])
        for ((code, offset, op, module, phase, task), node), tally in tallies.items():
            key = next(self._serials)
            found.append((TALLY, time, thread, codes.get(code), offset, *unread, key, task, NOT_COUNTED))
            counts.append((key, self._operation(op, node, module, phase), *tally.totals()))
            if tally.saved:
                saved += [(key, storage, *entry) for storage, entry in tally.saved.items()]

    def _ledger(self, event: Event, found: list[Event], rows: dict[str, list[tuple[int, ...]]]) -> None:
        """Rows that came with an event of their own, or belong to a call's."""
        _, kind, marker, values = event
        if marker is None:
            rows.setdefault(kind, []).extend(values)
            return
        op, time, thread, code, offset, operation = marker
        key = next(self._serials)
        self._close(thread, found, rows)
        unread = (NOT_READ,) * 4
        found.append((op, time, thread, self._codes.get(code), offset, *unread, key, None, NOT_COUNTED))
        head = (key,) if operation is None else (key, self._operation(*operation))
        rows.setdefault(kind, []).extend((*head, *value) for value in values)

    def _operation(self, op: str, node: str | None, module: str, phase: int) -> int:
        what = (op, node, module, phase)
        known = self._numbers.get(what)
        if known is None:
            known = self._numbers[what] = len(self._operations) + 1
            self._operations[known] = Operation(known, *what)
        return known


def is_raw(events: Iterable[Event]) -> bool:
    """Whether any of ``events`` must be expanded before it can be packed."""
    return any(event[0] in (OPERATOR, LEDGER) for event in events)
