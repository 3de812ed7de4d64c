"""Counters of events per source line, in memory that does not grow with the number of events.

``history/interpreter.py`` derives every block from a whole recording. The counters know only the events so far, and count
blocks, their times and their nodes. Blocks that are never exited, threads that never end and lines of generated code are
each kept up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradprobe.recording.constructor_pairs import choose_block_site, is_same_statement
from gradprobe.recording.contents import Site
from gradprobe.recording.events import (
    ACTION_MASK,
    CALL,
    CONSTRUCT,
    DECORATE,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    MANAGERS,
    NOT_COUNTED,
    NOT_READ,
    SET_GRAD_ENABLED,
    THREAD,
    EventBlock,
)
from gradprobe.recording.rows import RawRow, is_failure

MAX_SITES = 10_000
"""Maximum number of distinct places; all further places are counted as one."""
_MAX_OPEN = 10_000
"""Maximum number of open blocks, of open calls and of threads."""
_MAX_REENTERED = 16
"""Maximum number of open blocks of one context manager object."""
_OTHER_SITES = -1


@dataclass(slots=True)
class SiteCount:
    """Counts of the blocks and plain calls of one manager at one line. ``nodes``: between enter and exit."""

    count: int = 0
    redundant: int = 0
    errors: int = 0
    total_ns: int = 0
    longest_ns: int = 0
    nodes: int = 0


@dataclass(slots=True)
class PathCount:
    """Counts of the calls of one inference path. ``nodes``: constructed while grad was enabled."""

    calls: int = 0
    graphs: int = 0
    errors: int = 0
    total_ns: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class BuiltGraph:
    """A call of an inference path that built a graph: its site, its thread and its node count."""

    site: int
    thread: int
    nodes: int


@dataclass(slots=True)
class _Thread:
    """State of one thread: its modes as far as known, and the nodes constructed with grad enabled."""

    grad: bool | None = None
    inference: bool | None = None
    nodes: int = NOT_COUNTED
    built: int = 0
    constructed: RawRow | None = None
    """The last event, if it constructed a ``set_grad_enabled``, which may begin a block."""

    def advance(self, row: RawRow) -> None:
        """Advance to an event: nodes since the last one count if the modes until now let autograd record."""
        self.grad = _read_mode(row[4], self.grad)
        self.inference = _read_mode(row[4] >> 2, self.inference)
        if row[7] != NOT_COUNTED:
            if self.nodes != NOT_COUNTED and self.grad is not False and not self.inference:
                self.built += row[7] - self.nodes
            self.nodes = row[7]

    def apply(self, row: RawRow) -> None:
        """Apply the modes that the event set. The modes after inference mode are known with the next event."""
        is_inference = row[0] & ~ACTION_MASK == INFERENCE_MODE
        self.grad = _read_mode(row[4] >> 4, None)
        self.inference = _read_mode(row[4] >> 6, None if is_inference else self.inference)


@dataclass(slots=True)
class _Call:
    site: int
    last_resumed_ns: int
    built_before: int
    total_ns: int = 0
    nodes: int = 0


@dataclass
class Counters:
    """Counters of all sites and inference paths so far."""

    known_sites: dict[int, Site]
    """Sites by their numbers."""
    names: dict[int, str]
    """Names of exceptions by the numbers in exit events."""
    sites: dict[tuple[int, int], SiteCount] = field(default_factory=dict)
    """Counts by manager and site number."""
    paths: dict[int, PathCount] = field(default_factory=dict)
    """Counts by site number."""
    _threads: dict[int, _Thread] = field(default_factory=dict)
    _blocks: dict[int, list[tuple[RawRow, RawRow | None]]] = field(default_factory=dict)
    _calls: dict[int, _Call] = field(default_factory=dict)

    def add(self, block: EventBlock) -> list[BuiltGraph]:
        """Count the next events; return the calls of inference paths that ended and had built a graph."""
        found: list[BuiltGraph] = []
        for row in block.rows():
            op, kind = row[0], row[0] & ACTION_MASK
            if op & ~ACTION_MASK in MANAGERS:
                thread = self._advance_thread(row)
                constructor = self._take_constructor(thread, row)
                if kind == ENTER:
                    self._enter_block(row, constructor)
                elif kind == EXIT:
                    self._exit_block(row)
                thread.apply(row)
                if op == SET_GRAD_ENABLED | CONSTRUCT:
                    thread.constructed = row
            elif op & ~ACTION_MASK == CALL:
                thread = self._advance_thread(row)
                self._take_constructor(thread, row)
                built = self._count_call(thread, row, kind)
                if built is not None:
                    found.append(built)
            elif op == THREAD | EXIT:
                self._end_thread(row)
        return found

    def _advance_thread(self, row: RawRow) -> _Thread:
        thread = self._threads.get(row[2])
        if thread is None:
            thread = self._threads[row[2]] = _Thread()
            _drop_oldest(self._threads)
        thread.advance(row)
        return thread

    def _take_constructor(self, thread: _Thread, row: RawRow) -> RawRow | None:
        """Return the constructor that begins the block of this event; count one that began none as a call."""
        constructed, thread.constructed = thread.constructed, None
        if constructed is None:
            return None
        if row[5] == constructed[5]:
            if row[0] == SET_GRAD_ENABLED | ENTER:
                return constructed
            sites = self.known_sites.get(constructed[3]), self.known_sites.get(row[3])
            if row[0] == SET_GRAD_ENABLED | DECORATE and is_same_statement(*sites):
                return None
        self._count_plain_call(constructed)
        return None

    def _count_plain_call(self, row: RawRow) -> None:
        site = self._get_site(row, row[3])
        site.count += 1
        site.redundant += _is_redundant(row)

    def _enter_block(self, row: RawRow, constructor: RawRow | None) -> None:
        entered = self._blocks.setdefault(row[5], [])
        entered.append((row, constructor))
        # An object may be entered again while it is open, or be another one at the address of one never exited.
        del entered[:-_MAX_REENTERED]
        _drop_oldest(self._blocks)

    def _exit_block(self, row: RawRow) -> None:
        blocks = self._blocks.get(row[5])
        if not blocks:
            return
        entered, constructor = blocks.pop()
        if not blocks:
            del self._blocks[row[5]]
        number = entered[3] or row[3]
        if constructor is not None:
            if is_same_statement(self.known_sites.get(constructor[3]), self.known_sites.get(row[3])):
                entered, number = constructor, choose_block_site(constructor[3], row[3], self.known_sites)
            else:
                self._count_plain_call(constructor)
        site = self._get_site(entered, number)
        duration_ns = row[1] - entered[1]
        site.count += 1
        site.errors += self._is_failure(row)
        site.redundant += _is_redundant(entered)
        site.total_ns += duration_ns
        site.longest_ns = max(site.longest_ns, duration_ns)
        if entered[2] == row[2] and NOT_COUNTED not in (entered[7], row[7]):
            site.nodes += row[7] - entered[7]

    def _is_failure(self, row: RawRow) -> bool:
        return is_failure(self.names.get(row[6], ""))

    def _get_site(self, row: RawRow, number: int) -> SiteCount:
        key = row[0] & ~ACTION_MASK, number
        if key not in self.sites and len(self.sites) >= MAX_SITES:
            key = key[0], _OTHER_SITES
        return self.sites.setdefault(key, SiteCount())

    def _count_call(self, thread: _Thread, row: RawRow, kind: int) -> BuiltGraph | None:
        if kind == ENTER:
            call = self._calls.get(row[5])
            if call is None:
                call = self._calls[row[5]] = _Call(row[3], row[1], thread.built)
                _drop_oldest(self._calls)
            call.last_resumed_ns, call.built_before = row[1], thread.built
            return None
        call = self._calls.get(row[5])
        if call is None:
            return None
        call.total_ns += row[1] - call.last_resumed_ns
        call.nodes += thread.built - call.built_before
        if kind != EXIT:
            return None
        del self._calls[row[5]]
        path = self.paths.setdefault(call.site, PathCount())
        path.calls += 1
        path.graphs += call.nodes > 0
        path.errors += self._is_failure(row)
        path.total_ns += call.total_ns
        path.nodes += call.nodes
        return BuiltGraph(call.site, row[2], call.nodes) if call.nodes else None

    def _end_thread(self, row: RawRow) -> None:
        thread = self._threads.pop(row[2], None)
        if thread is not None:
            self._take_constructor(thread, row)


def _read_mode(bits: int, known: bool | None) -> bool | None:
    return known if bits & 3 == NOT_READ else bool(bits & 3)


def _is_redundant(row: RawRow) -> bool:
    shift = 2 if row[0] & ~ACTION_MASK == INFERENCE_MODE else 0
    before, after = row[4] >> shift & 3, row[4] >> 4 + shift & 3
    return before == after != NOT_READ


def _drop_oldest(table: dict[int, Any]) -> None:
    if len(table) > _MAX_OPEN:
        del table[next(iter(table))]
