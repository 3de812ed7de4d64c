"""Who keeps a tensor's memory alive: the autograd graph alone, or the program as well.

A storage has a count of its owners, and so has a tensor: C++ owners in ``_use_count``, Python references in
``sys.getrefcount``. The ledger notes every owner that belongs to the graph. Where a count is higher than what the ledger
knows of, somebody outside holds the tensor or the storage. A tensor held from outside passes that on to what it owns:
its storage, the base of a view, the parts of a sparse tensor or of a wrapper.

The counts include this module's own references, and PyTorch has changed who owns whom between a tensor and its Python
object. So what they read where nobody else holds anything is found by experiment, once (``Floor``).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from gradprobe.capture.autograd.base_tensor import BaseTensor

_SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
_VIEW_TRACKING = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


class OwnedStorage:
    """A storage with its bytes and the number of tensors over it that the ledger knows."""

    __slots__ = ("is_held", "is_saved", "nbytes", "owners", "thing")

    def __init__(self, thing: torch.UntypedStorage, nbytes: int) -> None:
        self.thing = thing
        self.nbytes = nbytes
        self.owners = 0
        self.is_saved = False
        self.is_held = False


class OwnedObject:
    """A tensor, or a container of tensors, with the number of its owners that the ledger knows.

    ``parts`` is what it consists of (the members of a container, the tensors inside a wrapper), ``owns`` all that it
    keeps alive.
    """

    __slots__ = ("cpp_owners", "is_held", "is_saved", "memory", "owns", "parts", "python_owners", "thing")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.cpp_owners = 0
        self.python_owners = 0
        self.is_saved = False
        self.is_held = False
        self.memory: OwnedStorage | None = None
        self.parts: list[OwnedObject] = []
        self.owns: list[OwnedObject] = []


class OwnerCounts:
    """Tensors found in a graph with the owners that the graph accounts for. ``clear`` it as soon as it was read."""

    def __init__(self) -> None:
        self._things: dict[int, OwnedObject] = {}
        self._memories: dict[int, OwnedStorage] = {}
        self.unread = 0

    def save(self, tensor: torch.Tensor) -> None:
        """Notes a tensor that a node saved for backward."""
        _mark_saved(self.add_cpp_owner(tensor))

    def save_on_context(self, value: object) -> None:
        """Notes the tensors of an attribute that a custom ``Function`` put on its ``ctx``."""
        if may_hold_tensors(value):
            _mark_saved(self._own_from_python(value))

    def add_cpp_owner(self, tensor: torch.Tensor) -> OwnedObject:
        """Notes that C++ of the graph owns ``tensor`` once more."""
        held = self._held(tensor)
        held.cpp_owners += 1
        return held

    def totals(self) -> tuple[int, int]:
        """Bytes of the unique storages saved, and of those among them that nothing outside holds."""
        floor = _floor()
        for held in self._things.values():
            if has_other_owners(held, floor):
                _mark_held(held)
        saved = [memory for memory in self._memories.values() if memory.is_saved]
        alone = [memory for memory in saved if not (memory.is_held or is_used_elsewhere(memory, floor))]
        return sum(memory.nbytes for memory in saved), sum(memory.nbytes for memory in alone)

    def clear(self) -> None:
        """Lets go of everything: a list that contains itself would otherwise stay until the next collection."""
        for held in self._things.values():
            held.parts = held.owns = []
        self._things.clear()
        self._memories.clear()

    def _own_from_python(self, value: object) -> OwnedObject:
        held = self._held(value)
        held.python_owners += 1
        return held

    def _held(self, thing: Any) -> OwnedObject:
        known = self._things.get(id(thing))
        if known is not None:
            return known
        held = self._things[id(thing)] = OwnedObject(thing)
        if isinstance(thing, torch.Tensor):
            self._look_into(held)
        else:
            held.parts = [self._own_from_python(member) for member in list_members(thing) if may_hold_tensors(member)]
            held.owns = held.parts
        return held

    def _look_into(self, held: OwnedObject) -> None:
        tensor, plain = held.thing, BaseTensor(held.thing)
        if is_functorch_wrapped(tensor):
            held.parts = [self.add_cpp_owner(torch._C._functorch.get_unwrapped(tensor))]
        elif is_wrapper_subclass(tensor):
            held.parts = [self._own_from_python(part) for part in self._wrapped_in(tensor)]
        elif plain.layout in _SPARSE_PARTS:
            held.parts = [self._sparse_part(getattr(plain, name)) for name in _SPARSE_PARTS[plain.layout]]
        else:
            held.memory = self._memory(tensor)
        held.owns = list(held.parts)
        if plain._is_view():
            held.owns.append(self.add_cpp_owner(plain._base))
        if plain.is_leaf and plain.grad is not None:
            held.owns.append(self.add_cpp_owner(plain.grad))

    def _wrapped_in(self, wrapper: Any) -> list[Any]:
        """The tensors that a wrapper says it holds."""
        try:
            names, _ = wrapper.__tensor_flatten__()
            return [getattr(wrapper, name) for name in names]
        except Exception:  # code of the program's
            self.unread += 1
            return []

    def _memory(self, tensor: torch.Tensor) -> OwnedStorage | None:
        try:
            storage = BaseTensor(tensor).untyped_storage()
            nbytes = bytes_in_memory(tensor, storage)
        except (NotImplementedError, RuntimeError):  # opaque, such as MKL-DNN's
            self.unread += 1
            return None
        memory = self._memories.setdefault(storage._cdata, OwnedStorage(storage, nbytes))
        memory.owners += 1
        return memory

    def _sparse_part(self, read: Callable[[], torch.Tensor]) -> OwnedObject:
        """Below autograd and view tracking a COO tensor gives its very part; a compressed one gives an alias.

        An alias does not show who owns the part, so it goes without an owner: the part then counts as held by the program.
        """
        with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(_VIEW_TRACKING):
            part, again = read(), read()
        return self.add_cpp_owner(part) if part is again else self._held(part)


def is_functorch_wrapped(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` stands for another one inside ``torch.vmap``, ``torch.func.grad`` and their like."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def is_wrapper_subclass(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is of a subclass that holds other tensors and says which, as ``DTensor`` does."""
    return hasattr(type(tensor), "__tensor_flatten__")


