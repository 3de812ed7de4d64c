"""Fork and exit handlers of the whole package, in one explicit order.

A module that has to do something around a fork or at the interpreter's exit registers it here, under its place in
``Order``, when it is imported. The order in which the handlers run follows from ``Order`` alone and not from the order of
the imports; a module that was never imported takes no part. This module imports nothing of gradprobe.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

Handler = Callable[[], object]


class Order(IntEnum):
    """Places of the fork handlers: first to last after a fork, last to first before it.

    Before a fork the session's lock is taken before SQLite's, as the writer thread takes them: the other way round, the
    two threads would wait for each other.
    """

    SQLITE = 0
    """SQLite's lock, and the check for locks that stay held in the child (``recording.sqlite_fork``)."""
    SESSIONS = 1
    """Sessions, which the child abandons: from then on, PyTorch runs unmodified (``recorder``)."""
    MONITORS = 2
    """Monitors, which start again in the child after sessions are abandoned (``monitoring.monitor``)."""
    FOLLOWER = 3
    """Recording of the child itself, which starts after that as well (``subprocesses.follower``)."""


class ForkHandlers(NamedTuple):
    """Functions of one module that run around ``os.fork``; None where it has none."""

    before: Handler | None = None
    in_parent: Handler | None = None
    in_child: Handler | None = None


_handlers: dict[Order, ForkHandlers] = {}
_reserved: list[Order] = []


def register(
    place: Order,
    *,
    before: Handler | None = None,
    in_parent: Handler | None = None,
    in_child: Handler | None = None,
    at_exit: Handler | None = None,
) -> None:
    """Register the fork handlers of one module at ``place``, and its exit handler.

    Exit handlers run last to first in the order of their registration, as ``atexit`` runs them: gradprobe's run before
    those of the modules that the registering one had imported, torch among them.
    """
    _handlers[place] = ForkHandlers(before, in_parent, in_child)
    for other in Order:
        if other <= place and other not in _reserved and hasattr(os, "register_at_fork"):
            # One entry per place, not one that runs the whole list: Python reports an error of one and runs the others.
            # Earlier places are reserved too, in case their modules are imported later; the later ones are not, so that
            # their locks are taken before those of libraries that are imported meanwhile.
            os.register_at_fork(
                before=partial(_run, other, "before"),
                after_in_parent=partial(_run, other, "in_parent"),
                after_in_child=partial(_run, other, "in_child"),
            )
            _reserved.append(other)
    if at_exit is not None:
        atexit.register(at_exit)


def _run(place: Order, phase: str) -> None:
    handler: Handler | None = getattr(_handlers.get(place), phase, None)
    if handler is not None:
        handler()
