"""Adding operators up without their regions, so that a recording of any length stays bounded."""

from __future__ import annotations

from collections import defaultdict

from gradprobe.history.records import RawRow
from gradprobe.recording.events import BACKWARD_PASS, FOLDED_OPERATORS, NOT_COUNTED, NOWHERE, TALLY, EventBlock
from gradprobe.recording.folding.markers import MODES_NOT_READ
from gradprobe.recording.sqlite_file import OpFold

OpFoldKey = tuple[int, int, int]


class OpFolder:
    """Holds the sums of operators by place, operation and thread."""

    def __init__(self) -> None:
        self.sums: dict[OpFoldKey, OpFold] = {}
        self.changed: set[OpFoldKey] = set()
        self.folded = 0

    def take_changed(self) -> list[OpFold]:
        """The sums that grew since the last call."""
        changed = [self.sums[key] for key in self.changed]
        self.changed.clear()
        return changed

    def fold(self, block: EventBlock) -> list[RawRow]:
        """The rows of ``block`` where a mark stands for operators that were added up; backward passes are left out."""
        accounts = block.accounts
        tallies = {row[0]: row for row in accounts["tallies"].tolist()} if "tallies" in accounts else {}
        saved: dict[int, dict[int, int]] = defaultdict(dict)
        for key, storage, size, _ in accounts["saved"].tolist() if "saved" in accounts else ():
            saved[key][storage] = size
        rows: list[RawRow] = []
        marked: set[tuple[int, int]] = set()  # a mark is enough until the thread's next event
        for row in block.rows():
            if row[0] == TALLY:
                self._add(row, tallies.get(row[5]), sum(saved[row[5]].values()))
                if (row[2], row[6]) not in marked:
                    marked.add((row[2], row[6]))
                    unread = MODES_NOT_READ | MODES_NOT_READ << 4
                    rows.append((FOLDED_OPERATORS, row[1], row[2], NOWHERE, unread, 0, row[6], NOT_COUNTED))
            elif row[0] != BACKWARD_PASS:
                rows.append(row)
                marked = {mark for mark in marked if mark[0] != row[2]}
        return rows

    def _add(self, row: RawRow, tally: tuple[int, ...] | None, saved_bytes: int) -> None:
        if tally is None:
            return
        _, operation, *counts = tally
        key = (row[3], operation, row[2])
        known = self.sums.get(key)
        sums = [saved_bytes, *counts]
        self.sums[key] = OpFold(*key, sums if known is None else list(map(int.__add__, known.sums, sums)))
        self.changed.add(key)
        self.folded += 1
