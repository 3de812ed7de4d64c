"""Rules about graphs that are kept too long, or that no backward pass uses."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding


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


RULES = (
    find_storing_hooks,
    find_gradient_cycles,
)
"""Rules of this family; a recording is checked against each."""
