"""What a report of a recording says: pure functions from its tables to the neutral document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd

from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.analysis.time_by_mode import MODES, sum_by_mode, sum_by_thread, sum_hidden_ns
from gradprobe.recording.events import UNKNOWN
from gradprobe.recording.rows import is_failure
from gradprobe.report.document import Chart, Document, Section, Table
from gradprobe.report.sections import compile_tables, device_tables, findings_section, operator_tables, process_tables
from gradprobe.report.sections.timeline import build_timeline
from gradprobe.report.units import (
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_location,
    format_percentage,
    pluralize,
)
from gradprobe.tables.recording_tables import RecordingTables

DEFAULT_MAX_ROWS = 15


def build_document(tables: RecordingTables, *, top: int = DEFAULT_MAX_ROWS, charts: bool = False) -> Document:
    """The report of a recording, with ``charts`` where they are wanted; its longer tables hold at most ``top`` rows, and
    say how many they leave out."""
    sections = [
        findings_section.build_section(tables, top),
        _timeline(tables) if charts else None,
        _modes(tables),
        process_tables.build_process_section(tables, top),
        process_tables.build_rank_section(tables, top),
        _threads(tables, top),
        _sites(tables, top),
        *operator_tables.build_sections(tables, top),
        compile_tables.build_section(tables, top),
        device_tables.build_section(tables, top),
        _redundant(tables, top),
        _irregular(tables, top),
        _calls(tables, top),
        _unseen(tables),
        _environment(tables),
    ]
    verdict = [*_verdict(tables), *operator_tables.summarize_operators(tables)]
    return Document("gradprobe: gradient and inference modes", verdict, [s for s in sections if s is not None])


def _verdict(tables: RecordingTables) -> list[str]:
    times = [t for t in sum_by_mode(tables.processes) if t.ns]
    seen = sum(len(p.history.transitions) for p in tables.processes)
    folded = sum(f.count for c in tables.contents for f in c.folds)
    timelines = sum(len(p.history.timelines) for p in tables.processes)
    lines = []
    if times:
        whole = format_duration(sum(t.ns for t in times))
        over = f"{whole} of thread time, over {timelines:,} threads" if timelines > 1 else whole
        lines.append(f"Of {over}: {', '.join(f'{format_percentage(t.share)} {t.mode}' for t in times)}.")
    if not seen and not folded:
        lines.append("The program itself changed no mode.")
        return lines
    more = f", and {pluralize(folded, 'block')} added up beyond the limit" if folded else ""
    lines.append(f"{pluralize(seen, 'transition')} at {pluralize(len(tables.sites), 'site')}{more}.")
    unknown = sum(t.manager == UNKNOWN for p in tables.processes for t in p.history.transitions)
    if unknown:
        lines.append(f"{pluralize(unknown, 'change')} of a mode came from something that is no manager of PyTorch's.")
    built = sum(t.nodes or 0 for t in times if t.mode == "no_grad" or t.mode == "inference_mode")
    if built:
        lines.append(f"{pluralize(built, 'autograd node')} were constructed under no_grad or inference_mode.")
    return lines


def _timeline(tables: RecordingTables) -> Section | None:
    chart, sentences = build_timeline(tables.processes)
    return None if chart is None else Section("Timeline", sentences, chart=chart)


def _modes(tables: RecordingTables) -> Section | None:
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
        f"{format_duration(hidden)} of it passed under modes that PyTorch's own code set, as optimizers do: the sites do not "
        "tell it apart."
    )
    columns = ("mode", "time", "share", "nodes")
    chart = Chart("modes", "shares", "Time and autograd nodes by mode, over all threads.", shares)
    table = Table(columns, rows, frozenset(columns[1:]), bars="share")
    return Section("Time by mode", [by_torch] if hidden else [], table, chart=chart)


def _threads(tables: RecordingTables, top: int) -> Section | None:
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
            + tuple("-" if s is None or not s.ns else format_duration(s.ns) for s in spent)
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
    "own",
    "median",
    "nodes",
    "own nodes",
    "redundant",
)
_SITE_NUMBERS = frozenset(_SITE_COLUMNS[4:])


def _site_table(sites: pd.DataFrame, top: int) -> Table:
    rows = [
        (format_location(s["file"], s["line"]), _name(s["function"]), s["manager"], s["form"])
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


def _sites(tables: RecordingTables, top: int) -> Section | None:
    if tables.sites.empty:
        return None
    return Section("Sites, by time under their mode", table=_site_table(tables.sites, top))


def _redundant(tables: RecordingTables, top: int) -> Section | None:
    redundant = tables.sites[tables.sites["redundant"] > 0].sort_values("redundant", ascending=False, kind="stable")
    if redundant.empty:
        return None
    sentence = f"{pluralize(int(redundant['redundant'].sum()), 'block')} found the mode they set already in force."
    rows = [
        (
            format_location(s["file"], s["line"]),
            _name(s["function"]),
            s["manager"],
            format_count(s["redundant"]),
            format_count(s["count"]),
        )
        for s in redundant.head(top).to_dict("records")
    ]
    columns = ("site", "function", "manager", "redundant", "of")
    table = Table(columns, rows, frozenset({"redundant", "of"}), max(len(redundant) - top, 0))
    return Section("Redundant blocks", [sentence], table)


def _irregular(tables: RecordingTables, top: int) -> Section | None:
    groups: Counter[tuple[str, ...]] = Counter()
    for process in tables.processes:
        for region in process.history.regions:
            if region.irregular or is_failure(region.error):
                what = ", ".join(dict.fromkeys(region.irregular)) or "-"
                error = escape_unprintable(region.error) if is_failure(region.error) else "-"
                groups[format_location(*process.place(region.site)[:2]), region.manager, what, error] += 1
    if not groups:
        return None
    rows = [(*key, format_count(number)) for key, number in groups.most_common(top)]
    columns = ("site", "manager", "what", "exception", "count")
    table = Table(columns, rows, frozenset({"count"}), max(len(groups) - top, 0))
    return Section("Blocks that did not close as usual", table=table)


_RETURNED: dict[str, Callable[[Any], str]] = {
    "returned_nodes": format_count,
    "returned_graph_bytes": format_bytes,
    "parameter_bumps": format_count,
    "buffer_bumps": format_count,
    "argument_bumps": format_count,
}


def _most(values: pd.Series[int], show: Callable[[Any], str]) -> str:
    return show(values.max() if values.notna().any() else None)


def _calls(tables: RecordingTables, top: int) -> Section | None:
    if tables.calls.empty:
        return None
    groups = tables.calls.groupby(["function", "file", "line"], dropna=False, sort=False)
    rows = [
        (
            _name(function),
            format_location(file, line),
            format_count(len(group)),
            format_duration(group["duration_ns"].sum()),
        )
        + (
            format_duration(group["duration_ns"].median()),
            format_count(group["nodes"].sum() if group["nodes"].notna().any() else None),
            format_count(sum(map(is_failure, group["error"]))),
        )
        + tuple(_most(group[name], show) for name, show in _RETURNED.items())
        for (function, file, line), group in groups
    ]
    columns = ["function", "site", "calls", "total", "median", "nodes", "errors"]
    columns += ["result pins nodes", "bytes", "bumps of parameters", "of buffers", "of arguments"]
    table = Table(columns, rows[:top], frozenset(columns[2:]), max(len(rows) - top, 0))
    return Section("Probed calls", table=table)


def _unseen(tables: RecordingTables) -> Section:
    sentences = describe_blind_spots(tables.processes) or ["Nothing was missed of what this level records."]
    return Section("What could not be seen", [escape_unprintable(s) for s in sentences])


def _environment(tables: RecordingTables) -> Section:
    rows = [
        (escape_unprintable(key), ", ".join(dict.fromkeys(_value(p.environment[key]) for p in having)))
        for key in (tables.processes[0].environment if tables.processes else ())
        for having in [[p for p in tables.processes if key in p.environment]]
    ]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)


def _value(value: object) -> str:
    return "-" if value is None else escape_unprintable(str(value))


def _name(function: object) -> str:
    return escape_unprintable(function) if isinstance(function, str) else "-"
