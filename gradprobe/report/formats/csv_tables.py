"""CSV for spreadsheets, one file per table: the sites in the file that was asked for, every other table beside it."""

from __future__ import annotations

import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.comparison_table import build_comparison_table
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.units import escape_unprintable
from gradprobe.tables.recording_tables import RecordingTables

ATTACHED_TABLES = ("transitions", "regions", "ops", "births", "calls", "findings")


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """The tables of a recording; beside a report that goes to no file there is none."""
    beside = (
        {}
        if options.stem is None
        else {f"{options.stem}.{name}.csv": _text(getattr(tables, name)) for name in ATTACHED_TABLES}
    )
    return Rendered(_text(tables.sites), beside)


def render_tables(tables: RecordingTables) -> dict[str, str]:
    """Return the CSV of every table of a recording, by the name of the table."""
    return {name: _text(getattr(tables, name)) for name in ("sites", *ATTACHED_TABLES)}


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """The table of a comparison."""
    return Rendered(_text(build_comparison_table(outcome)))


def _text(table: pd.DataFrame) -> str:
    """One line per row, missing values empty, line ends as RFC 4180 has them."""
    shown = table.copy()
    for name in shown.columns:
        if shown[name].dtype == object or isinstance(shown[name].dtype, pd.StringDtype):
            shown[name] = [_harmless(value) for value in shown[name]]
    return str(shown.to_csv(index=False, lineterminator="\r\n"))


def _harmless(value: object) -> object:
    """``value``, where it is text, on one line and so that no spreadsheet takes it for a formula.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    if not isinstance(value, str):
        return value
    text = escape_unprintable(value)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20") else text
