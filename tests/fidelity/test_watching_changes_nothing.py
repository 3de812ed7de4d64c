"""A program computes the same, fails the same and frees the same, watched or not."""

from __future__ import annotations

import gc
import inspect
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.recorder import Recorder

LEVELS = ["modes", "graph", "ops"]


def outcome(program: Callable[[], Any]) -> tuple[Any, ...]:
    """Return the result or the error of a program, with its warnings."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = program()
        except Exception as error:
            result = (type(error), str(error))
    if isinstance(result, torch.Tensor):
        result = (result.detach().numpy().tobytes(), result.requires_grad, result.is_inference(), result.dtype)
    return result, [str(w.message) for w in caught]


def training_step() -> torch.Tensor:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def encoder_on_the_fast_path() -> torch.Tensor:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with torch.inference_mode():
        return layer(torch.randn(2, 5, 16)).clone()


def checkpointed() -> torch.Tensor:
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(4, 4, requires_grad=True)
    checkpoint(lambda t: (t @ t).relu(), x, use_reentrant=False).sum().backward()
    checkpoint(lambda t: (t @ t).relu(), x, use_reentrant=True).sum().backward()
    assert x.grad is not None
    return x.grad


def functional_transforms() -> torch.Tensor:
    x = torch.randn(3)
    with torch.no_grad():
        hidden = torch.func.grad(lambda t: (t**3).sum())(x)
    return hidden + torch.func.jacrev(torch.sin)(x).sum(0) + torch.vmap(torch.cos)(x)


def forward_mode() -> torch.Tensor:
    import torch.autograd.forward_ad as forward_ad

    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(torch.randn(3), torch.randn(3))
        return forward_ad.unpack_dual(dual * 2).tangent


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return grad * 2


def custom_function() -> torch.Tensor:
    x = torch.randn(3, requires_grad=True)
    Doubled.apply(x).sum().backward()
    assert x.grad is not None
    return x.grad


def saved_tensor_is_modified() -> None:
    w = torch.ones(3, requires_grad=True)
    y = w.exp()
    with torch.no_grad():
        y += 1
    y.sum().backward()


def inference_tensor_is_saved() -> None:
    with torch.inference_mode():
        x = torch.ones(3)
    (x * torch.ones(3, requires_grad=True)).sum().backward()


def version_of_inference_tensor() -> int:
    with torch.inference_mode():
        return torch.ones(3)._version


def wrong_arguments() -> None:
    with torch.inference_mode("yes"):
        pass


def not_a_bool() -> None:
    torch.set_grad_enabled(1)


def exit_without_enter() -> None:
    torch.enable_grad().__exit__(None, None, None)


def decorated_class() -> bool:
    @torch.no_grad()
    class Thing:
        def __init__(self) -> None:
            self.grad = torch.is_grad_enabled()

    return Thing().grad


PROGRAMS = [
    training_step,
    encoder_on_the_fast_path,
    checkpointed,
    functional_transforms,
    forward_mode,
    custom_function,
    saved_tensor_is_modified,
    inference_tensor_is_saved,
    version_of_inference_tensor,
    wrong_arguments,
    not_a_bool,
    exit_without_enter,
    decorated_class,
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_gives_the_same_bits_errors_and_warnings(program: Callable[[], Any], level: str) -> None:
    outcome(program)  # some warnings come once per process
    alone = outcome(program)
    with gradprobe.record(level=level):
        watched = outcome(program)
    assert watched == alone
    assert outcome(gradprobe.probe(level=level)(program)) == alone


def test_the_classes_stay_the_same_objects_and_look_the_same() -> None:
    managers = [torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode]

    def looks() -> list[Any]:
        return [
            (manager.__name__, manager.__mro__, inspect.signature(manager), manager.__doc__, sorted(vars(manager)))
            + tuple((inspect.signature(m), m.__doc__, m.__qualname__) for m in (manager.__enter__, manager.__exit__))
            for manager in managers
        ]

    alone = looks()
    with gradprobe.record():
        assert looks() == alone
        assert [torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode] == managers


def test_block_across_recording_edges() -> None:
    """A block that spans the start or the end of a recording restores the modes."""
    for manager in (torch.no_grad, torch.enable_grad, lambda: torch.set_grad_enabled(False), torch.inference_mode):
        recorder = Recorder()
        with manager():
            recorder.start()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (True, False)
        with manager():
            recorder.stop()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (True, False)


def test_no_tensor_is_kept_alive() -> None:
    gc.collect()
    gc.disable()
    try:
        with gradprobe.record(level="ops") as recording:
            big = torch.ones(10)
            watch = weakref.ref(big)

            @torch.no_grad()
            def use(tensor: torch.Tensor) -> torch.Tensor:
                return tensor * 2

            with pytest.raises(ZeroDivisionError), torch.inference_mode():
                1 / (0 * len(use(big)))
            del big
            assert watch() is None
        assert "ZeroDivisionError" in set(recording.regions["error"])
    finally:
        gc.enable()


def test_a_function_mode_of_the_program_sees_the_same_calls() -> None:
    class Listening(torch.overrides.TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[Any] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.heard.append((getattr(func, "__name__", func), args))
            return func(*args, **(kwargs or {}))

    def program() -> list[Any]:
        with Listening() as mode:
            with torch.no_grad(), torch.enable_grad(), torch.set_grad_enabled(False), torch.inference_mode():
                pass
            torch.set_grad_enabled(True)
        return mode.heard

    alone = program()
    assert alone
    with gradprobe.record(level="graph"):
        assert program() == alone


def test_managers_pickled() -> None:
    """Context managers are pickled as without a recording."""
    alone = pickle.dumps(torch.no_grad())
    with gradprobe.record():
        assert pickle.dumps(torch.no_grad()) == alone


def test_torchscript_compiles_a_mode_block_while_recording() -> None:
    def scripted(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with gradprobe.record():
            compiled = torch.jit.script(scripted)
            assert not compiled(torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize("fails", ["now", "locate", "emit"])
def test_error_inside_hook(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors inside a hook stay there and are reported."""
    from gradprobe.capture import installation
    from gradprobe.capture.clock import Clock
    from gradprobe.capture.location import tasks
    from gradprobe.capture.modes import manager_hooks

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    calls = iter(range(10**9))
    clock = Clock(now=lambda: broken() if fails == "now" and 5 < next(calls) < 15 else 7, wall=lambda: 0)
    if fails == "locate":
        monkeypatch.setattr(manager_hooks, "find_caller", broken)
    if fails == "emit":
        monkeypatch.setattr(tasks.TaskLabels, "label", broken)
        monkeypatch.setattr(installation, "may_have_event_loops", lambda: True)

    @torch.no_grad()
    def decorated() -> bool:
        return torch.is_grad_enabled()

    with Recorder(clock=clock) as recording:
        for _ in range(5):
            assert decorated() is False
            with torch.inference_mode():
                assert torch.is_inference_mode_enabled()
            with torch.set_grad_enabled(False):
                assert not torch.is_grad_enabled()
            assert torch.is_grad_enabled()
    assert "broken on purpose" in str(recording)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_other_tool_keeps_working(when: str) -> None:
    """Another tool that patches the same methods keeps working."""
    original = torch.no_grad.__enter__
    heard: list[str] = []

    def install() -> None:
        inner = torch.no_grad.__enter__

        def other(self: Any) -> None:
            heard.append("other")
            inner(self)

        torch.no_grad.__enter__ = other  # type: ignore[method-assign]

    try:
        if when == "before":
            install()
        recorder = Recorder()
        recording = recorder.start()
        if when == "between":
            install()
        with torch.no_grad():
            assert not torch.is_grad_enabled()
        recorder.stop()
        if when == "after":
            install()
        with torch.no_grad():
            assert not torch.is_grad_enabled()
        assert len(heard) == {"before": 2, "between": 2, "after": 1}[when]
        events = recording.transitions
        assert list(events["event"][events["manager"] == "no_grad"]) == ["enter", "exit"]
    finally:
        torch.no_grad.__enter__ = original  # type: ignore[method-assign]
