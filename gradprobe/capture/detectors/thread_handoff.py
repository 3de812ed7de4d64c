"""Work that a thread hands to another: under which modes it was handed over, and whether it built a graph there.

Modes belong to the thread. What is submitted to a pool, or started as a thread, inside ``no_grad`` runs with gradients on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread as pools
import functools
import os
import threading
from _thread import get_ident
from collections.abc import Callable
from sys import _getframe
from types import FrameType
from typing import Any

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.location.frames import find_frame
from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.notes import BlockAt

_LIBRARY = (threading.__file__, os.path.dirname(concurrent.futures.__file__), os.path.dirname(asyncio.__file__))
_MARK = "_gradprobe_handed_over"


class ThreadHandoffDetector:
    """Marks what is handed over, and looks at what became of it. Called under no lock, in whatever thread it is."""

    def __init__(
        self,
        sightings: DetectionLog,
        now: Callable[[], int],
        resolve_pending: Callable[[], None],
        fault: Callable[[Exception], None],
    ) -> None:
        self._sightings, self._now, self._settle, self._fault = sightings, now, resolve_pending, fault
        self._count: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", int)

    def patches(self) -> list[Patch]:
        """What notes the handing over: of threads where they are started, of a pool's work where it is submitted."""
        found = [Patch(threading.Thread, "start", self._marking(threading.Thread.start))]
        item: Any = getattr(pools, "_WorkItem", None)
        if item is not None and hasattr(item, "run"):
            found += [
                Patch(item, "__init__", self._marking(item.__init__)),
                Patch(item, "run", self._running(item.run)),
            ]
        return found

    def taken(self, work: Any) -> int | None:
        """The count of nodes as ``work`` begins; None if there is nothing to look at when it ends."""
        return self._count() if _MARK in vars(work) and torch.is_grad_enabled() else None

    def done(self, work: Any, before: int | None) -> None:
        """``work`` has ended: whether it built a graph although it was handed over from where none was wanted."""
        try:
            spot, ident, time = vars(work).pop(_MARK, (None, 0, 0))
            if spot is not None and before is not None and self._count() > before:
                self._settle()
                by, thread = [BlockAt("mode entered here", ident, time)], threading.current_thread()
                self._sightings.add("GP701", [spot], by, thread=thread.name, ident=get_ident())
        except Exception as error:
            self._fault(error)

    def _marking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def hand_over(work: Any, *arguments: Any, **named: Any) -> Any:
            try:
                # A pool's thread is started where the first work is submitted, and lives on.
                is_pools = getattr(work, "_target", None) is getattr(pools, "_worker", work)
                if not torch.is_grad_enabled() and not is_pools:
                    spot = self._sightings.locate_frame("handed over here", _outside_of_library(_getframe(1)))
                    vars(work)[_MARK] = spot, get_ident(), self._now()
            except Exception as error:
                self._fault(error)
            return original(work, *arguments, **named)

        return hand_over

    def _running(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(work: Any) -> Any:
            before = self.taken(work)
            try:
                return original(work)
            finally:
                self.done(work, before)

        return run


def _outside_of_library(frame: FrameType | None) -> FrameType | None:
    """The frame that called into Python's own library."""
    return find_frame(frame, lambda f: not f.f_code.co_filename.startswith(_LIBRARY))
