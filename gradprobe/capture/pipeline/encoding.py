"""Encoding of the tuples that hooks emit as blocks of numbers.

The writer thread shares the interpreter with the program, so the program pays for everything it does per event. Each
column is therefore converted as a whole, by functions that loop in C; an exact but slow way remains for rare events.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Sequence
from itertools import count
from types import CodeType
from typing import Any

import numpy as np

from gradprobe.capture.location.sites import SiteTable
from gradprobe.capture.location.threads import live_threads, thread_name
from gradprobe.recording.contents import Thread
from gradprobe.recording.events import ENTER, EXIT, NOT_COUNTED, THREAD, Event, EventBlock
from gradprobe.recording.symbols import SymbolTables

_OFFSET_BITS = 16
_THREAD_MARKS = (THREAD | ENTER, THREAD | EXIT)


class EventEncoder:
    """Encoder with the numbers of sites, threads and names, and the tables that explain them."""

    def __init__(self, tables: SymbolTables) -> None:
        self._tables = tables
        self._sites = SiteTable(tables.sites)
        self._by_place: dict[int, int] = {}
        self._threads = _Threads(tables.threads)
        self._names: dict[str, int] = {}
        self._older: dict[int, str] = {}

    def encode(self, events: Sequence[Event]) -> EventBlock:
        """Return the events as a block.

        If some events have no node count, no event of the block has one.
        """
        columns = list(zip(*events, strict=False))
        op, times, idents, codes, offsets, grad, inference, grad_after, inference_after, keys, extras = columns[:11]
        ops = bytes(op)
        modes = [np.frombuffer(bytes(c), np.uint8) for c in (grad, inference, grad_after, inference_after)]
        nodes = array("q", columns[11]) if len(columns) > 11 else np.full(len(ops), NOT_COUNTED)
        return EventBlock(
            op=np.frombuffer(ops, np.uint8),
            time_ns=np.array(array("q", times)),
            thread=np.array(self._thread_numbers(ops, times, idents, extras), dtype="<u4"),
            site=np.array(array("L", self._site_numbers(codes, offsets)), dtype="<u4"),
            state=modes[0] | modes[1] << 2 | modes[2] << 4 | modes[3] << 6,
            key=np.array(array("Q", keys)),
            extra=self._name_numbers(extras),
            nodes=np.array(nodes),
        )

    def number_site(self, code: CodeType | None, offset: int) -> int:
        """Return the number of a place in the code."""
        return self._sites.number(code, offset)

    def number_thread(self, op: int, time: int, ident: int, extra: Any) -> int:
        """Return the number of the thread that an event came from; marks of its begin and end change what ``ident`` is."""
        threads = self._threads
        if op == THREAD | ENTER:
            threads.add(ident, str(extra), time, inherited=False)
        elif ident not in threads:
            threads.add(ident, self._thread_name(ident), time, inherited=True)
        return threads.pop(ident) if op == THREAD | EXIT else threads[ident]

    def number_name(self, what: str | type) -> int:
        """Return the number of a task's label, or of the name of a type."""
        text = what if isinstance(what, str) else what.__qualname__
        if text not in self._names:
            self._names[text] = len(self._names) + 1
            self._tables.names[self._names[text]] = text
        return self._names[text]

    def begin_recording(self) -> None:
        """Note the names of live threads, and forget those that ended while nothing was recorded.

        A thread may have ended by the time its events are encoded.
        """
        self._older = live_threads()
        self._threads.forget_replaced()

    def forget(self) -> None:
        """Drop ended threads and the names of tasks, since a service creates new ones without end.

        Only while no recording refers to them.
        """
        self._threads.forget_ended()
        self._names.clear()
        self._tables.names.clear()

    def has_seen_thread(self, ident: int) -> bool:
        """Return whether any event came from the live thread with this identifier."""
        return ident in self._threads

    def _site_numbers(self, codes: Sequence[Any], offsets: Sequence[Any]) -> list[int]:
        try:
            # The address of an object leaves enough bits for an offset; larger offsets take the slow way.
            places = (np.array(array("Q", map(id, codes))) << _OFFSET_BITS) + np.array(array("q", offsets)).astype("u8")
            if max(offsets) >= (1 << _OFFSET_BITS) - 2:
                raise OverflowError
        except (TypeError, OverflowError):
            return [self._sites.number(code, offset) for code, offset in zip(codes, offsets, strict=True)]
        found: list[Any] = list(map(self._by_place.get, places.tolist()))
        if None in found:
            for index, number in enumerate(found):
                if number is None:
                    found[index] = self._sites.number(codes[index], offsets[index])
                    self._by_place[int(places[index])] = found[index]
        return found

    def _thread_numbers(
        self, ops: bytes, times: Sequence[int], idents: Sequence[int], extras: Sequence[Any]
    ) -> list[int]:
        threads = self._threads
        if not any(mark in ops for mark in _THREAD_MARKS):
            known = list(map(threads.get, idents))
            if None not in known:
                return known  # type: ignore[return-value]
        return list(map(self.number_thread, ops, times, idents, extras))

    def _thread_name(self, ident: int) -> str:
        name = thread_name(ident)
        return self._older.get(ident, name) if name == f"thread {ident}" else name

    def _name_numbers(self, extras: Sequence[Any]) -> np.ndarray[Any, Any]:
        if extras.count(None) == len(extras):
            return np.zeros(len(extras), "<u4")
        return np.array([0 if extra is None else self.number_name(extra) for extra in extras], "<u4")


class _Threads(dict[int, int]):
    """The numbers of the live threads, by identifier."""

    def __init__(self, table: dict[int, Thread]) -> None:
        super().__init__()
        self._table = table
        self._next = count(1)
        self._objects: dict[int, weakref.ref[threading.Thread] | None] = {}

    def forget_ended(self) -> None:
        """Forget the threads that have ended."""
        self._objects = {ident: known for ident, known in self._objects.items() if ident in self}
        live = set(self.values())
        for number in [number for number in self._table if number not in live]:
            del self._table[number]

    def forget_replaced(self) -> None:
        """Forget the threads with identifiers that belong to another thread by now."""
        for ident in list(self):
            known, current = self._objects.get(ident), _thread_of(ident)
            if current is not None and (known is None or known() is not current):
                del self[ident]

    def add(self, ident: int, name: str, began_ns: int, *, inherited: bool) -> None:
        """Number a thread; ``inherited`` if it was running before the recording."""
        number = self[ident] = next(self._next)
        current = _thread_of(ident)
        self._objects[ident] = None if current is None else weakref.ref(current)
        self._table[number] = Thread(number, name, ident, began_ns, inherited)


def _thread_of(ident: int) -> threading.Thread | None:
    """Return the thread with this identifier, if Python's ``threading`` started it."""
    found: threading.Thread | None = threading._active.get(ident)  # type: ignore[attr-defined]
    return None if isinstance(found, threading._DummyThread) else found
