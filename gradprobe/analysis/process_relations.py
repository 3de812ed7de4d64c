"""Relations between the processes of a recording: parents, modes, differences between ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradprobe.history.process import Process
from gradprobe.history.region_table import add_up
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import RECORDING_BEGINS, THREAD, mode_name
from gradprobe.recording.notes import StartedProcess, read_started_processes
from gradprobe.recording.rows import INITIAL_MODES, Modes, modes_before

COLLECTIVE_PREFIXES = ("c10d.", "_c10d_functional.", "_c10d_functional_autograd.")
"""Beginnings of the names of operators in which the processes of a group communicate."""
_NOT_COLLECTIVE = ("wait_tensor", "barrier", "send", "recv", "monitored_barrier_")


@dataclass(frozen=True)
class ProcessRelation:
    """A process, the modes that it began in, and the call of its parent that started it, if recorded."""

    process: Process
    initial_modes: Modes | None
    parent: Process | None
    start: StartedProcess | None


def relate_processes(processes: Sequence[Process]) -> list[ProcessRelation]:
    """Return one relation per process, in their order."""
    by_pid = {process.pid: process for process in processes}
    starts = {start.pid: start for process in processes for start in read_started_processes(process.contents.notes)}
    found = []
    for process in processes:
        parent = by_pid.get(int(process.environment.get("parent") or 0))
        found.append(
            ProcessRelation(process, find_initial_modes(process), parent, starts.get(process.pid) if parent else None)
        )
    return found


def find_initial_modes(process: Process) -> Modes | None:
    """Return the modes of the thread that began the recording of a process, at that moment."""
    for block in process.contents.blocks:
        begun = np.flatnonzero(block.op == THREAD | RECORDING_BEGINS)[:1]
        for row in block.select(begun).rows():
            return modes_before(row, INITIAL_MODES)
    return None


def group_by_rank(processes: Sequence[Process]) -> dict[int, Process]:
    """Return the processes that are ranks of one job, by rank; empty if there are fewer than two."""
    found = {process.rank: process for process in processes if process.rank is not None and process.rank >= 0}
    ranks = {rank: process for rank, process in sorted(found.items()) if not process.environment.get("parent")}
    return ranks if len(ranks) > 1 else {}


Line = tuple[str, int]


@dataclass(frozen=True)
class GraphDivergence:
    """A line that all ranks ran and at which some of them created autograd nodes and others did not."""

    line: Line
    nodes: dict[int, int]
    """Number of autograd nodes, by rank."""


def find_graph_divergences(ranks: dict[int, Process]) -> list[GraphDivergence]:
    """Return the lines that all ranks ran but only some built a graph at, those with most nodes first."""
    nodes: dict[Line, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for rank, process in ranks.items():
        if process.counts_operators:
            for key, known in process.op_totals.ops.without_regions.items():
                file, line, _ = process.place(key.site)
                if file is not None and line is not None and known.account.calls:
                    nodes[file, line][rank] += known.account.nodes
        else:
            columns = process.history.regions.columns
            for numbers in group_rows(columns.site):
                file, line, _ = process.place(int(columns.site[numbers[0]]))
                counted = numbers[columns.counts_nodes[numbers]]
                if file is not None and line is not None and len(counted):
                    nodes[file, line][rank] += add_up(columns.nodes[counted] - columns.child_nodes[counted])
    found = [
        GraphDivergence(line, dict(sorted(counts.items())))
        for line, counts in nodes.items()
        if len(counts) == len(ranks) and 0 in counts.values() and any(counts.values())
    ]
    return sorted(found, key=lambda divergence: -sum(divergence.nodes.values()))


@dataclass(frozen=True)
class CollectiveCall:
    """A collective operator at one line, with the modes and the lines of the mode blocks of each rank."""

    op: str
    line: Line
    modes: dict[int, frozenset[str]]
    blocks: dict[int, frozenset[Line]]


def find_collective_calls(ranks: dict[int, Process]) -> list[CollectiveCall]:
    """Return the collective operators that several ranks ran at the same line; known at level "ops"."""
    modes: dict[tuple[str, Line], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    blocks: dict[tuple[str, Line], dict[int, set[Line]]] = defaultdict(lambda: defaultdict(set))
    for rank, process in ranks.items():
        if not process.counts_operators:
            continue
        for key, known in process.op_totals.ops.items():
            file, line, _ = process.place(key.site)
            if file is None or line is None or not known.account.calls or not _is_collective(key.op):
                continue
            state = (find_initial_modes(process) or INITIAL_MODES) if key.region is None else key.region.inside
            modes[key.op, (file, line)][rank].add(mode_name(*state))
            at = None if key.region is None else process.place(key.region.site)
            if at is not None and at[0] is not None and at[1] is not None:
                blocks[key.op, (file, line)][rank].add((at[0], at[1]))
    return [
        CollectiveCall(
            op,
            line,
            {rank: frozenset(known) for rank, known in sorted(seen.items())},
            {rank: frozenset(known) for rank, known in sorted(blocks[op, line].items())},
        )
        for (op, line), seen in modes.items()
        if len(seen) > 1
    ]


def _is_collective(op: str) -> bool:
    return op.startswith(COLLECTIVE_PREFIXES) and not op.split(".")[1].startswith(_NOT_COLLECTIVE)
