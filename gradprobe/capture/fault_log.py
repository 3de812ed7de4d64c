"""Errors of gradprobe's own code, collected until recordings report them."""

from __future__ import annotations

from collections import Counter

from gradprobe.capture.location.signal_handlers import is_raised_by_signal_handler


class FaultLog:
    """Texts of errors with their counts."""

    def __init__(self) -> None:
        self._faults: Counter[str] = Counter()

    def report(self, error: Exception) -> None:
        """Note an error of gradprobe's own code, which the user's program must not notice.

        An error that a signal handler raised while gradprobe's code happened to run belongs to the program, and is
        raised again.
        """
        if is_raised_by_signal_handler(error):
            raise error
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
        self.add(f"{type(error).__name__}: {error}{where}"[:300])

    def add(self, text: str) -> None:
        """Note a fault by its text."""
        self._faults[text] += 1

    def take(self) -> Counter[str]:
        """Return all faults and forget them."""
        faults, self._faults = self._faults, Counter()
        return faults
