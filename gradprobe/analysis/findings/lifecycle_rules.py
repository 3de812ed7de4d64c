"""Rules about inference tensors that the program keeps, foretold from the source before the code that fails has run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.tensor_lifecycle.audit import KeptTensorAudit, audit_kept_tensors
from gradprobe.analysis.findings.tensor_lifecycle.later_uses import LOAD, REQUIRE, SAVE, VERSION, WRITE
from gradprobe.analysis.findings.tensor_lifecycle.lifecycle_edits import choose_edit

_MAX_USES = 4
_CONSEQUENCES = {
    WRITE: "PyTorch refuses to modify it in place",
    SAVE: "autograd refuses to save it for backward",
    LOAD: "PyTorch refuses to load into it",
    VERSION: "PyTorch refuses to read its version counter",
    REQUIRE: "PyTorch refuses to let it require grad",
}
_ROLES = {
    WRITE: "written in place here",
    SAVE: "saved for backward here",
    LOAD: "loaded into here",
    VERSION: "its version is read here",
    REQUIRE: "made to require grad here",
}


def find_foretold_failures(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP404: kept inference tensors that code will write, save or load outside of inference mode."""
    for audit in audit_kept_tensors(evidence):
        if audit.uses and not audit.is_guarded and not audit.has_failed:
            yield _make_finding(audit)


def _make_finding(audit: KeptTensorAudit) -> Finding:
    kept = audit.kept
    uses = audit.uses[:_MAX_USES]
    kinds = list(dict.fromkeys(use.what for use in uses))
    message = (
        f"An inference tensor is kept in `{kept.holder}`, and code that may run outside inference mode uses it: "
        f"there {' and '.join(_CONSEQUENCES[kind] for kind in kinds)}."
    )
    lines = [RelatedLine(use.function.file.file, use.line, _ROLES[use.what]) for use in uses]
    finding = kept.located.make_finding(message, (*audit.origin, *lines))
    phase = f" It was created in the phase {kept.phase}." if kept.phase else ""
    return replace(
        finding,
        rule="GP404",
        fix=choose_edit(audit),
        evidence=f"The code has not run yet; it was found in the source.{phase}",
        phase=kept.phase,
    )


RULES = (find_foretold_failures,)
"""Rules of this family; a recording is checked against each."""
