"""What PyTorch says of one tensor, read without changing it and without telling modes or subclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gradprobe.capture.autograd.base_tensor import BaseTensor
from gradprobe.capture.autograd.graph import GraphSummary
from gradprobe.capture.autograd.ownership import bytes_in_memory, is_functorch_wrapped
from gradprobe.recording.tensor_facts import TensorFacts

T = TypeVar("T")


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a tensor of PyTorch."""
    return issubclass(type(value), torch.Tensor)  # a mock says of itself that it is an instance


def read_facts(tensor: torch.Tensor, graph: GraphSummary) -> TensorFacts:
    """The facts about ``tensor``; ``graph`` is the walk from it."""
    plain = BaseTensor(tensor)
    with torch._C.DisableTorchFunction():
        history_error = None
        grad_fn = None
        try:
            grad_fn = plain.grad_fn
        except RuntimeError as error:  # a view whose base was changed in a way that autograd does not follow
            history_error = str(error)
        is_view = plain._is_view()
        return TensorFacts(
            is_inference=plain.is_inference(),
            version=_or_none(lambda: int(plain._version)),
            requires_grad=plain.requires_grad,
            is_leaf=history_error is None and plain.is_leaf,
            traits=frozenset(_traits(tensor)),
            layout=str(plain.layout).removeprefix("torch."),
            dtype=str(plain.dtype).removeprefix("torch."),
            can_require_grad=plain.is_floating_point() or plain.is_complex(),
            is_view=is_view,
            creation_meta=torch._C._autograd._get_creation_meta(tensor).name if is_view else "DEFAULT",
            is_base_leaf=is_view and plain._base is not None and BaseTensor(plain._base).is_leaf,
            grad_fn=None if grad_fn is None else str(type(grad_fn).name(grad_fn)),
            output_number=plain.output_nr if grad_fn is not None else 0,
            history_error=history_error,
            freed=graph.freed,
        )


def describe_tensor(tensor: torch.Tensor) -> str:
    """Class, shape, dtype and device in a few words."""
    with torch._C.DisableTorchFunction():
        plain = BaseTensor(tensor)
        shape = "ragged" if _is_nested(tensor) else _or_none(lambda: tuple(plain.shape))
        # A fake tensor has a device of its own; PyTorch's would be meta.
        device = _or_none(lambda: tensor.device) or plain.device
        return f"{type(tensor).__name__} of shape {shape}, {plain.dtype}, on {device}"


def describe_base(tensor: torch.Tensor) -> str | None:
    """What a tracked view is a view of, in a few words."""
    with torch._C.DisableTorchFunction():
        plain = BaseTensor(tensor)
        return describe_tensor(plain._base) if plain._is_view() and plain._base is not None else None


def storage_nbytes(tensor: torch.Tensor) -> int | None:
    """Bytes of the storage behind a tensor, all of which it keeps alive; None where it has none of its own."""
    if is_functorch_wrapped(tensor) or is_traceable_wrapper_subclass(tensor):
        return None
    with torch._C.DisableTorchFunction():
        return _or_none(lambda: bytes_in_memory(tensor, BaseTensor(tensor).untyped_storage()))


def _traits(tensor: torch.Tensor) -> Iterator[str]:
    from torch._subclasses.fake_tensor import FakeTensor

    functorch, plain = torch._C._functorch, BaseTensor(tensor)
    answers = {
        "parameter": isinstance(tensor, torch.nn.Parameter),
        "buffer": isinstance(tensor, torch.nn.Buffer) if hasattr(torch.nn, "Buffer") else False,
        "subclass": type(tensor) not in (torch.Tensor, torch.nn.Parameter),
        "wrapper": _dispatches_in_python(tensor),
        "fake": isinstance(tensor, FakeTensor),
        "meta": plain.is_meta,
        "sparse": str(plain.layout).startswith("torch.sparse"),
        "nested": _is_nested(tensor),
        "jagged": plain.layout == torch.jagged,
        "quantized": plain.is_quantized,
        "opaque": plain.is_mkldnn,
        "complex": plain.is_complex(),
        "vmap": functorch.is_batchedtensor(tensor),
        "transform": functorch.is_gradtrackingtensor(tensor),
        "dual": _is_dual(tensor),
    }
    yield from (name for name, holds in answers.items() if holds)
    if not any(answers[name] for name in ("wrapper", "sparse", "nested", "opaque")):
        yield from _traits_of_memory(tensor)


def _traits_of_memory(tensor: torch.Tensor) -> Iterator[str]:
    plain = BaseTensor(tensor)
    if plain.numel() == 0:
        yield "empty"
        return
    if any(size > 1 and stride == 0 for size, stride in zip(plain.shape, plain.stride(), strict=True)):
        yield "overlapping"
    elif not is_functorch_wrapped(tensor):
        storage = plain.untyped_storage()
        if storage.nbytes() > plain.numel() * plain.element_size():
            yield "part"


def _dispatches_in_python(tensor: torch.Tensor) -> bool:
    """Whether a subclass does the operators itself, by ``__torch_dispatch__``."""
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _is_nested(tensor: torch.Tensor) -> bool:
    plain = BaseTensor(tensor)
    return bool(plain.is_nested and plain.layout != torch.jagged)


def _is_dual(tensor: torch.Tensor) -> bool:
    if forward_ad._current_level < 0:
        return False
    with torch._C._AutoDispatchBelowAutograd():
        tangent = _or_none(lambda: torch._VF._unpack_dual(tensor, level=forward_ad._current_level)[1])
    return tangent is not None


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # a subclass may answer with any
        return None
