"""The marker and fixture ``every_mode``: a test runs under several modes, and must find the same in each.

All runs are one test, so that one process sees the results of all, and the numbers of tests stay what they were.
"""

from __future__ import annotations

import gc
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map

from gradprobe.capture.location.callers import decorator_forms
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.holders import find_holder
from gradprobe.pytest_plugin.leaks import current_modes, restore_modes
from gradprobe.pytest_plugin.results import MODE_NAMES
from gradprobe.recording.events import DECORATED

_MANAGERS: Mapping[str, Callable[[], Any]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
MODES = tuple(_MANAGERS)
_MAX_TENSORS = 3


@dataclass(frozen=True)
class Settings:
    """Keywords of the marker. Tolerances are those of ``torch.testing.assert_close`` unless given."""

    modes: Sequence[str] = MODES
    rtol: float | None = None
    atol: float | None = None
    escapes: bool = True
    """True if inference tensors that remain after the test fail it."""


class EveryMode:
    """Value of the fixture: the mode of the current run, and the values to compare between the runs.

    Example::

        def test_predict(every_mode, model, batch):
            output = every_mode(model, batch)  # equal in every mode
            assert output.requires_grad == (every_mode.mode == "grad")
    """

    def __init__(self) -> None:
        self.mode = ""
        """Mode of the current run: ``grad``, ``no_grad`` or ``inference_mode``."""
        self.noted: list[Any] = []

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``fn`` in the mode of this run, and note its result.

        Args:
            fn: The function or module to call.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The result of the call.
        """
        result = fn(*args, **kwargs)
        self.compare(result)
        return result

    def compare(self, value: Any) -> None:
        """Note a value that must be equal in every run.

        Args:
            value: Tensors, arrays, numbers or other values that can be compared, nested in lists, tuples or dicts.
        """
        self.noted.append(_copy(value))


@dataclass
class _Run:
    """What a run under a mode noted and returned."""

    mode: str
    values: list[Any] = field(default_factory=list)


class EveryModePlugin:
    """The plugin of runs with such tests."""

    def __init__(self) -> None:
        self.fixture = EveryMode()

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Run a marked test once per mode, and compare what the runs noted and returned."""
        if not is_requested(pyfuncitem):
            return None
        settings = read_settings(pyfuncitem)
        if inspect.iscoroutinefunction(pyfuncitem.obj) or inspect.isasyncgenfunction(pyfuncitem.obj):
            pytest.fail("gradprobe: every_mode cannot run an async test; run its loop in the test", pytrace=False)
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        originals, draws = _Originals(arguments), _Draws()
        runs: list[_Run] = []
        for mode in settings.modes:
            originals.restore()
            draws.restore()
            runs.append(self._run(pyfuncitem, arguments, mode, settings))
        for run in runs[1:]:
            _compare_runs(runs[0], run, settings)
        return True

    def _run(self, item: pytest.Function, arguments: Mapping[str, Any], mode: str, settings: Settings) -> _Run:
        self.fixture.mode, self.fixture.noted = mode, []
        before = _list_inference_tensors() if settings.escapes else []
        known = {id(tensor) for tensor in before}
        del before
        outside = current_modes()
        try:
            with _enter(item.obj, mode):
                inside = current_modes()
                result = _copy(item.obj(**arguments))
                left = current_modes()
                restore_modes(inside)
        except BaseException as error:
            restore_modes(outside)
            if not isinstance(error, pytest.skip.Exception):
                item.add_report_section("call", "every_mode", f"the run under {mode} ended so")
                if sys.version_info >= (3, 11):
                    error.add_note(f"gradprobe: in the run under {mode}")
            raise
        if left != inside:
            pytest.fail(f"gradprobe: the run under {mode} left the mode at {MODE_NAMES[left]}", pytrace=False)
        if settings.escapes:
            _check_escapes(mode, known, item, arguments)
        return _Run(mode, [*self.fixture.noted, result])


def is_requested(item: pytest.Item) -> bool:
    """Return whether a test has the marker or the fixture."""
    return item.get_closest_marker("every_mode") is not None or "every_mode" in getattr(item, "fixturenames", ())


def read_settings(item: pytest.Item) -> Settings:
    """Return the settings of a test; raise ``pytest.UsageError`` for a keyword or value that is not known."""
    known = [each.name for each in fields(Settings)]
    merged: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("every_mode"))):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in known)]
        if unknown:
            raise _usage_error(item, f"unknown argument {unknown[0]} of every_mode; use one of {', '.join(known)}")
        merged.update(marker.kwargs)
    settings = Settings(**merged)
    wrong = [mode for mode in settings.modes if mode not in MODES]
    if wrong or isinstance(settings.modes, str) or not settings.modes:
        raise _usage_error(item, f"modes must be of {', '.join(MODES)}, got {settings.modes!r}")
    if not isinstance(item, pytest.Function) or hasattr(item, "_testcase") or hasattr(item, "_instance_is_unittest"):
        raise _usage_error(item, "every_mode is for test functions and methods of plain classes")
    return settings


def _usage_error(item: pytest.Item, text: str) -> pytest.UsageError:
    return pytest.UsageError(f"gradprobe: {item.nodeid}: {text}")


