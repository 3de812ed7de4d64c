"""Fixtures for all tests; one of them checks that each test leaves PyTorch exactly as it found it."""

from __future__ import annotations

import asyncio.events
import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from gradprobe.capture.ops.native.library_file import locate_core_folder
from gradprobe.capture.ops.native.loader import load_core
from tests.thoroughness import IS_THOROUGH

# Of many processes that tests start, most of the time would go to compiling the package and the tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Programs that tests start have homes of their own, and building the observer takes a minute.
os.environ["TORCH_EXTENSIONS_DIR"] = str(locate_core_folder().parent)
# The same examples every time, so that a change is what makes a test fail; a thorough run looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
if not IS_THOROUGH:
    hypothesis.settings.load_profile("repeatable")

MODULES_WORTH_A_FREEZE = 50

OBSERVED: list[Any] = [
    torch.no_grad,
    torch.enable_grad,
    torch.set_grad_enabled,
    torch.inference_mode,
    threading.Thread,
    asyncio.events,
    torch.Tensor,
    torch.autograd,
]


_frozen_at: tuple[Path | None, int] = None, 0
"""The file of the tests before which objects were frozen last, and the number of modules then."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave what was made before the tests of a file, and what was imported, to no collector.

    Many tests collect, and have a garbage of their own. What looks for the holders of a tensor goes through all objects
    that the collector knows.
    """
    global _frozen_at
    file, modules = _frozen_at
    if item.path != file or len(sys.modules) >= modules + MODULES_WORTH_A_FREEZE:
        _frozen_at = item.path, len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def pytorch_is_left_as_it_was() -> Iterator[None]:
    """Fail a test that leaves a class or the modes of the main thread changed."""
    before = [dict(vars(owner)) for owner in OBSERVED]
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    yield
    left = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    torch._C._set_grad_enabled(modes[0])
    for owner, members in zip(OBSERVED, before, strict=True):
        now = dict(vars(owner))
        changed = {name for name in {*members, *now} if members.get(name) is not now.get(name)}
        # asyncio notes the loop policy that it makes at the first use, and copyreg what it pickles of a class.
        assert changed <= {"_event_loop_policy", "__slotnames__"}, (
            f"{owner.__name__} was left with other {sorted(changed)}"
        )
    is_observed = load_core().is_key_included()
    load_core().include_key(False)
    assert not is_observed, "the operators of this thread are still observed"
    assert left == modes, f"the test left grad mode and inference mode at {left}"


class FakeClock:
    """Clock that moves only by ``advance``; pass ``clock.clock`` to a ``Recorder``."""

    def __init__(self) -> None:
        from gradprobe.capture.clock import Clock

        self.ns = 1_000
        self.clock = Clock(now=lambda: self.ns, wall=lambda: 1_700_000_000_000_000_000 + self.ns)

    def advance(self, ns: int) -> None:
        self.ns += ns


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
