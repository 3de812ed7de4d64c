"""Rules about exceptions of autograd: each is explained by the table of refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import Finding
from gradprobe.refusals.causes import CAUSES
from gradprobe.refusals.refusal import Refusal
from gradprobe.refusals.table import BY_KEY


def find_refusals(evidence: Evidence) -> Iterator[Finding]:
    """Yield the exceptions that autograd raised, with why PyTorch refuses and what to do."""
    for located in evidence.detections:
        refusal = BY_KEY.get(str(located.detection.facts.get("key")))
        if refusal is not None:
            yield _make_finding(located, refusal)


def _make_finding(located: LocatedDetection, refusal: Refusal) -> Finding:
    facts = located.detection.facts
    cause = CAUSES.get(str(facts.get("cause")))
    why = refusal.why
    if located.detection.rule == "GP402":
        why = (
            "An inference tensor was given new `.data` outside inference mode; it has no version counter but reports "
            "is_inference() == False."
        )
    sentences = [why, *_describe_tensor(facts), *_describe_node(facts), *([] if cause is None else [cause.why])]
    if facts.get("caught"):
        sentences.append("The program catches the exception.")
    message = " ".join([*sentences, f"PyTorch: {facts.get('error', '')}"])
    severity = refusal.caught if facts.get("caught") else refusal.severity
    fix = "" if located.detection.rule == "GP402" else refusal.fix if cause is None else cause.fix
    return replace(located.make_finding(message), fix=fix, level=severity)


def _describe_tensor(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence about the tensor that the message is about."""
    shape = facts.get("shape")
    if not isinstance(shape, list):
        return
    size = "with one element" if shape == [] else f"of shape {shape}"
    if "node" in facts:
        yield f"The tensor {size} was saved by {facts['node']}."
    elif "index" in facts:
        made = f", made by {facts['op']}" if facts.get("op") else ""
        yield f"It is number {facts['index']} of those asked for, a tensor {size}{made}."
    elif facts.get("op"):
        name = f"`{facts['name']}`" if facts.get("name") else "The tensor"
        yield f"{name} is a tensor {size}, made by {facts['op']}."


def _describe_node(facts: dict[str, Any]) -> Iterator[str]:
    """Yield sentences about the node of the graph at which a backward pass failed."""
    versions = facts.get("versions")
    if isinstance(versions, list) and len(versions) == 2:
        yield f"Its version was {versions[1]} when it was saved and is {versions[0]} now."
    if "node" in facts and "shape" not in facts:
        yield f"The pass fails at {facts['node']}."
    if facts.get("is_same_line"):
        yield "The pass that freed it began at the same line, one iteration earlier."


RULES = (find_refusals,)
"""Rules of this family; a recording is checked against each."""
