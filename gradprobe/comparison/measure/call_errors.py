"""Errors of measured calls, and how they are shown."""

from __future__ import annotations

from gradprobe.comparison import measured_modes
from gradprobe.errors import GradprobeError


class WorkloadError(GradprobeError):
    """A call failed in a block after it had succeeded before."""

    def __init__(self, arm: str, error: Exception) -> None:
        super().__init__(describe_error(error))
        self.mode = measured_modes.BASELINE if arm == measured_modes.CONTROL else arm


def describe_error(error: BaseException) -> str:
    """Return the type of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
