"""The errors gradprobe raises at its users: each says what, where and what to do."""

from __future__ import annotations


class GradprobeError(Exception):
    """Bad usage or bad input, told in one line that a command can print as it is."""


class RecordingError(GradprobeError):
    """A file that is no recording, is damaged, or was written by a newer gradprobe."""
