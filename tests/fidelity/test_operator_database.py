"""Every operator that PyTorch's own test suite has samples for does the same watched at level ops as it does unwatched."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import gradprobe

pytest.importorskip("expecttest", reason="PyTorch's operator database needs the package expecttest")

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
SHARE = 6  # one operator in so many; all of them together take two minutes


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def operators() -> Iterator[Any]:
    from torch.testing._internal import common_methods_invocations as database

    foreach = [database.foreach_unary_op_db, database.foreach_binary_op_db, database.foreach_other_op_db]
    yield from database.op_db[::SHARE]
    for group in foreach:
        yield from group[::SHARE]


def asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (RuntimeError, NotImplementedError) as error:
        return type(error).__name__


def traits(value: Any) -> Any:
    """All that a program can ask of a tensor but its numbers."""
    if not isinstance(value, torch.Tensor):
        return type(value)
    return (
        asked(lambda: value._version),
        value._is_view(),
        value.requires_grad,
        value.is_inference(),
        value.is_leaf,
        asked(lambda: type(value.grad_fn).__name__),
        asked(lambda: (value.shape, value.stride(), value.storage_offset(), value.dtype)),
    )


def numbers(value: Any) -> list[torch.Tensor]:
    tensors = [t for t in _pytree.tree_leaves(value) if isinstance(t, torch.Tensor) and t.layout == torch.strided]
    return [t.detach().clone() for t in tensors]


def outcome(call: Callable[..., Any], sample: Any, mode: Any, watch: Any) -> tuple[Any, list[torch.Tensor]]:
    """What ``call`` gives, does to its inputs, or raises."""

    def copied(value: Any) -> Any:
        is_tensor = isinstance(value, torch.Tensor)
        return value.detach().clone().requires_grad_(value.requires_grad) if is_tensor else value

    torch.manual_seed(0)
    first, args, kwargs = _pytree.tree_map(copied, (sample.input, sample.args, sample.kwargs))
    try:
        with mode(), watch:
            result = call(first, *args, **kwargs)
    except Exception as error:
        return (type(error), str(error)), []
    return [traits(leaf) for leaf in _pytree.tree_leaves((result, first, args, kwargs))], numbers(result)


def same(one: tuple[Any, list[torch.Tensor]], other: tuple[Any, list[torch.Tensor]]) -> bool:
    def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))

    return one[0] == other[0] and all(
        equal(a.reshape(-1), b.reshape(-1)) for a, b in zip(one[1], other[1], strict=True)
    )


def changed_copy(change: Callable[..., Any]) -> Callable[..., Any]:
    """Calls an in-place operator on copies, as samples may be leaves."""

    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        return change(_pytree.tree_map(torch.clone, first), *args, **kwargs)

    return call


def samples_of(operator: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(operator.sample_inputs("cpu", torch.float32, requires_grad=operator.supports_autograd))[:2]


@pytest.mark.filterwarnings("ignore")
def test_operators_return_the_same_tensors_and_do_the_same_to_their_inputs_watched() -> None:
    differing, compared = [], 0
    for operator in operators():
        # What an uninitialised tensor holds is chance.
        if torch.float32 not in operator.supported_dtypes("cpu") or "empty" in operator.name:
            continue
        calls = [operator.op]
        if operator.inplace_variant is not None:
            calls.append(changed_copy(operator.inplace_variant))
        for sample, call, (name, mode) in itertools.product(samples_of(operator), calls, MODES.items()):

            def run(watch: Any, sample: Any = sample, call: Any = call, mode: Any = mode) -> Any:
                return outcome(call, sample, mode, watch)

            plain, watched = run(contextlib.nullcontext()), run(gradprobe.record(level="ops"))
            compared += 1
            # Some results are never the same, and some operators take another path under any mode, whatever it does.
            if (
                not same(plain, watched)
                and same(plain, run(contextlib.nullcontext()))
                and not same(watched, run(Nothing()))
            ):
                differing.append((operator.name, name, plain[0], watched[0]))
    assert compared > 500
    assert differing == []
