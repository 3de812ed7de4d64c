"""The marks that stand for rows which were taken out of a recording: whose time it was, and where it passed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from gradprobe.history.records import RawRow
from gradprobe.recording.events import FOLDED_BLOCKS, FOLDED_END, FOLDED_HIDDEN, NOT_READ, NOWHERE

MODES_NOT_READ = NOT_READ | NOT_READ << 2
"""Both modes, not read."""


@dataclass(slots=True)
class DroppedRow:
    """A row that is taken out, the time and the nodes that go with it, and how the mark that tells of them is made."""

    ns: int = 0
    nodes: int = 0
    task: int = 0
    mark: int = FOLDED_BLOCKS
    state: int = MODES_NOT_READ
    ends_call: bool = False
    hidden: tuple[int, int] = (0, 0)


def insert_markers(rows: list[RawRow], dropped: dict[int, DroppedRow], resumed: set[int]) -> list[RawRow]:
    """The rows that stay, and before each the time and the nodes that were taken out of its thread before it."""
    kept: list[RawRow] = []
    taken: dict[int, dict[tuple[int, int, int], list[int]]] = defaultdict(dict)

    def take(thread: int, what: tuple[int, int, int], ns: int, nodes: int) -> None:
        sums = taken[thread].setdefault(what, [0, 0])
        sums[0] += ns
        sums[1] += nodes

    def mark(thread: int, time: int) -> None:
        for (task, op, state), (ns, nodes) in taken.pop(thread, {}).items():
            kept.append((op, time, thread, NOWHERE, MODES_NOT_READ | state << 4, ns, task, nodes))

    def end(row: RawRow, after: int) -> None:
        mark(row[2], row[1])
        kept.append((FOLDED_END, row[1], row[2], row[3], MODES_NOT_READ | after << 4, 0, row[6], row[7]))

    last: dict[int, int] = {}
    for index, row in enumerate(rows):
        thread = row[2]
        out = dropped.get(index)
        if out is not None:
            if out.ends_call:
                end(row, MODES_NOT_READ)
            take(thread, (out.task, out.mark, out.state), out.ns, out.nodes)
            if any(out.hidden):
                take(thread, (out.task, FOLDED_HIDDEN, MODES_NOT_READ), *out.hidden)
            last[thread] = row[1]
            continue
        if index in resumed:
            # It finds the modes of a call that was taken out, which the rows that stay do not tell.
            end(row, row[4] & 0b1111)
        else:
            mark(thread, row[1])
        kept.append(row)
    for thread in list(taken):
        mark(thread, last[thread])
    return kept