def may_hold_tensors(value: object) -> bool:
    """Whether ``value`` is a tensor or a container that may have some in it."""
    return isinstance(value, torch.Tensor | list | tuple | dict | set | frozenset)


def list_members(container: Any) -> Iterable[object]:
    """What is in a list, tuple, dict or set, whatever a subclass of it makes of iteration."""
    if isinstance(container, dict):
        return list(dict.values(container))
    kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(container, kind))
    return list(kind.__iter__(container))


def bytes_in_memory(tensor: torch.Tensor, storage: torch.UntypedStorage) -> int:
    """The size of a storage; 0 where it stands for memory that is not there: meta, fake tensors, empty wrappers."""
    if storage.device.type == "meta":
        return 0
    # Asking a copy-on-write storage for its address would make the copy.
    is_copy_on_write = getattr(torch._C, "_is_cow_tensor", None)
    if type(tensor) is torch.Tensor or (is_copy_on_write is not None and is_copy_on_write(tensor)):
        return storage.nbytes()
    try:
        return storage.nbytes() if storage.data_ptr() else 0
    except RuntimeError:  # the storage of a wrapper, which has a size only
        return 0


def has_other_owners(held: OwnedObject, floor: BaselineCounts) -> bool:
    """Whether anybody owns the tensor or container whom the ledger does not know."""
    references = sys.getrefcount(held.thing) - held.python_owners
    if not isinstance(held.thing, torch.Tensor):
        return references > floor.container
    owners = torch.Tensor._use_count(held.thing) - 1  # type: ignore[attr-defined]  # less its Python object
    if owners > held.cpp_owners:
        return True
    return references > (floor.tensor_in_cpp if owners else floor.tensor)


def is_used_elsewhere(memory: OwnedStorage, floor: BaselineCounts) -> bool:
    """Whether a tensor that the ledger does not know, or the program itself, owns the storage."""
    owners: int = torch._C._storage_Use_Count(memory.thing._cdata)
    return owners - memory.owners > floor.storage_owners or sys.getrefcount(memory.thing) > floor.storage


@dataclass(frozen=True)
class BaselineCounts:
    """What the counts read where only the ledger, and C++ that it knows of, hold a thing."""

    container: int = 0
    tensor: int = 0
    tensor_in_cpp: int = 0
    storage: int = 0
    storage_owners: int = 0


@functools.cache
def _floor() -> BaselineCounts:
    """Measured once, where neither a transform of ``torch.func`` nor inference mode makes other tensors of these."""
    with temporarily_clear_interpreter_stack(), torch._C._InferenceMode(False):
        return _measured()


def _measured() -> BaselineCounts:
    """Measures things that nothing else holds, by the same reads and from the same places as the ledger's."""
    container = OwnedObject([])
    tensor = OwnedObject(torch.empty(0))
    base = OwnedObject(torch.empty(0))
    view = torch._C._TensorBase.view_as(base.thing, base.thing)
    memory = OwnedStorage(tensor.thing.untyped_storage(), 0)
    floor = BaselineCounts(
        container=_lowest(lambda n: not has_other_owners(container, BaselineCounts(container=n))),
        tensor=_lowest(lambda n: not has_other_owners(tensor, BaselineCounts(tensor=n))),
        storage=_lowest(lambda n: not is_used_elsewhere(memory, BaselineCounts(storage=n, storage_owners=1 << 20))),
        storage_owners=_lowest(
            lambda n: not is_used_elsewhere(memory, BaselineCounts(storage=1 << 20, storage_owners=n))
        )
        - 1,
    )
    base.cpp_owners = 1
    in_cpp = _lowest(lambda n: not has_other_owners(base, BaselineCounts(tensor_in_cpp=n)))
    del view
    return BaselineCounts(floor.container, floor.tensor, in_cpp, floor.storage, floor.storage_owners)


def _lowest(holds: Callable[[int], bool]) -> int:
    return next(number for number in range(64) if holds(number))


def _mark_saved(held: OwnedObject) -> None:
    if held.is_saved:
        return
    held.is_saved = True
    if held.memory is not None:
        held.memory.is_saved = True
    for part in held.parts:
        _mark_saved(part)


def _mark_held(held: OwnedObject) -> None:
    if held.is_held:
        return
    held.is_held = True
    if held.memory is not None:
        held.memory.is_held = True
    for owned in held.owns:
        _mark_held(owned)
