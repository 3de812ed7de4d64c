"""CSV for spreadsheets: the sites in the requested file, every other table in a file beside it."""

from __future__ import annotations

import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.comparison_table import build_comparison_table
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.units import escape_unprintable
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_columns import SITES

ATTACHED_TABLES = tuple(table.name for table in RECORDING_TABLES if table is not SITES)


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the tables of a recording; a report that is not written to a file has no attachments."""
    names = () if options.stem is None else ATTACHED_TABLES
    return Rendered(
        _to_csv(tables.sites), {f"{options.stem}.{name}.csv": _to_csv(getattr(tables, name)) for name in names}
    )


def render_tables(tables: RecordingTables) -> dict[str, str]:
    """Return the CSV of every table of a recording, by the name of the table."""
    return {name: _to_csv(getattr(tables, name)) for name in ("sites", *ATTACHED_TABLES)}


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the table of a comparison."""
    return Rendered(_to_csv(build_comparison_table(outcome)))


def _to_csv(table: pd.DataFrame) -> str:
    """Return a line per row, with missing values empty and the line ends of RFC 4180."""
    shown = table.copy()
    for name in shown.columns:
        if shown[name].dtype == object or isinstance(shown[name].dtype, pd.StringDtype):
            shown[name] = [_neutralize_formula(value) for value in shown[name]]
    return str(shown.to_csv(index=False, lineterminator="\r\n"))


def _neutralize_formula(value: object) -> object:
    """Return text on one line that a spreadsheet does not run as a formula; other values pass through.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    if not isinstance(value, str):
        return value
    text = escape_unprintable(value)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20") else text
