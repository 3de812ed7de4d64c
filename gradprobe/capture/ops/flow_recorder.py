"""Recorder of the flow of tensors: what the observer's library counted, as notes with lines and names."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.module_members import list_members
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.sites import line_span
from gradprobe.capture.ops.futile_flags import list_futile_flags
from gradprobe.recording.flow import (
    UNKNOWN_PARAMETER,
    FlowLeaf,
    FlowSite,
    Frame,
    write_edge,
    write_flag,
    write_leaf,
    write_path,
    write_path_counts,
    write_site,
)
from gradprobe.recording.module_roots import ModuleRoot, write_root
from gradprobe.recording.notes import Note

_MIN_INTERVAL_S = 1.0
_MAX_SHARE = 0.02
"""Maximum share of the time that is spent on it."""


class FlowRecorder:
    """The flow of one session, which begins with the first observed thread and ends with the last one."""

    def __init__(self, codes: FrameClassifier, paths: ModulePaths) -> None:
        self._codes, self._module_paths = codes, paths
        self._library: Any = None
        self._take_flow: Callable[[], tuple[list[Any], list[Any]]] | None = None
        self._next_node = 1
        self._paths: dict[tuple[Frame, ...], int] = {}
        self._optimizers: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._named: dict[int, FlowLeaf] = {}
        self._flags: set[tuple[str, str]] = set()
        self._roots: set[ModuleRoot] = set()
        self._notes: list[Note] = []
        self._next_take = 0.0

    def begin(self, library: Any, take_flow: Callable[[], tuple[list[Any], list[Any]]]) -> None:
        """Read from this observer from now on."""
        self._library, self._take_flow = library, take_flow

    def on_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the parameters of an optimizer that is about to step, the 1st, 2nd, 4th, 8th ... time that it is seen."""
        steps = self._optimizers[optimizer] = self._optimizers.get(optimizer, 0) + 1
        if steps & (steps - 1) == 0:
            self.name_parameters()

    def name_parameters(self) -> None:
        """Note the names of the parameters of all known modules, and which optimizer has them."""
        if self._library is None:
            return
        names: dict[int, tuple[Any, str, str]] = {}
        for root_name, root in self._module_paths.roots.list_modules():
            for name, member in list_members(root):
                if isinstance(member, torch.Tensor):
                    names.setdefault(id(member), (member, f"{root_name}.{name}", ""))
            for flag in list_futile_flags(root, root_name):
                if flag not in self._flags:
                    self._flags.add(flag)
                    self._notes.append(write_flag(*flag))
        for optimizer in list(self._optimizers):
            for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
                _, name, _ = names.get(id(parameter), (None, "", ""))
                kind = type(optimizer).__name__
                names[id(parameter)] = (parameter, name or f"{UNKNOWN_PARAMETER}{index} of {kind}", kind)
        for parameter, name, kind in names.values():
            if not (parameter.requires_grad and parameter.is_leaf):
                continue
            number = self._library.leaf_number(parameter)
            leaf = FlowLeaf(0, name, tuple(parameter.shape), kind, isinstance(parameter, torch.nn.Parameter))
            if number and self._named.get(number) != leaf:
                self._named[number] = leaf
                self._notes.append(write_leaf(number, leaf))

    def take(self, *, at_once: bool = False) -> list[Note]:
        """Return the notes since the last time; without ``at_once``, not more often than about once a second."""
        began = time.monotonic()
        if began >= self._next_take or at_once:
            self._collect()
            took = time.monotonic() - began
            self._next_take = began + max(_MIN_INTERVAL_S, took / _MAX_SHARE)
        notes, self._notes = self._notes, []
        return notes

    def end(self) -> None:
        """Read a last time, and forget all numbers."""
        if self._library is not None:
            self._collect()
            self._library.clear_flow()
        self.abandon()

    def abandon(self) -> None:
        """Forget the observer. In a forked child its locks may be held for ever."""
        self._library = self._take_flow = None
        self._next_node, self._paths = 1, {}
        self._named.clear()
        self._flags.clear()
        self._roots.clear()
        self._optimizers.clear()

    def _collect(self) -> None:
        if self._library is None or self._take_flow is None:
            return
        self.name_parameters()
        roots = [root for root in self._module_paths.roots.list_all() if root not in self._roots]
        self._roots.update(roots)
        self._notes += map(write_root, roots)
        edges, paths = self._take_flow()
        for number, node in enumerate(self._library.flow_nodes(self._next_node), start=self._next_node):
            self._next_node = number + 1
            self._notes.append(self._describe_node(number, node))
        for source, target, counts in edges:
            self._notes += write_edge(source, target, counts)
        for frames, counts in paths:
            self._notes += self._describe_path(frames, counts)

    def _describe_node(self, number: int, node: tuple[int, int, str | None, str | None, bool, int]) -> Note:
        code, offset, op, module, is_leaf, made_at = node
        if is_leaf:
            return write_leaf(number, FlowLeaf(made_at))
        file, line, function = self._locate(code, offset)
        return write_site(number, FlowSite(file, line, function, op or "", module or ""))

    def _describe_path(self, frames: list[tuple[int, int]], counts: tuple[int, ...]) -> Iterator[Note]:
        path = tuple(Frame(*self._locate(code, offset)) for code, offset in frames)
        number = self._paths.get(path)
        if number is None:
            number = self._paths[path] = len(self._paths) + 1
            yield write_path(number, path)
        yield from write_path_counts(number, counts)

    def _locate(self, code: int, offset: int) -> tuple[str, int, str]:
        known = self._codes.held.get(code)
        if known is None:
            return "", 0, ""
        return known.co_filename, line_span(known, offset)[0] or 0, getattr(known, "co_qualname", known.co_name)
