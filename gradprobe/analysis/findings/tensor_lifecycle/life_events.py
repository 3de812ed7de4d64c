"""Events in the life of kept inference tensors, as rows of the table: seen, refused, or found in the source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.tensor_lifecycle.audit import KeptTensorAudit, audit_kept_tensors
from gradprobe.analysis.findings.tensor_lifecycle.kept_inference import KeptTensor
from gradprobe.analysis.findings.tensor_lifecycle.later_uses import REQUIRE, SAVE, VERSION, WRITE

KEPT_TENSOR_USE = "kept-inference-tensor-use"
"""Name of the detections of uses, as ``capture.detectors.persistent_tensors`` writes it."""
_REFUSED = "GP401"
_REFUSED_USES = {
    "inference-saved": SAVE,
    "inference-modified": WRITE,
    "inference-version": VERSION,
    "inference-requires-grad": REQUIRE,
}

_Event = tuple[str, str, str, str | None, int | None, str, int]
"""Holder, event, status, file, line, phase and count."""


def build_lifecycle_rows(evidence: Evidence) -> list[tuple[Any, ...]]:
    """Return the rows of the table, by kept tensor: its creation, then what was seen, refused and is foretold."""
    rows = []
    for audit in audit_kept_tensors(evidence):
        kept, process = audit.kept, audit.kept.located.process
        entered = (None, None) if kept.entered is None else (kept.entered.file, kept.entered.line)
        created = (kept.created.file, kept.created.line, kept.located.main.function)
        for holder, event, status, file, line, phase, count in _list_events(evidence, audit):
            rows.append(
                (holder, kept.kind, *created, kept.phase, *entered)
                + (event, status, file, line, phase, count, process.pid, process.rank)
            )
    return rows


def _list_events(evidence: Evidence, audit: KeptTensorAudit) -> Iterator[_Event]:
    kept, holder = audit.kept, audit.kept.holder
    yield holder, "created", "seen", kept.created.file, kept.created.line, kept.phase, kept.located.count
    for store in audit.stores:
        yield holder, "kept", "source", store.file, store.line, "", 1
    for located in evidence.select_detections(KEPT_TENSOR_USE):
        if _is_about(located, audit):
            phase = str(located.detection.facts.get("phase") or "")
            use = str(located.detection.facts.get("use") or "read")
            yield holder, use, "seen", located.main.file, located.main.line, phase, located.count
    for located in evidence.select_detections(_REFUSED):
        what = _REFUSED_USES.get(str(located.detection.facts.get("key")))
        if what is not None and _is_about(located, audit):
            phase = str(located.detection.facts.get("phase") or "")
            at = located.main.file, located.main.line
            yield _name_refused(kept, located), what, "refused", *at, phase, located.count
    for use_of_source in () if audit.is_guarded or audit.has_failed else audit.uses:
        at = use_of_source.function.file.file, use_of_source.line
        yield holder, use_of_source.what, "foretold", *at, "", 1


def _name_refused(kept: KeptTensor, located: LocatedDetection) -> str:
    """Return the holder with the key of the refused tensor: one line may fill several items of a container."""
    name = located.detection.facts.get("kept")
    items = re.compile(rf"(?<!\w){re.escape(kept.variable)}((?:\[.*?\])+)\Z")
    known, refused = items.search(kept.holder), items.search(name) if isinstance(name, str) else None
    return kept.holder if known is None or refused is None else kept.holder[: known.start(1)] + refused[1]


def _is_about(located: LocatedDetection, audit: KeptTensorAudit) -> bool:
    created = (audit.kept.created.file, audit.kept.created.line)
    is_same_process = located.process is audit.kept.located.process
    return is_same_process and any((line.file, line.line) == created for line in located.lines[1:])
