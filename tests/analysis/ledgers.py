"""Ledgers of flow made by hand, and written as a recording writes them."""

from __future__ import annotations

from gradprobe.recording.flow import PASSAGES, FlowLeaf, FlowLedger, FlowSite, Frame, PathCounts

FILE = "program.py"


class HandMade:
    """A ledger that grows by a call for each site, leaf and edge; their numbers are those that the calls return."""

    def __init__(self) -> None:
        self.ledger = FlowLedger()
        self._next = 1

    def site(self, op: str, line: int) -> int:
        return self._number(FlowSite(FILE, line, "train", op, ""))

    def leaf(self, name: str, *, made_at: int = 0, optimizer: str = "", shape: tuple[int, ...] = (2, 2)) -> int:
        return self._number(FlowLeaf(made_at, name, shape, optimizer, True))

    def edge(self, source: int, target: int, **counts: int) -> None:
        """Count what became of gradient along an edge, by the names of ``PASSAGES``."""
        edge = self.ledger.edges.setdefault((source, target), [0] * len(PASSAGES))
        for passage, count in counts.items():
            edge[PASSAGES.index(passage)] += count

    def _number(self, node: FlowSite | FlowLeaf) -> int:
        number, self._next = self._next, self._next + 1
        if isinstance(node, FlowSite):
            self.ledger.sites[number] = node
        else:
            self.ledger.leaves[number] = node
        return number


def frames(*lines: str) -> tuple[Frame, ...]:
    """Return a path from the outermost line inwards, ``function:line`` each, as a ledger has it: from the innermost."""
    parts = (line.split(":") for line in reversed(lines))
    return tuple(Frame(FILE, int(line), function) for function, line in parts)


def built(number: int, reached: int = 0, *, calls: int = 1, saved_bytes: int = 0, forgotten: int = 0) -> PathCounts:
    return PathCounts(number, reached, forgotten, calls, saved_bytes)
