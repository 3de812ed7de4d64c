"""Facts about one tensor, read without changing it and without modes or subclasses noticing."""

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
    """Return whether ``value`` is a tensor."""
    return issubclass(type(value), torch.Tensor)  # a mock claims to be an instance


def read_facts(tensor: torch.Tensor, graph: GraphSummary) -> TensorFacts:
    """Return the facts about ``tensor``, with ``graph`` as read from it."""
    base_tensor = BaseTensor(tensor)
    with torch._C.DisableTorchFunction():
        history_error = None
        grad_fn = None
        try:
            grad_fn = base_tensor.grad_fn
        except RuntimeError as error:  # a view with a base modified in a way that autograd does not follow
            history_error = str(error)
        is_view = base_tensor._is_view()
        return TensorFacts(
            is_inference=base_tensor.is_inference(),
            version=_or_none(lambda: int(base_tensor._version)),
            requires_grad=base_tensor.requires_grad,
            is_leaf=history_error is None and base_tensor.is_leaf,
            traits=frozenset(_traits(tensor)),
            layout=str(base_tensor.layout).removeprefix("torch."),
            dtype=str(base_tensor.dtype).removeprefix("torch."),
            can_require_grad=base_tensor.is_floating_point() or base_tensor.is_complex(),
            is_view=is_view,
            creation_meta=torch._C._autograd._get_creation_meta(tensor).name if is_view else "DEFAULT",
            is_base_leaf=is_view and base_tensor._base is not None and BaseTensor(base_tensor._base).is_leaf,
            grad_fn=None if grad_fn is None else str(type(grad_fn).name(grad_fn)),
            output_number=base_tensor.output_nr if grad_fn is not None else 0,
            history_error=history_error,
            freed=graph.freed,
        )


def describe_tensor(tensor: torch.Tensor) -> str:
    """Describe the class, shape, dtype and device of a tensor in a few words."""
    with torch._C.DisableTorchFunction():
        base_tensor = BaseTensor(tensor)
        shape = "ragged" if _is_nested(tensor) else _or_none(lambda: tuple(base_tensor.shape))
        # A fake tensor overrides its device; the base class would answer meta.
        device = _or_none(lambda: tensor.device) or base_tensor.device
        return f"{type(tensor).__name__} of shape {shape}, {base_tensor.dtype}, on {device}"


def describe_shape(tensor: torch.Tensor) -> str:
    """Describe the shape of a tensor, such as ``4x3``; empty for a scalar."""
    if _is_nested(tensor):
        return "ragged"
    shape = _or_none(lambda: tuple(BaseTensor(tensor).shape))
    return "" if shape is None else "x".join(map(str, shape))


def describe_base(tensor: torch.Tensor) -> str | None:
    """Describe the base of a tracked view in a few words."""
    with torch._C.DisableTorchFunction():
        base_tensor = BaseTensor(tensor)
        return describe_tensor(base_tensor._base) if base_tensor._is_view() and base_tensor._base is not None else None


def storage_nbytes(tensor: torch.Tensor) -> int | None:
    """Return the bytes of a tensor's storage, which it keeps alive as a whole; None if it has none."""
    if is_functorch_wrapped(tensor) or is_traceable_wrapper_subclass(tensor):
        return None
    with torch._C.DisableTorchFunction():
        return _or_none(lambda: bytes_in_memory(tensor, BaseTensor(tensor).untyped_storage()))


def _traits(tensor: torch.Tensor) -> Iterator[str]:
    from torch._subclasses.fake_tensor import FakeTensor

    functorch, base_tensor = torch._C._functorch, BaseTensor(tensor)
    answers = {
        "parameter": isinstance(tensor, torch.nn.Parameter),
        "buffer": isinstance(tensor, torch.nn.Buffer) if hasattr(torch.nn, "Buffer") else False,
        "subclass": type(tensor) not in (torch.Tensor, torch.nn.Parameter),
        "wrapper": _dispatches_in_python(tensor),
        "fake": isinstance(tensor, FakeTensor),
        "meta": base_tensor.is_meta,
        "sparse": str(base_tensor.layout).startswith("torch.sparse"),
        "nested": _is_nested(tensor),
        "jagged": base_tensor.layout == torch.jagged,
        "quantized": base_tensor.is_quantized,
        "opaque": base_tensor.is_mkldnn,
        "complex": base_tensor.is_complex(),
        "vmap": functorch.is_batchedtensor(tensor),
        "transform": functorch.is_gradtrackingtensor(tensor),
        "dual": _is_dual(tensor),
    }
    yield from (name for name, holds in answers.items() if holds)
    if not any(answers[name] for name in ("wrapper", "sparse", "nested", "opaque")):
        yield from _traits_of_memory(tensor)


def _traits_of_memory(tensor: torch.Tensor) -> Iterator[str]:
    base_tensor = BaseTensor(tensor)
    if base_tensor.numel() == 0:
        yield "empty"
        return
    if any(size > 1 and stride == 0 for size, stride in zip(base_tensor.shape, base_tensor.stride(), strict=True)):
        yield "overlapping"
    elif not is_functorch_wrapped(tensor):
        storage = base_tensor.untyped_storage()
        if storage.nbytes() > base_tensor.numel() * base_tensor.element_size():
            yield "part"


def _dispatches_in_python(tensor: torch.Tensor) -> bool:
    """Return whether a subclass implements operators itself, by ``__torch_dispatch__``."""
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _is_nested(tensor: torch.Tensor) -> bool:
    base_tensor = BaseTensor(tensor)
    return bool(base_tensor.is_nested and base_tensor.layout != torch.jagged)


def _is_dual(tensor: torch.Tensor) -> bool:
    if forward_ad._current_level < 0:
        return False
    with torch._C._AutoDispatchBelowAutograd():
        tangent = _or_none(lambda: torch._VF._unpack_dual(tensor, level=forward_ad._current_level)[1])
    return tangent is not None


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # a subclass may raise any error
        return None
