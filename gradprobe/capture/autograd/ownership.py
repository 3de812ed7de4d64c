"""Owners of tensors and storages: the autograd graph alone, or the program as well.

A storage has a count of its owners, and so has a tensor: C++ owners in ``_use_count``, Python references in
``sys.getrefcount``. ``OwnerCounts`` counts the owners that belong to the graph. If a count is higher than that, something
outside the graph owns the tensor or the storage. A tensor with an outside owner keeps alive everything that it owns: its
storage, the base of a view, the parts of a sparse tensor or of a wrapper.

The counts include this module's own references, and versions of PyTorch differ in whether a tensor owns its Python object
or the reverse. The counts of objects without any other owner are therefore measured once (``BaselineCounts``).
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
    """A storage with its bytes and the number of known tensors over it."""

    __slots__ = ("has_outside_owner", "is_saved", "nbytes", "owners", "target")

    def __init__(self, target: torch.UntypedStorage, nbytes: int) -> None:
        self.target = target
        self.nbytes = nbytes
        self.owners = 0
        self.is_saved = False
        self.has_outside_owner = False


class OwnedObject:
    """A tensor, or a container of tensors, with the number of its known owners.

    ``parts`` are the members of a container or the tensors inside a wrapper, ``owns`` all objects that it keeps alive.
    """

    __slots__ = ("cpp_owners", "has_outside_owner", "is_saved", "memory", "owns", "parts", "python_owners", "target")

    def __init__(self, target: Any) -> None:
        self.target = target
        self.cpp_owners = 0
        self.python_owners = 0
        self.is_saved = False
        self.has_outside_owner = False
        self.memory: OwnedStorage | None = None
        self.parts: list[OwnedObject] = []
        self.owns: list[OwnedObject] = []


class OwnerCounts:
    """The tensors in a graph with the owners in that graph. Call ``clear`` as soon as it has been read."""

    def __init__(self) -> None:
        self._objects: dict[int, OwnedObject] = {}
        self._memories: dict[int, OwnedStorage] = {}
        self.unread = 0

    def save(self, tensor: torch.Tensor) -> None:
        """Add a tensor that a node saved for backward."""
        _mark_saved(self.add_cpp_owner(tensor))

    def save_on_context(self, value: object) -> None:
        """Add the tensors of an attribute that a custom ``Function`` put on its ``ctx``."""
        if may_hold_tensors(value):
            _mark_saved(self._add_python_owner(value))

    def add_cpp_owner(self, tensor: torch.Tensor) -> OwnedObject:
        """Count one more C++ owner of ``tensor`` in the graph."""
        entry = self._find_object(tensor)
        entry.cpp_owners += 1
        return entry

    def totals(self) -> tuple[int, int]:
        """Return the bytes of the saved unique storages, and of those among them without an outside owner."""
        baseline = _baseline()
        for entry in self._objects.values():
            if has_other_owners(entry, baseline):
                _mark_outside_owned(entry)
        saved = [memory for memory in self._memories.values() if memory.is_saved]
        alone = [memory for memory in saved if not (memory.has_outside_owner or is_used_elsewhere(memory, baseline))]
        return sum(memory.nbytes for memory in saved), sum(memory.nbytes for memory in alone)

    def clear(self) -> None:
        """Drop all references: a list that contains itself would otherwise stay until the next collection."""
        for entry in self._objects.values():
            entry.parts = entry.owns = []
        self._objects.clear()
        self._memories.clear()

    def _add_python_owner(self, value: object) -> OwnedObject:
        entry = self._find_object(value)
        entry.python_owners += 1
        return entry

    def _find_object(self, target: Any) -> OwnedObject:
        known = self._objects.get(id(target))
        if known is not None:
            return known
        entry = self._objects[id(target)] = OwnedObject(target)
        if isinstance(target, torch.Tensor):
            self._read_owned(entry)
        else:
            entry.parts = [
                self._add_python_owner(member) for member in list_members(target) if may_hold_tensors(member)
            ]
            entry.owns = entry.parts
        return entry

    def _read_owned(self, entry: OwnedObject) -> None:
        tensor, base_tensor = entry.target, BaseTensor(entry.target)
        if is_functorch_wrapped(tensor):
            entry.parts = [self.add_cpp_owner(torch._C._functorch.get_unwrapped(tensor))]
        elif is_wrapper_subclass(tensor):
            entry.parts = [self._add_python_owner(part) for part in self._list_wrapped(tensor)]
        elif base_tensor.layout in _SPARSE_PARTS:
            entry.parts = [self._sparse_part(getattr(base_tensor, name)) for name in _SPARSE_PARTS[base_tensor.layout]]
        else:
            entry.memory = self._memory(tensor)
        entry.owns = list(entry.parts)
        if base_tensor._is_view():
            entry.owns.append(self.add_cpp_owner(base_tensor._base))
        if base_tensor.is_leaf and base_tensor.grad is not None:
            entry.owns.append(self.add_cpp_owner(base_tensor.grad))

    def _list_wrapped(self, wrapper: Any) -> list[Any]:
        """Return the inner tensors that a wrapper subclass lists."""
        try:
            names, _ = wrapper.__tensor_flatten__()
            return [getattr(wrapper, name) for name in names]
        except Exception:  # the method belongs to the program
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
        """Return a part of a sparse tensor.

        Below autograd and view tracking a COO tensor returns its own part, but a compressed tensor returns an alias. An
        alias does not show the owners of the part, so none is counted, and the part counts as owned by the program.
        """
        with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(_VIEW_TRACKING):
            part, again = read(), read()
        return self.add_cpp_owner(part) if part is again else self._find_object(part)


def is_functorch_wrapped(tensor: torch.Tensor) -> bool:
    """Return whether ``tensor`` wraps another one inside ``torch.vmap``, ``torch.func.grad`` or similar."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def is_wrapper_subclass(tensor: torch.Tensor) -> bool:
    """Return whether ``tensor`` is of a subclass that lists its inner tensors, as ``DTensor`` does."""
    return hasattr(type(tensor), "__tensor_flatten__")


