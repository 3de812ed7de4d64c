"""What a report of a recording says: pure functions from its tables to the neutral document."""

from __future__ import annotations

import pandas as pd

from gradprobe.analysis.gaps import gaps
from gradprobe.analysis.modes import MODES, by_mode, by_thread
from gradprobe.recording.history import PROTOCOL
from gradprobe.recording.tables import Tables
from gradprobe.report.document import Document, Section, Table
from gradprobe.report.units import count, duration, place, printable, share

TOP = 15


def document(tables: Tables, *, top: int = TOP) -> Document:
    """The report of a recording; its longer tables hold at most ``top`` rows, and say how many they leave out."""
    sections = [
        _modes(tables),
        _threads(tables, top),
        _sites(tables, top),
        _redundant(tables, top),
        _irregular(tables, top),
        _calls(tables, top),
        _unseen(tables),
        _environment(tables),
    ]
    return Document("gradprobe: gradient and inference modes", _verdict(tables), [s for s in sections if s is not None])


def _verdict(tables: Tables) -> list[str]:
    times = by_mode(tables.processes)
    seen = len(tables.transitions)
    folded = sum(f.count for c in tables.contents for f in c.folds)
    lanes = sum(len(p.history.lanes) for p in tables.processes)
    lines = []
    if times:
        shares = ", ".join(f"{share(t.share)} {t.mode}" for t in times)
        lines.append(f"Of {duration(sum(t.ns for t in times))} in {_many(lanes, 'thread')}: {shares}.")
    if not seen and not folded:
        lines.append("No mode was changed.")
        return lines
    more = f", and {_many(folded, 'block')} added up beyond the limit" if folded else ""
    lines.append(f"{_many(seen, 'transition')} at {_many(len(tables.sites), 'site')}{more}.")
    unknown = int((tables.transitions["manager"] == "unknown").sum())
    if unknown:
        lines.append(f"{_many(unknown, 'change')} of a mode came from something that is no manager of PyTorch's.")
    if "nodes" in tables.regions and tables.regions["self_nodes"].notna().any():
        under = tables.regions[tables.regions["manager"].isin(["no_grad", "inference_mode"])]
        built = int(under["self_nodes"].sum())
        if built:
            lines.append(
                f"{_many(built, 'autograd node')} were constructed directly in no_grad or inference_mode blocks."
            )
    return lines


def _modes(tables: Tables) -> Section:
    rows = [(t.mode, duration(t.ns), share(t.share), _bar(t.share)) for t in by_mode(tables.processes)]
    return Section("Time by mode", table=Table(("mode", "time", "share", ""), rows, frozenset({"time", "share"})))


def _bar(value: float) -> str:
    return "#" * round(value * 30)


def _threads(tables: Tables, top: int) -> Section | None:
    threads = by_thread(tables.processes)
    if len(threads) < 2:
        return None
    modes = [mode for mode in MODES if any(thread.ns.get(mode) for thread in threads)]
    rows = [
        (str(t.process), printable(t.thread), *(duration(t.ns.get(mode, 0)) for mode in modes)) for t in threads[:top]
    ]
    table = Table(("process", "thread", *modes), rows, frozenset(modes), max(len(threads) - top, 0))
    return Section("Time by thread", table=table, folded=True)


_SITE_COLUMNS = ("site", "function", "manager", "form", "count", "total", "own", "median", "nodes", "redundant")
_SITE_NUMBERS = frozenset(_SITE_COLUMNS[4:])


def _site_table(sites: pd.DataFrame, top: int) -> Table:
    rows = [
        (place(s["file"], s["line"]), _name(s["function"]), s["manager"], s["form"])
        + (count(s["count"]), duration(s["total_ns"]), duration(s["self_ns"]), duration(s["median_ns"]))
        + (count(s["nodes"]), count(s["redundant"]))
        for s in sites.head(top).to_dict("records")
    ]
    return Table(_SITE_COLUMNS, rows, _SITE_NUMBERS, max(len(sites) - top, 0))


def _sites(tables: Tables, top: int) -> Section | None:
    if tables.sites.empty:
        return None
    return Section("Sites, by time under their mode", table=_site_table(tables.sites, top))


def _redundant(tables: Tables, top: int) -> Section | None:
    redundant = tables.sites[tables.sites["redundant"] > 0].sort_values("redundant", ascending=False, kind="stable")
    if redundant.empty:
        return None
    sentence = f"{_many(int(redundant['redundant'].sum()), 'block')} found the mode they set already in force."
    rows = [
        (place(s["file"], s["line"]), _name(s["function"]), s["manager"], count(s["redundant"]), count(s["count"]))
        for s in redundant.head(top).to_dict("records")
    ]
    columns = ("site", "function", "manager", "redundant", "of")
    table = Table(columns, rows, frozenset({"redundant", "of"}), max(len(redundant) - top, 0))
    return Section("Redundant blocks", [sentence], table)


def _irregular(tables: Tables, top: int) -> Section | None:
    regions = tables.regions
    failed = (regions["error"] != "") & ~regions["error"].isin(PROTOCOL)
    found = regions[(regions["irregular"] != "") | failed]
    if found.empty:
        return None
    groups = found.groupby(["file", "line", "manager", "irregular", "error"], dropna=False, sort=False).size()
    rows = [
        (place(file, line), str(manager), irregular or "-", printable(error) or "-", count(number))
        for (file, line, manager, irregular, error), number in groups.head(top).items()
    ]
    table = Table(
        ("site", "manager", "what", "exception", "count"), rows, frozenset({"count"}), max(len(groups) - top, 0)
    )
    return Section("Blocks that did not close as usual", table=table)


def _calls(tables: Tables, top: int) -> Section | None:
    if tables.calls.empty:
        return None
    groups = tables.calls.groupby(["function", "file", "line"], dropna=False, sort=False)
    rows = [
        (_name(function), place(file, line), count(len(group)), duration(group["duration_ns"].sum()))
        + (
            duration(group["duration_ns"].median()),
            count(group["nodes"].sum() if group["nodes"].notna().any() else None),
            count(((group["error"] != "") & ~group["error"].isin(PROTOCOL)).sum()),
        )
        for (function, file, line), group in groups
    ]
    columns = ("function", "site", "calls", "total", "median", "nodes", "errors")
    table = Table(columns, rows[:top], frozenset(columns[2:]), max(len(rows) - top, 0))
    return Section("Probed calls", table=table)


def _unseen(tables: Tables) -> Section:
    sentences = gaps(tables.processes) or ["Nothing that this level records."]
    return Section("What could not be seen", [printable(s) for s in sentences])


def _environment(tables: Tables) -> Section:
    rows = [
        (key, ", ".join(dict.fromkeys("-" if p.environment[key] is None else str(p.environment[key]) for p in having)))
        for key in (tables.processes[0].environment if tables.processes else ())
        for having in [[p for p in tables.processes if key in p.environment]]
    ]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)


def _name(function: object) -> str:
    return printable(function) if isinstance(function, str) else "-"


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
