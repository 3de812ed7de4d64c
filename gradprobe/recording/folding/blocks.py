"""Sums of finished blocks, folded instead of kept so that a recording of any length stays bounded.

Folding works on one block of events at a time. A block of a mode that begins and ends within it, regularly and with nothing
but such blocks inside, leaves the modes as it found them: taking all its events out changes no other event's meaning. A
plain call, which lasts until the next, is taken out when that comes; one of PyTorch's own code ends none of the program's.
What remains is what spans several blocks of events, and markers of how much time was taken out of which thread.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from gradprobe.recording.constructor_pairs import choose_block_site, pair_constructors
from gradprobe.recording.contents import Fold, Site
from gradprobe.recording.durations import duration_class
from gradprobe.recording.events import (
    ACTION_MASK,
    CALL,
    CONSTRUCT,
    DECORATE,
    ENTER,
    EXIT,
    FOLDED_CALLS,
    INFERENCE_MODE,
    NOT_COUNTED,
    PHASE,
    SET_GRAD_ENABLED,
    TALLY,
    EventBlock,
)
from gradprobe.recording.folding.markers import DroppedRow, insert_markers
from gradprobe.recording.folding.op_sums import OpFolder
from gradprobe.recording.rows import (
    AFTER_SHIFT,
    BEFORE_MASK,
    MODES_NOT_READ,
    EventRow,
    RawRow,
    are_both_read,
    contradict,
    fill_in,
    pack_bits,
)

_PLAIN = (SET_GRAD_ENABLED | CONSTRUCT, SET_GRAD_ENABLED | DECORATE)
_NO_ROW = EventRow(0, 0, 0, 0, 0, 0, 0, NOT_COUNTED)

FoldKey = tuple[int, int, int, int, str]
"""Manager, site, thread, state and error of a sum."""


@dataclass(slots=True)
class _Open:
    """A block, or what follows a plain call, that has not ended. The lowest of a thread is not a block."""

    row: EventRow
    indices: list[int]
    before: int = MODES_NOT_READ
    inside: int = MODES_NOT_READ
    internal: bool = False
    child_ns: int = 0
    child_nodes: int = 0
    hidden_ns: int = 0  # the part of the children's time that only PyTorch's own blocks account for
    hidden_nodes: int = 0
    call: _Open | None = None  # the plain call active directly in this block; in one of the program's, PyTorch's own
    marks: list[int] = field(default_factory=list)  # of operators added up that ran directly in it
    had_call: bool = False

    @property
    def is_block(self) -> bool:
        return self.row is not _NO_ROW

    @property
    def innermost(self) -> _Open:
        """Block or plain call that directly encloses what comes next."""
        return self if self.call is None else self.call.innermost

    def add(self, ns: int, nodes: int, hidden_ns: int, hidden_nodes: int) -> None:
        """Add what ended inside."""
        self.child_ns += ns
        self.child_nodes += nodes
        self.hidden_ns += hidden_ns
        self.hidden_nodes += hidden_nodes


@dataclass(slots=True)
class _ThreadState:
    """Thread in a block of events: what may yet be taken out, and its modes as far as they are known."""

    levels: list[_Open] = field(default_factory=lambda: [_Open(_NO_ROW, [])])
    bits: int = MODES_NOT_READ
    is_new: bool = True

    def keep_everything_open(self) -> None:
        """Keep all that is open, instead of folding it."""
        self.levels = [_Open(_NO_ROW, [])]


class BlockFolder:
    """Sums of finished blocks, into which one block of events after the other is folded."""

    def __init__(self, names: dict[int, str], sites: dict[int, Site]) -> None:
        self.sums: dict[FoldKey, Fold] = {}
        self.changed: set[FoldKey] = set()
        self.folded = 0
        self.operators = OpFolder()
        self._names = names
        self._sites = sites
        self._bits: dict[int, int] = {}  # the modes that each thread's last row left

    def take_changed(self) -> list[Fold]:
        """Return the sums that grew since the last call."""
        changed = [self.sums[key] for key in self.changed]
        self.changed.clear()
        return changed

    def fold(self, block: EventBlock) -> EventBlock:
        """Return what must be kept of ``block``; add the rest to ``sums`` and ``operators``."""
        rows = self.operators.fold(block)
        constructed, skipped = pair_constructors(rows, self._sites)
        constructors = {begun.constructor for begun in constructed.values()}
        last = {thread: index for index, (_, _, thread, _, _, _, _, _) in enumerate(rows)}
        threads = {thread: _ThreadState(bits=self._bits.get(thread, MODES_NOT_READ)) for thread in last}
        dropped: dict[int, DroppedRow] = {}
        short_phases = _find_short_phases(rows)
        resumed: set[int] = set()  # plain calls that end one which was taken out
        for index, row in enumerate(rows):
            if index in skipped:
                if index not in constructors:  # of an object that decorates, which changes nothing
                    dropped[index] = DroppedRow()
                    self.folded += 1
                continue
            op, _, number, site, state, key, task, _ = row
            thread = threads[number]
            if op & ~ACTION_MASK == PHASE:
                if key in short_phases:
                    dropped[index] = DroppedRow()
                    self.folded += 1
                continue
            if op >= TALLY:
                thread.levels[-1].marks.append(index)
                continue
            begun = constructed.get(index)
            if begun is not None:
                _, _, _, site, state, _, task, _ = rows[begun.constructor]
            is_first, thread.is_new = thread.is_new, False
            # Where the modes are not what the row before left, this row stays, and shows it.
            is_known = thread.bits != MODES_NOT_READ and not contradict(state, thread.bits)
            before = fill_in(state & BEFORE_MASK, thread.bits)
            unread = MODES_NOT_READ if op == INFERENCE_MODE | EXIT else before
            thread.bits = inside = fill_in(state >> AFTER_SHIFT, unread)
            if not is_known or (op & ACTION_MASK != EXIT and _interleaves(thread.levels[-1], task)):
                thread.keep_everything_open()
            outer = thread.levels[-1]
            if not is_known:
                continue
            if op & ACTION_MASK == EXIT:
                self._exit(thread, row, index, dropped)
            elif op in _PLAIN and index != last[number]:
                internal = self._is_internal(site)
                if outer.internal and not internal:
                    thread.keep_everything_open()  # it outlasts a block that is not shown
                    continue
                if internal and outer.call is not None and not outer.call.internal:
                    outer = outer.call
                if outer.call is not None:
                    self._end(outer.call, row, outer, dropped)
                    resumed.add(index)
                outer.call = _Open(EventRow._make(row), [index], before, inside, internal)
            elif op & ACTION_MASK == ENTER and op <= CALL | ENTER and _is_regular(thread, row, before, is_first):
                indices = [index] if begun is None else [begun.constructor, index]
                # The block's time and nodes count from its enter, its place is that of its constructor.
                internal = self._is_internal(site if begun is None else begun.site)
                begin = EventRow._make(row if begun is None else _begin_at(row, rows[begun.constructor]))
                thread.levels.append(_Open(begin, indices, before, inside, internal))
            else:  # among them the last row of a thread, which may be half of a block
                thread.keep_everything_open()
        self._bits.update((number, thread.bits) for number, thread in threads.items())
        kept = {kind: table for kind, table in block.accounts.items() if kind in ("returns", "outliving")}
        return replace(EventBlock.of(insert_markers(rows, dropped, resumed)), accounts=kept)

    def _exit(self, thread: _ThreadState, row: RawRow, index: int, dropped: dict[int, DroppedRow]) -> None:
        op, _, _, _, _, key, _, _ = row
        ended = thread.levels[-1]
        if ended.row.key != key or ended.row.op & ~ACTION_MASK != op & ~ACTION_MASK:
            thread.keep_everything_open()
            return
        thread.bits = fill_in(thread.bits, ended.before)
        if thread.bits != ended.before:
            thread.keep_everything_open()  # it leaves another mode than it found
            return
        thread.levels.pop()
        ended.indices.append(index)
        self._end(ended, row, thread.levels[-1], dropped)

    def _end(self, ended: _Open, end: RawRow, outer: _Open, dropped: dict[int, DroppedRow]) -> None:
        """Add up what ``end`` ends directly in ``outer``."""
        if ended.call is not None:
            self._end(ended.call, end, ended, dropped)
        begin = ended.row
        _, end_ns, _, _, _, _, _, end_nodes = end
        is_plain, is_probed = begin.op in _PLAIN, begin.op == CALL | ENTER
        total = end_ns - begin.time_ns
        nodes = 0 if NOT_COUNTED in (begin.nodes, end_nodes) else end_nodes - begin.nodes
        own, own_nodes = max(total - ended.child_ns, 0), nodes - ended.child_nodes
        # What follows a plain call is inside of it. A probed call is not a block: what is in it is in the block around it.
        around = outer if is_plain else outer.innermost
        hidden = ended.hidden_ns, ended.hidden_nodes
        if is_probed:
            around.add(ended.child_ns, ended.child_nodes, *hidden)
        elif ended.internal:
            around.add(total, nodes, own + hidden[0], own_nodes + hidden[1])
        else:
            around.add(total, nodes, 0, 0)
        dropped.update((index, DroppedRow()) for index in (*ended.indices, *ended.marks))
        last = ended.indices[-1]
        if is_probed:
            # Its own time is that of the block around it, or of the thread.
            if not outer.is_block:
                dropped[last] = DroppedRow(own, own_nodes, begin.extra, FOLDED_CALLS, ended.before)
        else:
            ends_call = is_plain and not ended.internal and not outer.is_block and not outer.had_call
            # Within a block of the program nothing counts as hidden: all of it is in that block.
            outside = (own, own_nodes) if ended.internal else (-ended.hidden_ns, -ended.hidden_nodes)
            dropped[last] = DroppedRow(own, own_nodes, begin.extra, ends_call=ends_call, hidden=outside)
        outer.had_call = outer.had_call or (is_plain and not ended.internal)
        self.folded += len(ended.indices)
        self._add(ended, end, total, own, nodes, own_nodes)

    def _add(self, ended: _Open, end: RawRow, total: int, own: int, nodes: int, own_nodes: int) -> None:
        begin = ended.row
        if begin.op in _PLAIN:
            manager, site, error = SET_GRAD_ENABLED | CONSTRUCT, begin.site, ""
        else:
            _, _, _, exited, _, _, exception, _ = end
            manager, error = begin.op, self._names.get(exception, "")
            is_constructed = len(ended.indices) > 2
            site = choose_block_site(begin.site, exited, self._sites) if is_constructed else begin.site or exited
        key = (manager, site, begin.thread, pack_bits(ended.before, ended.inside), error)
        known = self.sums.get(key) or Fold(*key, 0, 0, 0, 0, 0, 0, 0, Counter())
        self.sums[key] = Fold(
            *key,
            count=known.count + 1,
            total_ns=known.total_ns + total,
            self_ns=known.self_ns + own,
            nodes=known.nodes + nodes,
            self_nodes=known.self_nodes + own_nodes,
            hidden_ns=known.hidden_ns + ended.hidden_ns,
            hidden_nodes=known.hidden_nodes + ended.hidden_nodes,
            durations=known.durations,
        )
        known.durations[duration_class(total)] = known.durations.get(duration_class(total), 0) + 1
        self.changed.add(key)

    def _is_internal(self, site: int) -> bool:
        known = self._sites.get(site)
        return known is not None and known.internal


def _find_short_phases(rows: list[RawRow]) -> set[int]:
    """Return the keys of the phases that begin and end within ``rows``, which are left out past the limit."""
    phases = [(op & ACTION_MASK == EXIT, key) for op, _, _, _, _, key, _, _ in rows if op & ~ACTION_MASK == PHASE]
    return {key for is_end, key in phases if is_end} & {key for is_end, key in phases if not is_end}


def _begin_at(row: RawRow, constructor: RawRow) -> RawRow:
    """Return the row by which a block begins: time and nodes of its enter, all else of its constructor."""
    op, time, _, _, _, _, _, nodes = row
    _, _, thread, site, state, key, task, _ = constructor
    return op, time, thread, site, state, key, task, nodes


def _interleaves(level: _Open, task: int) -> bool:
    """Return whether ``task`` is another asyncio task than that of what is open, so that its blocks cannot nest."""
    call = level.call
    return (level.is_block and level.row.extra != task) or (call is not None and call.row.extra != task)


def _is_regular(thread: _ThreadState, row: RawRow, before: int, is_first: bool) -> bool:
    """Return whether the block that ``row`` enters will, as far as is known, restore the modes it found."""
    op, _, _, _, _, key, _, _ = row
    if op == SET_GRAD_ENABLED | ENTER and is_first:
        return False  # its constructor may have come in the block of events before
    if op == INFERENCE_MODE | ENTER and any(level.row.key == key for level in thread.levels):
        return False  # an object that is entered while open does not restore what it found
    return are_both_read(before)
