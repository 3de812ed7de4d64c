"""The effects of a probed call on the tensors around it, and the graph behind the tensors it returned."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

import torch
from torch.utils import _pytree

from gradprobe.capture.autograd.graph import read_graph
from gradprobe.capture.autograd.storages import storage_of
from gradprobe.capture.autograd.version_counters import version_of

PARAMETERS, BUFFERS, ARGUMENTS, RESULTS = range(4)


class CallEffects:
    """The versions of all tensors that a call can reach, before and after it."""

    def __init__(self, function: Any, code: CodeType | None, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._before: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        with torch._C.DisableTorchFunction():  # function modes and subclasses of the program must not see these reads
            for role, tensor in _reachable_tensors(function, code, arguments, named):
                version = version_of(tensor)
                if version is not None:
                    self._before.setdefault(id(tensor), (weakref.ref(tensor), version, role))

    def finish(self, result: Any) -> tuple[int, ...]:
        """Return the counts of the call, in the order of ``RETURNS_FIELDS``.

        All version bumps of a result count, unless the result is one of the tensors around the call.
        """
        with torch._C.DisableTorchFunction():
            return self._finish(result)

    def _finish(self, result: Any) -> tuple[int, ...]:
        bumps = [0, 0, 0, 0]
        counters = set()  # views share the counter of their base
        for ref, before, role in self._before.values():
            tensor = ref()
            after = None if tensor is None else version_of(tensor)
            if tensor is not None and after is not None and after != before:
                counter = (storage_of(tensor) or id(tensor), after)
                bumps[role] += 0 if counter in counters else after - before
                counters.add(counter)
        returned = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for tensor in returned:
            after = version_of(tensor)
            counter = (storage_of(tensor) or id(tensor), after or 0)
            if after and not self._is_known(tensor) and counter not in counters:
                bumps[RESULTS] += after
                counters.add(counter)
        graph = read_graph(returned)
        return (graph.nodes, graph.saved_bytes, graph.graph_bytes, graph.hooked, graph.unread, *bumps)

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return any(id(t) in self._before for t in (tensor, tensor._base) if t is not None)


def tree_leaves(value: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples, dicts and of other types that PyTorch's pytrees know."""
    return _pytree.tree_leaves(value)


def _reachable_tensors(
    function: Any, code: CodeType | None, arguments: tuple[Any, ...], named: dict[str, Any]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the tensors that a call can reach: arguments, and those of modules that it names."""
    values = tree_leaves((arguments, named))
    for module in _modules((*_free_values(function, code), *values)):
        # By PyTorch's own method: an override in the program may do more than list them.
        yield from ((PARAMETERS, entry) for _, entry in torch.nn.Module.named_parameters(module))
        yield from ((BUFFERS, entry) for _, entry in torch.nn.Module.named_buffers(module))
    for value in values:
        if isinstance(value, torch.nn.Parameter):
            yield PARAMETERS, value
        elif isinstance(value, torch.Tensor):
            yield ARGUMENTS, value


def _free_values(function: Any, code: CodeType | None) -> Iterator[Any]:
    """Yield the values of a function's free names, and the object that it is bound to."""
    yield getattr(function, "__self__", None)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
    names = getattr(function, "__globals__", {})
    for name in code.co_names if code is not None else ():
        yield names.get(name)


def _modules(values: Iterable[Any]) -> Iterator[torch.nn.Module]:
    """Yield the modules among ``values`` and among their attributes, each once."""
    seen: set[int] = set()
    for value in values:
        attributes = () if isinstance(value, torch.nn.Module | torch.Tensor | type) else _attributes(value)
        for item in (value, *attributes):
            if isinstance(item, torch.nn.Module) and id(item) not in seen:
                seen.add(id(item))
                yield item


def _attributes(value: Any) -> list[Any]:
    found = getattr(value, "__dict__", None)
    is_plain = isinstance(found, dict) and type(value).__module__ not in ("builtins", "types")
    return list(found.values()) if is_plain and found is not None else []
