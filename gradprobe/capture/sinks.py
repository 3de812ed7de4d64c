"""Consumers of events, and what they need while a recording or a probed call is open."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from gradprobe.recording.events import EventBlock

GRAPH, OPS = "graph", "ops"


class Sink(Protocol):
    """A consumer of event blocks.

    Attributes:
        keeps_events: True if the sites, threads and names that events refer to by number must stay known.
        counts_nodes: True to receive the autograd node counter with each event.
        counts_operators: True to receive operators.
        counts_parts: True to receive the parts of composite operators too.
        names_ranges: True to show blocks as ranges in the trace of ``torch.profiler``.
    """

    keeps_events: bool
    counts_nodes: bool
    counts_operators: bool
    counts_parts: bool
    names_ranges: bool

    def accept(self, block: EventBlock) -> None: ...
    def flush(self) -> bool: ...
    def fault(self, text: str, count: int) -> None: ...
    def note(self, kind: str, text: str, count: int = 1) -> None: ...


class Demand:
    """The attached sinks and the probed calls that are open, and what they need together."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.calls: Counter[str] = Counter()
        """The number of open probed calls by level."""

    @property
    def is_idle(self) -> bool:
        """Return whether no sink is attached and no probed call is open."""
        return not self.sinks and not self.calls.total()

    @property
    def sinks_count_operators(self) -> bool:
        """Return whether a sink needs operators, probed calls aside."""
        return any(sink.counts_operators for sink in self.sinks)

    @property
    def counts_operators(self) -> bool:
        """Return whether a sink or a call needs operators."""
        return self.calls[OPS] > 0 or any(sink.counts_operators for sink in self.sinks)

    @property
    def counts_parts(self) -> bool:
        """Return whether a sink needs the parts of composite operators."""
        return any(sink.counts_parts for sink in self.sinks)

    @property
    def counts_nodes(self) -> bool:
        """Return whether a sink or a call needs the node counter."""
        return self.calls[GRAPH] > 0 or self.calls[OPS] > 0 or any(sink.counts_nodes for sink in self.sinks)

    @property
    def times_devices(self) -> bool:
        """Return whether a sink keeps the device times of blocks."""
        return any(sink.counts_nodes and sink.keeps_events for sink in self.sinks)

    @property
    def names_ranges(self) -> bool:
        """Return whether a sink needs blocks as ranges in the trace of ``torch.profiler``."""
        return any(sink.names_ranges for sink in self.sinks)
