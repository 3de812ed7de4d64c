"""The native core at work in one thread, and what it asks Python where it meets something for the first time."""

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
    """What a watcher shares with its native core, if there is one: ``module`` is None where not."""

    def __init__(
        self,
        module: Any,
        owner: int,
        plans: dict[Any, OpPlan],
        pending: list[PendingOp],
        last: list[int],
        **shared: Any,
    ) -> None:
        self._module, self._owner = module, owner
        self._plans, self._pending, self._last = plans, pending, last
        self._tools = {
            **shared,
            "owner": owner,
            "pending": pending,
            "last": last,
            "plan_of": self._plan_of,
            "event": self._event,
            "account": _account,
            "gathered": self._gathered,
            "defer": self._defer,
        }
        # What C++ calls runs within no function of ours that the compiler was told to skip.
        skip_when_compiling(*(tool for tool in self._tools.values() if hasattr(tool, "__code__")))
        self._core: Any = None
        self.flush: Callable[[], object] = _nothing
        """Emits the operators that have gathered in the core, in their own thread."""
        self.flush_each: Callable[[], object] = _nothing
        """The same from another thread, which must not be interrupted meanwhile."""

    def begin(self, mode: Any) -> None:
        """Has the core do what it can of the operators that ``mode`` sees in this thread."""
        if self._module is not None:
            self._core = self._module.Core(mode, self._tools)
            self.flush, self.flush_each = self._core.flush, self._core.flush_each
            self._module.attach(self._core)

    def end(self) -> None:
        """Undoes it; from another thread, the core at least does no more operators."""
        if self._core is not None:
            self.flush_each()
            leave = self._module.detach if thread() == self._owner else self._module.Core.close
            leave(self._core)
            self._core, self.flush, self.flush_each = None, _nothing, _nothing

    def _plan_of(self, name: str, overload: str) -> tuple[int, OpPlan]:
        func = getattr(getattr(torch.ops.aten, name), overload or "default")
        plan = self._plans.get(func) or self._plans.setdefault(func, OpPlan(func))
        return choose_native_path(func, plan), plan

    def _event(
        self, code: int, offset: int, op: str, module: str, phase: int, task: str | None, account: OpCounts
    ) -> SharedEvent:
        return SharedEvent((OPERATOR, self._owner, (code, offset, op, module, phase, task), None, account))

    def _gathered(self, events: tuple[SharedEvent, ...]) -> SharedEvent:
        return SharedEvent((OP_BATCH, self._owner, events))

    def _defer(self, place: OpPlace, plan: OpPlan, before: int, after: int, refs: Any, account: OpCounts) -> None:
        self._pending.append(PendingOp(place, plan, self._last[0], before, after, refs, (), account, False))
        self._last[0] = after


def _nothing() -> None:
    """What there is to emit without a core."""


def _account(*numbers: int) -> OpCounts:
    """The account of a call that returned so many tensors of each kind."""
    account = ONE_CALL
    for kind, number in zip(
        (TRACKED_VIEW, UNTRACKED_VIEW, INFERENCE_VIEW, NORMAL_OUTPUT, INFERENCE_OUTPUT), numbers, strict=True
    ):
        account += kind.times(number)
    return account
