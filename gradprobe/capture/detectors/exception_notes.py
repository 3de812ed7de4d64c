"""Notes on exceptions: where the tensor that one is about was born, and under which line the mode was entered."""

from __future__ import annotations

import logging
from typing import Any

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import diagnose_exception
from gradprobe.recording.notes import SourceLocation

_OURS = "gradprobe: "


def annotate_exception(error: BaseException, sightings: DetectionLog) -> None:
    """Adds a note to an exception that gradients or inference tensors cause; on Python 3.10, which has none, logs it.

    The exception, its text and its traceback stay as they are.
    """
    if any(str(note).startswith(_OURS) for note in getattr(error, "__notes__", ())):
        return
    found = diagnose_exception(error, error.__traceback__, sightings)
    if found is None:
        return
    locations = [spot for spot in found.locations if spot is not None]
    if found.rule != "GP601" and not sightings.is_known(error):  # that one was seen as the backward began
        sightings.add(found.rule, found.locations, found.under, error=str(error).split("\n")[0][:300])
    locations += [spot for under in found.under if (spot := sightings.block_at(under)) is not None]
    text = f"{_OURS}{found.rule}: {'; '.join(f'{s.role} {_at(s)}' for s in locations)}"
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(text)
    else:
        logging.getLogger("gradprobe").warning(text)


def _at(spot: SourceLocation) -> str:
    return f"{spot.file}:{spot.line}"
