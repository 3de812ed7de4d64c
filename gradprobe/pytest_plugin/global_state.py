"""PyTorch's global state besides the modes: what a test may leave changed for the tests after it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as modules

from gradprobe.pytest_plugin.results import ModeLeak

if TYPE_CHECKING:
    import pytest

State = Mapping[str, str]
"""Values in words by the name of their kind."""

_MAX_SOURCE_LINES = 2000


@dataclass(frozen=True)
class StateKind:
    """A part of the state: how it is called, how it is read, and the names by which a program sets it."""

    label: str
    read: Callable[[], Any]
    setters: tuple[str, ...]


def read_state(kinds: Collection[str]) -> State:
    """Return the current values of some kinds; what this PyTorch does not have is left out."""
    found = {}
    for name, kind in STATE_KINDS.items():
        if name in kinds:
            try:
                found[name] = str(kind.read())
            except (AttributeError, RuntimeError, TypeError):  # of another version of PyTorch
                continue
    return found


def find_state_leaks(by: str, name: str, before: State, after: State, function: Any = None) -> list[ModeLeak]:
    """Return a leak per value that differs, at the line of ``function`` that seems to set it."""
    leaks = []
    for kind, value in after.items():
        if before.get(kind, value) != value:
            file, line = _find_setter(function, STATE_KINDS[kind].setters)
            leaks.append(ModeLeak(by, name, before[kind], value, file, line, STATE_KINDS[kind].label))
    return leaks


def _find_setter(function: Any, setters: Collection[str]) -> tuple[str | None, int | None]:
    """Return the last line of a function that names a setter, or the line where the function begins."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return None, None
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError):
        return code.co_filename, code.co_firstlineno
    at = [number for number, text in enumerate(lines[:_MAX_SOURCE_LINES], first) if any(s in text for s in setters)]
    return code.co_filename, at[-1] if at else code.co_firstlineno


def _read_deterministic() -> str:
    if not torch.are_deterministic_algorithms_enabled():
        text = "off"
    else:
        text = "warn only" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"
    flags = torch._C._get_cudnn_deterministic(), torch._C._get_cudnn_benchmark()
    return text + "".join(
        f", cudnn.{name}" for name, is_set in zip(("deterministic", "benchmark"), flags, strict=True) if is_set
    )


def _read_autocast() -> str:
    enabled = [
        f"{kind} ({torch.get_autocast_dtype(kind)})" for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
    ]
    return ", ".join(enabled) or "off"


def _read_anomaly() -> str:
    if not torch.is_anomaly_enabled():
        return "off"
    return "on" if torch.is_anomaly_check_nan_enabled() else "on, without the check for NaN"


def _read_function_modes() -> str:
    stack = (torch._C._get_function_stack_at(at) for at in range(torch._C._len_torch_function_stack()))
    # The default device is a mode too, and a kind of its own.
    return _name_modes(mode for mode in stack if type(mode).__name__ != "DeviceContext")


def _read_dispatch_modes() -> str:
    return _name_modes(torch._C._get_dispatch_stack_at(at) for at in range(torch._C._len_torch_dispatch_stack()))


def _name_modes(stack: Any) -> str:
    return ", ".join(type(mode).__qualname__ for mode in stack) or "none"


def _read_hooks() -> str:
    """Return the hooks on saved tensors and on all modules."""
    names = ["saved tensors"] if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None else []
    for name in ("forward_pre", "forward", "backward_pre", "backward"):
        number = len(getattr(modules, f"_global_{name}_hooks"))
        names += [f"{number} {name}"] if number else []
    return ", ".join(names) or "none"


def _read_random_state() -> str:
    """Return a digest of the generators' states; those of devices only where they are in use."""
    digest = hashlib.sha1(torch.get_rng_state().numpy().tobytes(), usedforsecurity=False)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for state in torch.cuda.get_rng_state_all():
            digest.update(state.numpy().tobytes())
    return digest.hexdigest()[:8]


