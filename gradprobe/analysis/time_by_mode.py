"""Time and autograd nodes spent under each mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.history.process import Process
from gradprobe.recording.events import MANAGERS, NOT_READ, mode_name

MODES = ("grad", "no_grad", "inference_mode", "inference_mode + enable_grad")


@dataclass
class TimeAndNodes:
    """Wall-clock time and the autograd nodes created in it; ``nodes`` is None if they were not counted."""

    ns: int = 0
    nodes: int | None = None

    def add(self, ns: int, nodes: int | None) -> None:
        """Add a time, and a number of nodes if it is known."""
        self.ns += ns
        if nodes is not None:
            self.nodes = (self.nodes or 0) + nodes


@dataclass(frozen=True)
class ModeTime:
    """Time spent under one mode in all threads; ``share`` is its part of all the time that was observed."""

    mode: str
    ns: int
    share: float
    nodes: int | None


@dataclass(frozen=True)
class ThreadTime:
    """Time spent by one thread, by mode."""

    process: int
    thread: str
    by_mode: dict[str, TimeAndNodes]

    @property
    def ns(self) -> int:
        """Time under all modes together."""
        return sum(spent.ns for spent in self.by_mode.values())


def sum_by_thread(processes: Sequence[Process]) -> list[ThreadTime]:
    """Return the time of every observed thread under each mode, the busiest thread first."""
    found = []
    for process in processes:
        folded: dict[int, dict[str, TimeAndNodes]] = defaultdict(lambda: defaultdict(TimeAndNodes))
        for fold in process.contents.folds:
            if fold.manager & ~3 in MANAGERS:
                nodes = fold.self_nodes if process.counts_nodes else None
                folded[fold.thread][_decode_mode(fold.state)].add(fold.self_ns, nodes)
        for lane in process.history.timelines:
            sums: dict[str, TimeAndNodes] = defaultdict(TimeAndNodes)
            for state, ns in lane.ns_by_state.items():
                nodes = lane.nodes_by_state.get(state, 0) if process.counts_nodes else None
                sums[mode_name(*state)].add(max(ns, 0), nodes)
            for mode, spent in folded[lane.thread].items():
                sums[mode].add(spent.ns, spent.nodes)
            found.append(ThreadTime(process.pid, process.thread(lane.thread), dict(sums)))
    return sorted(found, key=lambda thread: -thread.ns)


def sum_by_mode(processes: Sequence[Process]) -> list[ModeTime]:
    """Return the time under each mode in all threads together, the longest first."""
    sums: dict[str, TimeAndNodes] = defaultdict(TimeAndNodes)
    for thread in sum_by_thread(processes):
        for mode, spent in thread.by_mode.items():
            sums[mode].add(spent.ns, spent.nodes)
    whole = sum(spent.ns for spent in sums.values()) or 1
    return [
        ModeTime(mode, spent.ns, spent.ns / whole, spent.nodes)
        for mode, spent in sorted(sums.items(), key=lambda item: -item[1].ns)
    ]


def sum_nodes(processes: Sequence[Process]) -> int | None:
    """Return the autograd nodes constructed in all threads together; None if they were not counted."""
    counted = [time.nodes for time in sum_by_mode(processes) if time.nodes is not None]
    return sum(counted) if counted else None


def sum_thread_ns(processes: Sequence[Process]) -> int:
    """Return the time of all observed threads together."""
    return sum(thread.ns for thread in sum_by_thread(processes))


def sum_hidden_ns(processes: Sequence[Process]) -> int:
    """Return the time in blocks of PyTorch's own code, which the tables do not show."""
    return sum(
        lane.hidden_ns for process in processes if not process.include_torch for lane in process.history.timelines
    )


def _decode_mode(state: int) -> str:
    """Return the mode inside a folded block, whose state encodes the modes before and after its entry."""
    inference = state >> 6 & 3
    return mode_name(state >> 4 & 3 == 1, (state >> 2 & 3 if inference == NOT_READ else inference) == 1)
