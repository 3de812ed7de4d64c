"""Totals of operators: sums in columns are those of a reader that takes one tally after the other."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import numpy as np

from gradprobe.history.interpreter import interpret
from gradprobe.history.op_totals import OpTotals
from gradprobe.history.row_groups import number_groups, sum_groups
from gradprobe.recording.contents import Contents, OpFold, Site, Thread
from gradprobe.recording.events import (
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    PHASE,
    RECORDING_BEGINS,
    TALLY,
    THREAD,
    EventBlock,
)
from gradprobe.recording.module_roots import ModuleNames
from gradprobe.recording.op_rows import OpCounts, Operation, make_rows

GRAD = 0b0001
INSIDE = {NO_GRAD: 0b0000, INFERENCE_MODE: 0b0100}


def make_contents(seed: int) -> Contents:
    """Return a recording of blocks in two threads with tallies between their events, some of them in blocks of a run."""
    draw = random.Random(seed)
    rows: list[tuple[int, ...]] = [(THREAD | RECORDING_BEGINS, 0, 1, 0, GRAD | GRAD << 4, 0, 0, 0)]
    tallies: list[tuple[int, ...]] = []
    saved: list[tuple[int, ...]] = []

    def emit(op: int, thread: int, site: int, state: int, key: int) -> None:
        rows.append((op, 10 * len(rows), thread, site, state, key, draw.choice((0, 0, 0, 1)) if op == TALLY else 0, 0))

    for number in range(draw.choice((3, 30))):
        thread, manager = draw.choice((1, 2)), draw.choice((NO_GRAD, INFERENCE_MODE))
        emit(manager | ENTER, thread, 1, GRAD | INSIDE[manager] << 4, number)
        for _ in range(draw.randrange(4)):
            key = len(tallies) + 1
            emit(TALLY, draw.choice((thread, thread, 3 - thread)), draw.choice((2, 3)), GRAD | GRAD << 4, key)
            counts = OpCounts(calls=draw.randrange(5), nodes=draw.choice((1, 1 << 62)))
            tallies.append((key, draw.choice((1, 2, 9)), *counts))
            saved += [
                (key, draw.randrange(6), 8, draw.choice((-1, 5, 10 * len(rows)))) for _ in range(draw.randrange(3))
            ]
        if draw.random() < 0.3:
            emit(PHASE | draw.choice((ENTER, EXIT)), thread, 4, GRAD | GRAD << 4, draw.choice((1, 2)))
        emit(manager | EXIT, thread, 1, INSIDE[manager] | GRAD << 4, number)
    return Contents(
        meta={"began_ns": 0, "ended_ns": 10 * len(rows), "environment": {"level": "ops"}},
        blocks=[EventBlock.of(rows)],
        sites={n: Site(n, f"{n}.py", n, n, f"f{n}", "with", False) for n in range(1, 5)},
        names={1: "a task"},
        threads={n: Thread(n, str(n), n, 0, False) for n in (1, 2)},
        folds=[],
        notes=[],
        operations={1: Operation(1, "add", None, "", 0), 2: Operation(2, "add", None, "", 0)},
        accounts={
            "tallies": make_rows("tallies", draw.sample(tallies, len(tallies))),
            "saved": make_rows("saved", saved),
            "inputs": make_rows("inputs", [(1, 3)]),
        },
        op_folds=[OpFold(2, 1, 1, [7, 3, 2, *[0] * 11])] if draw.random() < 0.5 else [],
    )


def sum_one_by_one(contents: Contents) -> tuple[dict[Any, list[int]], dict[int, list[Any]], int]:
    """Return the calls, nodes, saved bytes and graph bytes by row, the same by region, and the saved bytes of all."""
    history = interpret(contents, include_torch=False)
    inputs = set(contents.accounts["inputs"]["storage"].tolist())
    rows: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    regions: dict[int, list[Any]] = defaultdict(lambda: [0, 0, {}])
    known: dict[int | None, set[int]] = defaultdict(set)
    sizes: dict[int, int] = {}
    for mark in history.marks:
        region = None if mark.region is None else mark.region.number
        for key, operation, calls, nodes, *_ in contents.accounts["tallies"].tolist():
            if key != mark.key:
                continue
            name = "add" if operation < 3 else f"operator {operation}"
            row = rows[region, mark.site, name, mark.thread]
            row[0], row[1] = row[0] + calls, row[1] + nodes
            if region is not None:
                regions[region][0] += calls
                regions[region][1] += nodes
            for its_key, storage, size, made in contents.accounts["saved"].tolist():
                if its_key == key and storage not in known[region]:
                    known[region].add(storage)
                    is_new = made >= 0 and storage not in inputs
                    row[2] += size
                    row[3] += size * (is_new if mark.region is None else made >= mark.region.start_ns)
                    sizes[storage] = size
                    if region is not None:
                        regions[region][2][storage] = size
    for fold in contents.op_folds:
        row = rows[None, fold.site, "add", fold.thread]
        row[:3] = row[0] + fold.sums[1], row[1] + fold.sums[2], row[2] + fold.sums[0]
    return dict(rows), dict(regions), sum(sizes.values())


def test_sums_in_columns_are_those_of_a_reader_of_single_tallies() -> None:
    inside = 0
    for seed in range(60):
        contents = make_contents(seed)
        history = interpret(contents, include_torch=False)
        totals = OpTotals(contents, history, ModuleNames([]))
        rows, regions, saved = sum_one_by_one(contents)
        found = {
            (key.region.number if key.region else None, key.site, key.op, key.thread): [
                known.account.calls, known.account.nodes, known.saved_bytes, known.graph_bytes,
            ]
            for key, known in totals.ops.items()
        }  # fmt: skip
        assert found == rows, f"seed {seed}"
        assert list(found) == list(rows), "in the order in which the first operators of each row ran"
        own = {
            region.number: [known.own.calls, known.own.nodes, {n: s.size for n, s in known.own_saved.items()}]
            for region, known in totals.regions.items()
        }
        assert own == regions
        assert totals.saved_bytes == saved
        inside += len(regions)
        merged: dict[Any, int] = defaultdict(int)
        for (_, site, op, thread), (calls, *_) in rows.items():
            merged[site, op, thread] += calls
        assert {
            (key.site, key.op, key.thread): known.account.calls for key, known in totals.ops.without_regions.items()
        } == merged
    assert inside > 100


def test_groups_are_in_the_order_of_their_first_rows_and_their_sums_are_exact() -> None:
    one, other = np.array([5, 5, 3, 5], np.uint64), np.array([1 << 63, 2, 1 << 63, 1 << 63], np.uint64)
    groups, firsts = number_groups(one, other)
    assert groups.tolist() == [0, 1, 2, 0]
    assert firsts.tolist() == [0, 1, 2]
    assert sum_groups(np.array([1 << 62, 1, 2, 1 << 62]), groups, 3).tolist() == [1 << 63, 1, 2]
