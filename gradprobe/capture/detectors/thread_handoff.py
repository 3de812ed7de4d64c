"""Detector of graphs built by work that was handed to another thread or process with grad disabled (GP701, GP706).

Grad mode is thread-local: work submitted to a pool or started as a thread inside ``no_grad`` runs with grad enabled, and so
does what that thread starts in turn. A spawned process begins with grad enabled as well.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread as pools
import functools
import multiprocessing
import multiprocessing.process
import threading
from _thread import get_ident
from collections.abc import Callable
from sys import _getframe
from types import FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.location.frames import find_frame
from gradprobe.capture.location.threads import thread_name
from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.notes import BlockAt, SourceLocation

_PACKAGES = (concurrent.futures, asyncio, multiprocessing)
_LIBRARY = (threading.__file__, *(package.__path__[0] for package in _PACKAGES))
_MARK = "_gradprobe_submitted"
_REFUSALS = ("requires grad", "requires_grad", "automatic differentiation")
"""Parts of the messages with which a worker refuses to use or to send a tensor that has a graph."""


class Submission(NamedTuple):
    """Where work was handed over with grad disabled, by which thread and when."""

    location: SourceLocation | None
    ident: int
    time_ns: int
    inference: bool


class BegunWork(NamedTuple):
    """Work that is running: the thread's counter of nodes and of backward passes before it, and what was running."""

    nodes: int
    backwards: int
    outer: Submission | None
    is_grad: bool


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
        self._running: dict[int, Submission] = {}
        """What each thread works for, if that was submitted with grad disabled."""
        self._backwards: dict[int, int] = {}
        self._spawned: Submission | None = None

    def patches(self) -> list[Patch]:
        """Return the patches that mark threads and processes as they are started, and a pool's work as it is submitted."""
        found = [Patch(threading.Thread, "start", self._mark_submitted(threading.Thread.start))]
        item: Any = getattr(pools, "_WorkItem", None)
        if item is not None and hasattr(item, "run"):
            found += [
                Patch(item, "__init__", self._mark_submitted(item.__init__)),
                Patch(item, "run", self._observe_run(item.run)),
            ]
        process: Any = multiprocessing.process.BaseProcess
        found.append(Patch(process, "start", self._note_spawned(process.start)))
        wrapper: Any = torch._utils.ExceptionWrapper
        if hasattr(wrapper, "reraise"):
            found.append(Patch(wrapper, "reraise", self._examine_error(wrapper.reraise)))
        return found

    def begin_work(self, work: Any) -> BegunWork | None:
        """Take in that ``work`` begins in this thread; None if its end need not be looked at."""
        ident, mark = get_ident(), vars(work).get(_MARK)
        outer = self._running.get(ident)
        if mark is None and outer is None:
            return None
        if mark is None:
            del self._running[ident]
        else:
            self._running[ident] = mark
            by = [BlockAt("mode entered here", mark.ident, mark.time_ns)]
            name = work.name if isinstance(work, threading.Thread) else thread_name(ident)
            self._log.add("handed-over", [mark.location], by, thread=name, inference=mark.inference)
        return BegunWork(self._count(), self._backwards.get(ident, 0), outer, torch.is_grad_enabled())

    def on_backward(self, ident: int) -> None:
        """Take in that a backward pass begins in a thread: what it works on is meant to have a graph."""
        if ident in self._running:
            self._backwards[ident] = self._backwards.get(ident, 0) + 1

    def end_work(self, work: Any, begun: object) -> None:
        """Report ``work``, which has ended, if it was submitted with grad disabled and built a graph for nothing."""
        if not isinstance(begun, BegunWork):
            return
        try:
            ident = get_ident()
            vars(work).pop(_MARK, None)
            mark = self._running.pop(ident, None)
            if begun.outer is not None:
                self._running[ident] = begun.outer
            nodes = self._count() - begun.nodes
            used = self._backwards.get(ident, 0) > begun.backwards
            if mark is not None and mark.location is not None and begun.is_grad and nodes > 0 and not used:
                self._settle()
                by = [BlockAt("mode entered here", mark.ident, mark.time_ns)]
                # A thread that has ended is in no table of `threading` any more, and asking there would add another one.
                thread = work.name if isinstance(work, threading.Thread) else thread_name(ident)
                self._log.add("GP701", [mark.location], by, thread=thread, ident=ident, nodes=nodes)
        except Exception as error:
            self._fault(error)

    def _make_submission(self) -> Submission | None:
        """Return the submission that happens now, if it happens with grad disabled, or in work that was submitted so."""
        if torch.is_grad_enabled():
            return self._running.get(get_ident())
        location = self._log.locate_frame("submitted here", _skip_library(_getframe(2)))
        return Submission(location, get_ident(), self._now(), torch.is_inference_mode_enabled())

    def _mark_submitted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def submit(work: Any, *arguments: Any, **named: Any) -> Any:
            try:
                # A pool starts its threads as the first work is submitted; they go on after it.
                is_pools = getattr(work, "_target", None) is getattr(pools, "_worker", work)
                mark = None if is_pools else self._make_submission()
                if mark is not None:
                    vars(work)[_MARK] = mark
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

    def _note_spawned(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def start(process: Any, *arguments: Any, **named: Any) -> Any:
            try:
                method = getattr(process, "_start_method", None) or multiprocessing.get_start_method(allow_none=True)
                if method not in ("fork", None):
                    self._spawned = self._make_submission()
            except Exception as error:
                self._fault(error)
            return original(process, *arguments, **named)

        return start

    def _examine_error(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what raises the exception of a worker process in the process that uses it."""

        @functools.wraps(original)
        def reraise(wrapper: Any) -> Any:
            try:
                spawned, text = self._spawned, str(wrapper.exc_msg)
                if spawned is not None and any(part in text for part in _REFUSALS):
                    by = [BlockAt("mode entered here", spawned.ident, spawned.time_ns)]
                    self._log.add("worker", [spawned.location], by, error=text.strip().splitlines()[-1][:300])
            except Exception as error:
                self._fault(error)
            return original(wrapper)

        return reraise


def _skip_library(frame: FrameType | None) -> FrameType | None:
    """Return the frame that called into Python's own library."""
    return find_frame(frame, lambda f: not f.f_code.co_filename.startswith(_LIBRARY))
