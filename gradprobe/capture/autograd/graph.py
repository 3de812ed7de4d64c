"""The autograd graph behind tensors, read without changing it.

Nothing here unpacks a saved tensor: unpacking runs the program's hooks (a checkpointed stretch would be computed again)
and PyTorch's version check. Each node has its saved variables as ``_raw_saved_*``, whose ``data`` is the tensor as saved.
One read is not free of effects, and is PyTorch's own: ``grad_fn`` of a view whose base was changed in place since makes
that view's node anew.

What nodes keep is more than what they saved: a custom ``Function`` may put tensors on its ``ctx``, and ``AccumulateGrad``
holds its leaf. Not to be seen is what ``CopySlices`` (an in-place operation on a view) holds in the node inside it; each
counts as one saved tensor that could not be read.
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

_PREFIX = "_raw_saved_"
_COPY_SLICES = "torch::autograd::CopySlices"
_UNREADABLE = object()
_names_of_cpp: dict[type, tuple[str, ...]] = {}
_names_by_type: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class GraphSummary:
    """The nodes that a backward from some tensors could reach, and what they saved for it.

    ``nodes`` counts the autograd nodes that a thread's sequence number counts (all but ``AccumulateGrad``); ``names`` says
    how many of each name, ``sequence_numbers`` which. ``saved_bytes`` are the bytes of the unique storages saved for
    backward, those on a custom function's ``ctx`` included; ``graph_bytes`` the part of them that nothing but the graph
    keeps alive: no variable, container, storage object or other graph of the program holds a tensor over them. It is exact
    where ``unread`` and ``hooked`` are 0, else a lower bound. ``hooked`` counts saved tensors that were handed to
    saved-tensor hooks of the program, which are in neither sum; ``freed`` says that a backward freed what some node had
    saved; ``unread`` counts saved tensors, and histories of tensors, that could not be read; ``is_cut`` says that the graph
    has more than ``MAX_NODES`` nodes, and all sums are of those.
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
    """What one node saved: the tensors, what a custom function put on its ``ctx``, and how many were not to be had."""

    tensors: list[torch.Tensor] = field(default_factory=list)
    on_context: list[object] = field(default_factory=list)
    hooked: int = 0
    freed: int = 0
    unread: int = 0


MAX_NODES = 20_000


def read_graph(tensors: Iterable[torch.Tensor], *, read_saved: bool = True) -> GraphSummary:
    """Reads the graph behind ``tensors``; keeps no node and no tensor. Under ``torch.compile`` it is empty.

    Without ``read_saved`` only nodes, names and sequence numbers are filled in. The counts of owners are those of this
    moment: a thread that is busy with the same tensors may hold one in passing.
    """
    if torch.compiler.is_compiling():
        return GraphSummary()
    with torch._C.DisableTorchFunction():
        roots = list(tensors)
        ends = [_history(root) for root in roots]
        nodes = _reachable(ends)
        counted = [node for node in nodes if not _is_leaf_node(node)]
        is_truncated = len(nodes) >= MAX_NODES
        names = dict(Counter(_name(node) for node in counted))
        numbers = [type(node)._sequence_nr(node) for node in counted]
        if not read_saved:
            return GraphSummary(len(counted), names, numbers, unread=ends.count(_UNREADABLE), is_truncated=is_truncated)
        with torch._C._DisableTorchDispatch():
            unread = ends.count(_UNREADABLE) + is_truncated
            return GraphSummary(len(counted), names, numbers, **_saved_totals(nodes, unread), is_truncated=is_truncated)


def find_saved_values(node: Any) -> SavedValues:
    """What an autograd node holds for backward, without unpacking any of it."""
    saved = SavedValues(on_context=list(vars(node).values()) if isinstance(node, BackwardCFunction) else [])
    hooked = freed = unread = 0
    for variable in _saved_variables(node):
        if variable is None:
            freed += 1
        elif not _can_be_read(type(variable)):
            unread += 1
        elif variable.unpack_hook is not None:
            hooked += 1  # its data is what the program's hook made of the tensor
        elif variable.data is not None:
            saved.tensors.append(variable.data)
        else:
            freed += _was_freed(variable)
    return replace(saved, hooked=hooked, freed=freed, unread=unread + (_name(node) == _COPY_SLICES))


def find_saved_tensors(node: Any) -> tuple[list[Any], int]:
    """What ``saved_by`` finds of a node that was just constructed, in a tenth of the time: all that it holds, and how many
    tensors went to hooks."""
    kind = type(node)
    held: list[Any] = list(vars(node).values()) if issubclass(kind, BackwardCFunction) else []
    hooked = 0
    for name in _names_of_cpp.get(kind) or _raw_names(kind):
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed
            continue
        for variable in value if isinstance(value, tuple | list) else (value,):
            if not _can_be_read(type(variable)):
                continue
            if variable.unpack_hook is not None:
                hooked += 1
            elif (data := variable.data) is not None:
                held.append(data)
    return held, hooked


