"""Adding finished blocks up instead of keeping them, so that a recording of any length stays bounded.

Folding works on one stretch of events at a time. A block that begins and ends within the stretch, regularly and with
nothing but such blocks in it, leaves the modes as it found them: taking all its events out changes no other event's
meaning. A plain call, which lasts until the next, is taken out when that comes; one of PyTorch's own code ends none of
the program's. What remains per stretch is what spans it, and marks that say how much time was taken out of which thread.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from gradprobe.history.records import RawRow
from gradprobe.recording.constructor_pairs import choose_block_site, pair_constructors
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
    NOT_READ,
    SET_GRAD_ENABLED,
    TALLY,
    EventBlock,
)
from gradprobe.recording.folding.markers import MODES_NOT_READ, DroppedRow, insert_markers
from gradprobe.recording.folding.op_sums import OpFolder
from gradprobe.recording.sqlite_file import Fold, Site

_SUBCLASSES = 8
_PLAIN = (SET_GRAD_ENABLED | CONSTRUCT, SET_GRAD_ENABLED | DECORATE)
_NO_ROW: RawRow = (0, 0, 0, 0, 0, 0, 0, NOT_COUNTED)
FoldKey = tuple[int, int, int, int, str]


def duration_class(duration_ns: int) -> int:
    """The class of a duration: eight to each doubling, so that its middle is at most 6 per cent off."""
    shift = max(duration_ns.bit_length() - 4, 0)
    return shift * _SUBCLASSES + (duration_ns >> shift)


def class_middle(duration: int) -> float:
    """The middle of a duration class, in nanoseconds."""
    if duration < 2 * _SUBCLASSES:
        return float(duration)
    shift = duration // _SUBCLASSES - 1
    return float((duration - shift * _SUBCLASSES << shift) + ((1 << shift) - 1) / 2)


@dataclass(slots=True)
class _Open:
    """A block, or what follows a plain call, whose end has not been reached; the lowest of a thread is no block."""

    row: RawRow
    indices: list[int]
    before: int = MODES_NOT_READ
    inside: int = MODES_NOT_READ
    internal: bool = False
    child_ns: int = 0
    child_nodes: int = 0
    hidden_ns: int = 0  # the part of the children's time that only PyTorch's own blocks account for
    hidden_nodes: int = 0
    call: _Open | None = None  # the plain call in force directly in this block; in one of the program's, PyTorch's own
    marks: list[int] = field(default_factory=list)  # of operators added up that ran directly in it
    had_call: bool = False

    @property
    def is_block(self) -> bool:
        return self.row is not _NO_ROW

    @property
    def innermost(self) -> _Open:
        """What directly encloses that which comes next."""
        return self if self.call is None else self.call.innermost

    def add(self, ns: int, nodes: int, hidden_ns: int, hidden_nodes: int) -> None:
        """Counts what ended inside."""
        self.child_ns += ns
        self.child_nodes += nodes
        self.hidden_ns += hidden_ns
        self.hidden_nodes += hidden_nodes


@dataclass(slots=True)
class _Lane:
    """One thread in a stretch: what may yet be taken out, and the modes as far as they are known."""

    levels: list[_Open] = field(default_factory=lambda: [_Open(_NO_ROW, [])])
    state: int = MODES_NOT_READ
    is_new: bool = True

    def keep_everything_open(self) -> None:
        """Keeps all that is open."""
        self.levels = [_Open(_NO_ROW, [])]


class BlockFolder:
    """Folds stretch after stretch of events, and holds the sums."""

    def __init__(self, names: dict[int, str], sites: dict[int, Site]) -> None:
        self.sums: dict[FoldKey, Fold] = {}
        self.changed: set[FoldKey] = set()
        self.folded = 0
        self.operators = OpFolder()
        self._names = names
        self._sites = sites
        self._states: dict[int, int] = {}  # the modes that each thread's last row left

    def take_changed(self) -> list[Fold]:
        """The sums that grew since the last call."""
        changed = [self.sums[key] for key in self.changed]
        self.changed.clear()
        return changed

    def fold(self, block: EventBlock) -> EventBlock:
        """What must be kept of ``block``; the rest is added to ``sums`` and ``operators``."""
        rows = self.operators.fold(block)
        begun, skipped = pair_constructors(rows, self._sites)
        of_blocks = {b.index for b in begun.values()}
        last = {row[2]: index for index, row in enumerate(rows)}
        timelines = {thread: _Lane(state=self._states.get(thread, MODES_NOT_READ)) for thread in last}
        dropped: dict[int, DroppedRow] = {}
        resumed: set[int] = set()  # plain calls that end one which was taken out
        for index, row in enumerate(rows):
            if index in skipped:
                if index not in of_blocks:  # of an object that decorates, which changes nothing
                    dropped[index] = DroppedRow()
                    self.folded += 1
                continue
            lane, op = timelines[row[2]], row[0]
            if op >= TALLY:
                lane.levels[-1].marks.append(index)
                continue
            first = begun[index].constructor if index in begun else row
            is_first, lane.is_new = lane.is_new, False
            # Where the modes are not what the row before left, this row stays, and tells of it.
            is_known = lane.state != MODES_NOT_READ and not _differ(first[4], lane.state)
            before = _filled(first[4] & 0b1111, lane.state)
            lane.state = inside = _filled(first[4] >> 4, MODES_NOT_READ if op == INFERENCE_MODE | EXIT else before)
            if not is_known or (op & ACTION_MASK != EXIT and _interleaves(lane.levels[-1], first)):
                lane.keep_everything_open()
            outer = lane.levels[-1]
            if not is_known:
                continue
            if op & ACTION_MASK == EXIT:
                self._exit(lane, row, index, dropped)
            elif op in _PLAIN and index != last[row[2]]:
                internal = self._is_internal(row[3])
                if outer.internal and not internal:
                    lane.keep_everything_open()  # it outlasts a block that is not shown
                    continue
                if internal and outer.call is not None and not outer.call.internal:
                    outer = outer.call
                if outer.call is not None:
                    self._end(outer.call, row, outer, dropped)
                    resumed.add(index)
                outer.call = _Open(row, [index], before, inside, internal)
            elif op & ACTION_MASK == ENTER and op <= CALL | ENTER and _is_regular(lane, row, before, is_first):
                indices = [begun[index].index, index] if index in begun else [index]
                # The block's time and nodes count from its enter, its place is that of its constructor.
                internal = self._is_internal(begun[index].site if index in begun else row[3])
                lane.levels.append(_Open((op, row[1], *first[2:7], row[7]), indices, before, inside, internal))
            else:  # among them the last row of a thread, which may be half of a block
                lane.keep_everything_open()
        self._states.update((thread, lane.state) for thread, lane in timelines.items())
        kept = {kind: table for kind, table in block.accounts.items() if kind in ("returns", "outliving")}
        return replace(EventBlock.of(insert_markers(rows, dropped, resumed)), accounts=kept)

    def _exit(self, lane: _Lane, row: RawRow, index: int, dropped: dict[int, DroppedRow]) -> None:
        ended = lane.levels[-1]
        if ended.row[5] != row[5] or ended.row[0] & ~ACTION_MASK != row[0] & ~ACTION_MASK:
            lane.keep_everything_open()
            return
        lane.state = _filled(lane.state, ended.before)
        if lane.state != ended.before:
            lane.keep_everything_open()  # it leaves another mode than it found
            return
        lane.levels.pop()
        ended.indices.append(index)
        self._end(ended, row, lane.levels[-1], dropped)

    def _end(self, ended: _Open, end: RawRow, outer: _Open, dropped: dict[int, DroppedRow]) -> None:
        """Adds up what ``end`` ends directly in ``outer``."""
        if ended.call is not None:
            self._end(ended.call, end, ended, dropped)
        begin = ended.row
        is_plain, is_probed = begin[0] in _PLAIN, begin[0] == CALL | ENTER
        total, nodes = end[1] - begin[1], _nodes_between(begin, end)
        own, own_nodes = max(total - ended.child_ns, 0), nodes - ended.child_nodes
        # What follows a plain call is inside of it. A probed call is no block: only those in it are in the one around it.
        around = outer if is_plain else outer.innermost
        hidden = ended.hidden_ns, ended.hidden_nodes
        if is_probed:
            around.add(ended.child_ns, ended.child_nodes, *hidden)
        elif ended.internal:
            around.add(total, nodes, own + hidden[0], own_nodes + hidden[1])
        else:
            around.add(total, nodes, 0, 0)
        dropped.update((index, DroppedRow()) for index in (*ended.indices, *ended.marks))
        if is_probed:
            # Its own time is that of the block around it, or of the thread.
            if not outer.is_block:
                dropped[ended.indices[-1]] = DroppedRow(own, own_nodes, begin[6], FOLDED_CALLS, ended.before)
        else:
            ends_call = is_plain and not ended.internal and not outer.is_block and not outer.had_call
            # Within a block of the program nothing counts as hidden: all of it is in that block.
            outside = (own, own_nodes) if ended.internal else (-ended.hidden_ns, -ended.hidden_nodes)
            dropped[ended.indices[-1]] = DroppedRow(own, own_nodes, begin[6], ends_call=ends_call, hidden=outside)
        outer.had_call = outer.had_call or (is_plain and not ended.internal)
        self.folded += len(ended.indices)
        self._add(ended, end, total, own, nodes, own_nodes)

    def _add(self, ended: _Open, end: RawRow, total: int, own: int, nodes: int, own_nodes: int) -> None:
        begin = ended.row
        if begin[0] in _PLAIN:
            manager, site, error = SET_GRAD_ENABLED | CONSTRUCT, begin[3], ""
        else:
            manager, error = begin[0], self._names.get(end[6], "")
            site = choose_block_site(begin[3], end[3], self._sites) if len(ended.indices) > 2 else begin[3] or end[3]
        key = (manager, site, begin[2], ended.before | ended.inside << 4, error)
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


def _differ(read: int, known: int) -> bool:
    """Whether a mode that was read is not what it is known to be."""
    return any(
        NOT_READ not in (read >> bit & 3, known >> bit & 3) and read >> bit & 3 != known >> bit & 3 for bit in (0, 2)
    )


def _filled(read: int, known: int) -> int:
    """The modes that were read, and those that are known where they were not."""
    grad, inference = read & 3, read >> 2 & 3
    return (known & 3 if grad == NOT_READ else grad) | (known & 0b1100 if inference == NOT_READ else inference << 2)


def _interleaves(level: _Open, row: RawRow) -> bool:
    """Whether ``row`` is of another asyncio task than what is open: blocks of two tasks are in no block of each other's."""
    return (level.is_block and level.row[6] != row[6]) or (level.call is not None and level.call.row[6] != row[6])


def _is_regular(lane: _Lane, row: RawRow, before: int, is_first: bool) -> bool:
    """Whether a block whose object is entered by ``row`` leaves, as far as can be told, the modes as it found them."""
    if row[0] == SET_GRAD_ENABLED | ENTER and is_first:
        return False  # its constructor may have come in the stretch before
    if row[0] == INFERENCE_MODE | ENTER and any(level.row[5] == row[5] for level in lane.levels):
        return False  # an object that is entered while open does not restore what it found
    return NOT_READ not in (before & 3, before >> 2)


def _nodes_between(begin: RawRow, end: RawRow) -> int:
    return end[7] - begin[7] if begin[7] != NOT_COUNTED and end[7] != NOT_COUNTED else 0
