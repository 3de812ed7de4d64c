"""Limit for work that gradprobe does at times: some processor time at first, and then a share of the time that passes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeShare:
    """Time that one kind of work may take in all threads together.

    Waiting for other threads does not count: it costs the program nothing.

    Args:
        allowance_s: Processor time in seconds that short programs spend as well.
        share: Share of the time since the beginning that may be spent beyond that.
    """

    def __init__(self, allowance_s: float, share: float) -> None:
        self._allowance_s, self._share = allowance_s, share
        self.restart()

    def restart(self) -> None:
        """Begin again with the full allowance."""
        self._began_s, self._spent_s = time.perf_counter(), 0.0

    def is_left(self) -> bool:
        """Return whether more may be spent now."""
        return self._spent_s <= self._allowance_s + self._share * (time.perf_counter() - self._began_s)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count the processor time of the block."""
        began = time.thread_time()
        try:
            yield
        finally:
            self._spent_s += time.thread_time() - began
