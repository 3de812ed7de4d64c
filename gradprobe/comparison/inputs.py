"""What a call reads and may change: the tensors within its reach, found, kept and put back."""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradprobe.comparison.holdings import Holdings, is_container
from gradprobe.comparison.workload import Call

MAX_KEPT_BYTES = 1 << 30
"""Beyond this, tensors are watched by their version counters alone, and no copy of them is kept."""
_DEPTH = 6


def tensors_of(call: object) -> list[Tensor]:
    """The tensors that a call holds: in its arguments, its closure, the globals it names, and modules among all these."""
    found: dict[int, Tensor] = {}
    for value in _reached(call, _DEPTH, set()):
        if isinstance(value, Tensor):
            found.setdefault(id(value), value)
        elif isinstance(value, nn.Module):
            for tensor in (*value.parameters(), *value.buffers()):
                found.setdefault(id(tensor), tensor)
    # A lazy parameter has no data before the first call has made it.
    return [tensor for tensor in found.values() if not is_lazy(tensor)]


def containers_of(call: object) -> list[object]:
    """The lists, dicts, sets and objects among the arguments of a call and in its closure, and in each other."""
    found: dict[int, object] = {}
    _gather(call, _DEPTH, found)
    return [value for value in found.values() if is_container(value)]


def _gather(value: object, depth: int, found: dict[int, object]) -> None:
    if depth == 0 or id(value) in found:
        return
    found[id(value)] = value
    inner: list[object] = []
    if isinstance(value, functools.partial):
        found.pop(id(value))
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        inner = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    elif is_container(value):
        inner = list(vars(value).values())
    for one in inner:
        _gather(one, depth - 1, found)


def modules_of(call: object) -> list[nn.Module]:
    """The modules that a call reaches, and those inside them."""
    found: dict[int, nn.Module] = {}
    for value in _reached(call, _DEPTH, set()):
        if isinstance(value, nn.Module):
            found.update((id(module), module) for module in value.modules())
    return list(found.values())


