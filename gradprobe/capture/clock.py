"""The clock of a recording. Tests replace it so that every number in a report can be asserted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A pair of time sources.

    Attributes:
        now: Returns nanoseconds from any origin, and never goes back.
        wall: Returns nanoseconds since the epoch.
    """

    now: Callable[[], int] = time.perf_counter_ns
    wall: Callable[[], int] = time.time_ns


SYSTEM = Clock()
