"""Effects of runs of regular blocks, as the interpreter takes them: time and nodes of all their events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.records import MODES, Region
from gradprobe.history.regular_blocks import RegularBlocks, Run
from gradprobe.recording.events import NOT_COUNTED, EventBlock
from gradprobe.recording.rows import Modes


@dataclass
class TakenRun:
    """A run that the interpreter has taken: the open region around it, the number of blocks around it, and its phase."""

    run: Run
    thread: int
    parent: Region | None
    depth: int
    phase: str
    blocks_ns: int
    """Time in its blocks."""


@dataclass(frozen=True)
class RunEffects:
    """Effects of a run on its thread and on the region around it, from its first event on."""

    time_by_modes: Sequence[tuple[Modes, int, int | None]]
    """Time and nodes under each mode; no nodes if none were counted."""
    hidden_ns: int
    hidden_transitions: int
    blocks_ns: int
    blocks_nodes: int
    last_ns: int
    last_nodes: int
    after: Modes
    left_by_program: Modes
    is_changed_by_torch: bool


def sum_run(events: EventBlock, blocks: RegularBlocks, run: Run) -> RunEffects:
    """Return the effects of a run."""
    span = slice(run.first, run.last + 1)
    rows = blocks.rows[span]
    times, nodes = events.time_ns[rows], events.nodes[rows]
    after, internal = blocks.after[span], blocks.internal[span]
    left = _find_left_by_program(after, internal, int(blocks.before[run.first]))
    is_changed = internal & (after != left)
    first, last = find_blocks(blocks, run)
    is_outer = (blocks.parents[first:last] < 0) & blocks.visible[first:last]
    begins, ends = (at[first:last][is_outer] - run.first for at in (blocks.enters, blocks.exits))
    is_counted = bool(nodes[0] != NOT_COUNTED)
    passed = np.diff(times)
    is_hidden = (_count_internal(blocks, run) > 0) | is_changed
    return RunEffects(
        time_by_modes=_sum_by_modes(after[:-1], passed, np.diff(nodes) if is_counted else None),
        hidden_ns=int(passed[is_hidden[:-1]].sum()),
        hidden_transitions=0 if blocks.shows_internal else int(internal.sum()),
        blocks_ns=int((times[ends] - times[begins]).sum()),
        blocks_nodes=int((nodes[ends] - nodes[begins]).sum()),
        last_ns=int(times[-1]),
        last_nodes=int(nodes[-1]),
        after=MODES[after[-1]],
        left_by_program=MODES[left[-1]],
        is_changed_by_torch=bool(is_changed[-1]),
    )


def find_blocks(blocks: RegularBlocks, run: Run) -> tuple[int, int]:
    """Return the number of the first block of a run, and of the first one after it."""
    first, last = np.searchsorted(blocks.enters, (run.first, run.last)).tolist()
    return first, last


def _sum_by_modes(modes: Column, passed: Column, nodes: Column | None) -> list[tuple[Modes, int, int | None]]:
    """Return the sums under each mode, in the order in which the modes came first."""
    codes, firsts = np.unique(modes, return_index=True)
    found: list[tuple[Modes, int, int | None]] = []
    for code in codes[np.argsort(firsts)].tolist():
        chosen = modes == code
        counted = None if nodes is None else int(nodes[chosen].sum())
        found.append((MODES[code], int(passed[chosen].sum()), counted))
    return found


def _find_left_by_program(after: Column, internal: Column, before: int) -> Column:
    """Return for each event the modes that the latest one outside of PyTorch's own code left."""
    latest = np.maximum.accumulate(np.where(internal, -1, np.arange(len(after))))
    return np.where(latest < 0, before, after[latest])


def _count_internal(blocks: RegularBlocks, run: Run) -> Column:
    """Return the number of open blocks of PyTorch's own code after each event."""
    first, last = find_blocks(blocks, run)
    step = np.zeros(run.last - run.first + 1, np.int32)
    enters, exits = blocks.enters[first:last], blocks.exits[first:last]
    chosen = blocks.internal[enters]
    step[enters[chosen] - run.first] += 1
    step[exits[chosen] - run.first] -= 1
    count: Column = np.cumsum(step)
    return count