def leaf_tensors(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The leaves that a backward from ``tensors`` would give a gradient."""
    for node in _reachable([_history(root) for root in tensors]):
        if _is_leaf_node(node) and node.variable is not None:
            yield node.variable


_CHANGED = "modified by an inplace operation"


def find_modified_saved_tensor(tensors: Iterable[torch.Tensor]) -> tuple[Any, torch.Tensor] | None:
    """A node behind ``tensors`` that saved a tensor which was changed in place since, and that tensor.

    PyTorch alone knows the version that was saved, so each variable is unpacked, but for those of nodes where hooks would.
    """
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        for node in _reachable([_history(root) for root in tensors]):
            variables = [] if _is_leaf_node(node) else [v for v in _saved_variables(node) if v is not None]
            if any(not _can_be_read(type(variable)) or variable.unpack_hook is not None for variable in variables):
                continue
            for variable in variables:
                if variable.data is not None and _was_changed(node, variable):
                    return node, variable.data
    return None


def _was_changed(node: Any, variable: Any) -> bool:
    try:
        variable.unpack()
    except RuntimeError as error:
        if _CHANGED in str(error):
            return True
        # A node's own result is unpacked with the help of the node alone, as the attributes without "raw" do.
        return any(_raises_changed(node, name.replace("_raw", "", 1)) for name in _raw_names(type(node)))
    return False


def _raises_changed(node: Any, name: str) -> bool:
    try:
        getattr(node, name, None)
    except RuntimeError as error:
        return _CHANGED in str(error)
    return False


def _history(root: torch.Tensor) -> Any:
    """The node that made a tensor, None, or ``_UNREADABLE`` where PyTorch refuses to tell."""
    try:
        return BaseTensor(root).grad_fn
    except RuntimeError:  # a view made under no_grad, or one of several outputs, whose base was changed in place since
        return _UNREADABLE


def _reachable(ends: list[Any]) -> list[Any]:
    """Every node that a backward could run, or ``MAX_NODES`` of them; without recursion, graphs are deeper than that.

    PyTorch keeps the Python object of a node that was looked at, and frees a chain of such nodes by recursion: one of
    50,000 ends the process, where it would have been freed one by one.
    """
    found: dict[Any, None] = dict.fromkeys(end for end in ends if end not in (None, _UNREADABLE))
    waiting = list(found)
    while waiting and len(found) < MAX_NODES:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def _saved_totals(nodes: list[Any], unread: int) -> dict[str, Any]:
    ledger = OwnerCounts()
    try:
        counts = [_enter(node, ledger) for node in nodes]
        saved_bytes, graph_bytes = ledger.totals()
    finally:
        ledger.clear()
    return {
        "saved_bytes": saved_bytes,
        "graph_bytes": graph_bytes,
        "hooked": sum(found.hooked for found in counts),
        "freed": any(found.freed for found in counts),
        "unread": unread + ledger.unread + sum(found.unread for found in counts),
    }


def _enter(node: Any, ledger: OwnerCounts) -> SavedValues:
    """Notes in the ledger what a node holds; gives back the counts without the tensors, whose owners are counted next."""
    if _is_leaf_node(node):
        if node.variable is not None:
            ledger.add_cpp_owner(node.variable)
        return SavedValues()
    saved = find_saved_values(node)
    for tensor in saved.tensors:
        ledger.save(tensor)
    for value in saved.on_context:
        ledger.save_on_context(value)
    return replace(saved, tensors=[], on_context=[])


def _saved_variables(node: Any) -> list[Any]:
    """PyTorch's saved variables of a node; None for those that cannot be had any more because they were freed."""
    variables: list[Any] = []
    for name in _raw_names(type(node)):
        try:
            value = getattr(node, name)
        except RuntimeError:  # a list of them raises once it was freed, where a single one is empty
            value = None
        if isinstance(value, tuple | list):
            variables += value
        else:
            variables.append(value)
    return variables


def _was_freed(variable: Any) -> bool:
    """Whether an empty saved variable held a tensor once, rather than stands for an operand that was not needed.

    Only its ``unpack`` can tell. With no data and no hook there is nothing that it could run or give.
    """
    try:
        variable.unpack()
    except RuntimeError:
        return True
    return False


def _has_parts(kind: type) -> bool:
    return hasattr(kind, "data") and hasattr(kind, "unpack_hook")


_can_be_read: Callable[[type], bool] = cache(_has_parts)
"""Whether this PyTorch lets a saved variable of a type be looked at without unpacking it."""


def can_read_saved() -> bool:
    """Whether this PyTorch lets what nodes saved be looked at. Unpacking it instead would run the program's hooks."""
    return _has_parts(torch._C._autograd.SavedTensor)


def _raw_names(kind: type) -> tuple[str, ...]:
    names = _names_of_cpp.get(kind)
    if names is not None:
        return names
    # The types of custom functions may come and go, and looking one up weakly takes longer.
    known = _names_by_type if issubclass(kind, BackwardCFunction) else _names_of_cpp
    names = known.get(kind)
    if names is None:
        names = known[kind] = tuple(name for name in dir(kind) if name.startswith(_PREFIX))
    return names


def _is_leaf_node(node: Any) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def _name(node: Any) -> str:
    return str(type(node).name(node))  # a program may have put a name of its own on its ctx
