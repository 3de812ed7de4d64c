"""The drop-in managers: PyTorch's own, which also decorate ``async def``.

They are subclasses that override no ``__enter__`` and no ``__exit__``: a recording observes the methods they inherit, and
when none is open they cost what PyTorch's cost. Two overrides serve ``torch.compile``, which knows PyTorch's classes by
identity and would break the graph at a subclass: while it traces, the constructor gives PyTorch's own object, and a
decorated function enters PyTorch's own objects always.

A mode belongs to the thread, not to the asyncio task. A decorated coroutine therefore enters the mode whenever it is
resumed and leaves it whenever it is suspended, as PyTorch does for generators: no other task of the loop runs under it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._contextlib import context_decorator

from gradprobe._resumable import is_async_function, wrap_resumable
from gradprobe.capture.location.callers import indirect_files
from gradprobe.capture.modes.drop_in_clone import clone_set_grad_enabled
from gradprobe.capture.patching.compile_skip import is_tracing

__all__ = [
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_grad_enabled",
]

F = TypeVar("F", bound=Callable[..., Any])

indirect_files.add(__file__)

is_grad_enabled = torch.is_grad_enabled
is_inference_mode_enabled = torch.is_inference_mode_enabled


def _decorate_async(enter: Callable[[], Any], func: Any) -> Any:
    def step(method: Callable[..., Any], *arguments: Any) -> Any:
        return method(*arguments)

    step.__wrapped__ = func  # type: ignore[attr-defined]  # the function whose name and line a recording shows
    in_mode: Callable[..., Any] = context_decorator(enter, step)  # type: ignore[no-untyped-call]
    return wrap_resumable(func, lambda: in_mode)


class no_grad(torch.no_grad):  # noqa: N801
    """``torch.no_grad``, which also decorates ``async def``."""

    def __new__(cls, orig_func: Any = None) -> Any:
        if is_tracing():
            return torch.no_grad() if orig_func is None else torch.no_grad(orig_func)  # type: ignore[call-arg]
        if orig_func is None:
            return object.__new__(cls)
        return cls()(orig_func)

    def __call__(self, orig_func: F) -> F:
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.no_grad:
        return torch.no_grad()


class enable_grad(torch.enable_grad):  # noqa: N801
    """``torch.enable_grad``, which also decorates ``async def``."""

    def __new__(cls, orig_func: Any = None) -> Any:
        if is_tracing():
            return torch.enable_grad() if orig_func is None else torch.enable_grad(orig_func)
        if orig_func is None:
            return object.__new__(cls)
        return cls()(orig_func)

    def __call__(self, orig_func: F) -> F:
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.enable_grad:
        return torch.enable_grad()


class set_grad_enabled(torch.set_grad_enabled):  # noqa: N801
    """``torch.set_grad_enabled``, which also decorates ``async def``."""

    def __new__(cls, mode: bool) -> Any:
        return torch.set_grad_enabled(mode) if is_tracing() else object.__new__(cls)

    def __call__(self, orig_func: F) -> F:
        decorated = super().__call__(orig_func)  # puts back the mode that the constructor changed
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else decorated

    clone = clone_set_grad_enabled


class inference_mode(torch.inference_mode):  # noqa: N801
    """``torch.inference_mode``, which also decorates ``async def``."""

    def __new__(cls, mode: Any = True) -> Any:
        if is_tracing():
            return torch.inference_mode(mode)
        if isinstance(mode, bool):
            return object.__new__(cls)
        return cls()(mode)

    def __call__(self, orig_func: F) -> F:
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.inference_mode:
        return torch.inference_mode(self.mode)
