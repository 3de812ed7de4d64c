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
    """A set of patches that is applied and restored as one."""

    def __init__(self) -> None:
        self._applied: list[tuple[Patch, Any]] = []

    def apply(self, patches: Sequence[Patch]) -> None:
        """Applies ``patches``; if one fails, those before it are undone and the error goes on."""
        try:
            for patch in patches:
                original = vars(patch.owner).get(patch.name, _ABSENT)
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
            if vars(patch.owner).get(patch.name) is not patch.replacement:
                overlaid.append(f"{patch.owner.__name__}.{patch.name}")
            elif original is _ABSENT:
                delattr(patch.owner, patch.name)
            else:
                setattr(patch.owner, patch.name, original)
        return overlaid
