"""Creation sites of tensors, known without keeping any tensor alive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from gradprobe.capture.location.sites import line_span
from gradprobe.capture.patching.patches import Patch

CreationRecord = tuple[Callable[[], Any], int, CodeType | None, int, str, str, int, int]
"""The creation of one tensor; a plain tuple, since C++ makes it.

[0] weak reference to the tensor, [1] time of its creation, [2] code object and [3] offset of the user's line, [4] operator,
[5] module path, [6] time when its storage was created or -1, [7] thread.
"""

_MAX_MATERIALIZED = 10_000


@dataclass(frozen=True)
class CreationSite:
    """The place where a tensor was created; ``gradprobe.inspect(tensor).born``.

    Known for tensors that were created while a recording at level ``"ops"`` was open.

    Attributes:
        op (str): Name of the operator that returned the tensor, such as ``"aten.mul"``.
        file (str): File of the user's line that called the operator.
        line (int): Number of that line.
        function (str): Qualified name of the function that the line is in.
        module (str): Path of the ``torch.nn.Module`` that was running, or an empty string.

    Example::

        with gradprobe.record(level="ops"), torch.inference_mode():
            x = torch.ones(2)
            print(gradprobe.inspect(x).born.line)
    """

    op: str
    file: str
    line: int
    function: str
    module: str


class CreationRegistry:
    """The tensors that operators returned, for as long as they exist, as the observer of operators knows them."""

    def __init__(self) -> None:
        self.library: Any = None
        """The observer's library, None before its first use in this process. Level "graph" uses it too where it is built,
        because it walks graphs faster than Python does, and creates no Python objects for the nodes."""
        self.materialized: dict[int, CreationRecord] = {}
        """Records, by the ids of their tensors, of lazy parameters and buffers that became inference tensors."""

    def get(self, tensor: Any) -> CreationRecord | None:
        """Return the record of ``tensor``."""
        if self.library is None:
            return None
        if self.materialized:
            record = self.materialized.get(id(tensor))
            if record is not None and record[0]() is tensor:
                return record
        return self.get_first(tensor)

    def get_first(self, tensor: Any) -> CreationRecord | None:
        """Return the record of ``tensor`` as it was created first, if it is one that was made without memory."""
        record: CreationRecord | None = None if self.library is None else self.library.find_creation(tensor)
        return record

    def living(self) -> list[CreationRecord]:
        """Return the records of all tensors that exist."""
        records: list[CreationRecord] = [] if self.library is None else self.library.living()
        return records

    def add_materialized(self, tensor: Any, record: CreationRecord) -> None:
        """Take in that a lazy parameter or buffer has got its memory."""
        if len(self.materialized) < _MAX_MATERIALIZED:
            self.materialized[id(tensor)] = record

    def forget(self, tensor: Any) -> None:
        """Drop the weak reference to ``tensor``, since PyTorch swaps no tensor that has one."""
        self.materialized.pop(id(tensor), None)
        if self.library is not None:
            self.library.forget(tensor)

    def forget_parameters(self) -> None:
        """Drop the weak references to parameters, which modules may swap when they are converted or loaded."""
        self.materialized.clear()
        if self.library is not None:
            self.library.forget_instances(torch.nn.Parameter)


def is_same_creation(one: CreationRecord | None, other: CreationRecord | None) -> bool:
    """Return whether two records are of the same operator's result: no two operators of a thread have the same time."""
    return one is not None and other is not None and one[1] == other[1] and one[7] == other[7] and one[0] is other[0]


REGISTRY = CreationRegistry()
"""The tensors of this process that recordings at level ops saw."""


def swap_patches(forget: Callable[[Any], None]) -> list[Patch]:
    """Return the patch that drops weak references before ``torch.utils.swap_tensors``, which rejects them.

    ``forget`` drops all references to one tensor. A weak reference of the program is the same object as gradprobe's, and
    still makes the swap fail.
    """
    original = getattr(torch.utils, "swap_tensors", None)
    if original is None:
        return []

    @functools.wraps(original)
    def swap_tensors(t1: Any, t2: Any) -> None:
        forget(t1)
        forget(t2)
        original(t1, t2)

    return [Patch(torch.utils, "swap_tensors", swap_tensors)]


def materialize_patches(on_materialized: Callable[[Any], object]) -> list[Patch]:
    """Return the patch that calls ``on_materialized`` with each lazy parameter or buffer that has got its memory."""
    mixin: Any = getattr(torch.nn.parameter, "UninitializedTensorMixin", None)
    original = getattr(mixin, "materialize", None)
    if original is None:
        return []

    @functools.wraps(original)
    def materialize(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        on_materialized(self)
        return result

    return [Patch(mixin, "materialize", materialize)]


def creation_site(tensor: torch.Tensor) -> CreationSite | None:
    """Return where ``tensor`` was created, if a recording at level ops saw it."""
    record = REGISTRY.get(tensor)
    return None if record is None else make_site(record)


def make_site(record: CreationRecord) -> CreationSite:
    """Return the creation site of a record."""
    _, _, code, offset, op, module, _, _ = record
    if code is None:
        return CreationSite(op, "", 0, "", module)
    return CreationSite(
        op, code.co_filename, line_span(code, offset)[0], getattr(code, "co_qualname", code.co_name), module
    )


def dead_ref() -> None:
    """Stand in for the weak reference of a record that must neither keep nor look up its tensor."""


def find_holder_names(roots: Iterable[torch.nn.Module], wanted: set[int]) -> dict[int, str]:
    """Return the dotted names under which modules keep these tensors, in attributes or containers.

    Args:
        roots: The outermost modules.
        wanted: The ids of the tensors.
    """
    found: dict[int, str] = {}

    def search(value: Any, name: str, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            if id(value) in wanted:
                found.setdefault(id(value), name)
        elif depth and isinstance(value, dict):
            for key, item in list(value.items()):
                search(item, f"{name}[{key!r}]" if isinstance(key, str | int) else name, depth - 1)
        elif depth and isinstance(value, list | tuple):
            for index, item in enumerate(list(value)):
                search(item, f"{name}[{index}]", depth - 1)
        elif depth and not isinstance(value, torch.nn.Module | type) and hasattr(value, "__dict__"):
            for key, item in list(vars(value).items()):
                search(item, f"{name}.{key}", depth - 1)

    for root in roots:
        for path, module in root.named_modules():
            prefix = f"{type(root).__name__}.{path}" if path else type(root).__name__
            for key, value in list(vars(module).items()):
                if key in ("_parameters", "_buffers"):
                    for name, tensor in value.items():
                        search(tensor, f"{prefix}.{name}", 0)
                elif key != "_modules":
                    search(value, f"{prefix}.{key}", 3)
    return found
