"""DataFrames made of the columns of a history, without an object per row: long tables have a million rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.region_table import TextColumn
from gradprobe.tables import column_definition

TEXT_DTYPE = pd.Series([""]).dtype
"""Dtype of columns of text: ``str`` since pandas 3, ``object`` before."""


class OptionalColumn(NamedTuple):
    """Column of numbers of which some are missing."""

    values: Column
    is_known: Column


Cells = Column | TextColumn | OptionalColumn
"""Cells of one column of a table. Few different values, numbers too, are a ``TextColumn``."""


def make_dataframe(table: column_definition.Table, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Return a DataFrame of ``rows`` with the columns and dtypes of ``table``; what is missing is None or NaN."""
    values = list(zip(*rows, strict=True)) or [()] * len(table.columns)
    frame: pd.DataFrame = pd.DataFrame(
        {column.name: make_series(column, list(one)) for column, one in zip(table.columns, values, strict=True)}
    )
    return frame


def make_series(column: column_definition.Column, values: list[Any]) -> pd.Series[Any]:
    """Return a list of values as a column of its dtype."""
    dtype: Any = TEXT_DTYPE if column.dtype == "str" else column.dtype
    cells: pd.Series[Any]
    try:
        cells = pd.Series(values, dtype=dtype)
    except OverflowError:
        # Numbers of a damaged or edited file fit into 64 bits, but sums of them may not.
        cells = pd.Series(values, dtype="object")
    return cells


def make_frame(table: column_definition.Table, cells: Sequence[Cells]) -> pd.DataFrame:
    """Return a DataFrame of cells with the columns and dtypes of ``table``."""
    frame: pd.DataFrame = pd.DataFrame(
        {column.name: _fill_series(column, one) for column, one in zip(table.columns, cells, strict=True)}
    )
    return frame


def join_cells(parts: Sequence[Sequence[Cells]]) -> list[Cells]:
    """Return the cells of several tables with the same columns, one after the other."""
    return list(parts[0]) if len(parts) == 1 else [_join(column) for column in zip(*parts, strict=True)]


def take_cells(cells: Cells, order: Column) -> Cells:
    """Return the cells at the positions ``order``."""
    if isinstance(cells, TextColumn):
        return cells.take(order)
    if isinstance(cells, OptionalColumn):
        return OptionalColumn(cells.values[order], cells.is_known[order])
    taken: Column = cells[order]
    return taken


def repeat_cell(value: Any, number: int) -> TextColumn:
    """Return the same value in a number of rows."""
    return TextColumn(np.zeros(number, np.uint8), [value])


def list_places(process: Process, sites: Column) -> tuple[TextColumn, TextColumn, TextColumn]:
    """Return file, line and function of sites."""
    different, which = np.unique(sites, return_inverse=True)
    places = [process.place(site) for site in different.tolist()]
    file, line, function = (TextColumn(which, [place[part] for place in places]) for part in range(3))
    return file, line, function


def list_threads(process: Process, threads: Column) -> TextColumn:
    """Return the names of threads."""
    different, which = np.unique(threads, return_inverse=True)
    return TextColumn(which, [process.thread(thread) for thread in different.tolist()])


def _join(parts: Sequence[Cells]) -> Cells:
    if all(isinstance(part, TextColumn) for part in parts):
        return TextColumn.joined([part for part in parts if isinstance(part, TextColumn)])
    if all(isinstance(part, OptionalColumn) for part in parts):
        optional = [part for part in parts if isinstance(part, OptionalColumn)]
        return OptionalColumn(
            np.concatenate([part.values for part in optional]), np.concatenate([part.is_known for part in optional])
        )
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def _fill_series(column: column_definition.Column, cells: Cells) -> pd.Series[Any]:
    filled: pd.Series[Any]
    if isinstance(cells, TextColumn):
        if column.dtype == "Int64":
            known = np.array([value is not None for value in cells.texts] or [False], bool)
            values = make_series(column, [value or 0 for value in cells.texts] or [0]).to_numpy()
            return _fill_series(column, OptionalColumn(values[cells.numbers], known[cells.numbers]))
        dtype: Any = TEXT_DTYPE if column.dtype == "str" else column.dtype
        texts = np.empty(max(len(cells.texts), 1), object)
        texts[:] = cells.texts or [""]
        filled = pd.Series(texts[cells.numbers], dtype=dtype)
        return filled
    if isinstance(cells, OptionalColumn):
        if cells.values.dtype == object:
            rows = zip(cells.values.tolist(), cells.is_known.tolist(), strict=True)
            return make_series(column, [value if is_known else None for value, is_known in rows])
        values = np.where(cells.is_known, cells.values, 1).astype(np.int64)
        filled = pd.Series(pd.arrays.IntegerArray(values, ~cells.is_known))
        return filled
    if cells.dtype == object:
        return make_series(column, cells.tolist())
    if column.dtype == "Int64":
        return _fill_series(column, OptionalColumn(cells, np.ones(len(cells), bool)))
    filled = pd.Series(cells, dtype=column.dtype)
    return filled
