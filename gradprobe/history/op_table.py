"""Sums over operators as columns: a row per region, line, operator, module and thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.records import Region
from gradprobe.history.region_table import RegionTable
from gradprobe.history.row_groups import number_groups, sum_groups
from gradprobe.recording.op_rows import OpCounts


class OpName(NamedTuple):
    """Operator by its names: its own, that of the node it constructs, its module, and the phase of training."""

    op: str
    node: str | None
    module: str
    phase: str


class OpKey(NamedTuple):
    """Identity of a row of operators."""

    region: Region | None
    site: int
    op: str
    node: str | None
    module: str
    phase: str
    thread: int


@dataclass
class OpSum:
    """Sum over the operators of one row. A storage counts in the first row of its region that saved it."""

    account: OpCounts
    saved_bytes: int
    graph_bytes: int


@dataclass(frozen=True)
class OpColumns:
    """Fields of ``OpKey`` and ``OpSum`` as columns."""

    region: Column
    """Number of the region, -1 if there is none."""
    site: Column
    name: Column
    """Number of the ``OpName``."""
    thread: Column
    saved_bytes: Column
    graph_bytes: Column
    counts: tuple[Column, ...]
    """A column for each field of ``OpCounts``."""


class OpTable:
    """Rows of operators in the order in which the first of each ran."""

    def __init__(self, columns: OpColumns, names: Sequence[OpName], regions: RegionTable) -> None:
        self.columns, self.names, self._regions = columns, names, regions

    def __len__(self) -> int:
        return len(self.columns.site)

    def __iter__(self) -> Iterator[OpKey]:
        of = self.columns
        rows = zip(of.region.tolist(), of.site.tolist(), of.name.tolist(), of.thread.tolist(), strict=True)
        for number, site, name, thread in rows:
            region = None if number < 0 else self._regions[number]
            of_row = self.names[name]
            yield OpKey(region, site, of_row.op, of_row.node, of_row.module, of_row.phase, thread)

    def items(self) -> Iterator[tuple[OpKey, OpSum]]:
        """Yield each row and its sum."""
        of = self.columns
        counts = zip(*(column.tolist() for column in of.counts), strict=True)
        sizes = zip(of.saved_bytes.tolist(), of.graph_bytes.tolist(), strict=True)
        for key, account, size in zip(self, counts, sizes, strict=True):
            yield key, OpSum(OpCounts(*account), *size)

    @cached_property
    def without_regions(self) -> OpTable:
        """The sums over all regions."""
        of = self.columns
        groups, firsts = number_groups(of.site, of.name, of.thread)
        rows = OpColumns(np.full(len(of.site), -1, np.int32), *(getattr(of, f.name) for f in fields(of)[1:]))
        return OpTable(sum_columns(rows, groups, firsts), self.names, self._regions)


def sum_columns(rows: OpColumns, groups: Column, firsts: Column) -> OpColumns:
    """Return the sums over groups of rows, which have the keys of their first rows."""
    number = len(firsts)
    return OpColumns(
        rows.region[firsts],
        rows.site[firsts],
        rows.name[firsts],
        rows.thread[firsts],
        sum_groups(rows.saved_bytes, groups, number),
        sum_groups(rows.graph_bytes, groups, number),
        tuple(sum_groups(column, groups, number) for column in rows.counts),
    )
