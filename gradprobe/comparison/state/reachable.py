"""Tensors and containers that a call can reach, and in which it may keep values from one call to the next.

Objects of the standard library and globals of installed libraries are not followed: loggers, caches and registries belong
to the whole program and must not be set back.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradprobe.comparison.state.containers import ContainerState

_MAX_REACH_DEPTH = 6
_MAX_ITEMS = 10_000
"""Maximum number of items of a container that are followed."""
_OF_MODULES = frozenset(vars(nn.Module()))
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)


class ReachableState:
    """Tensors and containers reachable from some values.

    Followed are arguments, closures, the globals that functions name, attributes, and modules with their contents.
    """

    def __init__(self, *values: object) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.containers: dict[int, ContainerState] = {}
        self._seen: dict[int, object] = {}  # references keep these ids from being reused
        self._follow(values, _MAX_REACH_DEPTH)

    def _follow(self, values: Iterable[object], depth: int) -> None:
        for value in values:
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                if isinstance(value, Tensor):
                    self._add_tensor(value)
                elif isinstance(value, nn.Module):
                    self._follow_module(value, depth)
                elif depth:
                    is_wrapper = isinstance(value, functools.partial | types.MethodType)
                    self._follow(self._list_inside(value), depth if is_wrapper else depth - 1)

    def _add_tensor(self, tensor: Tensor) -> None:
        if not is_lazy(tensor):  # it has no data before the first call
            self.tensors[id(tensor)] = tensor

    def _follow_module(self, module: nn.Module, depth: int) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            self._add_tensor(tensor)
        for part in module.modules():
            self._seen[id(part)] = part
            self._add_container(vars(part))
            for name in ("_parameters", "_buffers", "_modules"):
                self._add_container(vars(part)[name])
            self._follow((value for name, value in vars(part).items() if name not in _OF_MODULES), depth)

    def _list_inside(self, value: Any) -> Iterable[object]:
        """Return the objects that ``value`` refers to, and add its containers."""
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, types.BuiltinMethodType):
            return [value.__self__]
        if isinstance(value, types.FunctionType):
            return self._list_inside_function(value)
        if isinstance(value, tuple):
            return islice(value, _MAX_ITEMS)
        if type(value) in _CONTAINERS:
            self._add_container(value)
            return list(islice(value.values() if isinstance(value, dict) else value, _MAX_ITEMS))
        if isinstance(value, type | types.ModuleType) or _is_shared(type(value).__module__):
            return ()
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict):
            return ()
        self._add_container(attributes)
        return list(attributes.values())

    def _list_inside_function(self, function: types.FunctionType) -> Iterable[object]:
        found = [*(function.__defaults__ or ()), getattr(function, "__wrapped__", None)]
        for cell in function.__closure__ or ():
            self._add_container(cell)
            found += ContainerState(cell).values.values()
        if not function.__code__.co_filename.startswith(_INSTALLED) and not _is_shared(function.__module__):
            # Keyed by the function: other functions may name other globals of the same module.
            named = self.containers[id(function)] = ContainerState(function.__globals__, function.__code__.co_names)
            found += named.values.values()
        return found

    def _add_container(self, container: Any) -> None:
        self.containers.setdefault(id(container), ContainerState(container))


def _is_shared(module: object) -> bool:
    """Return whether a class or function of this module belongs to the standard library or to gradprobe."""
    root = str(module).partition(".")[0]
    return root == "gradprobe" or (root in sys.stdlib_module_names and root not in ("__main__", "types"))
