"""Recording of a long run, made without running it: a million transitions, ten thousand operators at two thousand lines.

python benchmarks/large_recording.py OUT.gradprobe [TRANSITIONS [OPERATORS [LINES]]]

Each iteration has blocks of the four managers nested in two, and operators in and outside of them. It needs no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gradprobe.recording.contents import Contents, Site, Thread
from gradprobe.recording.events import (
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    NOWHERE,
    RECORDING_BEGINS,
    RECORDING_ENDS,
    TALLY,
    THREAD,
    EventBlock,
)
from gradprobe.recording.flow import FlowSite, Frame, write_edge, write_path, write_path_counts, write_site
from gradprobe.recording.notes import Note
from gradprobe.recording.op_rows import OpCounts, Operation, make_rows
from gradprobe.recording.sqlite_file import write_file

GRAD, NO_GRAD_STATE, INFERENCE_STATE = 0b0001, 0b0000, 0b0100
"""Modes as an event packs them: grad mode in the lower two bits, inference mode in the upper."""
HOUR_NS = 3_600_000_000_000
_BLOCK_LINES = 60
_STEP = 8
"""Transitions of an iteration: four blocks."""
_FILES = 20


def make_contents(transitions: int = 1_000_000, operators: int = 10_000, lines: int = 2_000) -> Contents:
    """Return the contents of a recording of an hour with so many transitions, rows of operators and lines."""
    sites = _make_sites(lines)
    operations = {n: Operation(n, f"aten.op{n}", f"Op{n}Backward0", f"layer.{n % 40}", 0) for n in range(1, 201)}
    iterations = transitions // _STEP
    step = HOUR_NS // max(iterations, 1)
    events = [(THREAD | RECORDING_BEGINS, 0, 1, NOWHERE, GRAD | GRAD << 4, 0, 0, 0)]
    tallies, saved = [], []
    nodes = 0
    for iteration in range(iterations):
        begun = iteration * step
        # The operators are spread over the run; each is one of its own.
        for number in range(iteration * operators // iterations, (iteration + 1) * operators // iterations):
            site = _BLOCK_LINES + 1 + number % lines
            nodes += 3
            events.append((TALLY, begun + 1, 1, site, GRAD | GRAD << 4, number + 1, 0, nodes))
            tallies.append((number + 1, 1 + number // lines * 7 % 200, *OpCounts(calls=3, nodes=3, counters_created=3)))
            saved.append((number + 1, number + 1, 4096, begun))
        for manager, inside, base in ((NO_GRAD, NO_GRAD_STATE, 0), (INFERENCE_MODE, INFERENCE_STATE, 20)):
            outer, inner = base + 1 + iteration % 20, 41 + iteration % 20
            offset = begun + base * step // 50
            key = 4 * iteration + base
            events += [
                (manager | ENTER, offset + 10, 1, outer, GRAD | inside << 4, key, 0, nodes),
                (ENABLE_GRAD | ENTER, offset + 20, 1, inner, inside | (inside | GRAD) << 4, key + 1, 0, nodes),
                (ENABLE_GRAD | EXIT, offset + 30, 1, inner, (inside | GRAD) | inside << 4, key + 1, 0, nodes),
                (manager | EXIT, offset + 40 + iteration % 13, 1, outer, inside | GRAD << 4, key, 0, nodes),
            ]
    events.append((THREAD | RECORDING_ENDS, HOUR_NS, 1, NOWHERE, GRAD | GRAD << 4, 0, 0, nodes))
    size = 50_000
    return Contents(
        meta={
            "began_ns": 0, "ended_ns": HOUR_NS, "began_wall_ns": 0, "include_torch": False, "reads_saved": True,
            "limit": 2_000_000, "folded": 0,
            "environment": {"process": 1, "rank": None, "level": "ops", "torch": "2.13.0", "program": "long.py"},
        },
        blocks=[EventBlock.of(events[at : at + size]) for at in range(0, len(events), size)],
        sites=sites,
        names={},
        threads={1: Thread(1, "MainThread", 1, 0, False)},
        folds=[],
        notes=_make_flow(lines),
        operations=operations,
        accounts={"tallies": make_rows("tallies", tallies), "saved": make_rows("saved", saved)},
    )  # fmt: skip


def _make_sites(lines: int) -> dict[int, Site]:
    numbers = range(1, _BLOCK_LINES + lines + 1)
    return {
        n: Site(n, f"/program/layer{n % _FILES}.py", n, n, f"Layer{n % _FILES}.run", "with", False) for n in numbers
    }


def _make_flow(lines: int) -> list[Note]:
    """Return the notes of a flow through all lines in their order, and of the graphs that they built."""
    notes: list[Note] = []
    for n in range(1, lines + 1):
        at = _BLOCK_LINES + n
        file, function = f"/program/layer{at % _FILES}.py", f"Layer{at % _FILES}.run"
        notes.append(write_site(n, FlowSite(file, at, function, f"aten.op{n % 200}", f"layer.{n % 40}")))
        notes += write_edge(n - 1, n, [1_000, 0, 10, 0, 0, 0, 0, 0])
        notes.append(write_path(n, [Frame(file, at, function), Frame("/program/long.py", 1 + n % 30, "main")]))
        notes += write_path_counts(n, [15, 15, 0, 15, 61_440])
    return notes


if __name__ == "__main__":
    write_file(Path(sys.argv[1]), make_contents(*map(int, sys.argv[2:])))
