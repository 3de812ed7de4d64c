"""Programs that read and increment version counters themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name

import gradprobe


class Hearing(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str | None] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(resolve_name(function))
        return function(*args, **(kwargs or {}))


def test_function_mode_sees_version_read() -> None:
    """A function mode sees reads of ``_version`` by name."""
    with gradprobe.record(level="ops"), Hearing() as mode:
        assert torch.ones(2)._version == 0

    assert mode.heard[-1] == "torch.Tensor._version.__get__"


def test_version_is_read_only() -> None:
    """``_version`` is read-only, as without a recording."""
    with pytest.raises(AttributeError) as expected:
        torch.ones(2)._version = 3  # type: ignore[misc]

    with gradprobe.record(level="ops"), pytest.raises(AttributeError) as raised:
        torch.ones(2)._version = 3  # type: ignore[misc]

    assert str(raised.value) == str(expected.value)


def test_manual_increments_counted() -> None:
    """Each counter that the program increments itself is counted."""
    with torch.inference_mode():
        without = torch.ones(2)
    with gradprobe.record(level="ops") as recording:
        one, other = torch.ones(2), torch.ones(2)
        torch.autograd.graph.increment_version(tensor for tensor in (one, other))
        torch.autograd.graph.increment_version([without, one])

    assert (one._version, other._version) == (2, 1)
    assert recording.ops["version_bumps"].sum() == 3