def may_hold_tensors(value: object) -> bool:
    """Return whether ``value`` is a tensor, or a container that may contain tensors."""
    return isinstance(value, torch.Tensor | list | tuple | dict | set | frozenset)


def list_members(container: Any) -> Iterable[object]:
    """Return the members of a list, tuple, dict or set, ignoring overridden iteration."""
    if isinstance(container, dict):
        return list(dict.values(container))
    kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(container, kind))
    return list(kind.__iter__(container))


def bytes_in_memory(tensor: torch.Tensor, storage: torch.UntypedStorage) -> int:
    """Return the size of a storage, 0 without memory behind it: meta and fake tensors, empty wrappers."""
    if storage.device.type == "meta":
        return 0
    # Reading the address of a copy-on-write storage would make the copy.
    is_copy_on_write = getattr(torch._C, "_is_cow_tensor", None)
    if type(tensor) is torch.Tensor or (is_copy_on_write is not None and is_copy_on_write(tensor)):
        return storage.nbytes()
    try:
        return storage.nbytes() if storage.data_ptr() else 0
    except RuntimeError:  # the storage of a wrapper, which has a size only
        return 0


def has_other_owners(entry: OwnedObject, baseline: BaselineCounts) -> bool:
    """Return whether a tensor or container has owners beyond the known ones."""
    references = sys.getrefcount(entry.target) - entry.python_owners
    if not isinstance(entry.target, torch.Tensor):
        return references > baseline.container
    owners = torch.Tensor._use_count(entry.target) - 1  # type: ignore[attr-defined]  # less its Python object
    if owners > entry.cpp_owners:
        return True
    return references > (baseline.tensor_in_cpp if owners else baseline.tensor)


def is_used_elsewhere(memory: OwnedStorage, baseline: BaselineCounts) -> bool:
    """Return whether an unknown tensor, or the program itself, owns the storage."""
    owners: int = torch._C._storage_Use_Count(memory.target._cdata)
    return owners - memory.owners > baseline.storage_owners or sys.getrefcount(memory.target) > baseline.storage


@dataclass(frozen=True)
class BaselineCounts:
    """The counts of an object without owners other than this module and known C++ ones."""

    container: int = 0
    tensor: int = 0
    tensor_in_cpp: int = 0
    storage: int = 0
    storage_owners: int = 0


@functools.cache
def _baseline() -> BaselineCounts:
    """Measure once, outside of inference mode and ``torch.func``, which would create other tensors."""
    with temporarily_clear_interpreter_stack(), torch._C._InferenceMode(False):
        return _measure()


def _measure() -> BaselineCounts:
    """Measure objects without other owners, by the same reads as in ``OwnerCounts``."""
    container = OwnedObject([])
    tensor = OwnedObject(torch.empty(0))
    base = OwnedObject(torch.empty(0))
    view = torch._C._TensorBase.view_as(base.target, base.target)
    memory = OwnedStorage(tensor.target.untyped_storage(), 0)
    baseline = BaselineCounts(
        container=_find_lowest(lambda n: not has_other_owners(container, BaselineCounts(container=n))),
        tensor=_find_lowest(lambda n: not has_other_owners(tensor, BaselineCounts(tensor=n))),
        storage=_find_lowest(
            lambda n: not is_used_elsewhere(memory, BaselineCounts(storage=n, storage_owners=1 << 20))
        ),
        storage_owners=_find_lowest(
            lambda n: not is_used_elsewhere(memory, BaselineCounts(storage=1 << 20, storage_owners=n))
        )
        - 1,
    )
    base.cpp_owners = 1
    in_cpp = _find_lowest(lambda n: not has_other_owners(base, BaselineCounts(tensor_in_cpp=n)))
    del view
    return BaselineCounts(baseline.container, baseline.tensor, in_cpp, baseline.storage, baseline.storage_owners)


def _find_lowest(is_met: Callable[[int], bool]) -> int:
    return next(number for number in range(64) if is_met(number))


def _mark_saved(entry: OwnedObject) -> None:
    if entry.is_saved:
        return
    entry.is_saved = True
    if entry.memory is not None:
        entry.memory.is_saved = True
    for part in entry.parts:
        _mark_saved(part)


def _mark_outside_owned(entry: OwnedObject) -> None:
    if entry.has_outside_owner:
        return
    entry.has_outside_owner = True
    if entry.memory is not None:
        entry.memory.has_outside_owner = True
    for owned in entry.owns:
        _mark_outside_owned(owned)
