"""Post-import hooks: a callback once the program, and never gradprobe, imports a module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class PostImportHook:
    """A finder on ``sys.meta_path`` that calls ``callback`` once the module ``name`` is imported."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name, self._callback = name, callback

    def begin(self) -> None:
        """Wait for the import from now on; call back at once if the module is imported already."""
        if self._name in sys.modules:
            self._callback()
        elif self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stop waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders find, with a loader that calls back after loading."""
        if name != self._name:
            return None
        self.stop()
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _wrap_loader(spec.loader, self._callback)
                return spec  # type: ignore[no-any-return]
        return None


def _wrap_loader(loader: Any, callback: Callable[[], None]) -> None:
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    # Another tool, or another hook of gradprobe, may have wrapped the loader before, and removes its wrapper as this does.
    before = vars(loader).get("exec_module")

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        if before is not None:
            loader.exec_module = before
        execute(module)
        callback()

    loader.exec_module = exec_module
