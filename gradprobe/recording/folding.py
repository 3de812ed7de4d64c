"""Adding finished blocks up instead of keeping them, so that a recording of any length stays bounded.

Folding works on one stretch of events at a time. A block that begins and ends within the stretch, regularly and with
nothing but such blocks in it, leaves the modes as it found them: taking all its events out changes no other event's
meaning. What remains per stretch is what spans it, and one mark per thread that says how much time was taken out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from gradprobe.recording.constructors import site_of_block
from gradprobe.recording.events import (
    CALL,
    CONSTRUCT,
    ENTER,
    EXIT,
    FOLDED,
    KIND,
    NOT_COUNTED,
    NOT_READ,
    NOWHERE,
    SET_GRAD_ENABLED,
    Block,
)
from gradprobe.recording.store import Fold, Site

_SUBCLASSES = 8
_BEFORE, _UNREAD_BEFORE = 0b1111, NOT_READ | NOT_READ << 2
_ALL_UNREAD = _UNREAD_BEFORE | _UNREAD_BEFORE << 4
Row = tuple[int, int, int, int, int, int, int, int]
Key = tuple[int, int, int, int, str]


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


@dataclass
class _Stretch:
    """A block, or what follows a plain call, while its end has not been reached. ``fixed`` if it must be kept."""

    row: Row
    indices: list[int]
    child_ns: int = 0
    child_nodes: int = 0
    fixed: bool = False
    call: _Stretch | None = None  # the plain call in force directly in this block
    calls_folded: bool = False


class Folder:
    """Folds stretch after stretch of events, and holds the sums."""

    def __init__(self, names: dict[int, str], sites: dict[int, Site]) -> None:
        self.sums: dict[Key, Fold] = {}
        self.changed: set[Key] = set()
        self.folded = 0
        self._names = names
        self._sites = sites

    def take_changed(self) -> list[Fold]:
        """The sums that grew since the last call."""
        changed = [self.sums[key] for key in self.changed]
        self.changed.clear()
        return changed

    def fold(self, block: Block) -> Block:
        """What must be kept of ``block``; the rest is added to ``sums``."""
        rows = block.rows()
        dropped: dict[int, tuple[int, int]] = {}  # index: time and nodes that go out with this row
        open_blocks: dict[int, list[_Stretch]] = defaultdict(lambda: [_Stretch(_NO_ROW, [])])
        entered = _entered(rows)
        for index, row in enumerate(rows):
            op, key, levels = row[0], row[5], open_blocks[row[2]]
            if op == SET_GRAD_ENABLED | ENTER and entered.get(key) != index:
                continue  # belongs to its constructor's row
            if op == SET_GRAD_ENABLED | CONSTRUCT and index not in entered:
                if levels[-1].call is not None:
                    self._end(levels[-1].call, row, levels[-1], dropped)
                    levels[-1].calls_folded = True
                levels[-1].call = _Stretch(row, [index])
            elif op & KIND in (ENTER, CONSTRUCT) and op <= CALL | ENTER:
                if index in entered:
                    enter = rows[entered[index]]
                    # The block's time and nodes count from its enter, as they do where it is kept.
                    levels.append(_Stretch((op, enter[1], *row[2:7], enter[7]), [index, entered[index]]))
                else:
                    levels.append(_Stretch(row, [index]))
            elif op & KIND == EXIT and _closes(levels[-1].row, row):
                ended = levels.pop()
                ended.indices.append(index)
                if ended.call is not None and not ended.fixed:
                    self._end(ended.call, row, ended, dropped)
                self._end(ended, row, levels[-1], dropped)
            else:
                _fix(levels)
        unread = {
            level.call.indices[0]
            for levels in open_blocks.values()
            for level in levels
            if level.call is not None and level.calls_folded
        }
        return Block.of(_marked(rows, dropped, unread))

    def _end(self, ended: _Stretch, end: Row, outer: _Stretch, dropped: dict[int, tuple[int, int]]) -> None:
        if ended.fixed:
            outer.fixed = True
            return
        begin = ended.row
        total, nodes = end[1] - begin[1], _nodes_between(begin, end)
        own, own_nodes = max(total - ended.child_ns, 0), nodes - ended.child_nodes
        # What follows a plain call is inside of it, until the block around both ends.
        around = outer.call if outer.call is not None and outer.call is not ended else outer
        around.child_ns += total
        around.child_nodes += nodes
        dropped.update(dict.fromkeys(ended.indices, (0, 0)))
        dropped[ended.indices[-1]] = (own, own_nodes)
        self.folded += len(ended.indices)
        error = self._names.get(end[6], "") if end[0] & KIND == EXIT and len(ended.indices) > 1 else ""
        is_call = len(ended.indices) == 1
        manager = begin[0] & ~KIND | (CONSTRUCT if is_call else ENTER)
        is_constructed = begin[0] == SET_GRAD_ENABLED | CONSTRUCT and not is_call
        site = site_of_block(begin[3], end[3], self._sites) if is_constructed else begin[3]
        key = (manager, site, begin[2], begin[4], error)
        known = self.sums.get(key) or Fold(*key, 0, 0, 0, 0, 0, Counter())
        self.sums[key] = Fold(
            *key,
            count=known.count + 1,
            total_ns=known.total_ns + total,
            self_ns=known.self_ns + own,
            nodes=known.nodes + nodes,
            self_nodes=known.self_nodes + own_nodes,
            durations=known.durations,
        )
        known.durations[duration_class(total)] = known.durations.get(duration_class(total), 0) + 1
        self.changed.add(key)


_NO_ROW: Row = (0, 0, 0, 0, 0, 0, 0, NOT_COUNTED)


def _entered(rows: list[Row]) -> dict[int, int]:
    """Which row enters the object that a row constructs, by index."""
    constructed: dict[int, int] = {}
    entered: dict[int, int] = {}
    for index, row in enumerate(rows):
        if row[0] == SET_GRAD_ENABLED | CONSTRUCT:
            constructed[row[5]] = index
        elif row[0] == SET_GRAD_ENABLED | ENTER and row[5] in constructed:
            entered[constructed.pop(row[5])] = index
    return entered


def _closes(begin: Row, end: Row) -> bool:
    return begin[5] == end[5] and begin[0] & ~KIND == end[0] & ~KIND


def _fix(levels: list[_Stretch]) -> None:
    for level in levels:
        level.fixed = True
        if level.call is not None:
            level.call.fixed = True


def _nodes_between(begin: Row, end: Row) -> int:
    return end[7] - begin[7] if begin[7] != NOT_COUNTED and end[7] != NOT_COUNTED else 0


def _marked(rows: list[Row], dropped: dict[int, tuple[int, int]], unread: set[int]) -> list[Row]:
    """The rows that stay, and before each the time and the nodes that were taken out of its thread before it."""
    kept: list[Row] = []
    taken: dict[int, list[int]] = {}

    def mark(thread: int, time: int) -> None:
        if thread in taken:
            time_out, nodes_out = taken.pop(thread)
            kept.append((FOLDED, time, thread, NOWHERE, _ALL_UNREAD, max(time_out, 0), 0, nodes_out))

    last: dict[int, int] = {}
    for index, row in enumerate(rows):
        thread = row[2]
        if index in dropped:
            time_out, nodes_out = dropped[index]
            if thread:
                sums = taken.setdefault(thread, [0, 0])
                sums[0] += time_out
                sums[1] += nodes_out
                last[thread] = row[1]
        else:
            mark(thread, row[1])
            kept.append((*row[:4], row[4] & ~_BEFORE | _UNREAD_BEFORE, *row[5:]) if index in unread else row)
    for thread in list(taken):
        mark(thread, last[thread])
    return kept
