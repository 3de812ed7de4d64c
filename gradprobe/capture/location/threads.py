"""Threads: their names, and an event when one starts or ends."""

from __future__ import annotations

import functools
import sys
import threading
from _thread import get_ident
from collections.abc import Callable

from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.events import ENTER, EXIT, NOT_READ, THREAD, Event


def thread_patches(
    emit: Callable[[Event], object],
    now: Callable[[], int],
    on_start: Callable[[threading.Thread], object],
    on_end: Callable[[threading.Thread, object], None],
    fault: Callable[[Exception], None],
    is_live: Callable[[], bool],
) -> list[Patch]:
    """Return the patches that emit an event at the start and the end of each thread that Python starts.

    An identifier is reused as soon as its thread has ended, so without these events two threads would become one.

    Args:
        emit: Receives the events.
        now: The clock, in nanoseconds.
        on_start: Called in the new thread before it runs.
        on_end: Called in the thread after it has run, with the result of ``on_start``.
        fault: Receives gradprobe's own errors.
        is_live: Returns False once these patches are no longer in use, although another tool still calls them.
    """
    original = getattr(threading.Thread, "_bootstrap_inner", None)
    if original is None:
        return []

    @functools.wraps(original)
    def bootstrap(self: threading.Thread) -> None:
        if not is_live():
            original(self)
            return
        ident, begun = get_ident(), None
        try:
            emit((THREAD | ENTER, now(), ident, None, 0, True, False, True, False, 0, self.name))
            begun = on_start(self)
        except Exception as error:  # the caller of Thread.start() waits until the thread runs
            fault(error)
        try:
            original(self)
        finally:
            try:
                on_end(self, begun)
                emit((THREAD | EXIT, now(), ident, None, 0, NOT_READ, NOT_READ, NOT_READ, NOT_READ, 0, None))
            except Exception as error:
                fault(error)

    return [Patch(threading.Thread, "_bootstrap_inner", bootstrap)]


def thread_name(ident: int) -> str:
    """Return the name of a thread, or one made of its identifier, without adding it to Python's table."""
    known = threading._active.get(ident)  # type: ignore[attr-defined]
    return known.name if known is not None else f"thread {ident}"


def live_threads() -> dict[int, str]:
    """Return the names of the threads that run Python code now, by identifier."""
    return {ident: thread_name(ident) for ident in sys._current_frames()}
