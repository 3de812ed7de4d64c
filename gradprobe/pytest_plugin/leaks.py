"""Modes that a test, a fixture or an import leaves changed: noticed, and put back for what comes after."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from gradprobe.pytest_plugin.results import MODE_NAMES, ModeLeak
from gradprobe.recorder import Recorder

if TYPE_CHECKING:
    import pytest

    from gradprobe.tables.recording_tables import RecordingTables

Modes = tuple[bool, bool]

_guards: list[Any] = []  # a guard that dies puts the modes of its birth back


def current_modes() -> Modes:
    """Grad mode and inference mode of this thread."""
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def restore_modes(before: Modes) -> None:
    """Puts this thread's modes back."""
    if torch.is_inference_mode_enabled() != before[1]:
        _guards.append(torch._C._InferenceMode(before[1]))
    torch._C._set_grad_enabled(before[0])


def find_leak(by: str, name: str, before: Modes, tables: RecordingTables | None = None) -> ModeLeak | None:
    """The leak if the modes are no longer ``before``, which they are put back to. Its line is that of the last change."""
    after = current_modes()
    if after == before:
        return None
    restore_modes(before)
    file, line = (None, None) if tables is None else _last_change(tables, after)
    return ModeLeak(by, name, MODE_NAMES[before], MODE_NAMES[after], file, line)


@contextlib.contextmanager
def record_import_leaks() -> Iterator[list[ModeLeak]]:
    """A list that has the leak of the modules that are imported meanwhile, once they are."""
    found: list[ModeLeak] = []
    before = current_modes()
    with Recorder(level="modes") as recording:
        yield found
    left = find_leak("import", "conftest.py", before, recording._tables)
    found += [left] if left is not None else []


def _last_change(tables: RecordingTables, after: Modes) -> tuple[str | None, int | None]:
    """The place that last put the modes to ``after``, and was not undone."""
    for process in tables.processes:
        for transition in reversed(process.history.transitions):
            if transition.after == after and transition.before != after and transition.event != "exit":
                site = transition.site or (transition.region.site if transition.region is not None else 0)
                return process.place(site)[:2]
    return None, None


class FixtureModes:
    """Fixtures that changed the modes while being set up. One that yields may put them back when it ends."""

    def __init__(self) -> None:
        self._open: dict[Any, Modes] = {}

    def on_setup(self, fixture: pytest.FixtureDef[Any], before: Modes) -> ModeLeak | None:
        """The leak of a fixture that changed the modes and has no end in which it could put them back."""
        if current_modes() == before:
            return None
        if inspect.isgeneratorfunction(fixture.func) or inspect.isasyncgenfunction(fixture.func):
            self._open[fixture] = before
            return None
        return self._of(fixture, before)

    def on_finalize(self, fixture: pytest.FixtureDef[Any]) -> ModeLeak | None:
        """The leak of a fixture that has ended without putting the modes back."""
        before = self._open.pop(fixture, None)
        return None if before is None else self._of(fixture, before)

    def _of(self, fixture: pytest.FixtureDef[Any], before: Modes) -> ModeLeak | None:
        found = find_leak("fixture", fixture.argname, before)
        if found is None:
            return None
        code = getattr(inspect.unwrap(fixture.func), "__code__", None)
        if code is None:
            return found
        return ModeLeak(found.by, found.name, found.before, found.after, code.co_filename, code.co_firstlineno)
