"""Where tensors were born: the operator and the line that made each, known without keeping any tensor alive."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from gradprobe.capture.location.sites import line_span
from gradprobe.capture.patching.patches import Patch

CreationRecord = tuple[Callable[[], Any], int, CodeType | None, int, str, str, int, int]
"""What gives the tensor while it lives, when it was made, code and offset, operator, module, when its storage was made
or -1, the thread."""

_SPARE = 4_096
_LATEST = 64
"""How many views are looked at when a block is left: what was made just before lives, if any does."""


@dataclass(frozen=True)
class CreationSite:
    """The operator that made a tensor, the line of the program it was called from, and the module it ran in."""

    op: str
    file: str
    line: int
    function: str
    module: str


class CreationRegistry:
    """The tensors that operators returned, by identity, for as long as they live.

    An entry holds a weak reference, so an identity that was given to another object is noticed. Entries of the dead are
    swept once they may be most of the table.
    """

    def __init__(self) -> None:
        self.entries: dict[int, CreationRecord] = {}
        self.latest_views: deque[CreationRecord] = deque(maxlen=_LATEST)
        """The entries are in no order: one may take the place of a dead one."""
        self._sweep_at = _SPARE

    def get(self, tensor: Any) -> CreationRecord | None:
        """What is known of ``tensor``."""
        entry = self.entries.get(id(tensor))
        return entry if entry is not None and entry[0]() is tensor else None

    def made_at(self, tensor: Any) -> int:
        """When the storage under ``tensor`` was made, on the recording's clock; -1 if it is older, or not known."""
        entry = self.get(tensor._base if tensor._is_view() else tensor)
        return -1 if entry is None else entry[6]

    def forget(self, tensor: Any) -> None:
        """Drops the weak reference to ``tensor``. PyTorch swaps no two tensors while there is one to either."""
        if self.get(tensor) is not None:
            self.entries.pop(id(tensor), None)
        # Not by `remove`: comparing entries compares the tensors behind their references.
        others = [entry for entry in self.latest_views if entry[0]() is not tensor]
        self.latest_views.clear()
        self.latest_views.extend(others)

    def forget_parameters(self) -> None:
        """Drops those to parameters, which modules may swap when they are converted or loaded."""
        for key, entry in self.entries.copy().items():  # in one step: other threads add to it
            if isinstance(entry[0](), torch.nn.Parameter):
                self.entries.pop(key, None)

    def sweep(self) -> None:
        """Forgets the dead, if there may be many."""
        if len(self.entries) > self._sweep_at:
            for key, entry in self.entries.copy().items():  # in one step: other threads add to it
                if entry[0]() is None:
                    self.entries.pop(key, None)
            self._sweep_at = 2 * len(self.entries) + _SPARE


REGISTRY = CreationRegistry()
"""Of this process; what recordings at level ops saw."""


def swap_patches(resolve_pending: Callable[[], None], forget: Callable[[Any], None]) -> list[Patch]:
    """Lets ``torch.utils.swap_tensors`` find no reference of ours to what it swaps; ``settle`` gives up those of a moment,
    and ``forget`` all others to a tensor.

    A reference of the program's own is the same object as ours, and still forbids it.
    """
    original = getattr(torch.utils, "swap_tensors", None)
    if original is None:
        return []

    @functools.wraps(original)
    def swap_tensors(t1: Any, t2: Any) -> None:
        resolve_pending()
        forget(t1)
        forget(t2)
        original(t1, t2)

    return [Patch(torch.utils, "swap_tensors", swap_tensors)]


def creation_site(tensor: torch.Tensor) -> CreationSite | None:
    """Where ``tensor`` was made, if a recording at level ops saw it."""
    entry = REGISTRY.get(tensor)
    if entry is None:
        return None
    _, _, code, offset, op, module, _, _ = entry
    if code is None:
        return CreationSite(op, "", 0, "", module)
    return CreationSite(
        op, code.co_filename, line_span(code, offset)[0], getattr(code, "co_qualname", code.co_name), module
    )


def dead_ref() -> None:
    """What stands in an entry for a reference to a tensor that is none of its concern any more."""


class LiveInferenceTensors:
    """Inference tensors that may still be alive later, when somebody asks."""

    def __init__(self) -> None:
        self._born: list[CreationRecord] = []
        self._sweep_at = _SPARE

    def add(self, entry: CreationRecord) -> None:
        self._born.append(entry)
        if len(self._born) > self._sweep_at:
            self._born = [e for e in self._born if e[0]() is not None]
            self._sweep_at = 2 * len(self._born) + _SPARE

    def forget(self, tensor: Any) -> None:
        """Drops the weak reference to ``tensor``."""
        self._born = [entry for entry in self._born if entry[0]() is not tensor]

    def has_live(self) -> bool:
        """Whether one of them is alive."""
        while self._born and self._born[-1][0]() is None:
            self._born.pop()
        return bool(self._born)

    def take(self) -> list[CreationRecord]:
        """Those that are alive, all of which it forgets."""
        born, self._born = self._born, []
        self._sweep_at = _SPARE
        return [entry for entry in born if entry[0]() is not None]


def find_holder_names(roots: Iterable[torch.nn.Module], wanted: set[int]) -> dict[int, str]:
    """The dotted names under which modules hold the tensors of these identities: attributes, and containers in them."""
    found: dict[int, str] = {}

    def look(value: Any, name: str, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            if id(value) in wanted:
                found.setdefault(id(value), name)
        elif depth and isinstance(value, dict):
            for key, item in list(value.items()):
                look(item, f"{name}[{key!r}]" if isinstance(key, str | int) else name, depth - 1)
        elif depth and isinstance(value, list | tuple):
            for index, item in enumerate(list(value)):
                look(item, f"{name}[{index}]", depth - 1)
        elif depth and not isinstance(value, torch.nn.Module | type) and hasattr(value, "__dict__"):
            for key, item in list(vars(value).items()):
                look(item, f"{name}.{key}", depth - 1)

    for root in roots:
        for path, module in root.named_modules():
            prefix = f"{type(root).__name__}.{path}" if path else type(root).__name__
            for key, value in list(vars(module).items()):
                if key in ("_parameters", "_buffers"):
                    for name, tensor in value.items():
                        look(tensor, f"{prefix}.{name}", 0)
                elif key != "_modules":
                    look(value, f"{prefix}.{key}", 3)
    return found
