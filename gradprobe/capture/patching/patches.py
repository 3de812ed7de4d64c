"""Reversible patches: attributes of classes and modules, replaced together and restored exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass(frozen=True)
class Patch:
    """A replacement for the attribute ``name`` of ``owner``."""

    owner: Any
    name: str
    replacement: Any


class Patches:
    """A set of patches that is applied and restored as one.

    If another tool has patched the same attribute in the meantime, gradprobe's patch stays buried under that one until the
    tool restores it: restoring the original here would remove the other tool's patch.
    """

    def __init__(self) -> None:
        self._applied: list[tuple[Patch, Any]] = []
        self._buried: list[tuple[Patch, Any]] = []

    def apply(self, patches: Sequence[Patch]) -> None:
        """Apply ``patches``; if one fails, undo those before it and raise its error."""
        self.reclaim()
        try:
            for patch in patches:
                original = _current(patch)
                setattr(patch.owner, patch.name, patch.replacement)
                self._applied.append((patch, original))
        except BaseException:
            self.restore()
            raise

    @property
    def are_applied(self) -> bool:
        """Return whether any patch is applied."""
        return bool(self._applied)

    def restore(self) -> list[str]:
        """Restore the originals and return the names of attributes that another tool has patched since.

        Those are left as they are.
        """
        overlaid = []
        while self._applied:
            patch, original = self._applied.pop()
            if not _remove(patch, original):
                self._buried.append((patch, original))
                overlaid.append(f"{patch.owner.__name__}.{patch.name}")
        self.reclaim()
        return overlaid

    def reclaim(self) -> None:
        """Remove buried patches that are on top again because the other tool has restored them."""
        for known in reversed(self._buried.copy()):
            if _remove(*known):
                self._buried.remove(known)


def _current(patch: Patch) -> Any:
    return vars(patch.owner).get(patch.name, _ABSENT)


def _remove(patch: Patch, original: Any) -> bool:
    """Restore the original unless it is in place already; return False if another tool's patch is."""
    current = _current(patch)
    if current is not patch.replacement:
        return current is original
    if original is _ABSENT:
        delattr(patch.owner, patch.name)
    else:
        setattr(patch.owner, patch.name, original)
    return True
