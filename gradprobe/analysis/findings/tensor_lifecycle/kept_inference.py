"""Inference tensors that a recording found in places that outlast their block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gradprobe.analysis.findings.evidence import INFERENCE_MODE_ENTERED, Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import RelatedLine

KEPT_INFERENCE_TENSOR = "kept-inference-tensor"
"""Name of the detections, as ``capture.detectors.persistent_tensors`` writes it."""


@dataclass(frozen=True)
class KeptTensor:
    """Inference tensor in an attribute, global variable, closure or cache of the program.

    ``variable`` is the name of the attribute or variable, ``owner`` the class or function that has it, ``depth`` the number
    of items of containers from there to the tensor, ``file`` that of the global variable by which it was found.
    """

    located: LocatedDetection
    holder: str
    kind: str
    variable: str
    owner: str
    depth: int
    file: str
    phase: str

    @property
    def created(self) -> RelatedLine:
        """Line that created it."""
        return RelatedLine(self.located.main.file, self.located.main.line, "created here")

    @property
    def entered(self) -> RelatedLine | None:
        """Line that entered inference mode around its creation."""
        return next((line for line in self.located.related if line.role == INFERENCE_MODE_ENTERED), None)

    @property
    def created_ns(self) -> int:
        """Time of its creation since the recording began."""
        process = self.located.process
        begun = int(process.contents.meta.get("began_ns", 0))
        return max((under.time_ns - begun for under in self.located.detection.under), default=0)


def iter_kept_tensors(evidence: Evidence) -> Iterator[KeptTensor]:
    """Yield the inference tensors that are kept."""
    for located in evidence.select_detections(KEPT_INFERENCE_TENSOR):
        facts = located.detection.facts
        variable = _text(facts, "variable")
        if variable:
            yield KeptTensor(
                located,
                _text(facts, "holder"),
                _text(facts, "holder_kind"),
                variable,
                _text(facts, "owner"),
                located.detection.read_count("depth"),
                _text(facts, "holder_file"),
                _text(facts, "created_in"),
            )


def _text(facts: dict[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""
