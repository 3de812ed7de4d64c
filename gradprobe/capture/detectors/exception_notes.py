"""Notes on exceptions: the lines that created the tensor concerned and entered the mode, and what to do."""

from __future__ import annotations

import logging
from typing import Any

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import Diagnosis, RefusalDetector
from gradprobe.recording.notes import SourceLocation
from gradprobe.refusals.causes import CAUSES
from gradprobe.refusals.table import BY_KEY

_PREFIX = "gradprobe: "


def annotate_exception(error: BaseException, refusals: RefusalDetector, log: DetectionLog) -> None:
    """Add a note to an exception that autograd raised, if it has none yet.

    The exception, its text and its traceback stay as they are. Python 3.10 has no notes; the note is logged there.
    """
    if any(str(note).startswith(_PREFIX) for note in getattr(error, "__notes__", ())):
        return
    found = refusals.diagnose_leaving(error)
    if found is None:
        return
    text = _describe(found, log)
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(text)
    else:
        logging.getLogger("gradprobe").warning(text)


def _describe(found: Diagnosis, log: DetectionLog) -> str:
    locations = [location for location in found.locations if location is not None]
    locations += [location for under in found.under if (location := log.locate_block(under)) is not None]
    lines = "; ".join(f"{at.role} {_at(at)}" for at in dict.fromkeys(locations))
    return f"{_PREFIX}{found.rule}: {lines}\n{_PREFIX}{_advise(found)}"


def _advise(found: Diagnosis) -> str:
    """Return the edit for the cause of an exception."""
    cause = CAUSES.get(str(found.facts.get("cause")))
    return BY_KEY[found.facts["key"]].advise(found.facts) if cause is None else cause.fix


def _at(location: SourceLocation) -> str:
    return f"{location.file}:{location.line}"
