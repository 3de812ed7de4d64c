"""Document of a recording, built by pure functions from its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.time_by_mode import MODES, sum_by_mode, sum_by_thread, sum_hidden_ns
from gradprobe.recording.events import UNKNOWN
from gradprobe.recording.rows import is_failure
from gradprobe.report.document import Chart, Document, Section, Table
from gradprobe.report.sections import (
    compile_tables,
    device_tables,
    findings_section,
    flow_section,
    graph_memory_section,
    lifecycle_tables,
    memory_tables,
    module_section,
    operator_tables,
    phase_tables,
    process_tables,
)
from gradprobe.report.sections.timeline import build_timeline
from gradprobe.report.units import (
    MISSING,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_location,
    format_percentage,
    format_text,
)
from gradprobe.tables.recording_tables import RecordingTables

DEFAULT_MAX_ROWS = 15
ALL_ROWS = 100_000
"""Number of rows where every row is asked for."""


def build_document(
    tables: RecordingTables, *, top: int = DEFAULT_MAX_ROWS, charts: bool = False, depth: int | None = None
) -> Document:
    """Build the report of a recording, with charts if ``charts`` is set.

    Tables have at most ``top`` rows, and say how many are left out. The picture of the flow begins at ``depth``.
    """
    sections = [
        findings_section.build_section(tables, top),
        _build_modes(tables),
        phase_tables.build_section(tables, top),
        _build_timeline(tables) if charts else None,
        _build_sites(tables, top),
        memory_tables.build_section(tables, top),
        graph_memory_section.build_section(tables, top),
        flow_section.build_section(tables, top, depth),
        module_section.build_section(tables, top),
        process_tables.build_process_section(tables, top),
        process_tables.build_rank_section(tables, top),
        lifecycle_tables.build_section(tables, top),
        compile_tables.build_section(tables, top),
        device_tables.build_section(tables, top),
        _build_irregular(tables, top),
        _build_probed_calls(tables, top),
        _build_blind_spots(tables),
        _fold(_build_threads(tables, top)),
        *map(_fold, operator_tables.build_sections(tables, top)),
        _fold(_build_redundant(tables, top)),
        _build_environment(tables),
    ]
    summary = [_summarize_findings(tables), *_summarize(tables), *operator_tables.summarize_operators(tables)]
    return Document("gradprobe: gradient and inference modes", summary, [s for s in sections if s is not None])


def _fold(section: Section | None) -> Section | None:
    return None if section is None else replace(section, folded=True)


def _summarize_findings(tables: RecordingTables) -> str:
    """Say how many findings of which severity there are; if there is none, what was looked at."""
    found = tables.findings["severity"]
    counts = [(int((found == severity).sum()), severity) for severity in SEVERITIES]
    if len(found):
        listed = ", ".join(pluralize(number, severity) for number, severity in counts if number)
        return f"Found: {listed}; the most harmful first."
    return f"{_describe_nothing(tables)} Looked at: {', '.join(_list_observed(tables))}. {_describe_limits(tables)}"


def _describe_nothing(tables: RecordingTables) -> str:
    levels = {str(process.environment.get("level")) for process in tables.processes} - {"ops"}
    if not levels:
        return "Nothing wrong was found."
    return (
        f"Nothing was found at level {' and '.join(sorted(levels))}, at which most mistakes cannot be seen. "
        'To look for them, record again with --level ops (in Python, level="ops").'
    )


def _list_observed(tables: RecordingTables) -> list[str]:
    regions = sum(len(process.history.regions) for process in tables.processes)
    threads = sum(len(process.history.timelines) for process in tables.processes)
    observed = [f"{pluralize(regions, 'block')} in {pluralize(threads, 'thread')}"]
    if len(tables.ops):
        observed.append(pluralize(int(tables.ops["count"].sum()), "operator"))
        lines = len(tables.ops[["file", "line"]].drop_duplicates())
        observed[-1] += f" at {pluralize(lines, 'line')}"
    leaves = sum(len(process.leaf_uses) for process in tables.processes)
    return [*observed, f"the gradient of {pluralize(leaves, 'parameter')}"] if leaves else observed


def _describe_limits(tables: RecordingTables) -> str:
    """Say what could not be seen."""
    unseen = len(describe_blind_spots(tables.processes))
    limits = [] if all(process.counts_operators for process in tables.processes) else ["operators and tensors"]
    limits += [f"{pluralize(unseen, 'thing')} listed under Blind spots"] if unseen else []
    return f"Not seen: {'; '.join(limits)}." if limits else "Nothing of it was left out."


def _summarize(tables: RecordingTables) -> list[str]:
    times = [t for t in sum_by_mode(tables.processes) if t.ns]
    seen = sum(len(p.history.transitions) for p in tables.processes)
    folded = sum(f.count for c in tables.contents for f in c.folds)
    threads = sum(len(p.history.timelines) for p in tables.processes)
    lines = []
    if times:
        whole = format_duration(sum(t.ns for t in times))
        over = f"{whole} of thread time in {threads:,} threads" if threads > 1 else whole
        lines.append(f"Of {over}: {', '.join(f'{format_percentage(t.share)} {t.mode}' for t in times)}.")
    if not seen and not folded:
        lines.append("The program itself changed no mode.")
        return lines
    more = f"; {pluralize(folded, 'block')} beyond the limit were summed up per line" if folded else ""
    lines.append(f"{pluralize(seen, 'transition')} at {pluralize(len(tables.sites), 'site')}{more}.")
    regions = [process.history.regions.columns for process in tables.processes]
    unknown = sum(int(columns.manager.find(UNKNOWN.__eq__).sum()) for columns in regions)
    if unknown:
        lines.append(f"{pluralize(unknown, 'mode change')} did not come from a context manager of PyTorch.")
    created = sum(t.nodes or 0 for t in times if t.mode == "no_grad" or t.mode == "inference_mode")
    if created:
        lines.append(f"{pluralize(created, 'autograd node')} created under no_grad or inference_mode.")
    return lines


def _build_timeline(tables: RecordingTables) -> Section | None:
    chart, sentences = build_timeline(tables.processes)
    return None if chart is None else Section("Timeline", sentences, chart=chart)


def _build_modes(tables: RecordingTables) -> Section | None:
    times = sum_by_mode(tables.processes)
    rows = [(t.mode, format_duration(t.ns), format_percentage(t.share), format_count(t.nodes)) for t in times]
    if not rows:
        return None
    nodes = sum(t.nodes or 0 for t in times)
    shares: list[dict[str, Any]] = [
        {"of": "time", "mode": t.mode, "share": t.share, "shown": format_duration(t.ns)} for t in times
    ]
    shares += [
        {"of": "nodes", "mode": t.mode, "share": t.nodes / nodes, "shown": format_count(t.nodes)}
        for t in times
        if t.nodes
    ]
    hidden = sum_hidden_ns(tables.processes)
    by_torch = (
        f"{format_duration(hidden)} of this time was spent in modes set by PyTorch's own code, for example in optimizers; "
        "the sites do not show it separately."
    )
    columns = ("mode", "time", "share", "nodes")
    chart = Chart("modes", "shares", "Time and autograd nodes by mode, summed over all threads.", shares)
    table = Table(columns, rows, frozenset(columns[1:]), bars="share")
    return Section("Time by mode", [by_torch] if hidden else [], table, chart=chart)


def _build_threads(tables: RecordingTables, top: int) -> Section | None:
    threads = sum_by_thread(tables.processes)
    if len(threads) < 2:
        return None
    modes = [mode for mode in MODES if any(mode in thread.by_mode for thread in threads)]
    rows = []
    for thread in threads[:top]:
        spent = [thread.by_mode.get(mode) for mode in modes]
        nodes = [s.nodes for s in thread.by_mode.values() if s.nodes is not None]
        rows.append(
            (str(thread.process), escape_unprintable(thread.thread))
            + tuple(MISSING if s is None or not s.ns else format_duration(s.ns) for s in spent)
            + (format_count(sum(nodes) if nodes else None),)
        )
    columns = ("process", "thread", *modes, "nodes")
    table = Table(columns, rows, frozenset(columns[2:]), max(len(threads) - top, 0))
    return Section("Time by thread", table=table, folded=True)


_SITE_COLUMNS = (
    "site",
    "function",
    "manager",
    "form",
    "count",
    "total",
    "self",
    "median",
    "nodes",
    "self nodes",
    "redundant",
)
_SITE_NUMBERS = frozenset(_SITE_COLUMNS[4:])


def _build_site_table(sites: pd.DataFrame, top: int) -> Table:
    rows = [
        (format_location(s["file"], s["line"]), format_text(s["function"]), s["manager"], s["form"])
        + (
            format_count(s["count"]),
            format_duration(s["total_ns"]),
            format_duration(s["self_ns"]),
            format_duration(s["median_ns"]),
        )
        + (format_count(s["nodes"]), format_count(s["self_nodes"]), format_count(s["redundant"]))
        for s in sites.head(top).to_dict("records")
    ]
    return Table(_SITE_COLUMNS, rows, _SITE_NUMBERS, max(len(sites) - top, 0))


def _build_sites(tables: RecordingTables, top: int) -> Section | None:
    if tables.sites.empty:
        return None
    return Section("Time by site", table=_build_site_table(tables.sites, top))


def _build_redundant(tables: RecordingTables, top: int) -> Section | None:
    redundant = tables.sites[tables.sites["redundant"] > 0].sort_values("redundant", ascending=False, kind="stable")
    if redundant.empty:
        return None
    sentence = f"{pluralize(int(redundant['redundant'].sum()), 'block')} set a mode that was already active."
    rows = [
        (
            format_location(s["file"], s["line"]),
            format_text(s["function"]),
            s["manager"],
            format_count(s["redundant"]),
            format_count(s["count"]),
        )
        for s in redundant.head(top).to_dict("records")
    ]
    columns = ("site", "function", "manager", "redundant", "count")
    table = Table(columns, rows, frozenset({"redundant", "count"}), max(len(redundant) - top, 0))
    return Section("Redundant blocks", [sentence], table)


def _build_irregular(tables: RecordingTables, top: int) -> Section | None:
    groups: Counter[tuple[str, ...]] = Counter()
    for process in tables.processes:
        regions = process.history.regions
        for region in regions.where(regions.columns.is_irregular | regions.columns.error.find(is_failure)):
            irregularity = ", ".join(dict.fromkeys(region.irregular)) or MISSING
            error = escape_unprintable(region.error) if is_failure(region.error) else MISSING
            groups[format_location(*process.place(region.site)[:2]), region.manager, irregularity, error] += 1
    if not groups:
        return None
    rows = [(*key, format_count(number)) for key, number in groups.most_common(top)]
    columns = ("site", "manager", "irregularity", "exception", "count")
    table = Table(columns, rows, frozenset({"count"}), max(len(groups) - top, 0))
    return Section("Blocks with an irregular exit", table=table)


_RETURNED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "returned nodes": ("returned_nodes", format_count),
    "returned graph bytes": ("returned_graph_bytes", format_bytes),
    "param bumps": ("parameter_bumps", format_count),
    "buffer bumps": ("buffer_bumps", format_count),
    "arg bumps": ("argument_bumps", format_count),
}
"""Headings of the maxima over the calls of a function, with the table column and the format of each."""


def _format_maximum(values: pd.Series[int], show: Callable[[Any], str]) -> str:
    return show(values.max() if values.notna().any() else None)


def _build_probed_calls(tables: RecordingTables, top: int) -> Section | None:
    if tables.calls.empty:
        return None
    groups = tables.calls.groupby(["function", "file", "line"], dropna=False, sort=False)
    rows = [
        (
            format_text(function),
            format_location(file, line),
            format_count(len(group)),
            format_duration(group["duration_ns"].sum()),
        )
        + (
            format_duration(group["duration_ns"].median()),
            format_count(group["nodes"].sum() if group["nodes"].notna().any() else None),
            format_count(sum(map(is_failure, group["error"]))),
        )
        + tuple(_format_maximum(group[name], show) for name, show in _RETURNED.values())
        for (function, file, line), group in groups
    ]
    columns = ["function", "site", "calls", "total", "median", "nodes", "errors"]
    columns += _RETURNED
    table = Table(columns, rows[:top], frozenset(columns[2:]), max(len(rows) - top, 0))
    return Section("Probed calls", table=table)


def _build_blind_spots(tables: RecordingTables) -> Section:
    sentences = describe_blind_spots(tables.processes) or ["Everything that this level records was observed."]
    return Section("Blind spots", [escape_unprintable(s) for s in sentences])


def _build_environment(tables: RecordingTables) -> Section:
    rows = [
        (escape_unprintable(key), ", ".join(dict.fromkeys(format_text(p.environment[key]) for p in having)))
        for key in (tables.processes[0].environment if tables.processes else ())
        for having in [[p for p in tables.processes if key in p.environment]]
    ]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)
