"""Detector of writes to memory that a graph has saved and whose version counter missed them (GP609).

The observer's library compares what was saved with what is there as a backward pass begins. Which line of a program wrote
through NumPy cannot be seen while it does; the line that gave the memory away can.
"""

from __future__ import annotations

from types import FrameType

from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.frames import walk_frames
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.notes import SourceLocation

_Place = tuple[int, int]

UnseenWrite = tuple[_Place, _Place, bool]
"""The place that saved the memory, the place that wrote it or gave it away, and whether an operator wrote it.

A place is the identity of a code object and an offset; that of memory that came from an array is 0, as it is unknown.
"""


_GRADCHECK = f"{TORCH_DIR}autograd/gradcheck.py"


def report_unseen_writes(
    writes: list[UnseenWrite], at: SourceLocation | None, frame: FrameType | None, log: DetectionLog
) -> None:
    """Report the writes to what a backward pass is about to use.

    Args:
        writes: The writes.
        at: The line that calls the backward.
        frame: The innermost frame that runs.
        log: The log of detections.
    """
    # It changes its inputs by a little through `.data` while their graph waits, and changes them back.
    if any(each.f_code.co_filename == _GRADCHECK for each in walk_frames(frame)):
        return
    held = log.codes.held
    for (saved_code, saved_offset), (code, offset), by_operator in writes:
        saved = locate_instruction("saved for backward here", held.get(saved_code), saved_offset)
        role = "written here" if by_operator else "memory given away here"
        written = locate_instruction(role, held.get(code), offset)
        log.add("GP609", [saved, written, at], by_operator=int(by_operator))
