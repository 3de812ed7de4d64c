"""Section on compiled code."""

from __future__ import annotations

from collections import Counter

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.compiled_functions import explain_recompilation, list_compiled_functions
from gradprobe.report.document import Section, Table
from gradprobe.report.units import MISSING, escape_unprintable, format_count, format_location
from gradprobe.tables.recording_tables import RecordingTables


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build a row per compiled function, and sentences on modes in graphs and causes of recompilation."""
    functions = list_compiled_functions(tables.processes)
    if not functions:
        return None
    rows = []
    sentences = []
    for function in functions[:top]:
        modes = Counter(made.mode for made, _ in function.graphs)
        rows.append(
            (
                escape_unprintable(function.name),
                format_location(function.file, function.line),
                format_count(function.calls or None),
            )
            + (format_count(sum(number for _, number in function.graphs)), ", ".join(modes) or MISSING)
            + (format_count(sum(made.operators * number for made, number in function.graphs)),)
        )
        name = escape_unprintable(function.name)
        folded = dict.fromkeys(change for made, _ in function.graphs for change in made.folded)
        sentences += [
            f"{change.manager}({change.enabled}) is part of the graph of {name}, from "
            f"{format_location(change.file, change.line)} on: it no longer runs as a block."
            for change in folded
            if change.file
        ]
        for made, _ in function.graphs:
            why = dict.fromkeys(text for reason in made.reasons if (text := explain_recompilation(reason)) is not None)
            called = "" if made.called is None else f" for {format_location(made.called.file, made.called.line)}"
            if why:
                sentences.append(
                    f"{name} was recompiled{called} under {made.mode}: {escape_unprintable('; '.join(why))}."
                )
    columns = ("function", "site", "calls", "graphs", "compiled under", "operators in graphs")
    table = Table(columns, rows, frozenset({"calls", "graphs", "operators in graphs"}), max(len(functions) - top, 0))
    more = [f"{pluralize(len(sentences) - top, 'more sentence')} left out."] if len(sentences) > top else []
    return Section("Compiled code", [*sentences[:top], *more], table)
