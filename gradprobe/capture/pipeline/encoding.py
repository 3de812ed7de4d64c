"""From the tuples that hooks emit to blocks of numbers.

The writing thread shares the interpreter with the program, so what it does to each event is paid by the program too.
Each column is therefore turned as a whole, by functions that loop in C; the exact but slow way is for the rare rest.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from typing import Any

import numpy as np

from gradprobe.capture.location.sites import SiteTable
from gradprobe.capture.location.threads import live_threads, thread_name
from gradprobe.capture.pipeline.aggregation import OpSequence
from gradprobe.recording.contents import Thread
from gradprobe.recording.events import ENTER, EXIT, NOT_COUNTED, OP_SEQUENCE, TALLY, THREAD, Event, EventBlock
from gradprobe.recording.symbols import SymbolTables

_OFFSET_BITS = 16
_THREAD_MARKS = (THREAD | ENTER, THREAD | EXIT)


class EventEncoder:
    """Gives numbers to the places, threads and names of events, and keeps the tables that explain them."""

    def __init__(self, tables: SymbolTables) -> None:
        self._tables = tables
        self._sites = SiteTable(tables.sites)
        self._by_place: dict[int, int] = {}
        self._threads = _Threads(tables.threads)
        self._names: dict[str, int] = {}
        self._older: dict[int, str] = {}

    def pack(self, events: Sequence[Event]) -> EventBlock:
        """The events as a block, each stretch as its tallies. Where some lack a node count, none has one."""
        columns = list(zip(*events, strict=False))
        op, times, idents, codes, offsets, grad, inference, grad_after, inference_after, keys, extras = columns[:11]
        ops = bytes(op)
        stretches = [extras[i] for i in np.flatnonzero(np.frombuffer(ops, np.uint8) == OP_SEQUENCE)]
        if stretches:
            extras = tuple(None if type(extra) is OpSequence else extra for extra in extras)
        modes = [np.frombuffer(bytes(c), np.uint8) for c in (grad, inference, grad_after, inference_after)]
        nodes = array("q", columns[11]) if len(columns) > 11 else np.full(len(ops), NOT_COUNTED)
        block = EventBlock(
            op=np.frombuffer(ops, np.uint8),
            time_ns=np.array(array("q", times)),
            thread=np.array(self._thread_numbers(ops, times, idents, extras), dtype="<u4"),
            site=np.array(array("L", self._site_numbers(codes, offsets)), dtype="<u4"),
            state=modes[0] | modes[1] << 2 | modes[2] << 4 | modes[3] << 6,
            key=np.array(array("Q", keys)),
            extra=self._name_numbers(extras),
            nodes=np.array(nodes),
        )
        return self._spread(block, stretches) if stretches else block

    def _spread(self, block: EventBlock, stretches: Sequence[OpSequence]) -> EventBlock:
        """The block with each of ``stretches`` as its tallies, whose keys follow each other."""
        is_stretch = block.op == OP_SEQUENCE
        lengths = np.ones(len(block), np.int64)
        lengths[is_stretch] = list(map(len, stretches))
        of = np.repeat(np.arange(len(block)), lengths)
        spread = EventBlock(*(getattr(block, column.name)[of] for column in fields(block) if column.name != "accounts"))
        tallies = is_stretch[of]
        spread.op[tallies] = TALLY
        spread.key[:] += (np.arange(len(of)) - (np.cumsum(lengths) - lengths)[of]).astype("u8")
        spread.site[tallies] = np.frombuffer(b"".join(map(self._sites_of, stretches)), "<u4")
        spread.extra[tallies] = self._name_numbers([task for stretch in stretches for task in stretch.tasks])
        return spread

    def _sites_of(self, stretch: OpSequence) -> bytes:
        if stretch.sites is None:
            numbers = [self._sites.number(code, offset) for code, offset, _, _ in stretch.lines]
            stretch.sites = np.array(numbers, "<u4").tobytes()
        return stretch.sites

    def begin_recording(self) -> None:
        """Notes the threads that run now: one may be gone when its events are packed, and nobody saw others end while
        nothing was recorded."""
        self._older = live_threads()
        self._threads.forget_replaced()

    def forget(self) -> None:
        """Drops the threads that have ended and the names of tasks, of which a service makes new ones without end. Only
        for where no recording refers to them."""
        self._threads.forget_ended()
        self._names.clear()
        self._tables.names.clear()

    def has_seen_thread(self, ident: int) -> bool:
        """Whether any event came from the live thread with this identifier."""
        return ident in self._threads

    def _site_numbers(self, codes: Sequence[Any], offsets: Sequence[Any]) -> list[int]:
        try:
            # An object's address leaves the bits for an offset free; larger offsets do not fit and go the slow way.
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
        found = []
        for op, time, ident, extra in zip(ops, times, idents, extras, strict=True):
            if op == THREAD | ENTER:
                threads.add(ident, str(extra), time, inherited=False)
            elif ident not in threads:
                threads.add(ident, self._thread_name(ident), time, inherited=True)
            found.append(threads[ident])
            if op == THREAD | EXIT:
                del threads[ident]
        return found

    def _thread_name(self, ident: int) -> str:
        name = thread_name(ident)
        return self._older.get(ident, name) if name == f"thread {ident}" else name

    def _name_numbers(self, extras: Sequence[Any]) -> np.ndarray[Any, Any]:
        if extras.count(None) == len(extras):
            return np.zeros(len(extras), "<u4")
        return np.array([0 if extra is None else self._name(extra) for extra in extras], "<u4")

    def _name(self, what: str | type) -> int:
        text = what if isinstance(what, str) else what.__qualname__
        if text not in self._names:
            self._names[text] = len(self._names) + 1
            self._tables.names[self._names[text]] = text
        return self._names[text]


class _Threads(dict[int, int]):
    """The numbers of the live threads, by identifier."""

    def __init__(self, table: dict[int, Thread]) -> None:
        super().__init__()
        self._table = table
        self._next = count(1)
        self._objects: dict[int, weakref.ref[threading.Thread] | None] = {}

    def forget_ended(self) -> None:
        """Keeps the live threads only."""
        self._objects = {ident: known for ident, known in self._objects.items() if ident in self}
        live = set(self.values())
        for number in [number for number in self._table if number not in live]:
            del self._table[number]

    def forget_replaced(self) -> None:
        """Drops those whose identifier belongs to another thread by now."""
        for ident in list(self):
            known, current = self._objects.get(ident), _thread_of(ident)
            if current is not None and (known is None or known() is not current):
                del self[ident]

    def add(self, ident: int, name: str, began_ns: int, *, inherited: bool) -> None:
        number = self[ident] = next(self._next)
        current = _thread_of(ident)
        self._objects[ident] = None if current is None else weakref.ref(current)
        self._table[number] = Thread(number, name, ident, began_ns, inherited)


def _thread_of(ident: int) -> threading.Thread | None:
    """The thread with this identifier, if Python's ``threading`` started it."""
    found: threading.Thread | None = threading._active.get(ident)  # type: ignore[attr-defined]
    return None if isinstance(found, threading._DummyThread) else found
