"""The autograd graph behind tensors, read without changing it.

Nothing here unpacks a saved tensor: unpacking runs the program's hooks (a checkpointed segment would be recomputed) and
PyTorch's version check. Each node has its saved variables as ``_raw_saved_*``, with the tensor as saved in ``data``. One
read has an effect, which is PyTorch's own: reading ``grad_fn`` of a view creates its node again if the base of the view
was modified in place since.

Nodes keep more than they saved: a custom ``Function`` may put tensors on its ``ctx``, and ``AccumulateGrad`` keeps its
leaf. The tensors in the node inside ``CopySlices`` (an in-place operation on a view) cannot be seen; each such node counts
as one saved tensor that could not be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import BackwardCFunction

from gradprobe.capture.autograd.base_tensor import BaseTensor
from gradprobe.capture.autograd.ownership import OwnerCounts

PREFIX = "_raw_saved_"
COPY_SLICES = "torch::autograd::CopySlices"
UNREADABLE = object()
_names_of_cpp: dict[type, tuple[str, ...]] = {}
_names_by_type: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class GraphSummary:
    """The nodes that a backward from some tensors could reach, and the tensors they saved for it.

    Attributes:
        nodes: Number of autograd nodes, as a thread's sequence number counts them: all but ``AccumulateGrad``.
        names: Number of nodes of each name.
        sequence_numbers: The sequence numbers of the nodes.
        saved_bytes: Bytes of the unique storages saved for backward, those on a custom function's ``ctx`` included.
        graph_bytes: The part of ``saved_bytes`` that only the graph keeps alive: no variable, container, storage object or
            other graph of the program has a tensor over it. Exact if ``unread`` and ``hooked`` are 0, else a lower bound.
        hooked: Number of saved tensors passed to saved-tensor hooks of the program; they are in neither sum.
        freed: True if a backward freed the saved tensors of some node.
        unread: Number of saved tensors, and of histories of tensors, that could not be read.
        is_truncated: True if the graph has more than ``MAX_NODES`` nodes, which no sum goes beyond.
    """

    nodes: int = 0
    names: dict[str, int] = field(default_factory=dict)
    sequence_numbers: list[int] = field(default_factory=list)
    saved_bytes: int = 0
    graph_bytes: int = 0
    hooked: int = 0
    freed: bool = False
    unread: int = 0
    is_truncated: bool = False


@dataclass(frozen=True)
class SavedValues:
    """The values that one node saved, with the numbers of those that could not be read.

    Attributes:
        tensors: The saved tensors.
        on_context: The attributes that a custom function put on its ``ctx``.
        hooked: Number of tensors passed to saved-tensor hooks.
        freed: Number of tensors that a backward has freed.
        unread: Number of tensors that could not be read.
    """

    tensors: list[torch.Tensor] = field(default_factory=list)
    on_context: list[object] = field(default_factory=list)
    hooked: int = 0
    freed: int = 0
    unread: int = 0


MAX_NODES = 20_000


def read_graph(tensors: Iterable[torch.Tensor], *, read_saved: bool = True) -> GraphSummary:
    """Read the graph behind ``tensors``, without keeping any node or tensor.

    Under ``torch.compile`` it is empty. The owners are counted at this moment: another thread that works with the same
    tensors may own one temporarily.

    Args:
        tensors: The outputs that a backward would start from.
        read_saved: False to fill in only nodes, names and sequence numbers.
    """
    if torch.compiler.is_compiling():
        return GraphSummary()
    with torch._C.DisableTorchFunction():
        roots = list(tensors)
        ends = [history_of(root) for root in roots]
        nodes = reachable_nodes(ends)
        counted = [node for node in nodes if not is_leaf_node(node)]
        is_truncated = len(nodes) >= MAX_NODES
        names = dict(Counter(name_of(node) for node in counted))
        numbers = [type(node)._sequence_nr(node) for node in counted]
        if not read_saved:
            return GraphSummary(len(counted), names, numbers, unread=ends.count(UNREADABLE), is_truncated=is_truncated)
        with torch._C._DisableTorchDispatch():
            unread = ends.count(UNREADABLE) + is_truncated
            return GraphSummary(len(counted), names, numbers, **_saved_totals(nodes, unread), is_truncated=is_truncated)


def find_saved_values(node: Any) -> SavedValues:
    """Return the values that an autograd node keeps for backward, without unpacking any."""
    saved = SavedValues(on_context=list(vars(node).values()) if isinstance(node, BackwardCFunction) else [])
    hooked = freed = unread = 0
    for variable in saved_variables(node):
        if variable is None:
            freed += 1
        elif not can_be_read(type(variable)):
            unread += 1
        elif variable.unpack_hook is not None:
            hooked += 1  # its data is the value that the program's hook returned for the tensor
        elif variable.data is not None:
            saved.tensors.append(variable.data)
        else:
            freed += was_freed(variable)
    return replace(saved, hooked=hooked, freed=freed, unread=unread + (name_of(node) == COPY_SLICES))


def find_saved_tensors(node: Any) -> tuple[list[Any], int]:
    """Return the values that a new node keeps, and the number of its tensors that went to hooks.

    It takes a tenth of the time of ``find_saved_values``.
    """
    kind = type(node)
    kept: list[Any] = list(vars(node).values()) if issubclass(kind, BackwardCFunction) else []
    hooked = 0
    for name in _names_of_cpp.get(kind) or raw_names(kind):
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed
            continue
        for variable in value if isinstance(value, tuple | list) else (value,):
            if not can_be_read(type(variable)):
                continue
            if variable.unpack_hook is not None:
                hooked += 1
            elif (data := variable.data) is not None:
                kept.append(data)
    return kept, hooked


def leaf_tensors(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the leaves that would receive a gradient from a backward of ``tensors``."""
    for node in reachable_nodes([history_of(root) for root in tensors]):
        if is_leaf_node(node) and node.variable is not None:
            yield node.variable


