"""Process-wide switch of gradprobe: ``GRADPROBE``, ``disable()`` and ``enable()``.

The environment variable ``GRADPROBE`` has two meanings, one for each value:

- ``GRADPROBE=0`` (or ``off``, ``false``, ``no``), read when gradprobe is imported, disables gradprobe for the whole
  process. Probes decorate nothing, and ``record()`` records nothing. ``enable()`` does not undo it. The pytest plugin
  records no test either.
- ``GRADPROBE=1`` (or ``on``, ``true``, ``yes``) is the twin of pytest's option ``--gradprobe``: the plugin records every
  test. Outside of pytest it changes nothing.
"""

from __future__ import annotations

import os

RECORD_VARIABLE = "GRADPROBE_RECORD"
"""Environment variable that starts a recording in each process that imports torch."""

DISABLED_AT_IMPORT = os.environ.get("GRADPROBE", "").strip().lower() in ("0", "off", "false", "no")


class _Switch:
    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = not DISABLED_AT_IMPORT


# An object, not a variable of this module: the probes read its attribute on each call.
switch = _Switch()


def is_enabled() -> bool:
    """Return whether new recordings and probed calls are recorded."""
    return switch.on


def disable() -> None:
    """Make every probe and every new ``record()`` inert, in all threads.

    Recordings, monitors and probed calls that are running continue to their end. Set ``GRADPROBE=0`` in the environment to
    disable gradprobe from the start, which saves the wrappers of the probes as well. ``GRADPROBE=1`` has an effect in
    pytest only: it is the twin of ``--gradprobe``.

    Example::

        gradprobe.disable()
        evaluate(model)  # decorated with @gradprobe.probe, runs without being recorded
        gradprobe.enable()
    """
    switch.on = False


def enable() -> None:
    """Undo ``disable()``, in all threads.

    A process started with ``GRADPROBE=0`` stays disabled: its probes returned the bare functions.

    Example::

        gradprobe.enable()
        with gradprobe.record() as recording:
            evaluate(model)
    """
    switch.on = not DISABLED_AT_IMPORT
