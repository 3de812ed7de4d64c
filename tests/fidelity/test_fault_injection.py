"""An exception in any function of ours while a program runs: the program does not notice, and the recording says so."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import pkgutil
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import gradprobe.capture
from gradprobe.recorder import Recorder

HERE = f"{gradprobe.capture.__name__}."
MODULES = [name.removeprefix(HERE) for _, name, _ in pkgutil.walk_packages(gradprobe.capture.__path__, HERE)]
NOT_INJECTED = {"__get__"}  # it stands in PyTorch's place: what is asked of it is PyTorch's to answer


class Injected(Exception):  # noqa: N818
    """What our functions raise on purpose."""


def functions_of(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """The functions and methods that ``module`` defines, with what holds them."""
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            yield module, name, value
        elif inspect.isclass(value) and value.__module__ == module.__name__ and not issubclass(value, tuple):
            for attribute, member in vars(value).items():
                is_ours = inspect.isfunction(member) and member.__code__.co_filename == module.__file__
                if is_ours and attribute not in NOT_INJECTED and not _is_protocol(value):
                    yield value, attribute, member


def is_guard(function: Callable[..., Any]) -> bool:
    """Whether all that a function does is within a block that keeps exceptions in: what it calls is injected instead."""
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
    """Something of everything that is watched."""
    told: list[Any] = []
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
    told.append([p.detach().clone() for p in model.parameters()])
    with torch.inference_mode():
        born = model(torch.ones(2, 4))
        born.add_(1)
    told.append(born.is_inference())
    try:
        (born * model[0].weight.sum()).sum().backward()
    except RuntimeError as error:
        told.append(str(error))
    try:
        born._version
    except RuntimeError as error:
        told.append(str(error))
    base = torch.ones(3, 2, requires_grad=True) * 1
    with torch.no_grad():
        view = base[0]
    try:
        view.add_(1)
    except RuntimeError as error:
        told.append(str(error).split(".")[0])
    torch.set_grad_enabled(False)
    told.append(decorated(torch.ones(1)))
    torch.set_grad_enabled(True)

    def steps() -> Iterator[bool]:
        with torch.no_grad():
            yield torch.is_grad_enabled()

    told.append([*steps()])
    with torch.no_grad():
        thread = threading.Thread(target=lambda: told.append(torch.is_grad_enabled()))
        thread.start()
        thread.join()
    with torch.autocast("cpu", torch.bfloat16):
        told.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)

    async def task() -> bool:
        with torch.no_grad():
            return torch.is_grad_enabled()

    told.append(asyncio.run(task()))
    told.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    return told


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", MODULES)
def test_a_program_does_not_notice_a_function_of_ours_that_fails(name: str) -> None:
    module = importlib.import_module(f"{HERE}{name}")
    alone, silent = program(), []
    for owner, attribute, original in functions_of(module):
        if is_guard(original):
            continue
        fails, calls = _failing(original)
        setattr(owner, attribute, fails)
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
            setattr(owner, attribute, original)
        where = f"{name}.{attribute}"
        assert same(alone, watched), where
        assert isinstance(str(recording), str), where
        silent += [where] if calls[1:] and original.__qualname__ not in str(recording) else []
    assert silent == [], "these failed, and the recording does not say so"


def _failing(original: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    @functools.wraps(original)
    def fails(*arguments: Any, **named: Any) -> Any:
        if fails.active:  # type: ignore[attr-defined]
            calls.append(1)
            raise Injected(original.__qualname__)
        return original(*arguments, **named)

    fails.active = False  # type: ignore[attr-defined]
    return fails, calls
