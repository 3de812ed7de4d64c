"""How widely the tests search: ``make test`` a sample, ``make fidelity`` all of it."""

from __future__ import annotations

import os

import pytest

IS_THOROUGH = os.environ.get("GRADPROBE_TESTS") == "thorough"

thorough = pytest.mark.skipif(not IS_THOROUGH, reason="part of the wider search of `make fidelity`")


def examples(number: int) -> int:
    """Return how many examples of a property to try where a thorough run tries ``number``."""
    return number if IS_THOROUGH else max(10, number // 6)


def share(one_in: int) -> int:
    """Return the divisor of a sample: a thorough run takes one case in ``one_in``."""
    return one_in if IS_THOROUGH else 4 * one_in
