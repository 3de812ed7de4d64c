"""Autocast blocks, as far as leaving inference mode late may bring back one that has ended."""

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
    """Whether autocast is on in this thread, for any device."""
    return any(torch.is_autocast_enabled(device) for device in _DEVICES)


class AutocastTracker:
    """Where each thread entered its last autocast block, and how many are open."""

    def __init__(self, sightings: DetectionLog, thread: Callable[[], int], fault: Callable[[Exception], None]) -> None:
        self._sightings, self._thread, self._fault = sightings, thread, fault
        self.open: dict[int, int] = {}
        self.last: dict[int, SourceLocation | None] = {}

    def patches(self) -> list[Patch]:
        """What notes the blocks of ``torch.autocast``."""
        enter: Any = torch.autocast.__enter__
        leave: Any = torch.autocast.__exit__

        @functools.wraps(enter)
        def entering(block: Any) -> Any:
            self._note(1, _getframe(1))
            return enter(block)

        @functools.wraps(leave)
        def leaving(block: Any, *error: Any) -> Any:
            self._note(-1, None)
            return leave(block, *error)

        skip_when_compiling(entering, leaving)
        return [Patch(torch.autocast, "__enter__", entering), Patch(torch.autocast, "__exit__", leaving)]

    def _note(self, step: int, frame: FrameType | None) -> None:
        try:
            ident = self._thread()
            self.open[ident] = max(self.open.get(ident, 0) + step, 0)
            if frame is not None:
                self.last[ident] = self._sightings.locate_frame("autocast entered here", frame)
        except Exception as error:
            self._fault(error)
