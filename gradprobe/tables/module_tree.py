"""Tree of modules: what ran in each, by itself and with the modules in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.history.op_table import OpTable
from gradprobe.history.process import Process
from gradprobe.history.row_groups import number_groups, sum_groups
from gradprobe.recording.module_roots import split_path
from gradprobe.recording.op_rows import OpCounts
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.ledger_columns import MODULES


@dataclass
class _Sums:
    """Operators, nodes and saved bytes; parameters, and those that a backward pass reached."""

    count: int = 0
    nodes: int = 0
    saved_bytes: int = 0
    parameters: int = 0
    reached: int = 0

    def add(self, other: _Sums) -> None:
        """Add the numbers of another one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class _Module:
    own: _Sums = field(default_factory=_Sums)
    total: _Sums = field(default_factory=_Sums)
    children: dict[str, _Module] = field(default_factory=dict)

    def add(self, steps: Sequence[str], sums: _Sums) -> None:
        """Add what ran in the module at a path in this one, to that and to all on the way."""
        module = self
        module.total.add(sums)
        for step in steps:
            module = module.children.setdefault(step, _Module())
            module.total.add(sums)
        module.own.add(sums)


def build_modules(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of modules, the outermost ones with the most operators first, and those in them as they ran."""
    return make_dataframe(MODULES, [row for process in processes for row in _iter_rows(process)])


def _iter_rows(process: Process) -> Iterator[tuple[Any, ...]]:
    whole = _build_tree(process)
    if whole.own.count:
        outside = _Module(whole.own, whole.own)
        yield _make_row(process, [], outside)
    waiting = sorted(whole.children.items(), key=lambda item: item[1].total.count)
    pending = [([name], module) for name, module in waiting]
    while pending:
        steps, module = pending.pop()
        if not module.total.count:
            continue  # known by its parameters alone
        yield _make_row(process, steps, module)
        pending += [([*steps, name], child) for name, child in reversed(module.children.items())]


def _build_tree(process: Process) -> _Module:
    whole = _Module()
    for path, sums in _sum_by_module(process.op_totals.ops):
        whole.add(split_path(path), sums)
    for use in process.leaf_uses.values():
        steps = split_path(use.leaf.name)
        if len(steps) > 1 and use.leaf.is_parameter:
            whole.add(steps[:-1], _Sums(parameters=1, reached=int(bool(use.backwards or use.grads))))
    return whole


def _sum_by_module(ops: OpTable) -> Iterator[tuple[str, _Sums]]:
    """Yield the operators, nodes and saved bytes of each module by itself, in the order in which they first ran."""
    of = ops.columns
    number_of = {path: number for number, path in enumerate(dict.fromkeys(name.module for name in ops.names))}
    modules = np.array([number_of[name.module] for name in ops.names] or [0])[of.name]
    groups, firsts = number_groups(modules)
    counts = OpCounts._fields
    columns = (of.counts[counts.index("calls")], of.counts[counts.index("nodes")], of.saved_bytes)
    sums = (sum_groups(column, groups, len(firsts)).tolist() for column in columns)
    paths = list(number_of)
    for module, *values in zip(modules[firsts].tolist(), *sums, strict=True):
        yield paths[module], _Sums(*values)


def _make_row(process: Process, steps: Sequence[str], module: _Module) -> tuple[Any, ...]:
    own, total = module.own, module.total
    root = steps[0] if steps else ""
    saved = (total.saved_bytes, own.saved_bytes) if process.counts_saved else (None, None)
    return (
        (".".join(steps), steps[-1] if steps else "", ".".join(steps[:-1]), max(len(steps) - 1, 0))
        + (process.module_names.classes.get(root, root), total.count, own.count, total.nodes, own.nodes, *saved)
        + (total.parameters, total.reached, process.pid, process.rank)
    )
