"""Exceptions in functions of gradprobe: the program does not notice, and the recording reports them."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import pkgutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
import torch

import gradprobe
import gradprobe.capture
from gradprobe.recorder import Recorder
from tests.thoroughness import IS_THOROUGH

HERE = f"{gradprobe.capture.__name__}."
MODULES = [name.removeprefix(HERE) for _, name, _ in pkgutil.walk_packages(gradprobe.capture.__path__, HERE)]
SAMPLE = MODULES if IS_THOROUGH else MODULES[::9]
# A descriptor in PyTorch's place, which must raise as PyTorch's would; and the first function of a thread, which no code of
# gradprobe calls that could catch its errors.
NOT_INJECTED = {"__get__", "_write"}


class Injected(Exception):  # noqa: N818
    """The error that the functions of gradprobe raise on purpose."""


def functions_of(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """The functions and methods that ``module`` defines, with what holds them."""
    for name, value in vars(module).items():
        if inspect.isfunction(inspect.unwrap(value)) and getattr(value, "__module__", None) == module.__name__:
            yield module, name, value  # a cached function is not a Python function, but wraps one
        elif inspect.isclass(value) and value.__module__ == module.__name__ and not issubclass(value, tuple):
            for attribute, member in vars(value).items():
                is_own = inspect.isfunction(member) and member.__code__.co_filename == module.__file__
                if is_own and attribute not in NOT_INJECTED and not _is_protocol(value):
                    yield value, attribute, member


def names_of(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Yield the modules and names that refer to ``function``, those that imported it included."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("gradprobe."):
            yield from ((module, name) for name, value in list(vars(module).items()) if value is function)


def properties_of(module: ModuleType) -> Iterator[tuple[Any, str, property]]:
    """The properties of the classes that ``module`` defines, with the classes."""
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for attribute, member in vars(value).items():
                if isinstance(member, property) and not _is_protocol(value):
                    yield value, attribute, member


def is_guard(function: Callable[..., Any] | CodeType) -> bool:
    """Return whether a function catches all exceptions inside; the functions it calls fail instead."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    body = [one for one in definition.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    kept = [one for one in body if isinstance(one, ast.Try)]
    return bool(kept) and any(_keeps_all_in(handler) for handler in kept[0].handlers)


def _keeps_all_in(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.type, ast.Name) and handler.type.id == "Exception"


def _is_protocol(owner: type) -> bool:
    return bool(getattr(owner, "_is_protocol", False))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * 2


@torch.no_grad()
def decorated(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def program() -> list[Any]:
    """Run something of everything that is observed."""
    seen: list[Any] = []
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total: Any = 0
    for _ in range(2):
        optimizer.zero_grad()
        loss = Doubled.apply(model(torch.randn(3, 4))).sum()
        loss.backward()
        optimizer.step()
        total = total + loss
    seen.append([p.detach().clone() for p in model.parameters()])
    with torch.inference_mode():
        inference_tensor = model(torch.ones(2, 4))
        inference_tensor.add_(1)
    seen.append(inference_tensor.is_inference())
    try:
        (inference_tensor * model[0].weight.sum()).sum().backward()
    except RuntimeError as error:
        seen.append(str(error))
    try:
        inference_tensor._version
    except RuntimeError as error:
        seen.append(str(error))
    base = torch.ones(3, 2, requires_grad=True) * 1
    with torch.no_grad():
        view = base[0]
    try:
        view.add_(1)
    except RuntimeError as error:
        seen.append(str(error).split(".")[0])
    torch.set_grad_enabled(False)
    seen.append(decorated(torch.ones(1)))
    torch.set_grad_enabled(True)

    def steps() -> Iterator[bool]:
        with torch.no_grad():
            yield torch.is_grad_enabled()

    seen.append([*steps()])
    with torch.no_grad():
        thread = threading.Thread(target=lambda: seen.append(torch.is_grad_enabled()))
        thread.start()
        thread.join()
    with torch.autocast("cpu", torch.bfloat16):
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)

    async def task() -> bool:
        with torch.no_grad():
            return torch.is_grad_enabled()

    seen.append(asyncio.run(task()))
    seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    return seen


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", SAMPLE)
def test_failing_functions(name: str) -> None:
    """A program does not notice a function of gradprobe that fails."""
    module = importlib.import_module(f"{HERE}{name}")
    alone, silent = program(), []
    for owner, attribute, original in list(chain(functions_of(module), properties_of(module)))[
        :: 1 if IS_THOROUGH else 3
    ]:
        function = original.fget if isinstance(original, property) else inspect.unwrap(original)
        if is_guard(function):
            continue
        fails, calls = _failing(function if isinstance(original, property) else original)
        replacement: Any = property(fails) if isinstance(original, property) else fails
        places = [(owner, attribute), *names_of(original)]
        for holder, known_as in places:
            setattr(holder, known_as, replacement)
        try:
            recorder = Recorder(level="ops")
            recording = recorder.start()
            try:
                fails.active = True  # type: ignore[attr-defined]
                watched = program()
            finally:
                fails.active = False  # type: ignore[attr-defined]
                recorder.stop()
        finally:
            for holder, known_as in places:
                setattr(holder, known_as, original)
        where = f"{name}.{attribute}"
        assert same(alone, watched), where
        assert isinstance(str(recording), str), where
        silent += [where] if calls[1:] and function.__qualname__ not in str(recording) else []
    assert silent == [], "these failed, and the recording does not say so"


