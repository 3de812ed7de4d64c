"""Inference tensors that meet autograd, results that differ without a word, and changes in place."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding

_MESSAGES = {
    "GP303": "a tensor subclass that was made in normal mode is viewed in inference mode, which PyTorch refuses.",
    "GP401": "an inference tensor is used where autograd needs a normal one.",
    "GP402": "a tensor that was born in inference mode was given new data outside of it, and has no version counter.",
    "GP501": "a derivative is asked for inside inference mode: no node is recorded, and the result is zero.",
    "GP502": "its input is a custom Function's inference tensor: nothing is recorded, although it requires grad.",
    "GP602": "a view that was made without gradients is changed in place with gradients on.",
    "GP705": "inference mode is left after the autocast block around its entry has ended, and switches autocast on again.",
}


def report_detections(evidence: Evidence) -> Iterator[Finding]:
    """Those whose lines were all seen when they happened; PyTorch's own text is added where it raised."""
    for seen in evidence.seen:
        message = _MESSAGES.get(seen.sighting.rule)
        if message is not None:
            error = seen.sighting.facts.get("error")
            told = f"{message} PyTorch: {error}" if error else message
            main = seen.main
            yield Finding(seen.sighting.rule, told, main.file, main.line, main.function, seen.count, seen.related)


def find_modified_saved_tensors(evidence: Evidence) -> Iterator[Finding]:
    """GP601: the change, the forward that saved the tensor, and the backward that needs it."""
    for seen in evidence.of("GP601"):
        node, shape = seen.sighting.facts.get("node", "a node"), seen.sighting.facts.get("shape", [])
        message = f"this changes a tensor of shape {shape} in place that {node} saved for a backward that follows."
        yield Finding("GP601", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def find_inference_modules(evidence: Evidence) -> Iterator[Finding]:
    """GP403: the lines where inference tensors were born that modules still hold as parameters or buffers."""
    births = evidence.tables.births
    for birth in births[births["alive"] > 0].to_dict("records") if len(births) else ():
        if birth["held_by"] and birth["line"] == birth["line"]:
            message = f"{int(birth['alive'])} inference tensors born here outlive the mode, held by {birth['held_by']}."
            line = int(birth["line"])
            yield Finding("GP403", message, birth["file"], line, birth["function"], int(birth["alive"]))
