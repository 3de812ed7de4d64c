"""CSV for spreadsheets: the sites in the requested file, every other table in a file beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.comparison_table import build_comparison_table
from gradprobe.report.formats.rendered import Rendered, RenderOptions, TextParts
from gradprobe.report.units import escape_unprintable
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_columns import SITES

ATTACHED_TABLES = tuple(table.name for table in RECORDING_TABLES if table is not SITES)


_PART_ROWS = 50_000
"""Number of rows of a table that are made at a time: a long recording has millions."""


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the tables of a recording; a report that is not written to a file has no attachments."""
    names = () if options.stem is None else ATTACHED_TABLES
    return Rendered(
        _to_csv(tables.sites),
        {f"{options.stem}.{name}.csv": TextParts(partial(_write_table, tables, name)) for name in names},
    )


def render_tables(tables: RecordingTables) -> dict[str, str]:
    """Return the CSV of every table of a recording, by the name of the table."""
    return {name: "".join(_write_table(tables, name)) for name in ("sites", *ATTACHED_TABLES)}


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the table of a comparison."""
    return Rendered(_to_csv(build_comparison_table(outcome)))


def _write_table(tables: RecordingTables, name: str) -> Iterator[str]:
    """Yield the CSV of a table, a part of its rows at a time."""
    yield _to_csv(tables.read_rows(name, slice(_PART_ROWS)))
    for first in range(_PART_ROWS, tables.count_rows(name), _PART_ROWS):
        yield _to_csv(tables.read_rows(name, slice(first, first + _PART_ROWS)), has_header=False)


def _to_csv(table: pd.DataFrame, *, has_header: bool = True) -> str:
    """Return a line per row, with missing values empty and the line ends of RFC 4180."""
    text = io.StringIO()
    # DataFrame.to_csv takes several times as long.
    writer = csv.writer(text, lineterminator="\r\n")
    if has_header:
        writer.writerow(table.columns)
    writer.writerows(zip(*(_list_cells(column) for _, column in table.items()), strict=True))
    return text.getvalue()


def _list_cells(column: pd.Series[Any]) -> list[Any]:
    """Return the values of a column as they are written, None for those that are missing."""
    if isinstance(column.dtype, pd.StringDtype):
        codes, texts = pd.factorize(column)
        shown = np.empty(len(texts) + 1, object)
        shown[:] = [*map(_neutralize_formula, texts.tolist()), None]  # the last is that of missing ones, -1
        cells: list[Any] = shown[codes].tolist()
        return cells
    missing = column.isna().to_numpy()
    values = column.tolist()
    if column.dtype == object:
        values = [_neutralize_formula(value) for value in values]
    return [None if is_missing else value for value, is_missing in zip(values, missing, strict=True)]


def _neutralize_formula(value: object) -> object:
    """Return text on one line that a spreadsheet does not run as a formula; other values pass through.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    if not isinstance(value, str):
        return value
    text = escape_unprintable(value)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20") else text
