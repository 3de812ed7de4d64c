"""Phases in which the program saves and loads tensors: ``torch.save``, ``torch.load`` and the loading of states.

Each function is replaced by an object that begins the phase when its call is looked up, and then lets the original be
called; the observer's library shows when it ends. No frame of gradprobe's is on the stack meanwhile: PyTorch's warnings
name the program's line, and tracebacks stay as they are.
"""

from __future__ import annotations

import functools
import pkgutil
from _thread import get_ident
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any

import torch

from gradprobe.capture.patching.patches import Patch
from gradprobe.phases import LOAD, SAVE, OpenPhase, begin, end


def transfer_patches(library: Any, on_error: Callable[[Exception, TracebackType | None], None]) -> list[Patch]:
    """Return the patches that see tensors being saved and loaded.

    Args:
        library: The observer's library.
        on_error: Receives the exceptions that leave these functions, and their tracebacks below.
    """
    phases = _Phases(on_error)
    places: list[tuple[tuple[Any, ...], str, str]] = [
        ((torch, torch.serialization), "save", SAVE),
        ((torch, torch.serialization), "load", LOAD),
        ((torch.nn.Module,), "load_state_dict", LOAD),
        ((torch.optim.Optimizer,), "load_state_dict", LOAD),
    ]
    found = []
    for owners, name, phase in places:
        replacement = _Bracketed(getattr(owners[0], name), phase, phases, library)
        found += [Patch(owner, name, replacement) for owner in owners]
    return found


class _Phases:
    """Open phases by thread. A call inside of another one, such as in an override, begins none."""

    def __init__(self, on_error: Callable[[Exception, TracebackType | None], None]) -> None:
        self._on_error = on_error
        self._open: dict[int, tuple[OpenPhase, int]] = {}

    def begin(self, name: str) -> None:
        ident = get_ident()
        known = self._open.get(ident)
        phase, depth = known or (begin(OpenPhase(name, None, 0, is_automatic=True)), 0)
        self._open[ident] = phase, depth + 1

    def end(self, *_: object) -> None:
        phase, depth = self._open.pop(get_ident())
        if depth > 1:
            self._open[get_ident()] = phase, depth - 1
        else:
            end(phase)

    def fail(self, error: Exception, trace: TracebackType | None, *_: object) -> None:
        try:
            self._on_error(error, trace)
        finally:
            self.end()


class _Bracketed:
    """Stand-in for a function. Read on the class that it is a method of, it is the original."""

    def __init__(self, original: Callable[..., Any], phase: str, phases: _Phases, library: Any) -> None:
        functools.update_wrapper(self, original)
        self._phase, self._phases = phase, phases
        self._shown = library.show_errors_of_call(original, phases.fail, phases.end)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Type that ``isinstance`` sees."""
        return type(self.__wrapped__)

    @property
    def __call__(self) -> Any:
        """Begin the phase, and return what ends it with the call."""
        try:
            self._phases.begin(self._phase)
        except Exception:
            return self.__wrapped__
        return self._shown

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.__wrapped__ if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __reduce__(self) -> Any:
        return pkgutil.resolve_name, (f"{self.__wrapped__.__module__}:{self.__wrapped__.__qualname__}",)
