"""Who builds and who keeps graphs."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding


def running_totals(evidence: Evidence) -> Iterator[Finding]:
    """GP201: the line that adds up, and the lines whose graphs it keeps."""
    for seen in evidence.of("GP201"):
        steps = seen.sighting.facts.get("steps", 0)
        message = f"this total keeps the graphs of {steps:,} steps alive, and no backward goes through it."
        yield Finding("GP201", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def hooks_that_store(evidence: Evidence) -> Iterator[Finding]:
    """GP202: the hook, and the call whose graph its container keeps."""
    for seen in evidence.of("GP202"):
        message = "this forward hook stores a tensor together with its graph."
        yield Finding("GP202", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def cycles(evidence: Evidence) -> Iterator[Finding]:
    """GP203: the backward, and a leaf that refers to itself through its gradient."""
    for seen in evidence.of("GP203"):
        message = "backward(create_graph=True) ties this leaf and its .grad together: neither will be freed."
        yield Finding("GP203", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)
