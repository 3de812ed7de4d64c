"""Rules about inference tensors in autograd, and results that are silently wrong."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding

_MESSAGES = {
    "GP401": "An inference tensor is used where autograd needs a normal tensor.",
    "GP402": (
        "An inference tensor was given new `.data` outside inference mode; it has no version counter but reports "
        "is_inference() == False."
    ),
    "GP501": "A derivative is computed inside inference mode: no node is recorded, so the result is zero.",
    "GP502": (
        "The input is an inference tensor that a custom Function returned: no node is recorded although its "
        "requires_grad is True."
    ),
    "GP705": (
        "Inference mode exits after the autocast block that was active at its entry has ended, and enables autocast "
        "again."
    ),
}


def report_detections(evidence: Evidence) -> Iterator[Finding]:
    """Yield findings that were detected completely at run time, with the text of PyTorch's exception."""
    for located in evidence.detections:
        message = _MESSAGES.get(located.detection.rule)
        if message is not None and "key" not in located.detection.facts:  # else the table of refusals explains it
            error = located.detection.facts.get("error")
            yield located.make_finding(f"{message} PyTorch: {error}" if error else message)


def find_inference_modules(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP403: lines that created inference tensors that modules still hold."""
    births = evidence.tables.births
    for birth in births[births["alive"] > 0].to_dict("records") if len(births) else ():
        if birth["held_by"] and birth["line"] == birth["line"]:
            number = int(birth["alive"])
            subject = "An inference tensor" if number == 1 else f"{number:,} inference tensors"
            verbs = ("escapes", "is") if number == 1 else ("escape", "are")
            message = (
                f"{subject} created here {verbs[0]} inference mode and {verbs[1]} referenced by {birth['held_by']}."
            )
            line = int(birth["line"])
            yield Finding("GP403", message, birth["file"], line, birth["function"], number)


RULES = (
    report_detections,
    find_inference_modules,
)
"""Rules of this family; a recording is checked against each."""
