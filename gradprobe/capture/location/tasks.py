"""Asyncio tasks: their labels, and whether any can be running."""

from __future__ import annotations

import asyncio.events
import functools
import sys
import weakref
from asyncio import current_task
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from gradprobe.capture.patching.patches import Patch

_MAX_COUNTED_NAMES = 100_000
"""Maximum number of task names that are counted, before the count starts over."""


def loop_patches(on_loop: Callable[[], None], fault: Callable[[Exception], None]) -> list[Patch]:
    """Return the patches that call ``on_loop`` whenever an asyncio event loop begins to run in any thread."""
    events: Any = asyncio.events
    original = getattr(events, "_set_running_loop", None)
    if original is None:
        on_loop()
        return []

    @functools.wraps(original)
    def set_running_loop(loop: Any) -> None:
        original(loop)
        try:
            on_loop()
        except Exception as error:  # it would reach the code that starts or ends a loop
            fault(error)

    return [Patch(events, "_set_running_loop", set_running_loop)]


def may_have_event_loops() -> bool:
    """Return whether an event loop may run in some thread, or start without asyncio's Python code."""
    return getattr(asyncio.events, "_event_loop_policy", True) is not None or "uvloop" in sys.modules


class TaskLabels:
    """Labels of asyncio tasks: their names, with a number where two tasks share one. Keeps no task alive."""

    def __init__(self) -> None:
        self._labels: weakref.WeakKeyDictionary[Hashable, str] = weakref.WeakKeyDictionary()
        self._uses: Counter[str] = Counter()

    def label(self) -> str | None:
        """Return the label of the task that runs in this thread, None outside of tasks."""
        loop = asyncio.events._get_running_loop()
        task = None if loop is None else current_task(loop)
        if task is None:
            return None
        known = self._labels.get(task)
        if known is None:
            name = task.get_name()
            if len(self._uses) > _MAX_COUNTED_NAMES:
                self._uses.clear()
            self._uses[name] += 1
            known = name if self._uses[name] == 1 else f"{name} #{self._uses[name]}"
            self._labels[task] = known
        return known
