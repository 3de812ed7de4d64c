"""Drop-in context managers: PyTorch's own, which also decorate ``async def``.

They are subclasses that override neither ``__enter__`` nor ``__exit__``: a recording observes the methods they inherit, and
without a recording they cost the same as PyTorch's. Two overrides exist for ``torch.compile``, which knows PyTorch's
classes by identity and would break the graph at a subclass: while it traces, the constructor returns PyTorch's own object,
and a decorated function always enters PyTorch's own objects.

Grad mode is thread-local, and does not belong to an asyncio task. A decorated coroutine therefore enters the mode whenever
it is resumed and exits it whenever it is suspended, as in PyTorch's decorated generators: no other task runs under it.
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
"""Return whether grad mode is enabled in this thread; PyTorch's own function."""
is_inference_mode_enabled = torch.is_inference_mode_enabled
"""Return whether inference mode is enabled in this thread; PyTorch's own function."""


def _decorate_async(enter: Callable[[], Any], func: Any) -> Any:
    """Return ``func`` decorated so that each of its steps runs inside a context manager from ``enter``."""

    def step(method: Callable[..., Any], *arguments: Any) -> Any:
        return method(*arguments)

    step.__wrapped__ = func  # type: ignore[attr-defined]  # a recording shows the name and line of this function
    in_mode: Callable[..., Any] = context_decorator(enter, step)  # type: ignore[no-untyped-call]
    return wrap_resumable(func, lambda: in_mode)


class no_grad(torch.no_grad):  # noqa: N801
    """Disable grad mode in a block or function, like its base ``torch.no_grad``.

    It has the signature, forms and behaviour of ``torch.no_grad``, and also decorates ``async def`` functions and async
    generators. Every recording shows its blocks. Grad mode is thread-local: other threads are not affected.

    Args:
        orig_func (callable, optional): The function to decorate, if the class is used as a decorator without
            parentheses. Default: ``None``.

    Example::

        >>> x = torch.ones(1, requires_grad=True)
        >>> with gradprobe.no_grad():
        ...     y = x * 2
        >>> y.requires_grad
        False
        >>> @gradprobe.no_grad()
        ... async def answer(request):
        ...     return model(await request.tensor())

    .. note::
        ``torch.jit.script`` cannot compile this class: use PyTorch's in scripted code. ``torch.compile`` traces it as
        PyTorch's own; the mode change becomes part of the graph, and a recording shows it once per compilation.
    """

    def __new__(cls, orig_func: Any = None) -> Any:
        if is_tracing():
            return torch.no_grad() if orig_func is None else torch.no_grad(orig_func)  # type: ignore[call-arg]
        if orig_func is None:
            return object.__new__(cls)
        return cls()(orig_func)

    def __call__(self, orig_func: F) -> F:
        """Decorate ``orig_func``."""
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.no_grad:
        """Return a new object of ``torch.no_grad`` for one call of a decorated function."""
        return torch.no_grad()


class enable_grad(torch.enable_grad):  # noqa: N801
    """Enable grad mode in a block or function, like its base ``torch.enable_grad``.

    It has the signature, forms and behaviour of ``torch.enable_grad``, and also decorates ``async def`` functions and async
    generators. Every recording shows its blocks. It has no effect inside inference mode.

    Args:
        orig_func (callable, optional): The function to decorate, if the class is used as a decorator without
            parentheses. Default: ``None``.

    Example::

        >>> x = torch.ones(1, requires_grad=True)
        >>> with gradprobe.no_grad():
        ...     with gradprobe.enable_grad():
        ...         y = x * 2
        >>> y.requires_grad
        True

    .. note::
        ``torch.jit.script`` cannot compile this class: use PyTorch's in scripted code. ``torch.compile`` traces it as
        PyTorch's own; the mode change becomes part of the graph, and a recording shows it once per compilation.
    """

    def __new__(cls, orig_func: Any = None) -> Any:
        if is_tracing():
            return torch.enable_grad() if orig_func is None else torch.enable_grad(orig_func)
        if orig_func is None:
            return object.__new__(cls)
        return cls()(orig_func)

    def __call__(self, orig_func: F) -> F:
        """Decorate ``orig_func``."""
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.enable_grad:
        """Return a new object of ``torch.enable_grad`` for one call of a decorated function."""
        return torch.enable_grad()


class set_grad_enabled(torch.set_grad_enabled):  # noqa: N801
    """Set grad mode by a flag, like its base ``torch.set_grad_enabled``.

    It has the signature, forms and behaviour of ``torch.set_grad_enabled``, and also decorates ``async def`` functions and
    async generators. As a plain call it sets the mode of the thread until that is set again.

    Args:
        mode (bool): Whether grad mode is to be enabled.

    Example::

        >>> x = torch.ones(1, requires_grad=True)
        >>> with gradprobe.set_grad_enabled(False):
        ...     y = x * 2
        >>> y.requires_grad
        False
        >>> _ = gradprobe.set_grad_enabled(True)  # a plain call

    .. note::
        ``torch.jit.script`` cannot compile this class: use PyTorch's in scripted code. ``torch.compile`` traces it as
        PyTorch's own; the mode change becomes part of the graph, and a recording shows it once per compilation.
    """

    def __new__(cls, mode: bool) -> Any:
        return torch.set_grad_enabled(mode) if is_tracing() else object.__new__(cls)

    def __call__(self, orig_func: F) -> F:
        """Decorate ``orig_func``."""
        decorated = super().__call__(orig_func)  # restores the mode that the constructor changed
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else decorated

    clone = clone_set_grad_enabled


class inference_mode(torch.inference_mode):  # noqa: N801
    """Enable inference mode in a block or function, like its base ``torch.inference_mode``.

    It has the signature, forms and behaviour of ``torch.inference_mode``, and also decorates ``async def`` functions and
    async generators. Tensors created inside are inference tensors: they have no version counter, and autograd cannot save
    them for backward later.

    Args:
        mode (bool or callable, optional): Whether inference mode is to be enabled, or the function to decorate, if the
            class is used as a decorator without parentheses. Default: ``True``.

    Example::

        >>> with gradprobe.inference_mode():
        ...     y = torch.ones(1) * 2
        >>> y.is_inference()
        True

    .. note::
        ``torch.jit.script`` cannot compile this class: use PyTorch's in scripted code. ``torch.compile`` traces it as
        PyTorch's own; the mode change becomes part of the graph, and a recording shows it once per compilation.
    """

    def __new__(cls, mode: Any = True) -> Any:
        if is_tracing():
            return torch.inference_mode(mode)
        if isinstance(mode, bool):
            return object.__new__(cls)
        return cls()(mode)

    def __call__(self, orig_func: F) -> F:
        """Decorate ``orig_func``."""
        return _decorate_async(self.clone, orig_func) if is_async_function(orig_func) else super().__call__(orig_func)

    def clone(self) -> torch.inference_mode:
        """Return a new object of ``torch.inference_mode`` for one call of a decorated function."""
        return torch.inference_mode(self.mode)
