"""Notes on exceptions: where the tensor that one is about was born, and under which line the mode was entered."""

from __future__ import annotations

import logging
from typing import Any

from gradprobe.capture.detectors.detection_log import Sightings
from gradprobe.capture.detectors.exception_diagnosis import explain
from gradprobe.recording.notes import Spot

_OURS = "gradprobe: "


def note_on(error: BaseException, sightings: Sightings) -> None:
    """Adds a note to an exception that gradients or inference tensors cause; on Python 3.10, which has none, logs it.

    The exception, its text and its traceback stay as they are.
    """
    if any(str(note).startswith(_OURS) for note in getattr(error, "__notes__", ())):
        return
    found = explain(error, error.__traceback__, sightings)
    if found is None:
        return
    spots = [spot for spot in found.spots if spot is not None]
    if found.rule != "GP601" and not sightings.is_known(error):  # that one was seen as the backward began
        sightings.add(found.rule, found.spots, found.under, error=str(error).split("\n")[0][:300])
    spots += [spot for under in found.under if (spot := sightings.block_at(under)) is not None]
    text = f"{_OURS}{found.rule}: {'; '.join(f'{s.role} {_at(s)}' for s in spots)}"
    add: Any = getattr(error, "add_note", None)
    if add is not None:
        add(text)
    else:
        logging.getLogger("gradprobe").warning(text)


def _at(spot: Spot) -> str:
    return f"{spot.file}:{spot.line}"