def _enter_for(func: Callable[..., Any], mode: str) -> Iterator[None]:
    """Enter a mode around a test; a recording shows it at the line of ``func``, as that of a decorator."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled() and mode != "inference_mode":
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_MANAGERS[mode]())
        yield


decorator_forms[id(_enter_for.__code__)] = DECORATED
_enter = contextmanager(_enter_for)


def _copy(value: Any) -> Any:
    """Return a value with copies of its tensors that neither need gradients nor are inference tensors."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with torch.inference_mode(False), torch.no_grad():
            return leaf.detach().clone()

    return tree_map(copy, value)


def _compare_runs(first: _Run, other: _Run, settings: Settings) -> None:
    """Fail the test at the first value that differs between two runs."""
    where = f"gradprobe: the runs under {first.mode} and {other.mode} differ"
    if len(first.values) != len(other.values):
        pytest.fail(f"{where}: {len(first.values) - 1} and {len(other.values) - 1} values noted", pytrace=False)
    for number, (one, two) in enumerate(zip(first.values, other.values, strict=True), 1):
        name = "the returned value" if number == len(first.values) else f"value {number}"
        (leaves, shape), (others, other_shape) = tree_flatten(one), tree_flatten(two)
        if shape != other_shape:
            pytest.fail(f"{where}: {name} has another structure", pytrace=False)
        for leaf, other_leaf in zip(leaves, others, strict=True):
            problem = _find_difference(leaf, other_leaf, settings)
            if problem is not None:
                pytest.fail(f"{where} in {name}: {problem}", pytrace=False)


def _find_difference(one: Any, two: Any, settings: Settings) -> str | None:
    """Return what differs between two values, or None; objects of a program's classes compare by their ``==``."""
    comparable = isinstance(one, torch.Tensor | bool | int | float | complex) or type(one).__module__ == "numpy"
    if comparable and type(one) is type(two):
        try:
            torch.testing.assert_close(two, one, rtol=settings.rtol, atol=settings.atol, equal_nan=True)
        except AssertionError as error:
            return str(error)
        except (TypeError, ValueError):  # strings in an array
            comparable = False
    if not comparable or type(one) is not type(two):
        has_equality = getattr(type(one), "__eq__", None) is not object.__eq__  # else it is equal only to itself
        is_equal = type(one) is type(two) and (not has_equality or bool(one == two))
        return None if is_equal else f"{one!r} and {two!r}"
    return None


class _Originals:
    """Values of the tensors among the arguments of a test and in its modules, restored before each run."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        tensors: dict[int, torch.Tensor] = {}
        for value in arguments.values():
            leaves, _ = tree_flatten(value)
            for leaf in leaves:
                if isinstance(leaf, torch.nn.Module):
                    tensors |= {id(each): each for each in (*leaf.parameters(), *leaf.buffers())}
                elif isinstance(leaf, torch.Tensor):
                    tensors[id(leaf)] = leaf
        self._known = [(each, each.detach().clone()) for each in tensors.values() if _is_restorable(each)]

    def restore(self) -> None:
        """Write the values back where they have changed; others keep their versions."""
        with torch.no_grad():
            for tensor, value in self._known:
                if tensor.shape == value.shape and not torch.equal(tensor, value):
                    tensor.copy_(value)


def _is_restorable(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type != "meta" and not tensor.is_inference()


class _Draws:
    """States of the random number generators, which are the same at the beginning of each run."""

    def __init__(self) -> None:
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        self._numpy = sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None

    def restore(self) -> None:
        """Restore the states."""
        random.setstate(self._python)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


def _list_inference_tensors() -> list[torch.Tensor]:
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and one.is_inference()]


def _check_escapes(mode: str, known: set[int], item: pytest.Function, arguments: Mapping[str, Any]) -> None:
    """Fail the test if inference tensors that its run created are still referenced."""
    escaped = [tensor for tensor in _list_inference_tensors() if id(tensor) not in known]
    if escaped:
        del escaped
        gc.collect()
        escaped = [tensor for tensor in _list_inference_tensors() if id(tensor) not in known]
    if not escaped:
        return
    held = _find_attribute(escaped, arguments)
    if held is None:
        holder = find_holder(escaped, FrameClassifier(), None, [item.module])
        held = None if holder is None else holder.name
    shapes = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in escaped[:_MAX_TENSORS])
    held = "" if held is None else f", held by {held}"
    number = len(escaped)
    del escaped
    noun = "inference tensor is" if number == 1 else "inference tensors are"
    pytest.fail(
        f"gradprobe: {number} {noun} still referenced after the run under {mode}: {shapes}{held}; "
        "clone what must remain outside inference mode, or set escapes=False",
        pytrace=False,
    )


def _find_attribute(escaped: Sequence[torch.Tensor], arguments: Mapping[str, Any]) -> str | None:
    """Return the attribute of a module among the arguments of a test that holds one of some tensors."""
    ids = {id(tensor) for tensor in escaped}
    for name, argument in arguments.items():
        for path, module in argument.named_modules() if isinstance(argument, torch.nn.Module) else ():
            attributes = vars(module) | module._buffers
            for attribute, value in attributes.items():
                leaves, _ = tree_flatten(value)
                if attribute != "_buffers" and any(id(leaf) in ids for leaf in leaves):
                    return ".".join(filter(None, [name, path, attribute]))
    return None
