"""The parts of a report that tell what operators did: by site, operator, line and module, with sums that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from gradprobe.report.document import Section, Table
from gradprobe.report.units import escape_unprintable, format_bytes, format_count, format_location, pluralize
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_cells import backward_nodes

_SUMMED = [
    "count",
    "nodes",
    "saved_bytes",
    "graph_bytes",
    "version_bumps",
    "counters_created",
    "tracked_views",
    "untracked_views",
    "inference_outputs",
]
_HEADINGS = [
    "calls",
    "nodes",
    "saved",
    "by graph alone",
    "bumps",
    "counters",
    "views tracked",
    "untracked",
    "inference",
]
_BYTES = {"saved_bytes", "graph_bytes"}


def build_sections(tables: RecordingTables, top: int) -> list[Section | None]:
    """What operators did; nothing where none were recorded."""
    ops = tables.ops
    if ops.empty:
        return []
    return [
        _by_site(tables, top),
        _grouped("Operators", ops, {"operator": "op", "phase": "phase"}, top, _saved_again(tables)),
        _grouped("Operators by line", _with_places(ops), {"site": "site", "operator": "op", "node": "node"}, top),
        _grouped("Operators by module", ops, {"module": "module"}, top) if any(ops["module"]) else None,
        _births(tables, top),
    ]


def summarize_operators(tables: RecordingTables) -> list[str]:
    """The account in a few sentences."""
    lines = []
    ops = tables.ops
    if not ops.empty:
        sums = ops[_SUMMED].sum()
        saved, of_graphs = _saved(tables)
        is_known = all(process.counts_saved for process in tables.processes)
        of_it = (
            f"{format_bytes(saved)} saved for backward ({format_bytes(of_graphs)} of it by the graph alone), "
            if is_known
            else ""
        )
        lines.append(
            f"{pluralize(int(sums['count']), 'operator')} ran: {pluralize(int(sums['nodes']), 'autograd node')}, "
            f"{of_it}{pluralize(int(sums['version_bumps']), 'bump')} of version counters, {format_count(sums['counters_created'])} "
            f"counters created, {pluralize(int(sums['inference_outputs']), 'inference tensor')}."
        )
        failed = int(ops["failed_version_reads"].sum())
        if failed:
            lines.append(f"{pluralize(failed, 'read')} of _version failed: inference tensors have no version counter.")
        halfway = int(ops["normal_without_counter"].sum() + ops["inference_with_counter"].sum())
        if halfway:
            lines.append(
                f"{pluralize(halfway, 'use')} of a tensor that is half an inference tensor: its data was replaced inside "
                "inference mode. Give it new data outside: p.data = p.data.clone()."
            )
    built, dropped = _dropped(tables)
    if dropped:
        lines.append(f"Of {pluralize(built, 'node')} constructed in blocks, no backward reached {dropped:,}.")
    lines += _pins(tables.calls)
    births = tables.births
    if len(births) and births["count"].sum():
        held = f", {int(births['alive'].sum()):,} to the end" if births["alive"].sum() else ""
        lines.append(f"{pluralize(int(births['count'].sum()), 'inference tensor')} outlived inference mode{held}.")
    return lines


def _saved(tables: RecordingTables) -> tuple[int, int]:
    """The bytes saved for backward, each storage once, and those that graphs alone keep; of added up operators as often
    as they saved them."""
    saved = of_graphs = 0
    for process in tables.processes:
        known = process.op_totals
        saved += sum(known.storages.values()) + sum(fold.sums[0] for fold in process.contents.op_folds)
        of_graphs += sum(known.of_graphs.values())
    return saved, of_graphs


def _dropped(tables: RecordingTables) -> tuple[int, int]:
    """The nodes constructed in outermost blocks, and those of them that no backward reached, where both are known."""
    built = reached = 0
    for process in tables.processes:
        for region in process.history.regions:
            backward = backward_nodes(process, region) if region.parent is None else None
            if backward is not None and region.nodes:
                built, reached = built + region.nodes, reached + backward
    return built, built - reached


def _pins(calls: pd.DataFrame) -> list[str]:
    """Of each probed function that returns a graph: what its largest result keeps alive."""
    lines = []
    pinning = calls[calls["returned_nodes"].fillna(0) > 0]
    for function, group in list(pinning.groupby("function", sort=False))[:3]:
        worst = group.sort_values(["returned_nodes", "returned_graph_bytes"]).iloc[-1]
        pinned = worst["returned_graph_bytes"]
        memory = "" if pd.isna(pinned) else f" and {format_bytes(pinned)}"
        lines.append(
            f"{escape_unprintable(str(function))} returned a result that pins {pluralize(int(worst['returned_nodes']), 'node')}{memory}."
        )
    return lines


def _by_site(tables: RecordingTables, top: int) -> Section | None:
    sites = tables.sites[tables.sites["counters_created"].notna()]
    if sites.empty:
        return None
    columns = ["site", "manager", "nodes", "reached by backward", *_HEADINGS[2:]]
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
    return Section("What ran in the blocks of each site", table=table)


def _with_places(ops: pd.DataFrame) -> pd.DataFrame:
    located: pd.DataFrame = ops.copy()
    located["site"] = [format_location(file, line) for file, line in zip(ops["file"], ops["line"], strict=True)]
    return located


def _saved_again(tables: RecordingTables) -> Sequence[str]:
    """Why the table says more bytes than the first lines do, where it does."""
    more = int(tables.ops["saved_bytes"].sum()) - _saved(tables)[0]
    if more <= 0:
        return ()
    return (
        f"What several blocks saved counts in each of them here: {format_bytes(more)} more than in memory at most.",
    )


def _grouped(
    title: str, ops: pd.DataFrame, by: dict[str, str], top: int, sentences: Sequence[str] = ()
) -> Section | None:
    """A table of sums, the most frequent first; its last rows are what is left out, and the whole."""
    if ops.empty:
        return None
    groups = ops.groupby(list(by.values()), dropna=False, sort=False)[_SUMMED].sum(min_count=1)
    groups = groups.sort_values(["count", "nodes"], ascending=False, kind="stable")
    rows = [
        (*map(_text, key if isinstance(key, tuple) else (key,)), *_cells(sums))
        for key, (_, sums) in zip(groups.index[:top], groups.iloc[:top].iterrows(), strict=True)
    ]
    filler = ("",) * (len(by) - 1)
    if len(groups) > top:
        rows.append((f"({len(groups) - top:,} more)", *filler, *_cells(groups.iloc[top:].sum(min_count=1))))
    rows.append(("in all", *filler, *_cells(groups.sum(min_count=1))))
    table = Table((*by, *_HEADINGS), rows, frozenset(_HEADINGS), sums=1 + (len(groups) > top))
    return Section(title, sentences, table)


def _cells(sums: pd.Series[int]) -> list[str]:
    shown: list[Callable[[object], str]] = [format_bytes if name in _BYTES else format_count for name in _SUMMED]
    return [show(sums[name]) for show, name in zip(shown, _SUMMED, strict=True)]


def _births(tables: RecordingTables, top: int) -> Section | None:
    births = tables.births
    if births.empty:
        return None
    by_place = _births_by_place(births)
    rows: Sequence[Sequence[str]] = [
        (
            format_location(b["file"], b["line"]),
            b["op"],
            b["module"] or "-",
            format_count(b["count"]),
            format_bytes(b["bytes"]),
        )
        + (format_count(b["alive"]), escape_unprintable(b["held_by"]) or "-")
        for b in by_place.head(top).to_dict("records")
    ]
    columns = ("born at", "operator", "module", "tensors", "bytes", "alive at the end", "held by")
    sentence = "Training that meets one of them fails; x.clone() outside of inference mode gives a normal tensor."
    table = Table(columns, rows, frozenset(columns[3:6]), max(len(by_place) - top, 0))
    return Section("Inference tensors that outlived inference mode", [sentence], table)


def _births_by_place(births: pd.DataFrame) -> pd.DataFrame:
    """One row per place, of all the blocks that ran there."""
    sums = births.groupby(["file", "line", "op", "module"], dropna=False, sort=False).agg(
        count=("count", "sum"), bytes=("bytes", "sum"), alive=("alive", "sum"), held_by=("held_by", _joined)
    )
    found: pd.DataFrame = sums.reset_index().sort_values("bytes", ascending=False, kind="stable")
    return found


def _joined(names: pd.Series[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name))


def _text(value: object) -> str:
    return "-" if value is None or value == "" or value != value else escape_unprintable(str(value))
