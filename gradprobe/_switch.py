"""Whether gradprobe watches at all: ``GRADPROBE=0`` in the environment, and ``disable()`` and ``enable()`` at run time."""

from __future__ import annotations

import os

DISABLED_AT_IMPORT = os.environ.get("GRADPROBE", "").strip().lower() in ("0", "off", "false", "no")


class _Switch:
    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = not DISABLED_AT_IMPORT


# An object, not a variable of this module: the probes look at its attribute on each call.
switch = _Switch()


def is_enabled() -> bool:
    """Whether new recordings and probed calls are watched."""
    return switch.on


def disable() -> None:
    """Makes every probe and ``record()`` inert from now on, in all threads. What is running goes on to its end."""
    switch.on = False


def enable() -> None:
    """Undoes ``disable()``. A process started with ``GRADPROBE=0`` stays off: its probes are the bare functions."""
    switch.on = not DISABLED_AT_IMPORT
