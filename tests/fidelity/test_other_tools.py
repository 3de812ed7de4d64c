"""Another tool that patches the same methods: both see each block once, and no patch stays."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gradprobe.recorder import Recorder, get_session
from tests.thoroughness import IS_THOROUGH

MANAGERS = (torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode)
METHODS = [(owner, name) for owner in MANAGERS for name in ("__enter__", "__exit__")]
OTHERS: list[tuple[Any, str]] = [
    (torch.set_grad_enabled, "__init__"),
    (threading.Thread, "_bootstrap_inner"),
    (torch.Tensor, "backward"),
    (torch._C, "_increment_version"),
]
THEIRS = "theirs"


class Tool:
    """A tool that calls the method it finds, counts, and restores that method."""

    def __init__(self) -> None:
        self.heard = 0
        self._found: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        for owner, name in (*METHODS, *OTHERS):
            inner = vars(owner)[name]
            self._found.append((owner, name, inner))
            setattr(owner, name, self._around(inner))

    def _around(self, inner: Any) -> Any:
        def other(*arguments: Any, **named: Any) -> Any:
            self.heard += 1
            return inner(*arguments, **named)

        return other

    def remove(self) -> None:
        while self._found:
            setattr(*self._found.pop())


@pytest.fixture(autouse=True)
def originals() -> Iterator[list[Any]]:
    found = [(owner, name, vars(owner)[name]) for owner, name in (*METHODS, *OTHERS)]
    yield [vars(owner)[name] for owner, name, _ in found]
    for owner, name, original in found:
        setattr(owner, name, original)


def blocks() -> None:
    """Run a block of each kind, a thread, a backward, and an increment of a version counter."""
    torch.autograd.graph.increment_version(torch.ones(1))
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not (weight * 2).requires_grad
        with torch.enable_grad():
            (weight * 2).sum().backward()
    with torch.inference_mode():
        assert (weight * 2).is_inference()
    with torch.set_grad_enabled(False):
        assert not torch.is_grad_enabled()
    thread = threading.Thread(target=torch.is_grad_enabled)
    thread.start()
    thread.join()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def orders() -> list[tuple[str, ...]]:
    """Two recordings and one other tool, in every order."""
    places = itertools.combinations(range(6), 2)
    found = []
    for install, remove in places:
        steps = iter(["start", "stop", "start", "stop"])
        found.append(
            tuple("install" if place == install else "remove" if place == remove else next(steps) for place in range(6))
        )
    return found


LEVELS = ["modes", "graph", "ops"]
EACH = [
    (level, order) for place, order in enumerate(orders()) for level in (LEVELS if IS_THOROUGH else [LEVELS[place % 3]])
]


@pytest.mark.parametrize(("level", "order"), EACH, ids=lambda one: one if isinstance(one, str) else " ".join(one))
def test_every_order_sees_each_block_once(level: str, order: tuple[str, ...], originals: list[Any]) -> None:
    """Recordings and another tool, in every order, see each block once."""
    tool, recorder = Tool(), Recorder(level=level)
    layers: tuple[object, ...] = ()
    beneath: tuple[object, ...] = ()
    expected: list[int] = []
    recordings: list[Any] = []
    running, heard = False, 0
    for step in order:
        if step == "install":
            tool.install()
            beneath, layers = layers, (*layers, THEIRS)
        elif step == "remove":
            tool.remove()
            layers = beneath
        elif step == "start":
            recorder = Recorder(level=level)
            recordings.append(recorder.start())
            running = True
            expected.append(0)
            layers = (*(layers[:-1] if layers[-1:] == (len(expected) - 2,) else layers), len(expected) - 1)
        else:
            recorder.stop()
            running = False
            layers = layers[:-1] if layers[-1:] == (len(expected) - 1,) else layers
        before = tool.heard
        blocks()
        heard = tool.heard - before
        assert (heard > 0) is (THEIRS in layers)
        if running and len(expected) - 1 in layers:
            expected[-1] += 4
    for recording, number in zip(recordings, expected, strict=True):
        regions = recording.regions
        assert len(regions) == number
        assert list(regions["manager"]) == ["no_grad", "enable_grad", "inference_mode", "set_grad_enabled"] * (
            number // 4
        )
        assert list(recording.findings["rule"][recording.findings["severity"] == "error"]) == []
    assert not get_session()._queue, "events are queued without a recording"
    with Recorder(level=level):
        pass
    assert [vars(owner)[name] for owner, name in (*METHODS, *OTHERS)] == originals


@pytest.mark.parametrize("level", ["modes", "graph", "ops"])
def test_buried_hook_queues_nothing(level: str) -> None:
    """A hook that another tool still calls after the recording queues nothing."""
    tool, recorder = Tool(), Recorder(level=level)
    recorder.start()
    tool.install()
    recorder.stop()
    for _ in range(50):
        blocks()
    assert tool.heard > 50
    assert not get_session()._queue
    tool.remove()


@pytest.mark.parametrize("level", ["modes", "graph", "ops"])
def test_replaced_tool_loses_no_block(level: str) -> None:
    """No block is lost when the tool above gradprobe's patch is replaced by another."""
    first, second, recorder = Tool(), Tool(), Recorder(level=level)
    recorder.start()
    first.install()
    recorder.stop()
    second.install()
    with Recorder(level=level) as recording:
        blocks()
    assert len(recording.regions) == 4
    second.remove()
    first.remove()
    with Recorder(level=level) as recording:
        blocks()
    assert len(recording.regions) == 4


def test_overlapping_recordings() -> None:
    """Recordings that overlap around another tool see the blocks they are open for."""
    tool, one, other = Tool(), Recorder(level="modes"), Recorder(level="ops")
    first = one.start()
    tool.install()
    second = other.start()
    blocks()
    one.stop()
    blocks()
    tool.remove()
    blocks()
    other.stop()
    assert (len(first.regions), len(second.regions)) == (4, 12)


def test_threads_and_backwards_once() -> None:
    """Threads and backwards are recorded once even if gradprobe's patch is both buried and on top."""
    tool, recorder = Tool(), Recorder(level="ops")
    recorder.start()
    tool.install()
    recorder.stop()
    with Recorder(level="ops") as alone:
        pass
    with Recorder(level="ops") as recording:
        blocks()
    tool.remove()
    assert len(recording._tables.contents[0].threads) == len(alone._tables.contents[0].threads) + 1
    assert len(recording._tables.contents[0].accounts["backwards"]) == 1
    by_hand = recording.ops[recording.ops["op"] == "increment_version"]
    assert by_hand["version_bumps"].sum() == 1