def _reached(value: object, depth: int, seen: set[int]) -> Iterator[object]:
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor | nn.Module):
        yield value
        return
    inner: list[object] = []
    if isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, types.BuiltinMethodType):
        inner = [value.__self__]
    elif isinstance(value, types.FunctionType):
        inner = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        inner += [*(value.__defaults__ or ()), getattr(value, "__wrapped__", None)]
        if str(value.__module__).partition(".")[0] != "torch":  # what torch's own functions name is no input
            inner += [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    elif not isinstance(value, type | types.ModuleType):
        inner = list(getattr(value, "__dict__", {}).values())
    is_wrapper = isinstance(value, functools.partial | types.MethodType)
    for one in inner:
        yield from _reached(one, depth if is_wrapper else depth - 1, seen)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 -- raises where it is empty
    except ValueError:
        return False
    return True


def as_inference(call: functools.partial[object]) -> Call:
    """The same call with copies of its modules, made in inference mode: their parameters are inference tensors."""
    memo: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        return copy.deepcopy(value, memo) if isinstance(value, nn.Module) else value

    function: Any = call.func
    if isinstance(function, types.MethodType) and isinstance(function.__self__, nn.Module):
        function = types.MethodType(function.__func__, copied(function.__self__))
    keywords = {name: copied(value) for name, value in call.keywords.items()}
    return functools.partial(copied(function), *map(copied, call.args), **keywords)


@dataclass
class _Kept:
    tensor: Tensor
    version: int | None
    data: Tensor | None
    shape: torch.Size
    requires_grad: bool
    grad: Tensor | None
    changed: bool = False


@dataclass
class Inputs:
    """The state that a call starts from. ``look`` after a first call finds what it changes; ``restore`` puts that back.

    ``leave`` puts back the attributes of modules as well. A call begins with those as the call before left them: what a
    module makes at its first call only, it need not make again.
    """

    call: Call
    seed: int
    kept: list[_Kept] = field(default_factory=list)
    is_random: bool = False
    changed_containers: int = 0
    _before: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        tensors = tensors_of(self.call)
        tensors += [t.grad for t in tensors if t.is_leaf and not t.is_inference() and t.grad is not None]
        copies = sum(t.numel() * t.element_size() for t in tensors if _is_plain(t)) <= MAX_KEPT_BYTES
        with torch.no_grad():
            for tensor in tensors:
                data = _memory(tensor).clone() if copies and _is_plain(tensor) else None
                grad = None if tensor.is_inference() or not tensor.is_leaf else tensor.grad
                kept = _Kept(tensor, _version(tensor), data, tensor.shape, tensor.requires_grad, grad)
                self.kept.append(kept)
        self._containers = Holdings(containers_of(self.call))
        modules = modules_of(self.call)
        self._modules = Holdings([each for m in modules for each in (m, m._buffers, m._parameters)])
        self.reseed()
        self._before = _generators()

    def look(self) -> None:
        """Compares with the beginning, after one call."""
        self.is_random = self.is_random or not _same_generators(self._before, _generators())
        for kept in self.kept:
            kept.changed = kept.changed or _is_changed(kept)
        self.changed_containers = max(self.changed_containers, self._containers.changed())

    @property
    def changes(self) -> int:
        """How many of its inputs it changes: tensors, and lists, dicts and objects."""
        return sum(kept.changed for kept in self.kept) + self.changed_containers

    @property
    def lost(self) -> int:
        """How many of these cannot be put back, because there is no copy of them."""
        return sum(kept.changed and kept.data is None for kept in self.kept)

    def restore(self) -> Call:
        """Puts back what the call changes, and gives the call to make next."""
        for kept in self.kept:
            if kept.changed:
                _put_back(kept)
        if self.is_random:
            self.reseed()
        if self.changed_containers:
            self._containers.put_back()
        return self.call

    def leave(self) -> None:
        """Puts back everything, whatever was looked at so far."""
        self.look()
        self.restore()
        self._modules.put_back()

    def reseed(self) -> None:
        """Starts the generators of torch, random and NumPy at the seed."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self.seed % 2**32)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except (RuntimeError, AttributeError):
        return None


def _memory(tensor: Tensor) -> Tensor:
    """The tensor, or where its elements share memory, as those of an expanded one do, all memory that it reaches, flat."""
    tensor = tensor.detach()
    if torch._debug_has_internal_overlap(tensor) != 1:  # 1: certainly; such a tensor cannot be written to
        return tensor
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((reach if tensor.numel() else 0,), (1,))


def _is_changed(kept: _Kept) -> bool:
    tensor = kept.tensor
    if tensor.shape != kept.shape or tensor.requires_grad != kept.requires_grad:
        return True
    if not tensor.is_inference() and tensor.is_leaf and tensor.grad is not kept.grad:
        return True
    if kept.data is None:
        return _version(tensor) != kept.version
    return not same_bits(kept.data, _memory(tensor))


def _put_back(kept: _Kept) -> None:
    tensor = kept.tensor
    if tensor.requires_grad != kept.requires_grad and not tensor.is_inference():
        _forget_history(tensor, kept.requires_grad)
    if tensor.is_leaf and not tensor.is_inference():
        tensor.grad = kept.grad
    if kept.data is None:
        return
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != kept.shape:
            tensor.resize_(kept.shape)
        _memory(tensor).copy_(kept.data)


def _forget_history(tensor: Tensor, requires_grad: bool) -> None:
    """Of a tensor that was a leaf, and that a call under gradients wrote results of a graph into."""
    if tensor.grad_fn is not None and not tensor._is_view():
        tensor.detach_()
    if tensor.is_leaf:
        tensor.requires_grad_(requires_grad)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; a NaN is the same as itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.layout is not torch.strided or one.is_quantized:
        return bool(torch.equal(one.detach(), other.detach())) if one.layout is not torch.jagged else False
    with torch.no_grad():
        one, other = one.detach(), other.detach()
        if one.dtype.is_floating_point or one.dtype.is_complex:
            return bool(torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True))
        return bool(torch.equal(one, other))


def _generators() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    states: list[object] = [torch.get_rng_state(), random.getstate()]
    states.append(str(numpy.random.get_state()) if numpy is not None else None)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return tuple(states)


def _same_generators(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return len(before) == len(after) and all(
        torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
        for one, other in zip(before, after, strict=True)
    )
