"""Limits on the time of runs: of a single one, and of all those together that do not end."""

from __future__ import annotations

_MARGIN, _MARGIN_S = 10.0, 60.0
"""A run may take so many times as long as the program usually does, and so many seconds more: the machine may be busy."""


class TimeLimits:
    """Limits on the time of the runs of one program.

    Once it is known how long the program takes, a run that takes several times as long is ended: an exchange can make a
    program wait for ever, and its other runs must not be waited for as well.

    Args:
        timeout_s: Maximum time of a run, and of all runs together that did not end, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._longest_s = timeout_s
        self.lost_s = 0.0
        """Time that passed in runs that did not end, in seconds."""

    @property
    def next_s(self) -> float:
        """Maximum time of the next run, in seconds."""
        return self._longest_s

    @property
    def are_spent(self) -> bool:
        """True if no further run is to be started."""
        return self.lost_s >= self._timeout_s

    def expect(self, seconds: float) -> None:
        """Take in how long a watched run takes if it ends."""
        self._longest_s = min(self._timeout_s, _MARGIN * seconds + _MARGIN_S)

    def add_late(self) -> str:
        """Take in that a run was ended; return that in words."""
        self.lost_s += self._longest_s
        return f"did not end within {self._longest_s:.0f} s"

    def describe_spent(self) -> str:
        """Return why no further run is started, in words."""
        return f"was not started, because runs that did not end have taken the {self._timeout_s:.0f} s of --timeout"
