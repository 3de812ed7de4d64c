"""The consumer of events behind a monitor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gradprobe.monitoring.counters import BuiltGraph, Counters
from gradprobe.recording.events import EventBlock
from gradprobe.recording.symbols import SymbolTables

_MAX_FAULTS = 1_000


class MonitorSink:
    """Counts of one run of a monitor. Graphs that inference paths built are passed to ``on_built``."""

    keeps_events = False
    counts_operators = False
    counts_parts = names_ranges = False

    def __init__(self, tables: SymbolTables, *, counts_nodes: bool, on_built: Callable[[BuiltGraph], object]) -> None:
        self.counts_nodes = counts_nodes
        self.counters = Counters(tables.sites, tables.names)
        self.faults: Counter[str] = Counter()
        self._on_built = on_built

    def accept(self, block: EventBlock) -> None:
        """Add the events of ``block`` to the counts."""
        for built in self.counters.add(block):
            self._on_built(built)

    def flush(self) -> bool:
        """Return True: there is nothing to write."""
        return True

    def fault(self, text: str, count: int) -> None:
        """Count a fault of gradprobe or of a callback, up to a number of different texts."""
        if text in self.faults or len(self.faults) < _MAX_FAULTS:
            self.faults[text] += count

    def note(self, kind: str, text: str, count: int = 1) -> None:
        """Ignore notes: detections are noted at level ``ops`` only."""
