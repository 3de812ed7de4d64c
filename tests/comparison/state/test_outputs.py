"""Outputs of any form are compared: no value is passed over, and no form is mistaken for a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from gradprobe.comparison.state.outputs import OutputDifference, compare_outputs, copy_outputs


@dataclass
class Answer:
    logits: object


class Plain:
    def __init__(self, state: object) -> None:
        self.state = state


def nested(*lengths: int) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(n) for n in lengths], layout=torch.jagged)


ONE, EYE, INF = torch.ones(3), torch.eye(3), float("inf")


@pytest.mark.parametrize(
    "made",
    [
        lambda: Answer(torch.ones(3)),
        lambda: Plain([torch.ones(3)]),
        lambda: np.ones(3),
        lambda: np.array(["text"]),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: nested(2, 3),
        lambda: torch.ones(3, device="meta"),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.tensor([float("nan"), INF, -INF]),
        lambda: torch.empty(0),
        lambda: {"text": "a", "bytes": b"b", "set": {1, 2}, "nothing": None, "nan": float("nan")},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_result_of_any_form_is_the_same_as_itself(made: Callable[[], Any]) -> None:
    assert compare_outputs(copy_outputs(made()), copy_outputs(made())) == OutputDifference()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Answer(ONE), Answer(ONE + 1)),
        (Plain(ONE), Plain(ONE + 1)),
        (np.ones(3), np.zeros(3)),
        (b"a", b"b"),
        ({"a": 1}, {"b": 1}),
        ({1}, {2}),
        (ONE, 3.0),
        (EYE.to_sparse(), EYE.to_sparse() * 2),
        (EYE.to_sparse(), EYE),
        (nested(2, 3), nested(3, 2)),
        (torch.tensor([INF, 1.0]), torch.tensor([-INF, 1.0])),
        (torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, 1.0])),
    ],
)
def test_different_results_of_any_form_are_distinguished(one: object, other: object) -> None:
    assert compare_outputs(copy_outputs(one), copy_outputs(other)).matters


def test_rounding_beside_an_infinite_value_is_rounding() -> None:
    found = compare_outputs(copy_outputs(torch.tensor([-INF, 1.0])), copy_outputs(torch.tensor([-INF, 1.0 + 2**-23])))
    assert found.text
    assert not found.matters
