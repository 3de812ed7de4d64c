"""A run of regular blocks that is taken at once means the same as its events read one by one."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest

from gradprobe.history import interpreter, regular_blocks
from gradprobe.history.process_history import History
from gradprobe.history.records import Region
from gradprobe.recording.contents import Contents, Site, Thread
from gradprobe.recording.events import (
    ACTION_MASK,
    AUTOMATIC_PHASE,
    CALL,
    CONSTRUCT,
    DECORATE,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    FOLDED_BLOCKS,
    INFERENCE_MODE,
    NO_GRAD,
    PHASE,
    RECORDING_BEGINS,
    SET_GRAD_ENABLED,
    TALLY,
    THREAD,
    EventBlock,
)
from tests.thoroughness import examples

NOT_READ = 2
FORMS = ("with", "decorator", "generator", "indirect")


class Program:
    """Events of a made-up program, mostly regular."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows: list[tuple[int, ...]] = []
        self.time = 0
        self.modes = {1: (True, False), 2: (True, False)}
        self.nodes = {1: 0, 2: 0}
        self.counts = self.random.random() < 0.8
        self.mischief = self.random.choice((0.0, 0.0, 0.02, 0.1))
        self.has_tasks = self.random.random() < 0.2

    def emit(self, op: int, thread: int, site: int, after: tuple[int, int], key: int, extra: int = 0) -> None:
        """Emit an event; a mode that an event does not read is as hooks leave it out."""
        self.time += self.random.choice((0, 1, 3, 10))
        if self.random.random() < self.mischief / 3:
            self.time -= 5
        self.nodes[thread] += self.random.choice((0, 0, 2))
        grad, inference = self.modes[thread]
        is_exit = op & ACTION_MASK == EXIT
        before = (grad, NOT_READ if is_exit and op < INFERENCE_MODE else inference)
        if op == INFERENCE_MODE | EXIT:
            shown: tuple[int, int] = (NOT_READ, NOT_READ)
        elif op & ~ACTION_MASK == INFERENCE_MODE:
            shown = after
        else:
            shown = (after[0], NOT_READ)
        state = int(before[0]) | int(before[1]) << 2 | int(shown[0]) << 4 | int(shown[1]) << 6
        self.rows.append((op, self.time, thread, site, state, key, extra, self.nodes[thread] if self.counts else -1))
        self.modes[thread] = bool(after[0]), bool(after[1])

    def block(self, thread: int, depth: int) -> None:
        chance = self.random.random
        manager = self.random.choice((NO_GRAD, ENABLE_GRAD, SET_GRAD_ENABLED, INFERENCE_MODE))
        site, exit_site = self.random.randint(1, 9), self.random.randint(0, 9)
        key = self.random.choice((100 + depth, 100 + depth, 7)) if chance() < 0.9 else self.random.randint(1, 9)
        task = self.random.choice((0, 0, 1, 2)) if self.has_tasks else 0
        found = self.modes[thread]
        inside = {
            NO_GRAD: (False, found[1]),
            ENABLE_GRAD: (True, found[1]),
            SET_GRAD_ENABLED: (chance() < 0.5, found[1]),
            INFERENCE_MODE: (False, True),
        }[manager]
        if manager == SET_GRAD_ENABLED:
            self.emit(manager | CONSTRUCT, thread, site, inside, key, task)
            if chance() < self.mischief:
                self.emit(manager | DECORATE, thread, site, found, key, task)
                return
        if chance() >= self.mischief:
            self.emit(manager | ENTER, thread, site if chance() < 0.9 else 0, inside, key, task)
        self.body(thread, depth + 1)
        if chance() >= self.mischief:
            error = self.random.choice((0, 0, 0, 3))
            left = found if chance() >= self.mischief else (not found[0], found[1])
            self.emit(manager | EXIT, thread, exit_site, left, key, error)

    def body(self, thread: int, depth: int) -> None:
        for _ in range(self.random.randint(0, 3 if depth < 3 else 1) if depth else 6):
            chance = self.random.random()
            if chance < 0.72 and depth < 6:
                self.block(thread, depth)
            elif chance < 0.85:
                self.rows.append((TALLY, self.time, thread, 1, 0b10101010, len(self.rows), 0, -1))
            elif chance < 0.93:
                off = not self.modes[thread][0]
                op = SET_GRAD_ENABLED | self.random.choice((CONSTRUCT, DECORATE))
                self.emit(op, thread, 9, (off, self.modes[thread][1]), self.random.randint(1, 9))
                if self.random.random() < 0.8:
                    self.emit(op, thread, 9, (not off, self.modes[thread][1]), self.random.randint(1, 9))
            elif chance < 0.93 + self.mischief:
                self.disturb(thread)

    def disturb(self, thread: int) -> None:
        """Emit an event that is not an edge of a block, or change the modes without any."""
        kind = self.random.randint(0, 6)
        modes, key = self.modes[thread], self.random.randint(1, 9)
        if kind == 0:
            self.emit(SET_GRAD_ENABLED | CONSTRUCT, thread, 1, (not modes[0], modes[1]), key)
        elif kind == 1:
            self.modes[thread] = (not modes[0], modes[1])
        elif kind == 2:
            self.emit(self.random.choice((PHASE, PHASE | EXIT, AUTOMATIC_PHASE)), thread, 2, modes, key)
        elif kind == 3:
            self.emit(CALL | self.random.choice((ENTER, EXIT, DECORATE)), thread, 3, modes, key)
        elif kind == 4:
            self.emit(FOLDED_BLOCKS, thread, 0, modes, key)
        elif kind == 5:
            self.emit(THREAD | self.random.choice((ENTER, EXIT)), thread, 0, modes, 0)
        else:
            self.block(3 - thread, 5)


