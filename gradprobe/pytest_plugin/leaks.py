"""Modes that a test, a fixture or an import leaves changed: detected, and restored afterwards."""

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

_guards: list[Any] = []  # a guard that is destroyed restores the modes that it was created under


def current_modes() -> Modes:
    """Return whether grad mode and inference mode are enabled in this thread."""
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def restore_modes(before: Modes) -> None:
    """Restore the modes of this thread."""
    if torch.is_inference_mode_enabled() != before[1]:
        _guards.append(torch._C._InferenceMode(before[1]))
    torch._C._set_grad_enabled(before[0])


def find_leak(by: str, name: str, before: Modes, tables: RecordingTables | None = None) -> ModeLeak | None:
    """Restore the modes to ``before`` and return the leak with its line; None if nothing leaked."""
    after = current_modes()
    if after == before:
        return None
    restore_modes(before)
    file, line = (None, None) if tables is None else _last_change(tables, after)
    return ModeLeak(by, name, MODE_NAMES[before], MODE_NAMES[after], file, line)


@contextlib.contextmanager
def record_import_leaks() -> Iterator[list[ModeLeak]]:
    """Yield a list, to which the leak of the modules imported in the block is added at its end."""
    found: list[ModeLeak] = []
    before = current_modes()
    with Recorder(level="modes") as recording:
        yield found
    left = find_leak("import", "conftest.py", before, recording._tables)
    found += [left] if left is not None else []


def _last_change(tables: RecordingTables, after: Modes) -> tuple[str | None, int | None]:
    """Return file and line of the last change to the modes ``after`` that was not undone."""
    for process in tables.processes:
        for transition in reversed(process.history.transitions):
            if transition.after == after and transition.before != after and transition.event != "exit":
                site = transition.site or (transition.region.site if transition.region is not None else 0)
                return process.place(site)[:2]
    return None, None


class FixtureModes:
    """Modes that fixtures changed in their setup; a fixture that yields may restore them at its end."""

    def __init__(self) -> None:
        self._open: dict[Any, Modes] = {}

    def on_setup(self, fixture: pytest.FixtureDef[Any], before: Modes) -> ModeLeak | None:
        """Return the leak of a fixture that changed the modes and has no ``yield`` to restore them after."""
        if current_modes() == before:
            return None
        if inspect.isgeneratorfunction(fixture.func) or inspect.isasyncgenfunction(fixture.func):
            self._open[fixture] = before
            return None
        return self._find(fixture, before)

    def on_finalize(self, fixture: pytest.FixtureDef[Any]) -> ModeLeak | None:
        """Return the leak of a fixture that was finalized without restoring the modes."""
        before = self._open.pop(fixture, None)
        return None if before is None else self._find(fixture, before)

    def _find(self, fixture: pytest.FixtureDef[Any], before: Modes) -> ModeLeak | None:
        found = find_leak("fixture", fixture.argname, before)
        if found is None:
            return None
        code = getattr(inspect.unwrap(fixture.func), "__code__", None)
        if code is None:
            return found
        return ModeLeak(found.by, found.name, found.before, found.after, code.co_filename, code.co_firstlineno)
