"""Blocks as named ranges in the trace of ``torch.profiler``, while that runs.

``record_function`` of ``torch.profiler`` goes through the dispatcher, where modes of the program would see it. PyTorch's
compiled code names its ranges in a way that only the profiler sees, and so does this module.
"""

from __future__ import annotations

import contextlib
import os
from _thread import get_ident
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

from gradprobe.capture.location.sites import Offset, make_site
from gradprobe.recording.events import ACTION_MASK, ENTER, EXIT, MANAGERS, Event

_Range: Callable[[str], Any] | None = getattr(getattr(torch._C, "_profiler", None), "_RecordFunctionFast", None)


def can_name_ranges() -> bool:
    """Return whether this PyTorch has ranges that only the profiler sees."""
    return _Range is not None


class ProfilerRanges:
    """The ranges of open blocks. A block exited in another thread leaves its range open to the end."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], list[Any]] = {}
        self._names: dict[tuple[int, Offset, int], str | None] = {}
        self._codes: list[CodeType | None] = []  # the id of a freed code object may be reused

    def around(self, emit: Callable[[Event], object]) -> Callable[[Event], object]:
        """Return an ``emit`` that also begins and ends ranges."""

        def with_range(event: Event) -> None:
            emit(event)
            op = event[0]
            if op & ~ACTION_MASK in MANAGERS:
                if op & ACTION_MASK == ENTER:
                    self._begin(event)
                elif op & ACTION_MASK == EXIT:
                    self._end(event)

        return with_range

    def close(self) -> None:
        """End the ranges of this thread and forget the others."""
        ident = get_ident()
        for thread, key in list(self._open):
            if thread == ident:
                for entered in reversed(self._open.pop((thread, key))):
                    _exit(entered)
        self._open.clear()

    def _begin(self, event: Event) -> None:
        op, _, thread, code, offset, *_, key, _ = event
        name = self._name(code, offset, op & ~ACTION_MASK)
        if name is not None and _Range is not None:
            entered = _Range(name)
            entered.__enter__()
            self._open.setdefault((thread, key), []).append(entered)

    def _end(self, event: Event) -> None:
        opened = self._open.get((event[2], event[9]))
        if opened:
            _exit(opened.pop())
            if not opened:
                del self._open[event[2], event[9]]

    def _name(self, code: CodeType | None, offset: Offset, manager: int) -> str | None:
        """Return the name of a range, None for blocks in PyTorch's own code."""
        known = (id(code), offset, manager)
        if known not in self._names:
            self._codes.append(code)
            site = make_site(code, offset)
            where = "" if site.file is None else f" {os.path.basename(site.file)}:{site.line}"
            self._names[known] = None if site.internal else f"{MANAGERS[manager]}{where}"
        return self._names[known]


def _exit(entered: Any) -> None:
    # A range that began before the profiler has nothing to end, and raises.
    with contextlib.suppress(RuntimeError):
        entered.__exit__(None, None, None)
