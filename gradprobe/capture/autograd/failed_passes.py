"""Cause of a failed backward pass, found in the graph that it left behind.

A node that fails keeps what it saved, and the nodes before it keep their edges, so the graph can still be walked after the
exception. Nothing here runs the program's hooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.graph import (
    MAX_NODES,
    UNREADABLE,
    can_be_read,
    find_saved_values,
    history_of,
    is_leaf_node,
    name_of,
    raw_names,
    reachable_nodes,
    saved_variables,
)

_MODIFIED_TEXT = "modified by an inplace operation"


def sequence_number(node: Any) -> int:
    """Return the number that the thread which constructed ``node`` gave it."""
    return int(type(node)._sequence_nr(node))


def find_modified_saved_tensor(tensors: Iterable[torch.Tensor]) -> tuple[Any, torch.Tensor] | None:
    """Return a node that saved a tensor which was modified in place since, and that tensor.

    Only PyTorch knows the version at which a tensor was saved, so each variable is unpacked, except in nodes with hooks,
    which unpacking would run.
    """
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        for node in reachable_nodes([history_of(root) for root in tensors]):
            variables = [] if is_leaf_node(node) else [v for v in saved_variables(node) if v is not None]
            if any(not can_be_read(type(variable)) or variable.unpack_hook is not None for variable in variables):
                continue
            for variable in variables:
                if variable.data is not None and _was_modified(node, variable):
                    return node, variable.data
    return None


class FreedNode(NamedTuple):
    """A node that was freed before the pass that reached it, and the edge by which that pass came to the freed part.

    ``carried`` is the first node of the part that an earlier pass has gone through: the program carries its result on.
    ``user`` is the node that takes this result again, None if it is a root.
    """

    node: Any
    carried: Any
    user: Any


def find_freed_node(tensors: Iterable[torch.Tensor], was_freed_before: Callable[[int], bool]) -> FreedNode | None:
    """Return a node behind some tensors that a backward pass has freed.

    The pass that failed has itself freed the nodes that it went through first.

    Args:
        tensors: The roots of the pass that failed.
        was_freed_before: Returns whether an earlier pass went through the node with a sequence number and freed it.
    """
    users: dict[Any, Any] = {}
    other = None
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        for node, user in _nodes_with_users(tensors):
            users[node] = user
            if is_leaf_node(node) or not find_saved_values(node).freed:
                continue
            if not was_freed_before(sequence_number(node)):
                other = other or FreedNode(node, node, user)
                continue
            carried = node
            while users[carried] is not None and was_freed_before(sequence_number(users[carried])):
                carried = users[carried]
            return FreedNode(node, carried, users[carried])
    return other


def find_node_of_name(tensors: Iterable[torch.Tensor], message: str) -> Any:
    """Return the first node behind ``tensors`` whose name is in ``message``, or None."""
    words = set(re.findall(r"\w+", message.lower()))
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        for node, _ in _nodes_with_users(tensors):
            name = name_of(node).lower()
            if {name, name.removesuffix("backward0"), name.removesuffix("backward")} & words:
                return node
    return None


def is_in_graph(tensor: torch.Tensor, tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether a backward pass from ``tensors`` would reach ``tensor``."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        own = history_of(tensor)
        for node, _ in _nodes_with_users(tensors):
            if node is own or (is_leaf_node(node) and node.variable is tensor):
                return True
    return False


def _nodes_with_users(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[Any, Any]]:
    """Yield the nodes behind ``tensors``, those near to them first, each with the node that leads to it."""
    ends = [end for end in map(history_of, tensors) if end not in (None, UNREADABLE)]
    found = dict.fromkeys(ends)
    waiting = list(found)
    for node in waiting:
        yield node, found[node]
        if len(found) >= MAX_NODES:
            return
        for behind, _ in node.next_functions:
            if behind is not None and behind not in found:
                found[behind] = node
                waiting.append(behind)


def _was_modified(node: Any, variable: Any) -> bool:
    try:
        variable.unpack()
    except RuntimeError as error:
        if _MODIFIED_TEXT in str(error):
            return True
        # A node's own result can only be unpacked through the node, as the attributes without "raw" do.
        return any(_raises_modified(node, name.replace("_raw", "", 1)) for name in raw_names(type(node)))
    return False


def _raises_modified(node: Any, name: str) -> bool:
    try:
        getattr(node, name, None)
    except RuntimeError as error:
        return _MODIFIED_TEXT in str(error)
    return False
