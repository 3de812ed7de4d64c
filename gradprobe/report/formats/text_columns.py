"""Tables in columns that fit a width: without columns that say nothing, and with long texts shortened.

Where that is not enough, columns at the right are left out and named; or, if everything is asked for, the table continues
below with its first column repeated.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradprobe.report.document import Table
from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.units import MISSING, FormattedLocation, truncate, truncate_start

_GAP = 2
_MIN_TEXT = 16
_MAX_TEXT = 48
"""Widths to which a column of text may be shortened, and to which it always is."""
_MIN_NAME = 28
"""Width to which the names of a tree may be shortened."""
_INDENT = 2
_NOTHING = frozenset({"", MISSING, "0", "0 B", "0 ns", "0.0 %"})


def format_table(table: Table, style: TextStyle) -> list[str]:
    """Return the lines of ``table``."""
    table = _indent(table)
    width, shows_all = style.table_width, style.shows_all
    min_text = _MIN_NAME if table.tree else _MIN_TEXT
    columns = [at for at, _ in enumerate(table.columns) if shows_all or at == 0 or not _says_nothing(table, at)]
    widths = _fit_widths(table, columns, width, min_text)
    if shows_all and _sum_widths(widths) > width:  # it continues below, where there is more room for texts
        widths = _fit_widths(table, columns, width, max(min_text, (width - _GAP) // 2))
    parts = _split_columns(columns, widths, width)
    if shows_all:
        return [line for number, part in enumerate(parts) for line in (*[""][:number], *_lay_out(table, part, widths))]
    left_out = [table.columns[at] for part in parts[1:] for at in part[1:]]
    return _lay_out(table, parts[0], widths) + _describe_left_out(left_out, style)


def _indent(table: Table) -> Table:
    """Return a table whose first column shows the names of a tree, those in others further to the right."""
    if not table.tree:
        return table
    names = [" " * (_INDENT * at.depth) + at.name for at in table.tree]
    return replace(table, rows=[(name, *row[1:]) for name, row in zip(names, table.rows, strict=True)])


def _says_nothing(table: Table, at: int) -> bool:
    """Return whether a column has nothing but zeros and missing values; text that is always the same says something."""
    return bool(table.rows) and all(row[at] in _NOTHING for row in table.rows)


def _sum_widths(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _fit_widths(table: Table, columns: Sequence[int], width: int, min_text: int) -> dict[int, int]:
    """Return the width of each column; while the table is too wide, the widest column of text becomes narrower."""
    widths = {
        at: max(len(table.columns[at]), *(min(len(row[at]), _MAX_TEXT) for row in table.rows), 0) for at in columns
    }
    texts = [at for at in columns if table.columns[at] not in table.numeric]
    while _sum_widths(widths) > width:
        widest = max(texts, key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= max(min_text, len(table.columns[widest])):
            break
        widths[widest] -= 1
    return widths


def _split_columns(columns: Sequence[int], widths: dict[int, int], width: int) -> list[list[int]]:
    """Split the columns into parts that fit the width, each beginning with the first column."""
    parts, used = [list(columns[:1])], widths[columns[0]]
    for at in columns[1:]:
        if used + _GAP + widths[at] > width and len(parts[-1]) > 1:
            parts.append([columns[0]])
            used = widths[columns[0]]
        parts[-1].append(at)
        used += _GAP + widths[at]
    return parts


def _lay_out(table: Table, columns: Sequence[int], widths: dict[int, int]) -> list[str]:
    def align(text: str, at: int) -> str:
        return text.rjust(widths[at]) if table.columns[at] in table.numeric else text.ljust(widths[at])

    def join(cells: Sequence[str]) -> str:
        return (" " * _GAP).join(align(text, at) for text, at in zip(cells, columns, strict=True)).rstrip()

    rows = [join([_shorten(row[at], widths[at]) for at in columns]) for row in table.rows]
    return [join([table.columns[at] for at in columns]), (" " * _GAP).join("-" * widths[at] for at in columns), *rows]


def _shorten(text: str, width: int) -> str:
    return truncate_start(text, width) if isinstance(text, FormattedLocation) else truncate(text, width)


def _describe_left_out(names: Sequence[str], style: TextStyle) -> list[str]:
    named = [name for name in names if name]
    text = f"(no room for {', '.join(named)}; {style.whole} shows {'it' if len(named) == 1 else 'them'})"
    return textwrap.wrap(text, style.table_width) if named else []
