"""Rules about graphs that are kept too long, or that no backward pass uses."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.recording.events import BACKWARD_PASS

_MAX_UNUSED_GRAPH_LINES = 3


def find_running_totals(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP201: the line that adds up, and the lines whose graphs it keeps."""
    for located in evidence.select_detections("GP201"):
        steps = located.detection.facts.get("steps", 0)
        yield located.make_finding(
            f"This running total keeps the graphs of {steps:,} steps alive, and no backward pass goes through it."
        )


def find_storing_hooks(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP202: the hook, and the call whose graph its container keeps."""
    for located in evidence.select_detections("GP202"):
        yield located.make_finding("This forward hook stores a tensor together with its graph.")


def find_gradient_cycles(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP203: the backward pass, and a leaf that references itself through its gradient."""
    for located in evidence.select_detections("GP203"):
        yield located.make_finding(
            "backward(create_graph=True) creates a reference cycle between this leaf and its .grad: neither is freed."
        )


def find_unused_graphs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP204: the lines that built most of the graph in a program that ran no backward pass."""
    ops = evidence.tables.ops
    if ops.empty or any(mark.op == BACKWARD_PASS for p in evidence.processes for mark in p.history.marks):
        return
    built = ops[(ops["nodes"] > 0) & ops["line"].notna() & ~ops["file"].map(is_library)]
    sums = built.groupby(["file", "line", "function"], sort=False)[["nodes", "saved_bytes"]].sum(min_count=1)
    most = sums.sort_values("nodes", ascending=False).head(_MAX_UNUSED_GRAPH_LINES)
    for (file, line, function), row in most.iterrows():
        saved = "" if pd.isna(row["saved_bytes"]) else f", with {int(row['saved_bytes']):,} bytes saved for backward"
        message = f"{int(row['nodes']):,} autograd nodes were created here{saved}, but no backward pass ran."
        yield Finding("GP204", message, file, int(line), function, int(row["nodes"]))


RULES = (
    find_running_totals,
    find_storing_hooks,
    find_gradient_cycles,
    find_unused_graphs,
)
"""Rules of this family; a recording is checked against each."""
