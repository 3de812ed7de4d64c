"""Errors that gradprobe raises for its users: each message says what failed, why, and what to do."""

from __future__ import annotations


class GradprobeError(Exception):
    """Base class of all errors that gradprobe raises on purpose.

    The message is one line that a command prints as it is. An error of this class itself reports a state in which the call
    cannot succeed, such as a file that exists already.

    Example::

        try:
            recording = gradprobe.load("run.gradprobe")
        except gradprobe.GradprobeError as error:
            sys.exit(f"error: {error}")
    """


class InvalidArgument(GradprobeError, ValueError):  # noqa: N818
    """An argument with a value that is not allowed; also a ``ValueError``.

    Example::

        >>> gradprobe.record(level="all")
        InvalidArgument: level must be 'modes', 'graph' or 'ops', got 'all'
    """


class RecordingError(GradprobeError):
    """A file that is not a recording, is damaged, or was written by a newer gradprobe.

    Example::

        >>> gradprobe.load("train.py")
        RecordingError: ...
    """
