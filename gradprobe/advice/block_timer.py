"""Times of blocks, each under a manager that is chosen by chance, so that both are measured in one run of the program."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MAX_BLOCKS = 100_000


class BlockTimer:
    """Maker of the managers of a timed run: one of the two by chance, and its time is noted when it is exited.

    Args:
        path: File to append the times to.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # A generator of its own: the program's must not notice.
        self._choose = random.Random(7)
        self._left = _MAX_BLOCKS

    def __call__(self, site: str) -> Callable[..., Any]:
        """Return what stands in for the manager's class at ``site``."""
        return functools.partial(_TimedBlock, self, site)

    def choose(self) -> str:
        """Return the name of the manager of the next block."""
        return self._choose.choice(("no_grad", "inference_mode"))

    def note(self, site: str, manager: str, nanoseconds: int) -> None:
        """Write the time of a block."""
        self._left -= 1
        if self._left >= 0:
            os.write(self._file, json.dumps([site, manager, nanoseconds]).encode() + b"\n")


class _TimedBlock(contextlib.ContextDecorator):
    def __init__(self, timer: BlockTimer, site: str, function: Any = None) -> None:
        self._timer, self._site = timer, site
        self._open: list[tuple[str, Any, int]] = []
        self._function = function
        if callable(function):
            functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._function is None and arguments:
            return _decorate(self, arguments[0])
        with self:
            return self._function(*arguments, **named)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None or self._function is None else functools.partial(self, instance)

    def __enter__(self) -> None:
        import torch

        manager = self._timer.choose()
        inner = getattr(torch, manager)()
        began = time.perf_counter_ns()
        inner.__enter__()
        self._open.append((manager, inner, began))

    def __exit__(self, *error: Any) -> None:
        manager, inner, began = self._open.pop()
        inner.__exit__(*error)
        self._timer.note(self._site, manager, time.perf_counter_ns() - began)


def _decorate(block: _TimedBlock, function: Any) -> Any:
    import inspect

    if inspect.isgeneratorfunction(function) or inspect.isclass(function):
        import torch

        return torch.no_grad()(function)  # entered again at every step: nothing to time as a whole

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        with _TimedBlock(block._timer, block._site):
            return function(*arguments, **named)

    return timed
