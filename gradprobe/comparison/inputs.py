"""What a call reads and may change: what is within its reach, kept and put back."""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.comparison.holders import Held, Holder, grew, same
from gradprobe.comparison.reach import Reach
from gradprobe.comparison.workload import Call

MAX_KEPT_BYTES = 1 << 30
"""Beyond this, tensors are watched by their version counters alone, and no copy of them is kept."""


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


class Inputs:
    """The state that a call starts from. ``look`` after a first call finds what it changes; ``restore`` puts that back."""

    def __init__(self, call: Call, seed: int) -> None:
        self.call = call
        self.is_random = False
        self._seed = seed
        self._kept: dict[int, _Kept] = {}
        self._holders: dict[int, Holder] = {}
        self._changing: set[int] = set()
        self._growing = False
        self._reach()
        self._at_first = {key: holder.held for key, holder in self._holders.items()}
        self.reseed()
        self._before = _generators()

    def _reach(self) -> None:
        """Takes up what is within reach of the call and was not before."""
        reach = Reach(self.call)
        known = [kept.tensor for kept in self._kept.values()]
        copies = sum(map(_bytes, {**reach.tensors, **{id(t): t for t in known}}.values())) <= MAX_KEPT_BYTES
        with torch.no_grad():
            for key, tensor in reach.tensors.items():
                if key not in self._kept:
                    data = tensor.detach().clone() if copies and _is_plain(tensor) else None
                    grad = None if tensor.is_inference() or not tensor.is_leaf else tensor.grad
                    self._kept[key] = _Kept(tensor, _version(tensor), data, tensor.shape, grad)
        for key, holder in reach.holders.items():
            self._holders.setdefault(key, holder)

    def look(self, again: Callable[[], object] | None = None) -> None:
        """Compares with the beginning, after one call.

        ``again`` calls once more where something holds other values than before: what further calls leave as the first one
        left it was set up once, as caches and compiled code are, and stays.
        """
        self.is_random = self.is_random or not _same_generators(self._before, _generators())
        found = self._differing()
        if found and again is not None:
            again()
            after = self._differing()
            settled = {key: held for key, held in found.items() if key in after and same(held, after[key])}
            if not self._settle(settled, again):
                settled = {}
            found = {key: held for key, held in after.items() if key not in settled}
        self._note(found)
        for kept in self._kept.values():
            kept.changed = kept.changed or _is_changed(kept)

    def _settle(self, settled: dict[int, Held], again: Callable[[], object]) -> bool:
        """Takes what was set up as given, unless what is in it changes with every call."""
        holders, kept = self._holders, self._kept
        self._holders, self._kept = dict(holders), dict(kept)
        self._reach()
        again()
        new_holders = [holder for key, holder in self._holders.items() if key not in holders]
        new_tensors = [one for key, one in self._kept.items() if key not in kept]
        if any(not same(holder.held, holder.now()) for holder in new_holders) or any(map(_is_changed, new_tensors)):
            self._holders, self._kept = holders, kept
            return False
        for key, held in settled.items():
            self._holders[key].held = held
        return True

    def _differing(self) -> dict[int, Held]:
        """What those hold now that held other values at the beginning, and are not known to change."""
        held = {key: holder.now() for key, holder in self._holders.items() if key not in self._changing}
        return {key: now for key, now in held.items() if not same(self._holders[key].held, now)}

    def _note(self, changing: dict[int, Held]) -> None:
        self._changing |= set(changing)
        self._growing = self._growing or any(grew(self._holders[key].held, held) for key, held in changing.items())

    @property
    def changes(self) -> int:
        """How many tensors, and holders of other values, it changes."""
        return sum(kept.changed for kept in self._kept.values()) + len(self._changing)

    @property
    def grows(self) -> bool:
        """Whether what it changes grows from call to call."""
        return self._growing

    def restore(self) -> Call:
        """Puts back what the call changes, and gives the call to make next."""
        for key in self._changing:
            self._holders[key].put_back(self._holders[key].held)
        for kept in self._kept.values():
            if kept.changed:
                _put_back(kept)
        if self.is_random:
            self.reseed()
        return self.call

    def leave(self) -> None:
        """Puts everything back to the beginning, what was set up once as well."""
        self.restore()
        for key, held in self._at_first.items():
            if not same(held, self._holders[key].now()):
                self._holders[key].put_back(held)

    def reseed(self) -> None:
        """Starts the generators of torch, random and NumPy at the seed."""
        torch.manual_seed(self._seed)
        random.seed(self._seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self._seed % 2**32)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size() if _is_plain(tensor) else 0


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
