"""Detector of graphs built by work that was submitted to another thread with grad disabled (GP701).

Grad mode is thread-local: work submitted to a pool or started as a thread inside ``no_grad`` runs with grad enabled.
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
_MARK = "_gradprobe_submitted"


class ThreadHandoffDetector:
    """Detector of all threads: marks submitted work, and reads the node counter around its run.

    Call the methods without holding a lock; any thread may do so.
    """

    def __init__(
        self,
        log: DetectionLog,
        now: Callable[[], int],
        resolve_pending: Callable[[], None],
        fault: Callable[[Exception], None],
    ) -> None:
        self._log, self._now, self._settle, self._fault = log, now, resolve_pending, fault
        self._count: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", int)

    def patches(self) -> list[Patch]:
        """Return the patches that mark threads as they are started, and a pool's work as it is submitted."""
        found = [Patch(threading.Thread, "start", self._mark_submitted(threading.Thread.start))]
        item: Any = getattr(pools, "_WorkItem", None)
        if item is not None and hasattr(item, "run"):
            found += [
                Patch(item, "__init__", self._mark_submitted(item.__init__)),
                Patch(item, "run", self._observe_run(item.run)),
            ]
        return found

    def begin_work(self, work: Any) -> int | None:
        """Return the node counter as ``work`` begins, or None if its end need not be looked at."""
        return self._count() if _MARK in vars(work) and torch.is_grad_enabled() else None

    def end_work(self, work: Any, before: int | None) -> None:
        """Report ``work``, which has ended, if it was submitted with grad disabled and built a graph."""
        try:
            location, ident, time = vars(work).pop(_MARK, (None, 0, 0))
            if location is not None and before is not None and self._count() > before:
                self._settle()
                by, thread = [BlockAt("mode entered here", ident, time)], threading.current_thread()
                self._log.add("GP701", [location], by, thread=thread.name, ident=get_ident())
        except Exception as error:
            self._fault(error)

    def _mark_submitted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def submit(work: Any, *arguments: Any, **named: Any) -> Any:
            try:
                # A pool starts its threads as the first work is submitted; they go on after it.
                is_pools = getattr(work, "_target", None) is getattr(pools, "_worker", work)
                if not torch.is_grad_enabled() and not is_pools:
                    location = self._log.locate_frame("submitted here", _skip_library(_getframe(1)))
                    vars(work)[_MARK] = location, get_ident(), self._now()
            except Exception as error:
                self._fault(error)
            return original(work, *arguments, **named)

        return submit

    def _observe_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(work: Any) -> Any:
            before = self.begin_work(work)
            try:
                return original(work)
            finally:
                self.end_work(work, before)

        return run


def _skip_library(frame: FrameType | None) -> FrameType | None:
    """Return the frame that called into Python's own library."""
    return find_frame(frame, lambda f: not f.f_code.co_filename.startswith(_LIBRARY))
