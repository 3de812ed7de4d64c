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
        (lambda: Answer(ONE), lambda: Answer(ONE + 1)),
        (lambda: Plain(ONE), lambda: Plain(ONE + 1)),
        (lambda: np.ones(3), lambda: np.zeros(3)),
        (lambda: b"a", lambda: b"b"),
        (lambda: {"a": 1}, lambda: {"b": 1}),
        (lambda: {1}, lambda: {2}),
        (lambda: ONE, lambda: 3.0),
        (lambda: EYE.to_sparse(), lambda: EYE.to_sparse() * 2),
        (lambda: EYE.to_sparse(), lambda: EYE),
        (lambda: nested(2, 3), lambda: nested(3, 2)),
        (lambda: torch.tensor([INF, 1.0]), lambda: torch.tensor([-INF, 1.0])),
        (lambda: torch.tensor([float("nan"), 1.0]), lambda: torch.tensor([1.0, 1.0])),
    ],
)
def test_different_results_of_any_form_are_distinguished(
    one: Callable[[], object], other: Callable[[], object]
) -> None:
    assert compare_outputs(copy_outputs(one()), copy_outputs(other())).matters


def test_rounding_beside_an_infinite_value_is_rounding() -> None:
    found = compare_outputs(copy_outputs(torch.tensor([-INF, 1.0])), copy_outputs(torch.tensor([-INF, 1.0 + 2**-23])))
    assert found.text
    assert not found.matters
