"""Events added up per source line as they come, in memory that does not grow with their number.

What ``history.py`` works out from a whole recording, with every block in its place, is here only what can be told from
the events so far: how often, how long, how many nodes. Blocks that are never left, threads that never end and lines of
generated code are each kept up to a limit.
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
"""Places that are told apart; what happens at others is added up at one."""
_OPEN = 10_000
_AGAIN = 16
_ELSEWHERE = -1


@dataclass(slots=True)
class SiteCount:
    """The blocks and plain calls of one manager at one line. ``nodes`` are those of its thread from enter to exit."""

    count: int = 0
    redundant: int = 0
    errors: int = 0
    total_ns: int = 0
    longest_ns: int = 0
    nodes: int = 0


@dataclass(slots=True)
class PathCount:
    """The calls of one inference path. ``nodes`` are those constructed in them while gradients were on."""

    calls: int = 0
    graphs: int = 0
    errors: int = 0
    total_ns: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class BuiltGraph:
    """A call of an inference path that built a graph: its site, its thread and its nodes."""

    site: int
    thread: int
    nodes: int


@dataclass(slots=True)
class _Thread:
    """Where one thread is: its modes as far as they are known, and what it constructed so far with gradients on."""

    grad: bool | None = None
    inference: bool | None = None
    nodes: int = NOT_COUNTED
    built: int = 0
    constructed: RawRow | None = None
    """The constructor of ``set_grad_enabled`` that its last event was, which may begin a block."""

    def reach(self, row: RawRow) -> None:
        """Comes to an event: nodes since the last one count if the modes until now let autograd record."""
        self.grad = _read(row[4], self.grad)
        self.inference = _read(row[4] >> 2, self.inference)
        if row[7] != NOT_COUNTED:
            if self.nodes != NOT_COUNTED and self.grad is not False and not self.inference:
                self.built += row[7] - self.nodes
            self.nodes = row[7]

    def leave(self, row: RawRow) -> None:
        """The event has set the modes. How inference mode leaves them, the next event tells."""
        is_inference = row[0] & ~ACTION_MASK == INFERENCE_MODE
        self.grad = _read(row[4] >> 4, None)
        self.inference = _read(row[4] >> 6, None if is_inference else self.inference)


@dataclass(slots=True)
class _Call:
    site: int
    last_resumed_ns: int
    built_before: int
    total_ns: int = 0
    nodes: int = 0


@dataclass
class Counters:
    """All counts so far."""

    known_sites: dict[int, Site]
    """What the numbers of sites stand for."""
    names: dict[int, str]
    """And those that events bring along on the way out: the names of exceptions."""
    sites: dict[tuple[int, int], SiteCount] = field(default_factory=dict)
    """By manager and site."""
    paths: dict[int, PathCount] = field(default_factory=dict)
    """By site."""
    _threads: dict[int, _Thread] = field(default_factory=dict)
    _blocks: dict[int, list[tuple[RawRow, RawRow | None]]] = field(default_factory=dict)
    _calls: dict[int, _Call] = field(default_factory=dict)

    def add(self, block: EventBlock) -> list[BuiltGraph]:
        """Counts the next events; gives the calls of inference paths that ended and had built a graph."""
        found: list[BuiltGraph] = []
        for row in block.rows():
            op, kind = row[0], row[0] & ACTION_MASK
            if op & ~ACTION_MASK in MANAGERS:
                thread = self._at(row)
                constructor = self._constructor(thread, row)
                if kind == ENTER:
                    self._enter(row, constructor)
                elif kind == EXIT:
                    self._exit(row)
                thread.leave(row)
                if op == SET_GRAD_ENABLED | CONSTRUCT:
                    thread.constructed = row
            elif op & ~ACTION_MASK == CALL:
                thread = self._at(row)
                self._constructor(thread, row)
                built = self._call(thread, row, kind)
                if built is not None:
                    found.append(built)
            elif op == THREAD | EXIT:
                self._end(row)
        return found

    def _at(self, row: RawRow) -> _Thread:
        thread = self._threads.get(row[2])
        if thread is None:
            thread = self._threads[row[2]] = _Thread()
            _drop_oldest(self._threads)
        thread.reach(row)
        return thread

    def _constructor(self, thread: _Thread, row: RawRow) -> RawRow | None:
        """The constructor just before that begins the block of this event; one that began none was a plain call."""
        constructed, thread.constructed = thread.constructed, None
        if constructed is None:
            return None
        if row[5] == constructed[5]:
            if row[0] == SET_GRAD_ENABLED | ENTER:
                return constructed
            sites = self.known_sites.get(constructed[3]), self.known_sites.get(row[3])
            if row[0] == SET_GRAD_ENABLED | DECORATE and is_same_statement(*sites):
                return None
        self._plain(constructed)
        return None

    def _plain(self, row: RawRow) -> None:
        site = self._site(row, row[3])
        site.count += 1
        site.redundant += _is_redundant(row)

    def _enter(self, row: RawRow, constructor: RawRow | None) -> None:
        entered = self._blocks.setdefault(row[5], [])
        entered.append((row, constructor))
        # One object may be entered while it is open; or it is another at the address of one that was never left.
        del entered[:-_AGAIN]
        _drop_oldest(self._blocks)

    def _exit(self, row: RawRow) -> None:
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
                self._plain(constructor)
        site = self._site(entered, number)
        took = row[1] - entered[1]
        site.count += 1
        site.errors += self._is_failure(row)
        site.redundant += _is_redundant(entered)
        site.total_ns += took
        site.longest_ns = max(site.longest_ns, took)
        if entered[2] == row[2] and NOT_COUNTED not in (entered[7], row[7]):
            site.nodes += row[7] - entered[7]

    def _is_failure(self, row: RawRow) -> bool:
        return is_failure(self.names.get(row[6], ""))

    def _site(self, row: RawRow, number: int) -> SiteCount:
        key = row[0] & ~ACTION_MASK, number
        if key not in self.sites and len(self.sites) >= MAX_SITES:
            key = key[0], _ELSEWHERE
        return self.sites.setdefault(key, SiteCount())

    def _call(self, thread: _Thread, row: RawRow, kind: int) -> BuiltGraph | None:
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

    def _end(self, row: RawRow) -> None:
        thread = self._threads.pop(row[2], None)
        if thread is not None:
            self._constructor(thread, row)


def _read(bits: int, known: bool | None) -> bool | None:
    return known if bits & 3 == NOT_READ else bool(bits & 3)


def _is_redundant(row: RawRow) -> bool:
    shift = 2 if row[0] & ~ACTION_MASK == INFERENCE_MODE else 0
    before, after = row[4] >> shift & 3, row[4] >> 4 + shift & 3
    return before == after != NOT_READ


def _drop_oldest(table: dict[int, Any]) -> None:
    if len(table) > _OPEN:
        del table[next(iter(table))]
