"""The native core of one thread, and the Python functions that it calls."""

from __future__ import annotations

from _thread import get_ident as thread
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.ops.attribution import (
    INFERENCE_OUTPUT,
    INFERENCE_VIEW,
    NORMAL_OUTPUT,
    ONE_CALL,
    TRACKED_VIEW,
    UNTRACKED_VIEW,
    OpPlace,
    PendingOp,
)
from gradprobe.capture.ops.op_schema import OpPlan, choose_native_path
from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.recording.events import OP_BATCH, OPERATOR, SharedEvent
from gradprobe.recording.op_rows import OpCounts


class NativeBridge:
    """The state and functions that a dispatcher shares with its native core.

    ``module`` is None if the native core is not available; the bridge does nothing then.
    """

    def __init__(
        self,
        module: Any,
        owner: int,
        plans: dict[Any, OpPlan],
        pending: list[PendingOp],
        last_node: list[int],
        **shared: Any,
    ) -> None:
        self._module, self._owner = module, owner
        self._plans, self._pending, self._last_node = plans, pending, last_node
        self._context = {
            **shared,
            "owner": owner,
            "pending": pending,
            "last_node": last_node,
            "plan_of": self._plan_of,
            "make_event": self._make_event,
            "make_counts": _make_counts,
            "make_sequence": self._make_sequence,
            "defer": self._defer,
        }
        # C++ calls these outside of every function that torch.compile was already made to skip.
        skip_when_compiling(*(function for function in self._context.values() if hasattr(function, "__code__")))
        self._core: Any = None
        self.flush: Callable[[], object] = _do_nothing
        """Emit the operators buffered in the core; for the core's own thread."""
        self.flush_each: Callable[[], object] = _do_nothing
        """Emit them one by one without running Python in between; for any thread."""

    def start(self, mode: Any) -> None:
        """Let the core handle what it can of the operators that ``mode`` sees in this thread."""
        if self._module is not None:
            self._core = self._module.Core(mode, self._context)
            self.flush, self.flush_each = self._core.flush, self._core.flush_each
            self._module.attach(self._core)

    def stop(self) -> None:
        """Detach the core. From another thread, only make it handle no more operators."""
        if self._core is not None:
            self.flush_each()
            detach = self._module.detach if thread() == self._owner else self._module.Core.close
            detach(self._core)
            self._core, self.flush, self.flush_each = None, _do_nothing, _do_nothing

    def _plan_of(self, name: str, overload: str) -> tuple[int, OpPlan]:
        func = getattr(getattr(torch.ops.aten, name), overload or "default")
        plan = self._plans.get(func) or self._plans.setdefault(func, OpPlan(func))
        return choose_native_path(func, plan), plan

    def _make_event(
        self, code: int, offset: int, op: str, module: str, phase: int, task: str | None, counts: OpCounts
    ) -> SharedEvent:
        return SharedEvent((OPERATOR, self._owner, (code, offset, op, module, phase, task), None, counts))

    def _make_sequence(self, events: tuple[SharedEvent, ...]) -> SharedEvent:
        return SharedEvent((OP_BATCH, self._owner, events))

    def _defer(self, place: OpPlace, plan: OpPlan, before: int, after: int, refs: Any, counts: OpCounts) -> None:
        self._pending.append(PendingOp(place, plan, self._last_node[0], before, after, refs, (), counts, False))
        self._last_node[0] = after


def _do_nothing() -> None:
    """Do nothing: without a core there are no buffered operators."""


def _make_counts(*numbers: int) -> OpCounts:
    """Return the counts of a call that returned these numbers of tensors of each kind."""
    counts = ONE_CALL
    for kind, number in zip(
        (TRACKED_VIEW, UNTRACKED_VIEW, INFERENCE_VIEW, NORMAL_OUTPUT, INFERENCE_OUTPUT), numbers, strict=True
    ):
        counts += kind.times(number)
    return counts
