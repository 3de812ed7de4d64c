"""Replacing attributes of classes and modules, all of them or none, and putting them back exactly as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass(frozen=True)
class Patch:
    """``owner.name`` becomes ``replacement``."""

    owner: Any
    name: str
    replacement: Any


class Patches:
    """A set of patches that is applied and restored as one.

    Where another tool has put its own on top meanwhile, ours stays buried under it until it comes to light again: to take
    it out would take the other tool's out.
    """

    def __init__(self) -> None:
        self._applied: list[tuple[Patch, Any]] = []
        self._buried: list[tuple[Patch, Any]] = []

    def apply(self, patches: Sequence[Patch]) -> None:
        """Applies ``patches``; if one fails, those before it are undone and the error goes on."""
        self.reclaim()
        try:
            for patch in patches:
                original = _standing(patch)
                setattr(patch.owner, patch.name, patch.replacement)
                self._applied.append((patch, original))
        except BaseException:
            self.restore()
            raise

    @property
    def are_applied(self) -> bool:
        return bool(self._applied)

    def restore(self) -> list[str]:
        """Puts every original back; names those where another tool stands on top, which are left alone."""
        overlaid = []
        while self._applied:
            patch, original = self._applied.pop()
            if not _take_out(patch, original):
                self._buried.append((patch, original))
                overlaid.append(f"{patch.owner.__name__}.{patch.name}")
        self.reclaim()
        return overlaid

    def reclaim(self) -> None:
        """Takes out what was buried and is on top again, as the other tool has put back what it found."""
        for known in reversed(self._buried.copy()):
            if _take_out(*known):
                self._buried.remove(known)


def _standing(patch: Patch) -> Any:
    return vars(patch.owner).get(patch.name, _ABSENT)


def _take_out(patch: Patch, original: Any) -> bool:
    """Puts the original back, if it is not there already; False where another tool stands on top."""
    standing = _standing(patch)
    if standing is not patch.replacement:
        return standing is original
    if original is _ABSENT:
        delattr(patch.owner, patch.name)
    else:
        setattr(patch.owner, patch.name, original)
    return True
