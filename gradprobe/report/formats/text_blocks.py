"""Tables and source excerpts as text, for the formats that are read as text."""

from __future__ import annotations

from collections.abc import Callable

from tabulate import tabulate

from gradprobe.report.document import Excerpt, Table


def format_table(table: Table, style: str, format_cell: Callable[[str, str], str]) -> str:
    """Lay out ``table`` in one of tabulate's styles.

    ``format_cell`` is called with the text and the column of each cell.
    """
    return tabulate(
        [[format_cell(text, column) for text, column in zip(row, table.columns, strict=True)] for row in table.rows],
        headers=table.columns,
        tablefmt=style,
        # Otherwise a function called "1e3" would be shown as 1000.
        disable_numparse=True,
        colalign=["right" if column in table.numeric else "left" for column in table.columns] if table.rows else None,
    )


def format_excerpt(excerpt: Excerpt) -> list[str]:
    """Return the numbered lines of ``excerpt``, with the important one marked."""
    return [
        f"  {'>' if number == excerpt.marked else ' '}{number:5} {line}"
        for number, line in enumerate(excerpt.lines, excerpt.first)
    ]
