"""The line of the user's program that a hook was reached from."""

from __future__ import annotations

import contextlib
import inspect
from types import CodeType, FrameType
from typing import Any

import torch
import torch.utils._contextlib as torch_contextlib

from gradprobe.capture.location.identity_cache import cache_by_identity
from gradprobe.recording.events import DECORATED, GENERATOR

GRAD_MODE_FILE: str = torch.autograd.grad_mode.__file__


def _inner_code(function: Any, name: str) -> CodeType:
    """Return the code of the function ``name`` that ``function`` defines in its body."""
    return next(c for c in function.__code__.co_consts if isinstance(c, CodeType) and c.co_name == name)


DECORATOR_CODE = _inner_code(torch_contextlib.context_decorator, "decorate_context")
GENERATOR_CODE = _inner_code(torch_contextlib._wrap_generator, "generator_context")
EXIT_STACK_CODE: CodeType = contextlib.ExitStack.enter_context.__code__
CLONE_CODE: CodeType = torch.set_grad_enabled.clone.__code__

# Wrappers with the decorated function in their variable `func`, and the form of an event located in that function.
# By identity: hashing a code object goes through all its constants.
decorator_forms: dict[int, int] = {id(DECORATOR_CODE): DECORATED, id(GENERATOR_CODE): GENERATOR}
# Files with frames between the user's line and a context manager; none of them is the user's line itself.
indirect_files: set[str] = {torch_contextlib.__file__, contextlib.__file__, GRAD_MODE_FILE}


def find_caller(frame: FrameType | None) -> tuple[CodeType | None, int]:
    """Return the user's code behind ``frame``, and an instruction offset or the form of a decorator."""
    while frame is not None:
        code = frame.f_code
        offset = decorator_forms.get(id(code))
        if offset is not None:
            decorated = _unwrap_once(frame.f_locals.get("func"))
            if decorated is not None:
                return decorated, offset
        elif code.co_filename not in indirect_files:
            return code, frame.f_lasti
        frame = frame.f_back
    return None, 0


def unwrap_code(function: Any) -> CodeType | None:
    """Return the code of the function inside all wrappers, None if it is not written in Python."""
    with contextlib.suppress(ValueError):
        function = inspect.unwrap(function)
    function = getattr(function, "func", function)  # functools.partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


# Unwrapping a function takes longer than everything else a hook does.
_unwrap_once = cache_by_identity(unwrap_code)
