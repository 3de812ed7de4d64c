"""Errors of gradprobe's own code, collected until recordings report them."""

from __future__ import annotations

import os
import sys
from collections import Counter

from gradprobe import _version
from gradprobe.capture.location.signal_handlers import is_raised_by_signal_handler

_GRADPROBE_DIR = os.path.dirname(_version.__file__) + os.sep
_PACKAGES = {"gradprobe", "torch", "numpy", "pandas", "pybind11_builtins", *sys.stdlib_module_names}


def _is_raised_from_outside(error: BaseException) -> bool:
    """Return whether another thread raised ``error`` in gradprobe's code, as ``PyThreadState_SetAsyncExc`` does.

    It is of a class that gradprobe's code does not raise, and in a frame of that code. An object of the program that
    gradprobe asks something raises its errors in frames of its own.
    """
    trace = error.__traceback__
    if trace is None or type(error).__module__.partition(".")[0] in _PACKAGES:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(_GRADPROBE_DIR)


class FaultLog:
    """Texts of errors with their counts."""

    def __init__(self) -> None:
        self._faults: Counter[str] = Counter()

    def report(self, error: Exception) -> None:
        """Note an error of gradprobe's own code, which the user's program must not notice.

        An error that a signal handler or another thread raised while gradprobe's code happened to run belongs to the
        program, and is raised again.
        """
        if is_raised_by_signal_handler(error) or _is_raised_from_outside(error):
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