def make_contents(seed: int) -> Contents:
    program = Program(seed)
    if program.random.random() < 0.8:
        program.emit(THREAD | RECORDING_BEGINS, 1, 0, (True, False), 0)
    threads = (1, 2) if program.random.random() < 0.5 else (1,)
    for _ in range(3):
        program.body(program.random.choice(threads), 0)
    if len(threads) > 1 and program.random.random() < 0.5:
        # Two threads at once: each keeps the order of its own events.
        queues = [[row for row in program.rows if row[2] == thread] for thread in threads]
        program.rows = []
        while any(queues):
            program.rows.append(program.random.choice([queue for queue in queues if queue]).pop(0))
    sites = {n: Site(n, f"{n}.py", n, n, f"f{n}", FORMS[n % 4], n >= 8) for n in range(1, 10)}
    rows = program.rows
    return Contents(
        meta={"began_ns": 0, "ended_ns": program.time + 5, "only_calls": program.random.random() < 0.1},
        blocks=[EventBlock.of(rows[: len(rows) // 2]), EventBlock.of(rows[len(rows) // 2 :])],
        sites=sites,
        names={1: "one", 2: "two", 3: "ValueError"},
        threads={n: Thread(n, str(n), n, 0, n == 2) for n in threads},
        folds=[],
        notes=[],
    )


def describe(history: History) -> dict[str, Any]:
    return {
        "regions": [_describe_region(region) for region in history.regions],
        "transitions": [
            [getattr(change, f.name) for f in fields(change) if f.name != "region"]
            + [None if change.region is None else change.region.number]
            for change in history.transitions
        ],
        "marks": [(m.op, m.key, None if m.region is None else m.region.number, m.phase) for m in history.marks],
        "timelines": [
            {f.name: getattr(t, f.name) for f in fields(t) if f.name != "doubtful"} for t in history.timelines
        ],
        "order": [list(t.ns_by_state) for t in history.timelines],
        "rest": (history.hidden, history.end_ns, len(history.calls)),
    }


def _describe_region(region: Region) -> dict[str, Any]:
    values = {f.name: getattr(region, f.name) for f in fields(region)}
    inner = [each.number for each in region.reentrant_regions]
    return {**values, "parent": region.parent and region.parent.number, "reentrant_regions": inner}


@pytest.mark.parametrize("include_torch", [False, True])
def test_runs_mean_the_same_as_their_events(include_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    for seed in range(examples(1_500)):
        contents = make_contents(seed)
        monkeypatch.setattr(regular_blocks, "MIN_EVENTS", 1 << 30)
        one_by_one = interpreter.interpret(contents, include_torch=include_torch)
        monkeypatch.setattr(regular_blocks, "MIN_EVENTS", 2)
        in_runs = interpreter.interpret(contents, include_torch=include_torch)
        assert describe(in_runs) == describe(one_by_one), f"seed {seed}"
        taken += len(in_runs.regions) - len(in_runs.regions._objects)
    assert taken > 100
