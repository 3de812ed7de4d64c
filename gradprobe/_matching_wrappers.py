"""Wrappers that take the parameters of the function that they wrap, so that a wrong call fails where it is made.

Calling a generator function or an ``async def`` binds its arguments and runs nothing of its body. A wrapper that takes any
arguments accepts a wrong call, and fails only when its result is used. Python offers nothing that binds arguments to the
parameters of another function, with the same messages and for every kind of function, so the wrapper is compiled.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

_FILE = f"{__file__} (compiled)"
_START, _RUN = "_gradprobe_start", "_gradprobe_run"
_ANY = ("*arguments, **named", "*arguments, **named", "arguments, named")
_TEMPLATES = {
    "generator": """
def wrapper({parameters}):
    {run} = {start}({arguments})
    {forget}
    return (yield from {run})
""",
    "coroutine": """
async def wrapper({parameters}):
    {run} = {start}({arguments})
    {forget}
    return await {run}
""",
    "async generator": """
async def wrapper({parameters}):
    {run} = {start}({arguments})
    {forget}
    while await {run}.resume():
        try:
            {run}.send((yield {run}.take()))
        except GeneratorExit:
            await {run}.close()
            raise
        except BaseException as error:
            {run}.throw(error)
""",
}
"""Bodies by kind. While a run is suspended they keep none of its arguments, which the function may have released."""


def build_wrapper(kind: str, function: Callable[..., Any], start: Callable[..., Any]) -> Callable[..., Any]:
    """Build a wrapper of a ``generator``, ``coroutine`` or ``async generator`` function.

    Args:
        kind: The kind of the function.
        function: The function to wrap.
        start: Called with the arguments of the function; returns what the wrapper delegates to: an iterator, an awaitable
            or an object with ``resume``, ``take``, ``send``, ``throw`` and ``close``.
    """
    code = function.__code__ if isinstance(function, FunctionType) else None
    parameters, arguments, names = _ANY if code is None else _list_parameters(code)
    wrapper = FunctionType(_compile(kind, parameters, arguments, names), {_START: start, "__builtins__": __builtins__})
    if isinstance(function, FunctionType):
        wrapper.__defaults__, wrapper.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    wrapped: Callable[..., Any] = functools.wraps(function)(wrapper)
    return wrapped


@functools.lru_cache(256)
def _compile(kind: str, parameters: str, arguments: str, names: str) -> CodeType:
    forget = f"del {names}" if names else "pass"
    parts = {"parameters": parameters, "arguments": arguments, "forget": forget, "start": _START, "run": _RUN}
    module = compile(_TEMPLATES[kind].format(**parts), _FILE, "exec", dont_inherit=True)
    return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


def _list_parameters(code: CodeType) -> tuple[str, str, str]:
    """Return the parameters of a function as its ``def`` and a call have them, and their names; without defaults."""
    names = iter(code.co_varnames)
    positional = [next(names) for _ in range(code.co_argcount)]
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    rest = [next(names)] if code.co_flags & inspect.CO_VARARGS else []
    named = [next(names)] if code.co_flags & inspect.CO_VARKEYWORDS else []
    only = code.co_posonlyargcount
    slash, star = ["/"] if only else [], ["*"] if keywords and not rest else []
    spread, named_spread = [f"*{name}" for name in rest], [f"**{name}" for name in named]
    parameters = [*positional[:only], *slash, *positional[only:], *spread, *star, *keywords, *named_spread]
    arguments = [*positional, *spread, *(f"{name}={name}" for name in keywords), *named_spread]
    return ", ".join(parameters), ", ".join(arguments), ", ".join([*positional, *keywords, *rest, *named])
