"""Notes on exceptions: the lines that created the tensor concerned and entered the mode."""

from __future__ import annotations

import logging
from typing import Any

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import diagnose_exception
from gradprobe.recording.notes import SourceLocation

_PREFIX = "gradprobe: "


def annotate_exception(error: BaseException, log: DetectionLog) -> None:
    """Add a note to an exception caused by grad modes or inference tensors.

    The exception, its text and its traceback stay as they are. Python 3.10 has no notes; the note is logged there.
    """
    if any(str(note).startswith(_PREFIX) for note in getattr(error, "__notes__", ())):
        return
    found = diagnose_exception(error, error.__traceback__, log)
    if found is None:
        return
    locations = [location for location in found.locations if location is not None]
    if found.rule != "GP601" and not log.is_repeated(error):  # which was reported when the backward began
        log.add(found.rule, found.locations, found.under, error=str(error).split("\n")[0][:300])
    locations += [location for under in found.under if (location := log.locate_block(under)) is not None]
    text = f"{_PREFIX}{found.rule}: {'; '.join(f'{s.role} {_at(s)}' for s in locations)}"
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(text)
    else:
        logging.getLogger("gradprobe").warning(text)


def _at(location: SourceLocation) -> str:
    return f"{location.file}:{location.line}"