def _failing(original: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    @functools.wraps(original)
    def fails(*arguments: Any, **named: Any) -> Any:
        if fails.active:  # type: ignore[attr-defined]
            calls.append(1)
            raise Injected(inspect.unwrap(original).__qualname__)
        return original(*arguments, **named)

    fails.active = False  # type: ignore[attr-defined]
    return fails, calls


PACKAGE = str(Path(gradprobe.__file__).parent)


def test_failing_inner_functions() -> None:
    """Inner functions, and those of ``recording``, are reached by no name, but a profiler can fail in them."""
    known = {
        (original.fget if isinstance(original, property) else inspect.unwrap(original)).__code__
        for name in MODULES
        for module in [importlib.import_module(f"gradprobe.capture.{name}")]
        for _, _, original in [*functions_of(module), *properties_of(module)]
    }
    alone = program()
    reached: dict[CodeType, int] = {}

    def listen(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE) and is_called_by_gradprobe(frame):
            reached.setdefault(frame.f_code, len(reached))

    with Recorder(level="ops"):
        sys.setprofile(listen)
        try:
            program()
        finally:
            sys.setprofile(None)
    # What a comprehension fails with, the function around it fails with.
    others = [code for code in reached if code not in known and code.co_name[0] != "<" and not is_guard(code)]
    assert "begin" in {code.co_name for code in others}
    for code in others[:: 1 if IS_THOROUGH else 3]:
        failed: list[bool] = []

        def fail(frame: FrameType, event: str, _: Any, code: CodeType = code, failed: list[bool] = failed) -> None:
            if event == "call" and frame.f_code is code and not failed and is_called_by_gradprobe(frame):
                failed.append(True)
                raise Injected(code.co_name)  # which also ends the profiling

        with Recorder(level="ops") as recording:
            sys.setprofile(fail)
            try:
                watched = program()
            finally:
                sys.setprofile(None)
        where = f"{code.co_filename.removeprefix(PACKAGE)}: {code.co_name}"
        assert same(alone, watched), where
        assert isinstance(str(recording), str), where


def is_called_by_gradprobe(frame: FrameType) -> bool:
    """Return whether gradprobe's code was called by gradprobe's code, which has to catch its errors.

    A function that PyTorch or the program calls replaces one of theirs. So does the function that reads a version, which a
    property calls.
    """
    caller = frame.f_back
    is_own = caller is not None and caller.f_code.co_filename.startswith(PACKAGE)
    return is_own and caller is not None and caller.f_code.co_name != "__get__"
