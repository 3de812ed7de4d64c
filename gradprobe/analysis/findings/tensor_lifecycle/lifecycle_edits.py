"""Edits that mend the lifecycle of a kept inference tensor, the smallest that lets it live where it must."""

from __future__ import annotations

import os

from gradprobe.analysis.findings.tensor_lifecycle.audit import KeptTensorAudit
from gradprobe.analysis.findings.tensor_lifecycle.later_uses import LOAD, REQUIRE, SAVE

_FACTORIES = (
    "aten.zeros",
    "aten.empty",
    "aten.ones",
    "aten.full",
    "aten.arange",
    "aten.linspace",
    "aten.eye",
    "aten.rand",
    "aten.hann_window",
    "aten.tril",
    "aten.triu",
    "aten.new_",
)


def choose_edit(audit: KeptTensorAudit) -> str:
    """Return the edit as a sentence."""
    kept = audit.kept
    created = f"{os.path.basename(kept.created.file)}:{kept.created.line}"
    what = {use.what for use in audit.uses}
    op = str(kept.located.detection.facts.get("op") or "")
    if kept.kind in ("buffer", "parameter") or what & {LOAD, REQUIRE}:
        entered = kept.entered
        at = "" if entered is None else f" at {os.path.basename(entered.file)}:{entered.line}"
        return (
            f"Use `torch.no_grad()` in place of `torch.inference_mode()`{at}, or create it under "
            f"`with torch.inference_mode(False), torch.no_grad():` at {created}: a {kept.kind} is trained and loaded into."
        )
    if kept.kind == "cache" or op.startswith(_FACTORIES):
        return (
            f"Create it under `with torch.inference_mode(False), torch.no_grad():` at {created}: it serves all phases."
        )
    if what == {SAVE} and kept.depth == 0:
        return (
            f"Rebuild it at {created} when `t.is_inference() and not torch.is_inference_mode_enabled()`, or create it "
            "under `with torch.inference_mode(False), torch.no_grad():`."
        )
    if what == {SAVE}:
        use = audit.uses[0]
        at = f"{os.path.basename(use.function.file.file)}:{use.line}"
        return f"Take a normal tensor over the border: use `.clone()` on it outside inference mode, at {at}."
    return f"Create it under `with torch.inference_mode(False), torch.no_grad():` at {created}."
