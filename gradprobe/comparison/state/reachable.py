"""What a call reaches: its tensors, and whatever holds values for it from one call to the next.

Not followed are the standard library's objects and the globals of installed libraries: loggers, caches and registries that
the whole program shares, and that must not go back to what they were.
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

_DEPTH = 6
_MANY = 10_000
"""Of a longer list no more than these are looked into."""
_OF_MODULES = frozenset(vars(nn.Module()))
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)


class ReachableState:
    """Tensors and holders within reach of some values: arguments, closures, the globals that functions name, attributes,
    and modules with all that is in them."""

    def __init__(self, *values: object) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.holders: dict[int, ContainerState] = {}
        self._seen: dict[int, object] = {}  # kept, so that no other object takes an identity
        self._follow(values, _DEPTH)

    def _follow(self, values: Iterable[object], depth: int) -> None:
        for value in values:
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                if isinstance(value, Tensor):
                    self._add(value)
                elif isinstance(value, nn.Module):
                    self._follow_module(value, depth)
                elif depth:
                    is_wrapper = isinstance(value, functools.partial | types.MethodType)
                    self._follow(self._inside(value), depth if is_wrapper else depth - 1)

    def _add(self, tensor: Tensor) -> None:
        if not is_lazy(tensor):  # it has no data before a first call makes some
            self.tensors[id(tensor)] = tensor

    def _follow_module(self, module: nn.Module, depth: int) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            self._add(tensor)
        for part in module.modules():
            self._seen[id(part)] = part
            self._hold(vars(part))
            for name in ("_parameters", "_buffers", "_modules"):
                self._hold(vars(part)[name])
            self._follow((value for name, value in vars(part).items() if name not in _OF_MODULES), depth)

    def _inside(self, value: Any) -> Iterable[object]:
        """What ``value`` holds, which is noted."""
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, types.BuiltinMethodType):
            return [value.__self__]
        if isinstance(value, types.FunctionType):
            return self._inside_function(value)
        if isinstance(value, tuple):
            return islice(value, _MANY)
        if type(value) in _CONTAINERS:
            self._hold(value)
            return list(islice(value.values() if isinstance(value, dict) else value, _MANY))
        if isinstance(value, type | types.ModuleType) or _is_shared(type(value).__module__):
            return ()
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict):
            return ()
        self._hold(attributes)
        return list(attributes.values())

    def _inside_function(self, function: types.FunctionType) -> Iterable[object]:
        found = [*(function.__defaults__ or ()), getattr(function, "__wrapped__", None)]
        for cell in function.__closure__ or ():
            self._hold(cell)
            found += ContainerState(cell).held.values()
        if not function.__code__.co_filename.startswith(_INSTALLED) and not _is_shared(function.__module__):
            # By the function, whose names they are: others may name others of the same globals.
            named = self.holders[id(function)] = ContainerState(function.__globals__, function.__code__.co_names)
            found += named.held.values()
        return found

    def _hold(self, holder: Any) -> None:
        self.holders.setdefault(id(holder), ContainerState(holder))


def _is_shared(module: object) -> bool:
    """Whether a class or function of this module belongs to the standard library, or to what measures."""
    root = str(module).partition(".")[0]
    return root == "gradprobe" or (root in sys.stdlib_module_names and root not in ("__main__", "types"))
