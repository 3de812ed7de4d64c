"""Sections on operators: by site, operator, line and module, with sums that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from gradprobe._counted_nouns import pluralize
from gradprobe.history.region_table import add_up
from gradprobe.report.document import Section, Table
from gradprobe.report.units import escape_unprintable, format_bytes, format_count, format_location, format_text
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_cells import sum_backward_nodes

_SUMMED = {
    "count": "calls",
    "nodes": "nodes",
    "saved_bytes": "saved bytes",
    "graph_bytes": "graph-only bytes",
    "version_bumps": "version bumps",
    "counters_created": "counters created",
    "tracked_views": "tracked views",
    "untracked_views": "untracked views",
    "inference_outputs": "inference tensors",
}
"""Columns of the table of operators that are summed, with their headings in reports."""

_HEADINGS = tuple(_SUMMED.values())
_BYTES = {"saved_bytes", "graph_bytes"}


def build_sections(tables: RecordingTables, top: int) -> list[Section | None]:
    """Build the sections on operators; none if the recording has no operators."""
    ops = tables.ops
    if ops.empty:
        return []
    return [
        _build_site_section(tables, top),
        _build_grouped_section(
            "Operators", ops, {"operator": "op", "phase": "phase"}, top, _explain_repeated_bytes(tables)
        ),
        _build_grouped_section(
            "Operators by line", _add_sites(ops), {"site": "site", "operator": "op", "node": "node"}, top
        ),
        _build_births_section(tables, top),
    ]


def summarize_operators(tables: RecordingTables) -> list[str]:
    """Summarize the operators in a few sentences."""
    lines = []
    ops = tables.ops
    if not ops.empty:
        sums = ops[list(_SUMMED)].sum()
        saved, by_graphs = _sum_saved_bytes(tables)
        is_known = all(process.counts_saved for process in tables.processes)
        memory = f"{format_bytes(saved)} saved for backward ({format_bytes(by_graphs)} of it by the graph alone)"
        parts = [
            pluralize(int(sums["nodes"]), "autograd node"),
            *([memory] if is_known else ()),
            pluralize(int(sums["version_bumps"]), "version bump"),
            f"{format_count(sums['counters_created'])} version counters created",
            pluralize(int(sums["inference_outputs"]), "inference tensor"),
        ]
        lines.append(f"{pluralize(int(sums['count']), 'operator')} ran: {', '.join(parts)}.")
        failed = int(ops["failed_version_reads"].sum())
        if failed:
            lines.append(f"{pluralize(failed, 'read')} of _version failed: inference tensors have no version counter.")
        halfway = int(ops["normal_without_counter"].sum() + ops["inference_with_counter"].sum())
        if halfway:
            lines.append(
                f"{pluralize(halfway, 'use')} of a tensor whose .data was replaced inside inference mode, so that it is "
                "only partly an inference tensor. Replace it again outside inference mode: p.data = p.data.clone()."
            )
    created, unreached = _count_unreached_nodes(tables)
    if unreached:
        lines.append(f"Of {pluralize(created, 'node')} created in blocks, no backward reached {unreached:,}.")
    lines += _describe_returned_graphs(tables.calls)
    births = tables.births
    if len(births) and births["count"].sum():
        alive = int(births["alive"].sum())
        held = f"; {alive:,} {'was' if alive == 1 else 'were'} still referenced at the end" if alive else ""
        lines.append(f"{pluralize(int(births['count'].sum()), 'inference tensor')} escaped from inference mode{held}.")
    return lines


def _sum_saved_bytes(tables: RecordingTables) -> tuple[int, int]:
    """Return the bytes saved for backward, each storage once, and the part that only graphs keep alive.

    Operators beyond the limit of events were summed up, and count as often as they saved.
    """
    saved = by_graphs = 0
    for process in tables.processes:
        totals = process.op_totals
        saved += totals.saved_bytes + sum(fold.sums[0] for fold in process.contents.op_folds)
        by_graphs += totals.graph_bytes
    return saved, by_graphs


def _count_unreached_nodes(tables: RecordingTables) -> tuple[int, int]:
    """Count nodes created in outermost blocks and those that no backward reached, if both are known."""
    created = reached = 0
    for process in tables.processes:
        columns = process.history.regions.columns
        counted = np.flatnonzero((columns.parent < 0) & columns.counts_nodes)
        backward = sum_backward_nodes(process, counted)
        if backward is not None:
            created, reached = created + add_up(columns.nodes[counted]), reached + backward
    return created, created - reached


def _describe_returned_graphs(calls: pd.DataFrame) -> list[str]:
    """Describe what the largest result of each probed function that returns a graph keeps alive."""
    lines = []
    returning = calls[calls["returned_nodes"].fillna(0) > 0]
    for function, group in list(returning.groupby("function", sort=False))[:3]:
        worst = group.sort_values(["returned_nodes", "returned_graph_bytes"]).iloc[-1]
        kept = pluralize(int(worst["returned_nodes"]), "node")
        if not pd.isna(worst["returned_graph_bytes"]):
            kept += f" and {format_bytes(worst['returned_graph_bytes'])}"
        lines.append(f"{escape_unprintable(str(function))} returned a result that keeps {kept} alive.")
    return lines


def _build_site_section(tables: RecordingTables, top: int) -> Section | None:
    sites = tables.sites[tables.sites["counters_created"].notna()]
    if sites.empty:
        return None
    columns = ["site", "manager", "nodes", "nodes reached by backward", *_HEADINGS[2:]]
    rows = [
        (
            format_location(s["file"], s["line"]),
            s["manager"],
            format_count(s["nodes"]),
            format_count(s["backward_nodes"]),
        )
        + (
            format_bytes(s["saved_bytes"]),
            format_bytes(s["graph_bytes"]),
            format_count(s["version_bumps"]),
            format_count(s["counters_created"]),
        )
        + (format_count(s["tracked_views"]), format_count(s["untracked_views"]), format_count(s["inference_tensors"]))
        for s in sites.head(top).to_dict("records")
    ]
    table = Table(columns, rows, frozenset(columns[2:]), max(len(sites) - top, 0))
    return Section("Work by site", table=table)


def _add_sites(ops: pd.DataFrame) -> pd.DataFrame:
    located: pd.DataFrame = ops.copy()
    places = list(zip(ops["file"], ops["line"], strict=True))
    names = {place: format_location(*place) for place in dict.fromkeys(places)}
    located["site"] = [names[place] for place in places]
    return located


def _explain_repeated_bytes(tables: RecordingTables) -> Sequence[str]:
    """Explain why the table sums to more bytes than the summary, if it does."""
    more = int(tables.ops["saved_bytes"].sum()) - _sum_saved_bytes(tables)[0]
    if more <= 0:
        return ()
    return (
        f"Storages saved in several blocks count in each of them: {format_bytes(more)} more here than was in memory.",
    )


def _build_grouped_section(
    title: str, ops: pd.DataFrame, by: dict[str, str], top: int, sentences: Sequence[str] = ()
) -> Section | None:
    """Build a table of sums, the most frequent first; its last rows sum up the rest and the whole."""
    if ops.empty:
        return None
    groups = ops.groupby(list(by.values()), dropna=False, sort=False)[list(_SUMMED)].sum(min_count=1)
    groups = groups.sort_values(["count", "nodes"], ascending=False, kind="stable")
    rows = [
        (*map(format_text, key if isinstance(key, tuple) else (key,)), *_format_sums(sums))
        for key, (_, sums) in zip(groups.index[:top], groups.iloc[:top].iterrows(), strict=True)
    ]
    filler = ("",) * (len(by) - 1)
    if len(groups) > top:
        rows.append((f"({len(groups) - top:,} more)", *filler, *_format_sums(groups.iloc[top:].sum(min_count=1))))
    rows.append(("total", *filler, *_format_sums(groups.sum(min_count=1))))
    table = Table((*by, *_HEADINGS), rows, frozenset(_HEADINGS), sums=1 + (len(groups) > top))
    return Section(title, sentences, table)


def _format_sums(sums: pd.Series[int]) -> list[str]:
    shown: list[Callable[[object], str]] = [format_bytes if name in _BYTES else format_count for name in _SUMMED]
    return [show(sums[name]) for show, name in zip(shown, _SUMMED, strict=True)]


def _build_births_section(tables: RecordingTables, top: int) -> Section | None:
    births = tables.births
    if births.empty:
        return None
    by_site = _sum_by_creation_site(births)
    rows: Sequence[Sequence[str]] = [
        (
            format_location(b["file"], b["line"]),
            b["op"],
            format_text(b["module"]),
            format_count(b["count"]),
            format_bytes(b["bytes"]),
        )
        + (format_count(b["alive"]), format_text(b["held_by"]))
        for b in by_site.head(top).to_dict("records")
    ]
    columns = ("created at", "operator", "module", "tensors", "bytes", "still referenced", "referenced by")
    sentence = "Training on one of them fails; x.clone() outside inference mode returns a normal tensor."
    table = Table(columns, rows, frozenset(columns[3:6]), max(len(by_site) - top, 0))
    return Section("Escaped inference tensors", [sentence], table)


def _sum_by_creation_site(births: pd.DataFrame) -> pd.DataFrame:
    """Sum the table of creation sites over the blocks that ran at each site."""
    sums = births.groupby(["file", "line", "op", "module"], dropna=False, sort=False).agg(
        count=("count", "sum"), bytes=("bytes", "sum"), alive=("alive", "sum"), held_by=("held_by", _join_names)
    )
    found: pd.DataFrame = sums.reset_index().sort_values("bytes", ascending=False, kind="stable")
    return found


def _join_names(names: pd.Series[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name))
