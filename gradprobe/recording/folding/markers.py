"""Markers in place of rows that were folded, with their time, their nodes and their modes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from gradprobe.recording.events import FOLDED_BLOCKS, FOLDED_END, FOLDED_HIDDEN, NOWHERE
from gradprobe.recording.rows import MODES_NOT_READ, RawRow, bits_before, pack_bits


@dataclass(slots=True)
class DroppedRow:
    """A row that is taken out, the time and the nodes that go with it, and the marker that shows them."""

    ns: int = 0
    nodes: int = 0
    task: int = 0
    marker: int = FOLDED_BLOCKS
    bits: int = MODES_NOT_READ
    ends_call: bool = False
    hidden: tuple[int, int] = (0, 0)


_MarkerKind = tuple[int, int, int]
"""Task, operation and packed modes of a marker."""


def insert_markers(rows: list[RawRow], dropped: dict[int, DroppedRow], resumed: set[int]) -> list[RawRow]:
    """Return the rows that stay, with markers for what was taken out of their thread before them.

    Args:
        rows: All rows.
        dropped: Rows to take out, by index.
        resumed: Indices of plain calls that end one which is taken out.
    """
    kept: list[RawRow] = []
    pending: dict[int, dict[_MarkerKind, list[int]]] = defaultdict(dict)

    def add(thread: int, kind: _MarkerKind, ns: int, nodes: int) -> None:
        sums = pending[thread].setdefault(kind, [0, 0])
        sums[0] += ns
        sums[1] += nodes

    def flush(thread: int, time: int) -> None:
        for (task, op, bits), (ns, nodes) in pending.pop(thread, {}).items():
            kept.append((op, time, thread, NOWHERE, pack_bits(MODES_NOT_READ, bits), ns, task, nodes))

    def end_call(row: RawRow, bits: int) -> None:
        _, time, thread, site, _, _, task, nodes = row
        flush(thread, time)
        kept.append((FOLDED_END, time, thread, site, pack_bits(MODES_NOT_READ, bits), 0, task, nodes))

    last: dict[int, int] = {}
    for index, row in enumerate(rows):
        _, time, thread, _, state, _, _, _ = row
        drop = dropped.get(index)
        if drop is not None:
            if drop.ends_call:
                end_call(row, MODES_NOT_READ)
            add(thread, (drop.task, drop.marker, drop.bits), drop.ns, drop.nodes)
            if any(drop.hidden):
                add(thread, (drop.task, FOLDED_HIDDEN, MODES_NOT_READ), *drop.hidden)
            last[thread] = time
            continue
        if index in resumed:
            # It finds the modes of a call that was taken out, which the rows that stay do not show.
            end_call(row, bits_before(state))
        else:
            flush(thread, time)
        kept.append(row)
    for thread in list(pending):
        flush(thread, last[thread])
    return kept
