"""A sample of the fidelity matrix; ``make fidelity`` runs the whole."""

from __future__ import annotations

import pytest

from tests.fidelity.cases import modules, operators, programs
from tests.fidelity.matrix import LEVELS, compared, higher_peaks

pytest.importorskip("expecttest", reason="PyTorch's databases need the package expecttest")


@pytest.mark.parametrize(("level", "share"), [("modes", 40), ("graph", 40), ("ops", 8)])
def test_operators_give_the_same_bits_traits_gradients_errors_and_warnings(level: str, share: int) -> None:
    found = compared(list(operators(share)), level, count_alive=False)
    assert found.cases > 80
    assert len(found.unrepeatable) < found.cases / 10
    assert found.differing == []


@pytest.mark.parametrize("level", LEVELS)
def test_modules_give_the_same_and_leave_as_many_tensors(level: str) -> None:
    found = compared(list(modules(4)), level, count_alive=True)
    assert found.cases > 50
    assert len(found.unrepeatable) < found.cases / 10
    assert found.differing == []


@pytest.mark.parametrize("level", LEVELS)
def test_programs_give_the_same_and_leave_as_many_tensors(level: str) -> None:
    found = compared(list(programs(1)), level, count_alive=True)
    # Where two gradients of a tensor come together, autograd adds in place unless there is a dispatch mode, whatever it
    # does: the sum's version is then lower.
    assert set(found.unrepeatable) <= {"checkpointed"}
    assert found.differing == []


def test_the_peak_of_what_tensors_hold_is_no_higher_while_watched() -> None:
    assert higher_peaks(list(programs(1))[::4], "ops") == []
