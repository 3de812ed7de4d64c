"""Blocks that an asyncio task held open while other tasks of its thread ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.history.process import Process
from gradprobe.history.records import HELD_ACROSS_TASKS, Region
from gradprobe.recording.rows import INITIAL_MODES, Modes


@dataclass(frozen=True)
class HeldMode:
    """A block that other tasks ran under.

    ``others`` are the blocks of other tasks that were entered within it and exited after it. ``stuck_in`` are the modes in
    which such an exit left the thread, although no block was open any more.
    """

    region: Region
    others: tuple[Region, ...]
    stuck_in: Modes | None


def find_held_modes(process: Process) -> Iterator[HeldMode]:
    """Yield the blocks of a process that changed the mode and were open while other tasks ran, in their order."""
    regions = process.history.regions
    held = [
        r
        for r in regions.where(regions.columns.is_irregular)
        if HELD_ACROSS_TASKS in r.irregular and r.form == "with" and not r.internal
    ]
    stuck = _find_stuck_exits(process) if held else {}
    for region in held:
        if region.before == region.inside:
            continue
        others = tuple(
            other
            for other in held
            if other.thread == region.thread
            and other.task != region.task
            and region.start_ns < other.start_ns < (region.end_ns or 0) < (other.end_ns or 0)
        )
        left = next((stuck[other] for other in others if other in stuck), None)
        yield HeldMode(region, others, left)


def _find_stuck_exits(process: Process) -> dict[Region, Modes]:
    """Return the blocks at whose exit no other block was open, and that left their thread in other modes than it had.

    A thread that a plain call has set to another mode is left alone: the blocks restore that.
    """
    found: dict[Region, Modes] = {}
    open_blocks: dict[int, set[Region]] = defaultdict(set)
    outside: dict[int, Modes] = {}
    for change in process.history.transitions:
        known = open_blocks[change.thread]
        if change.region is None:
            continue
        if change.event == "enter":
            if not known:
                outside[change.thread] = change.before
            known.add(change.region)
        elif change.event == "exit":
            known.discard(change.region)
            if not known and change.after != outside.get(change.thread, INITIAL_MODES):
                found[change.region] = change.after
    return found
