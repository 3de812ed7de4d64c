"""The section on compiled code."""

from __future__ import annotations

from collections import Counter

from gradprobe.analysis.compiled_functions import compiled_functions, in_english
from gradprobe.report.document import Section, Table
from gradprobe.report.units import count, many, place, printable
from gradprobe.tables.recording_tables import Tables


def section(tables: Tables, top: int) -> Section | None:
    """A row per function that ran compiled; in sentences, which modes are part of its graphs and why there are several."""
    functions = compiled_functions(tables.processes)
    if not functions:
        return None
    rows = []
    sentences = []
    for function in functions[:top]:
        modes = Counter(made.mode for made, _ in function.graphs)
        rows.append(
            (printable(function.name), place(function.file, function.line), count(function.calls or None))
            + (count(sum(number for _, number in function.graphs)), ", ".join(modes) or "-")
            + (count(sum(made.operators * number for made, number in function.graphs)),)
        )
        name = printable(function.name)
        folded = dict.fromkeys(change for made, _ in function.graphs for change in made.folded)
        sentences += [
            f"{change.manager}({change.enabled}) is part of the graph of {name}, from {place(change.file, change.line)} "
            "on: it no longer runs as a block."
            for change in folded
            if change.file
        ]
        for made, _ in function.graphs:
            why = dict.fromkeys(text for reason in made.reasons if (text := in_english(reason)) is not None)
            called = "" if made.called is None else f" for {place(made.called.file, made.called.line)}"
            if why:
                sentences.append(f"{name} was compiled again{called} under {made.mode}: {printable('; '.join(why))}.")
    columns = ("function", "site", "calls", "graphs", "compiled under", "operators")
    table = Table(columns, rows, frozenset({"calls", "graphs", "operators"}), max(len(functions) - top, 0))
    more = [f"{many(len(sentences) - top, 'sentence')} more left out."] if len(sentences) > top else []
    return Section("Compiled code", [*sentences[:top], *more], table)
