"""Members of modules: the modules and parameters in them, by the names that lead there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

_MAX_HELD = 1_000
_TORCH_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
"""Attributes in which each module keeps what is registered."""


def list_members(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module | torch.Tensor]]:
    """Yield a module, called "", and the modules and parameters in it with their dotted names.

    No methods are called that its class may override. Those in lists and dictionaries, which ``modules()`` does not have,
    follow: ``blocks[0].weight``.
    """
    seen = {id(root)}
    waiting: list[tuple[str, torch.nn.Module]] = [("", root)]
    while waiting:
        held = list[tuple[str, Any]]()
        while waiting:
            path, module = waiting.pop()
            yield path, module
            members = vars(module)
            prefix = f"{path}." if path else ""
            for name, parameter in list(members.get("_parameters", {}).items()):
                if parameter is not None:
                    yield prefix + name, parameter
            for name, child in reversed(list(members.get("_modules", {}).items())):
                if child is not None and id(child) not in seen:
                    seen.add(id(child))
                    waiting.append((prefix + name, child))
            held += _list_held(prefix, members)
        for name, value in held:
            if isinstance(value, torch.nn.Parameter):
                yield name, value
            elif id(value) not in seen:
                seen.add(id(value))
                waiting.append((name, value))
        waiting.reverse()


def _list_held(prefix: str, members: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the modules and parameters in plain containers among the attributes of a module."""
    for attribute, container in list(members.items()):
        if attribute in _TORCH_ATTRIBUTES or type(container) not in (list, tuple, dict):
            continue
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(islice(items, _MAX_HELD)):
            # By the type and for plain keys only: an object's own `__class__` or `__repr__` is code of the program.
            if issubclass(type(value), torch.nn.Module | torch.nn.Parameter):
                yield f"{prefix}{attribute}[{key!r}]" if type(key) in (str, int) else f"{prefix}{attribute}[...]", value
