"""The background thread that empties the queue, and the wait of threads that fill it too fast."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from gradprobe.recording.events import Event

TICK_S = 0.1
TICKS_PER_FLUSH = 3
TICKS_PER_TALLY = 8
BACKLOG = 50_000
"""Number of queued events from which on the program has to wait for the writer."""


class WriterWork(Protocol):
    """The steps of one tick, which the session supplies. All are called under its lock."""

    lock: threading.RLock

    @property
    def is_idle(self) -> bool: ...
    def choose_emit(self) -> None: ...
    def empty_queue(self, *, close_tallies: bool) -> None: ...
    def flush(self) -> None: ...
    def enable_task_labels(self) -> None: ...


class WriterThread:
    """The thread that empties the queue, for as long as there is anything to record."""

    def __init__(self, work: WriterWork, queue: deque[Event], fault: Callable[[Exception], None]) -> None:
        self._work, self._queue, self._fault = work, queue, fault
        self.is_running = self._is_slowed = False

    def start(self) -> None:
        """Start the thread unless it is running."""
        if not self.is_running:
            self.is_running = True
            # Not a threading.Thread: the program may count those.
            _thread.start_new_thread(self._write, ())

    def wait(self) -> None:
        """Block the calling thread until most of the backlog is written."""
        # One long wait now and then: two threads that pass the interpreter lock back and forth make little progress.
        for _ in range(100):
            time.sleep(0.002)
            if len(self._queue) < BACKLOG // 4 or not self.is_running:
                return

    def _write(self) -> None:
        work = self._work
        for tick in count(1):
            time.sleep(TICK_S / 10 if self._is_slowed else TICK_S)
            _leave_to_the_program()
            with work.lock:
                if work.is_idle and not self._queue:
                    self.is_running = False
                    self._safely(work.flush)
                    return
                self._safely(lambda tick=tick: self._tick(tick))  # type: ignore[misc]

    def _tick(self, tick: int) -> None:
        work, backlog = self._work, len(self._queue)
        if self._is_slowed or backlog > BACKLOG:
            self._is_slowed = backlog > BACKLOG // 4
            work.choose_emit()
        if "uvloop" in sys.modules:  # its loops start without asyncio's Python code
            work.enable_task_labels()
        work.empty_queue(close_tallies=tick % TICKS_PER_TALLY == 0)
        if tick % TICKS_PER_FLUSH == 0:
            work.flush()

    def _safely(self, step: Callable[[], object]) -> None:
        # All recordings are written by this thread, so it must not end with an error.
        try:
            step()
        except Exception as error:
            self._fault(error)


def _leave_to_the_program() -> None:
    """Drop the profile and trace functions that a tool of the program has set in all threads, this one included."""
    if sys.getprofile() is not None:
        sys.setprofile(None)
    if sys.gettrace() is not None:
        sys.settrace(None)
