"""Section on modules as a tree: what ran in each, by itself and with the modules in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradprobe._counted_nouns import pluralize
from gradprobe.recording.flow import BACKWARD_SITE, GRAD_SITE
from gradprobe.report.document import Section, Table, TreeRow
from gradprobe.report.units import MISSING, FormattedNumber, escape_unprintable, format_bytes, format_count
from gradprobe.tables.recording_tables import RecordingTables

_COLUMNS = ("module", "calls", "nodes", "saved", "gradient", "own calls", "own nodes", "own saved")
_OUTSIDE = "(outside modules)"
_MAX_DEPTH = 40


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build the section with the modules that ran the most operators; None if none ran in a module."""
    modules = tables.modules
    if modules.empty or not any(modules["module"]):
        return None
    shown = _select_largest(modules, top)
    rows = shown.to_dict("records")
    trains = any(
        site.op in (BACKWARD_SITE, GRAD_SITE) for process in tables.processes for site in process.flow.sites.values()
    )
    several = len(tables.processes) > 1
    tree = [_place(row, with_process=several) for row in rows]
    table = Table(
        _COLUMNS,
        [_build_row(row, trains=trains) for row in rows],
        frozenset(_COLUMNS[1:]),
        len(modules) - len(shown),
        tree=tree,
    )
    return Section("Modules", _describe(modules, trains=trains), table)


def _select_largest(modules: pd.DataFrame, top: int) -> pd.DataFrame:
    """Return the rows with the most operators in their order. No module has more of them than the one around it."""
    largest: pd.DataFrame = modules.sort_values("count", ascending=False, kind="stable").head(top).sort_index()
    return largest


def _describe(modules: pd.DataFrame, *, trains: bool) -> list[str]:
    roots = modules[(modules["depth"] == 0) & (modules["module"] != "")]
    number = int((modules["module"] != "").sum())
    outermost = "" if number == len(roots) else f", {len(roots):,} of them outermost"
    sentences = [
        f"{pluralize(number, 'module')}{outermost}. Numbers include the modules inside; those called own leave them out."
    ]
    starved = int((roots["parameters"] - roots["reached_parameters"]).sum())
    if trains and starved:
        all_of_them = pluralize(int(roots["parameters"].sum()), "parameter")
        sentences.append(f"No backward pass reached {starved:,} of {all_of_them} that require grad.")
    return sentences


def _place(row: Any, *, with_process: bool) -> TreeRow:
    if not row["module"]:
        return TreeRow(0, f"{_OUTSIDE}, process {row['process']}" if with_process else _OUTSIDE)
    name = escape_unprintable(row["name"])
    if row["depth"] == 0:
        if row["root_class"] != row["name"]:
            name += f" ({escape_unprintable(row['root_class'])})"
        if with_process:
            name += f", process {row['process']}"
    return TreeRow(min(int(row["depth"]), _MAX_DEPTH), name)


def _build_row(row: Any, *, trains: bool) -> Sequence[str]:
    return (
        (escape_unprintable(row["module"]) or _OUTSIDE, format_count(row["count"]), format_count(row["nodes"]))
        + (format_bytes(row["saved_bytes"]), _format_gradient(row, trains=trains))
        + (format_count(row["self_count"]), format_count(row["self_nodes"]), format_bytes(row["self_saved_bytes"]))
    )  # fmt: skip


def _format_gradient(row: Any, *, trains: bool) -> str:
    """Format how many of the parameters a backward pass reached; nothing where none began."""
    reached, parameters = row["reached_parameters"], row["parameters"]
    return FormattedNumber(f"{reached:,} of {parameters:,}", reached) if parameters and trains else MISSING
