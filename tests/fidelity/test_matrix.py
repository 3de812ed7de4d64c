"""A sample of the fidelity matrix; ``make fidelity`` runs the whole."""

from __future__ import annotations

import pytest
import torch

from tests.fidelity.cases import kinds, large, modules, operators, programs, refusals
from tests.fidelity.matrix import LEVELS, SPARE_BYTES, compared, higher_peaks, peak
from tests.thoroughness import IS_THOROUGH, share, thorough

pytest.importorskip("expecttest", reason="PyTorch's databases need the package expecttest")

MOST_OF_ALL = [pytest.param("modes", marks=thorough), pytest.param("graph", marks=thorough), "ops"]


@pytest.mark.parametrize(
    ("level", "one_in"),
    [pytest.param("modes", 40, marks=thorough), pytest.param("graph", 40, marks=thorough), ("ops", 12)],
)
def test_operators_give_the_same_bits_traits_gradients_errors_and_warnings_and_leave_as_many_tensors(
    level: str, one_in: int
) -> None:
    found = compared(list(operators(one_in if IS_THOROUGH else 12 * one_in)), level)
    assert found.cases > 20
    assert len(found.unrepeatable) <= max(2, found.cases / 10)
    assert found.differing == []


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_modules_give_the_same_and_leave_as_many_tensors(level: str) -> None:
    found = compared(list(modules(share(4))), level)
    assert found.cases > 12
    assert len(found.unrepeatable) <= max(2, found.cases / 10)
    assert found.differing == []


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_errors_unchanged(
    level: str,
) -> None:
    found = compared(list(refusals(share(16))), level)
    assert found.cases > 7
    assert found.differing == []


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_programs_unchanged(level: str) -> None:
    """Programs give the same and leave as many tensors."""
    found = compared(list(programs(1)), level)
    assert found.unrepeatable == []
    assert found.differing == []


@thorough  # test_kinds.py compares what they return, in fewer runs
@pytest.mark.parametrize("level", LEVELS)
def test_kinds_unchanged(level: str) -> None:
    found = compared(list(kinds(1)), level)
    assert found.unrepeatable == []
    assert found.differing == []


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_peak_memory_unchanged(level: str) -> None:
    """The peak of tensor memory is not higher while recording."""
    assert higher_peaks([("large", large), *list(programs(1))[::4]], level) == []


def test_kept_tensor_raises_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that is kept too long shows in the peak."""
    kept: list[torch.Tensor] = []
    alone, multiply = peak(large), torch.Tensor.mul_
    monkeypatch.setattr(torch.Tensor, "mul_", lambda self, *given: (kept.append(self), multiply(self, *given))[1])
    assert peak(large) > alone + SPARE_BYTES
