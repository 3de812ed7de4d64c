"""How much of the time ran under which mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.recording.events import MANAGERS, mode_name
from gradprobe.recording.process import Process

MODES = ("grad", "no_grad", "inference_mode", "inference_mode + enable_grad")


@dataclass(frozen=True)
class ModeTime:
    """Wall-clock time of threads under one mode, in nanoseconds and as a share of all the time seen."""

    mode: str
    ns: int
    share: float


@dataclass(frozen=True)
class ThreadTime:
    """One thread's time by mode, in nanoseconds."""

    process: int
    thread: str
    ns: dict[str, int]


def by_thread(processes: Sequence[Process]) -> list[ThreadTime]:
    """The time under each mode of every thread that was seen, the longest first."""
    found = []
    for process in processes:
        folded: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for fold in process.contents.folds:
            if fold.manager & ~3 in MANAGERS:
                folded[fold.thread][_inside(fold.state)] += fold.self_ns
        for lane in process.history.lanes:
            ns: dict[str, int] = defaultdict(int)
            for state, time in lane.ns_by_state.items():
                ns[mode_name(*state)] += max(time, 0)
            for mode, time in folded[lane.thread].items():
                ns[mode] += time
            found.append(ThreadTime(process.pid, process.thread(lane.thread), dict(ns)))
    return sorted(found, key=lambda thread: -sum(thread.ns.values()))


def by_mode(processes: Sequence[Process]) -> list[ModeTime]:
    """The time under each mode over all threads, the longest first."""
    sums: dict[str, int] = defaultdict(int)
    for thread in by_thread(processes):
        for mode, time in thread.ns.items():
            sums[mode] += time
    whole = sum(sums.values())
    return [
        ModeTime(mode, time, time / whole) for mode, time in sorted(sums.items(), key=lambda item: -item[1]) if whole
    ]


def _inside(state: int) -> str:
    return mode_name(state >> 4 & 3 == 1, (state >> 6 & 3 if state >> 6 & 3 != 2 else state >> 2 & 3) == 1)
