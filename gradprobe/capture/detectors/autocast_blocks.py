"""Tracker of autocast blocks: exiting inference mode late may restore one that has ended (GP705)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from sys import _getframe
from types import FrameType
from typing import Any

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.notes import SourceLocation

_DEVICES = ("cpu", "cuda")


def is_autocast_enabled() -> bool:
    """Return whether autocast is enabled in this thread, for any device."""
    return any(torch.is_autocast_enabled(device) for device in _DEVICES)


class AutocastTracker:
    """Number of open autocast blocks of each thread, and the line where it entered the last one."""

    def __init__(self, log: DetectionLog, thread: Callable[[], int], fault: Callable[[Exception], None]) -> None:
        self._log, self._thread, self._fault = log, thread, fault
        self.open: dict[int, int] = {}
        self.last: dict[int, SourceLocation | None] = {}

    def patches(self) -> list[Patch]:
        """Return the patches that observe the blocks of ``torch.autocast``."""
        enter_original: Any = torch.autocast.__enter__
        exit_original: Any = torch.autocast.__exit__

        @functools.wraps(enter_original)
        def enter_observed(block: Any) -> Any:
            self._record(1, _getframe(1))
            return enter_original(block)

        @functools.wraps(exit_original)
        def exit_observed(block: Any, *error: Any) -> Any:
            self._record(-1, None)
            return exit_original(block, *error)

        skip_when_compiling(enter_observed, exit_observed)
        return [Patch(torch.autocast, "__enter__", enter_observed), Patch(torch.autocast, "__exit__", exit_observed)]

    def _record(self, step: int, frame: FrameType | None) -> None:
        try:
            ident = self._thread()
            self.open[ident] = max(self.open.get(ident, 0) + step, 0)
            if frame is not None:
                self.last[ident] = self._log.locate_frame("autocast entered here", frame)
        except Exception as error:
            self._fault(error)
