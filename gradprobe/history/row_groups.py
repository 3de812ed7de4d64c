"""Groups of rows that agree in all of several columns, and sums over each group."""

from __future__ import annotations

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.region_table import TextColumn

_MAX_CODE = 1 << 62


def group_rows(*columns: Column | TextColumn) -> list[Column]:
    """Return the rows that agree in all of the columns, group by group, the group with the first row first."""
    codes, span = _encode(columns)
    order = np.argsort(codes.astype(np.uint16) if span <= 1 << 16 else codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda rows: int(rows[0]))


def number_groups(*columns: Column | TextColumn) -> tuple[Column, Column]:
    """Return the number of the group that each row is in, and the first row of each group, in the order of the latter."""
    codes, _ = _encode(columns)
    _, firsts, group = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[group], firsts[order]


def sum_groups(values: Column, groups: Column, number: int) -> Column:
    """Return the exact sum of the values in each of a number of groups, of Python's integers where 64 bits may not do."""
    largest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0)))) if values.dtype != object else 0
    exact = values.astype(object if values.dtype == object or largest * len(values) >= _MAX_CODE else np.int64)
    sums = np.zeros(number, exact.dtype)
    np.add.at(sums, groups, exact)
    return sums


def _encode(columns: tuple[Column | TextColumn, ...]) -> tuple[Column, int]:
    """Return a number for each row that is the same where all columns are, and a limit of these numbers."""
    codes, span = np.zeros(len(_list_numbers(columns[0])), np.int64), 1
    for column in map(_list_numbers, columns):
        code, width = _rebase(column)
        if span * width >= _MAX_CODE:
            codes = np.unique(codes, return_inverse=True)[1]
            code = np.unique(code, return_inverse=True)[1]
            span, width = len(codes), len(codes)
        codes = codes * width + code
        span *= width
    return codes, span


def _list_numbers(column: Column | TextColumn) -> Column:
    return column.numbers if isinstance(column, TextColumn) else column


def _rebase(column: Column) -> tuple[Column, int]:
    """Return a column of integers from 0 on, and their number."""
    low, high = int(column.min(initial=0)), int(column.max(initial=0))
    if column.dtype == object or high - low >= _MAX_CODE:
        return np.unique(column, return_inverse=True)[1], max(len(column), 1)
    wide = column if column.dtype == np.uint64 else column.astype(np.int64)
    return (wide - wide.dtype.type(low)).astype(np.int64), high - low + 1
