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
from torch.utils import _pytree as pytree

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
    elif isinstance(value, types.FunctionType):
        inner = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        inner += [*(value.__defaults__ or ()), getattr(value, "__wrapped__", None)]
        if str(value.__module__).partition(".")[0] != "torch":  # what torch's own functions name is no input
            inner += [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    elif not isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        inner = list(getattr(value, "__dict__", {}).values())
    for one in inner:
        yield from _reached(one, depth - 1, seen)


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
    grad: Tensor | None
    changed: bool = False


@dataclass
class Inputs:
    """The state that a call starts from. ``look`` after a first call finds what it changes; ``restore`` puts that back."""

    call: Call
    seed: int
    kept: list[_Kept] = field(default_factory=list)
    is_random: bool = False
    changes_containers: bool = False
    _before: tuple[object, ...] = ()
    _structure: object = None
    _pristine: Any = None

    def __post_init__(self) -> None:
        tensors = tensors_of(self.call)
        copies = sum(t.numel() * t.element_size() for t in tensors if _is_plain(t)) <= MAX_KEPT_BYTES
        with torch.no_grad():
            for tensor in tensors:
                data = tensor.detach().clone() if copies and _is_plain(tensor) else None
                grad = None if tensor.is_inference() or not tensor.is_leaf else tensor.grad
                self.kept.append(_Kept(tensor, _version(tensor), data, tensor.shape, grad))
        if isinstance(self.call, functools.partial):
            self._structure = _structure(self.call)
            try:
                self._pristine = copy.deepcopy(
                    (self.call.args, self.call.keywords), {id(m): m for m in _fixed(self.call)}
                )
            except Exception:
                self._pristine = None
        self.reseed()
        self._before = _generators()

    def look(self) -> None:
        """Compares with the beginning, after one call."""
        self.is_random = self.is_random or not _same_generators(self._before, _generators())
        for kept in self.kept:
            kept.changed = kept.changed or _is_changed(kept)
        if isinstance(self.call, functools.partial) and self._pristine is not None:
            self.changes_containers = self.changes_containers or _structure(self.call) != self._structure

    @property
    def changes(self) -> int:
        """How many tensors it changes, a list or dict that it changes among them."""
        return sum(kept.changed for kept in self.kept) + self.changes_containers

    def restore(self) -> Call:
        """Puts back what the call changes, and gives the call to make next."""
        for kept in self.kept:
            if kept.changed:
                _put_back(kept)
        if self.is_random:
            self.reseed()
        if self.changes_containers:
            assert isinstance(self.call, functools.partial)
            fixed = {id(value): value for value in _fixed(self.call)}
            args, keywords = copy.deepcopy(self._pristine, fixed)
            return functools.partial(self.call.func, *args, **keywords)
        return self.call

    def reseed(self) -> None:
        """Starts the generators of torch, random and NumPy at the seed."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self.seed % 2**32)


def _fixed(call: functools.partial[object]) -> list[object]:
    """What a copy of the arguments shares with them: tensors, which are put back in place, and modules."""
    return list(_reached((call.args, call.keywords), _DEPTH, set()))


def _structure(call: functools.partial[object]) -> object:
    return pytree.tree_structure((call.args, call.keywords))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except (RuntimeError, AttributeError):
        return None


def _is_changed(kept: _Kept) -> bool:
    tensor = kept.tensor
    if tensor.shape != kept.shape or (not tensor.is_inference() and tensor.is_leaf and tensor.grad is not kept.grad):
        return True
    if kept.data is None:
        return _version(tensor) != kept.version
    return not same_bits(kept.data, tensor)


def _put_back(kept: _Kept) -> None:
    tensor = kept.tensor
    if tensor.is_leaf and not tensor.is_inference():
        tensor.grad = kept.grad
    if kept.data is None:
        return
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != kept.shape:
            tensor.resize_(kept.shape)
        tensor.copy_(kept.data)


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
