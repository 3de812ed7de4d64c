"""Errors that another thread raises in a thread while gradprobe's code runs in it, as time limits of libraries do."""

from __future__ import annotations

import os

import pytest

import gradprobe
from gradprobe.capture.fault_log import FaultLog


class TimeLimitError(Exception):
    """An error of the program."""


def _raised(error: Exception, file: str) -> Exception:
    """Return ``error`` as it is after it was raised in code of ``file``."""
    try:
        exec(compile("raise error", file, "exec"), {"error": error})
    except Exception as caught:
        return caught
    raise AssertionError


def test_error_of_the_program_in_code_of_gradprobe_is_raised_again() -> None:
    faults = FaultLog()
    own_file = os.path.join(os.path.dirname(gradprobe.__file__), "any.py")

    with pytest.raises(TimeLimitError):
        faults.report(_raised(TimeLimitError(), own_file))
    faults.report(_raised(ValueError("of gradprobe's code"), own_file))
    faults.report(_raised(TimeLimitError("of an object of the program"), __file__))

    assert len(faults.take()) == 2
