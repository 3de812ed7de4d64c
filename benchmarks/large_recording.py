"""Recordings of long runs, made without running them.

python benchmarks/large_recording.py OUT.gradprobe [TRANSITIONS [OPERATORS [LINES]]]
python benchmarks/large_recording.py OUT.gradprobe training [STEPS [blocks]]

The first has a million transitions, and ten thousand operators at two thousand lines: each iteration has blocks of the four
managers nested in two, and operators in and outside of them. The second is that of a training at level ``ops``, as a run of
a perceptron with Adam and a validation every twenty steps writes it: nearly all of its events are operators. With
``blocks``, each step is inside a block of its own too. Neither needs torch.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gradprobe.recording.contents import Contents, Site, Thread
from gradprobe.recording.events import (
    BACKWARD_PASS,
    CONSTRUCT,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    NOT_COUNTED,
    NOWHERE,
    RECORDING_BEGINS,
    RECORDING_ENDS,
    SET_GRAD_ENABLED,
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
NOT_READ_STATE = 0b10101010
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


def make_training(steps: int = 20_000, *, has_blocks: bool = False) -> Contents:
    """Return the contents of a recording of a training with so many steps, with each in a block if ``has_blocks``."""
    run = _Training(has_blocks)
    for step in range(steps):
        run.add_step(step)
        if step % 20 == 19:
            run.add_validation()
    return run.finish()


class _Training:
    """Events of a training. Operators are noted at the next event of the thread, as a recording has them."""

    _FORWARD, _BACKWARD, _UPDATE, _VALIDATION = range(8), range(8, 16), range(16, 32), range(32, 44)
    """Operators of each part, by number; two of them are at a line."""
    _IN_OPTIMIZER, _VALIDATE, _TRAIN_STEP = 40, 41, 42
    """Sites of the blocks of the optimizer, of the validation and of the step; those of operators are below."""

    def __init__(self, has_blocks: bool) -> None:
        self._has_blocks = has_blocks
        self._events = [(THREAD | RECORDING_BEGINS, 0, 1, NOWHERE, GRAD | GRAD << 4, 0, 0, 0)]
        self._rows: dict[str, list[tuple[int, ...]]] = {"tallies": [], "saved": [], "inputs": [], "backwards": []}
        self._nodes = self._storages = 0

    def add_step(self, step: int) -> None:
        if self._has_blocks:
            self._emit(ENABLE_GRAD | ENTER, self._TRAIN_STEP, GRAD | GRAD << 4, step)
        self._run(self._FORWARD, nodes=1, saved=2)
        first = self._nodes - len(self._FORWARD)
        self._rows["backwards"].append((len(self._events), first, self._nodes - 1))
        self._emit(BACKWARD_PASS, NOWHERE, NOT_READ_STATE, len(self._events))
        self._run(self._BACKWARD)
        self._emit(SET_GRAD_ENABLED | CONSTRUCT, self._IN_OPTIMIZER, GRAD | NO_GRAD_STATE << 4, 0)
        self._run(self._UPDATE)
        self._emit(SET_GRAD_ENABLED | CONSTRUCT, self._IN_OPTIMIZER, NO_GRAD_STATE | GRAD << 4, 0)
        if self._has_blocks:
            self._emit(ENABLE_GRAD | EXIT, self._TRAIN_STEP, GRAD | GRAD << 4, step)

    def add_validation(self) -> None:
        self._emit(NO_GRAD | ENTER, self._VALIDATE, GRAD | NO_GRAD_STATE << 4, 1)
        self._run(self._VALIDATION)
        self._emit(NO_GRAD | EXIT, self._VALIDATE, NO_GRAD_STATE | GRAD << 4, 1)

    def finish(self) -> Contents:
        forms = {self._VALIDATE: "decorator"}
        sites = {
            n: Site(n, "/program/train.py", n, n, "train", forms.get(n, "with"), n == self._IN_OPTIMIZER)
            for n in range(1, self._TRAIN_STEP + 1)
        }
        self._emit(THREAD | RECORDING_ENDS, NOWHERE, GRAD | GRAD << 4, 0)
        return replace(
            make_contents(0, 0, 0),
            blocks=[EventBlock.of(self._events)],
            sites=sites,
            notes=[],
            operations={
                n: Operation(n, f"aten.op{n}", f"Op{n}Backward0", f"Net.layer{n % 6}", 0) for n in range(1, 45)
            },
            accounts={kind: make_rows(kind, rows) for kind, rows in self._rows.items()},
        )

    def _run(self, operators: range, nodes: int = 0, saved: int = 0) -> None:
        for number in operators:
            self._nodes += nodes
            key = len(self._rows["tallies"]) + 1
            self._emit(TALLY, 1 + number // 2, NOT_READ_STATE, key)
            self._rows["tallies"].append((key, 1 + number, *OpCounts(calls=2, nodes=nodes, counters_created=1)))
            for _ in range(saved):
                self._storages += 1
                self._rows["saved"].append((key, self._storages, 4096, len(self._events)))
            if saved:
                self._rows["inputs"].append((key, self._storages))

    def _emit(self, op: int, site: int, state: int, key: int) -> None:
        time = len(self._events) * HOUR_NS // 2_000_000
        nodes = NOT_COUNTED if op >= TALLY else self._nodes
        self._events.append((op, time, 1, site, state, key, 0, nodes))


if __name__ == "__main__":
    path, *words = sys.argv[1:]
    if words[:1] == ["training"]:
        write_file(Path(path), make_training(*map(int, words[1:2]), has_blocks="blocks" in words))
    else:
        write_file(Path(path), make_contents(*map(int, words)))
