"""Who builds and who keeps graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.recording.events import BACKWARD_PASS

_LINES = 3


def find_running_totals(evidence: Evidence) -> Iterator[Finding]:
    """GP201: the line that adds up, and the lines whose graphs it keeps."""
    for seen in evidence.of("GP201"):
        steps = seen.sighting.facts.get("steps", 0)
        message = f"this total keeps the graphs of {steps:,} steps alive, and no backward goes through it."
        yield Finding("GP201", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def find_storing_hooks(evidence: Evidence) -> Iterator[Finding]:
    """GP202: the hook, and the call whose graph its container keeps."""
    for seen in evidence.of("GP202"):
        message = "this forward hook stores a tensor together with its graph."
        yield Finding("GP202", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def find_gradient_cycles(evidence: Evidence) -> Iterator[Finding]:
    """GP203: the backward, and a leaf that refers to itself through its gradient."""
    for seen in evidence.of("GP203"):
        message = "backward(create_graph=True) ties this leaf and its .grad together: neither will be freed."
        yield Finding("GP203", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def find_unused_graphs(evidence: Evidence) -> Iterator[Finding]:
    """GP204: the lines that built most of the graph of a program in which no backward ran."""
    ops = evidence.tables.ops
    if ops.empty or any(mark.op == BACKWARD_PASS for p in evidence.processes for mark in p.history.marks):
        return
    built = ops[(ops["nodes"] > 0) & ops["line"].notna() & ~ops["file"].map(is_library)]
    sums = built.groupby(["file", "line", "function"], sort=False)[["nodes", "saved_bytes"]].sum(min_count=1)
    for (file, line, function), row in sums.sort_values("nodes", ascending=False).head(_LINES).iterrows():
        saved = "" if pd.isna(row["saved_bytes"]) else f": {int(row['saved_bytes']):,} bytes saved for it"
        message = f"{int(row['nodes']):,} nodes were constructed here, and no backward ran{saved}."
        yield Finding("GP204", message, file, int(line), function, int(row["nodes"]))