STATE_KINDS: Mapping[str, StateKind] = {
    "dtype": StateKind("the default dtype", torch.get_default_dtype, ("set_default_dtype", "set_default_tensor_type")),
    "device": StateKind("the default device", lambda: torch.get_default_device(), ("set_default_device",)),
    "deterministic": StateKind(
        "deterministic algorithms",
        _read_deterministic,
        ("use_deterministic_algorithms", "set_deterministic", "cudnn.deterministic", "cudnn.benchmark"),
    ),
    "precision": StateKind(
        "the precision of float32 products",
        lambda: torch._C._get_float32_matmul_precision(),
        ("set_float32_matmul_precision", "allow_tf32", "fp32_precision"),
    ),
    "threads": StateKind(
        "the number of threads",
        lambda: f"{torch.get_num_threads()} and {torch.get_num_interop_threads()} between operators",
        ("set_num_threads", "set_num_interop_threads"),
    ),
    "autocast": StateKind("autocast", _read_autocast, ("autocast", "__enter__")),
    "function_modes": StateKind("the function modes", _read_function_modes, ("__enter__", "push_torch_function")),
    "dispatch_modes": StateKind("the dispatch modes", _read_dispatch_modes, ("__enter__", "push_torch_dispatch")),
    "anomaly": StateKind("anomaly mode", _read_anomaly, ("detect_anomaly", "__enter__")),
    "hooks": StateKind("the global hooks", _read_hooks, ("register_module_", "saved_tensors", "__enter__")),
    "rng": StateKind(
        "the state of the random number generators", _read_random_state, ("rand", "manual_seed", "dropout", "init")
    ),
}
"""Every kind by the name that selects it; ``rng`` reads a few kilobytes, and every test that draws a number has it."""


class StateWatch:
    """Watch over the global state of a run: it names what left a value changed, and restores nothing.

    A test or fixture has left a value only if it is still there when what was set up around it has been taken down:
    other fixtures may restore it.
    """

    def __init__(self, kinds: Collection[str]) -> None:
        """Watch these kinds of ``STATE_KINDS``."""
        self._kinds = frozenset(kinds)
        self._body: tuple[State, State] = ({}, {})
        self._fixtures: dict[Any, tuple[State, State]] = {}

    def read(self) -> State:
        """Return the current values."""
        return read_state(self._kinds)

    def begin_test(self) -> None:
        """Forget the test before."""
        self._body = ({}, {})

    def end_body(self, before: State) -> None:
        """Note what the body of a test changed."""
        self._body = (before, self.read())

    def end_test(self, item: pytest.Item) -> list[ModeLeak]:
        """Return what the body of a test changed, if it is still so after its fixtures have ended."""
        before, after = self._body
        left = _select_remaining(before, after, self.read())
        return find_state_leaks("test", item.name, before, left, getattr(item, "function", None))

    def on_setup(self, fixture: pytest.FixtureDef[Any], before: State) -> None:
        """Note what a fixture changed. A fixture for the whole session configures it."""
        after = self.read()
        if after != before and fixture.scope != "session":
            self._fixtures[fixture] = (before, after)

    def on_finalize(self, fixture: pytest.FixtureDef[Any]) -> list[ModeLeak]:
        """Return what a fixture changed and did not restore."""
        if fixture not in self._fixtures:
            return []
        before, after = self._fixtures.pop(fixture)
        left = _select_remaining(before, after, self.read())
        return find_state_leaks("fixture", fixture.argname, before, left, fixture.func)

    def end_import(self, name: str, before: State) -> list[ModeLeak]:
        """Return what the import of a test module left changed."""
        return find_state_leaks("collection", name, before, self.read())


def _select_remaining(before: State, after: State, now: State) -> State:
    return {kind: value for kind, value in after.items() if before.get(kind) != value == now.get(kind)}
