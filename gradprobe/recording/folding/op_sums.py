"""Sums of operators without their regions, which keep a recording of any length bounded."""

from __future__ import annotations

from collections import defaultdict

from gradprobe.recording.contents import OpFold
from gradprobe.recording.events import BACKWARD_PASS, FOLDED_OPERATORS, NOT_COUNTED, NOWHERE, TALLY, EventBlock
from gradprobe.recording.rows import MODES_NOT_READ, RawRow, pack_bits

OpFoldKey = tuple[int, int, int]
"""Site, operation and thread of a sum."""

_STATE_NOT_READ = pack_bits(MODES_NOT_READ, MODES_NOT_READ)


class OpFolder:
    """Sums of operators by site, operation and thread."""

    def __init__(self) -> None:
        self.sums: dict[OpFoldKey, OpFold] = {}
        self.changed: set[OpFoldKey] = set()
        self.folded = 0

    def take_changed(self) -> list[OpFold]:
        """Return the sums that grew since the last call."""
        changed = [self.sums[key] for key in self.changed]
        self.changed.clear()
        return changed

    def fold(self, block: EventBlock) -> list[RawRow]:
        """Add up the operators of ``block``; return its rows with markers for them, without backward passes."""
        accounts = block.accounts
        tallies = {row[0]: row for row in accounts["tallies"].tolist()} if "tallies" in accounts else {}
        saved: dict[int, dict[int, int]] = defaultdict(dict)
        for key, storage, size, _ in accounts["saved"].tolist() if "saved" in accounts else ():
            saved[key][storage] = size
        rows: list[RawRow] = []
        marked: set[tuple[int, int]] = set()  # threads and tasks whose marker holds until the thread's next event
        for row in block.rows():
            op, time, thread, site, _, key, task, _ = row
            if op == TALLY:
                self._add(site, thread, tallies.get(key), sum(saved[key].values()))
                if (thread, task) not in marked:
                    marked.add((thread, task))
                    rows.append((FOLDED_OPERATORS, time, thread, NOWHERE, _STATE_NOT_READ, 0, task, NOT_COUNTED))
            elif op != BACKWARD_PASS:
                rows.append(row)
                marked = {mark for mark in marked if mark[0] != thread}
        return rows

    def _add(self, site: int, thread: int, tally: tuple[int, ...] | None, saved_bytes: int) -> None:
        if tally is None:
            return
        _, operation, *counts = tally
        key = (site, operation, thread)
        known = self.sums.get(key)
        sums = [saved_bytes, *counts]
        self.sums[key] = OpFold(*key, sums if known is None else list(map(int.__add__, known.sums, sums)))
        self.changed.add(key)
        self.folded += 1