def history_of(root: torch.Tensor) -> Any:
    """Return the node that produced a tensor, None, or ``UNREADABLE`` if PyTorch raises."""
    try:
        return BaseTensor(root).grad_fn
    except RuntimeError:  # a view made under no_grad, or one of several outputs, with a base modified in place since
        return UNREADABLE


def reachable_nodes(ends: list[Any]) -> list[Any]:
    """Return the nodes that a backward could run, at most ``MAX_NODES`` of them.

    Not by recursion, since graphs are deeper than Python's limit. The maximum exists because PyTorch keeps the Python
    object of a node that was read, and frees a chain of those by recursion: a chain of 50,000 crashes the process,
    where otherwise the nodes would be freed one by one.
    """
    found: dict[Any, None] = dict.fromkeys(end for end in ends if end not in (None, UNREADABLE))
    waiting = list(found)
    while waiting and len(found) < MAX_NODES:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def _saved_totals(nodes: list[Any], unread: int) -> dict[str, Any]:
    owners = OwnerCounts()
    try:
        counts = [_add_node(node, owners) for node in nodes]
        saved_bytes, graph_bytes = owners.totals()
    finally:
        owners.clear()
    return {
        "saved_bytes": saved_bytes,
        "graph_bytes": graph_bytes,
        "hooked": sum(found.hooked for found in counts),
        "freed": any(found.freed for found in counts),
        "unread": unread + owners.unread + sum(found.unread for found in counts),
    }


def _add_node(node: Any, owners: OwnerCounts) -> SavedValues:
    """Add the values that a node keeps to ``owners``, and return the counts without the tensors.

    The owners of those tensors are counted next, so no other reference may exist.
    """
    if is_leaf_node(node):
        if node.variable is not None:
            owners.add_cpp_owner(node.variable)
        return SavedValues()
    saved = find_saved_values(node)
    for tensor in saved.tensors:
        owners.save(tensor)
    for value in saved.on_context:
        owners.save_on_context(value)
    return replace(saved, tensors=[], on_context=[])


def saved_variables(node: Any) -> list[Any]:
    """Return PyTorch's saved variables of a node, None for each that was freed."""
    variables: list[Any] = []
    for name in raw_names(type(node)):
        try:
            value = getattr(node, name)
        except RuntimeError:  # a freed list raises, whereas a freed single variable is empty
            value = None
        if isinstance(value, tuple | list):
            variables += value
        else:
            variables.append(value)
    return variables


def was_freed(variable: Any) -> bool:
    """Return whether an empty saved variable had a tensor once, which was freed since.

    Otherwise its operand was not needed. Only ``unpack`` shows the difference; without data and hook it runs nothing.
    """
    try:
        variable.unpack()
    except RuntimeError:
        return True
    return False


def _has_readable_parts(kind: type) -> bool:
    return hasattr(kind, "data") and hasattr(kind, "unpack_hook")


can_be_read: Callable[[type], bool] = cache(_has_readable_parts)
"""Return whether this PyTorch can show a saved variable of this type without unpacking it."""


def can_read_saved() -> bool:
    """Return whether saved tensors can be read without unpacking, which would run the program's hooks."""
    return _has_readable_parts(torch._C._autograd.SavedTensor)


def raw_names(kind: type) -> tuple[str, ...]:
    names = _names_of_cpp.get(kind)
    if names is not None:
        return names
    # The types of custom functions may be freed, so they are kept by weak references, which take longer to look up.
    known = _names_by_type if issubclass(kind, BackwardCFunction) else _names_of_cpp
    names = known.get(kind)
    if names is None:
        names = known[kind] = tuple(name for name in dir(kind) if name.startswith(PREFIX))
    return names


def is_leaf_node(node: Any) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def name_of(node: Any) -> str:
    return str(type(node).name(node))  # on the type, since a custom function may set `name` on its ctx
