"""The detectors of one thread, called for its events and, while any needs it, for its operators."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

import torch

from gradprobe.capture.autograd.creation import CreationRecord
from gradprobe.capture.autograd.graph import leaf_tensors
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker, is_autocast_enabled
from gradprobe.capture.detectors.cut_graphs import CutGraphDetector
from gradprobe.capture.detectors.detection_log import Block, DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import EscapedTensorDetector, locate_tensor_creation
from gradprobe.capture.detectors.exception_diagnosis import RefusalDetector
from gradprobe.capture.detectors.exception_tracer import ExceptionTracer
from gradprobe.capture.detectors.held_graphs import HeldGraphDetector
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.location.frames import find_frame_of, read_local
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.events import (
    ACTION_MASK,
    CONSTRUCT,
    DECORATED,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    SET_GRAD_ENABLED,
    Event,
)
from gradprobe.recording.notes import BlockAt, SourceLocation

Origin = tuple[int, int]
"""Identity of the code object and offset of the line that constructed a node."""

_MIN_ITERATIONS_AGAIN = 3
_MAX_PLACES_AGAIN = 4

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONAL = f"{TORCH_DIR}autograd/functional.py"


class BackwardPass(NamedTuple):
    """What a backward pass goes through.

    ``ranges`` of sequence numbers, each by its first and last one. ``again`` of its nodes an earlier pass has gone through; they
    were constructed in ``iterations`` different iterations, at ``places``.
    """

    ranges: list[tuple[int, int]]
    again: int
    iterations: int
    places: list[tuple[Origin, int]]


class OperatorLedger(Protocol):
    """What the observer of operators knows of one thread besides the operators themselves."""

    def origins_between(self, first: int, last: int) -> list[Origin]:
        """Return the lines that constructed the thread's nodes with sequence numbers from ``first`` to ``last``."""

    def writer_of(self, storage: int) -> tuple[int, int] | None:
        """Return the line that wrote a storage last, since a node had saved it."""

    def views_of_older(self, moment: int) -> list[CreationRecord]:
        """Return the records of the latest views that were made since ``moment``, of tensors that are older."""

    def on_interest(self, interest: int) -> None:
        """Note the class of operators that the detectors look at from now on."""

    def list_held_graphs(self) -> list[tuple[Any, ...]]:
        """Return the graphs that the program holds, by the line whose results hold them."""


class ThreadDetectors:
    """The detectors of one thread.

    ``interest`` is the class of operators that a detector looks at, from ``interest.py``.
    """

    def __init__(
        self,
        log: DetectionLog,
        autocasts: AutocastTracker,
        fault: Callable[[Exception], None],
        ledger: OperatorLedger,
        roots: Callable[[], list[Any]],
    ) -> None:
        self.interest = NO_OPS
        self._ledger = ledger
        self.held = HeldGraphDetector(log, ledger.list_held_graphs, roots)
        self.refusals = RefusalDetector(log, ledger)
        self._log, self._autocasts = log, autocasts
        self._cut_graphs, self._escaped_tensors = CutGraphDetector(log), EscapedTensorDetector(log)
        self._leaked_modes = LeakedModeDetector(log)
        self._tracer = ExceptionTracer(log.codes, self.refusals.on_traced, fault)
        self._second_order: (
            tuple[SourceLocation | None, SourceLocation | None, list[weakref.ref[torch.Tensor]]] | None
        ) = None
        self._has_escaped = False
        self._views: list[CreationRecord] = []
        self._callers: set[tuple[int, int]] = set()
        self._restored_autocast: tuple[list[SourceLocation | None], list[BlockAt]] | None = None
        self._entered: dict[int, Block] = {}
        self._has_views_of_older = False

    def on_event(self, event: Event, escaped: bool, has_views_of_older: bool) -> None:
        """Handle a manager event.

        Args:
            event: The event, whose operators have been emitted.
            escaped: Whether inference tensors are referenced outside inference mode.
            has_views_of_older: Whether the thread has made views of tensors that are older than the event before.
        """
        op, time, ident, code, offset, grad, inference, grad_after, _, key = event[:10]
        self._has_views_of_older |= has_views_of_older
        action = op & ACTION_MASK
        if action == ENTER:
            if not grad_after:
                if grad:
                    self._on_grad_disabled(key, code, offset)
                if code is not None:
                    self._entered[key] = self._log.enter_block(ident, time, code, offset)
            elif op == ENABLE_GRAD | ENTER and inference:
                self._check_derivative(ident, time)
            if not grad or grad_after:
                self._leaked_modes.on_exit(key)
        elif action == EXIT:
            self._cut_graphs.on_exit(key)
            self._leaked_modes.on_exit(key)
            block = self._entered.pop(key, None)
            if block is not None:
                block.exited_ns = time
            entered = time if block is None else block.entered_ns
            if op == INFERENCE_MODE | EXIT:
                self._check_autocast(ident, entered)
            if self._has_views_of_older and torch.is_grad_enabled() and code is not None:
                self._has_views_of_older = False
                if not code.co_filename.startswith(TORCH_DIR):
                    # PyTorch refuses to modify them in place after the block.
                    self._views += [v for v in self._ledger.views_of_older(entered) if _is_floating_view(v[0]())]
        elif op == SET_GRAD_ENABLED | CONSTRUCT and code is not None:
            if grad_after:
                self._leaked_modes.on_grad_enabled()
            elif grad:
                self._leaked_modes.on_call(key, code, offset)
                self._log_caller(code, offset)
        else:
            self._leaked_modes.on_exit(key)
        self._has_escaped = escaped
        while self._views and self._views[-1][0]() is None:
            self._views.pop()
        if escaped or (self._views and torch.is_grad_enabled()):
            self._tracer.begin(self._log.find_user_frame(_getframe(1)))
        elif self._tracer.is_on:
            self._tracer.end()
        self._update_interest()

    def _on_grad_disabled(self, key: int, code: CodeType | None, offset: int) -> None:
        if offset == DECORATED:
            self._cut_graphs.on_enter(key, code)
        self._leaked_modes.on_enter(key, code, offset)

    def on_operator(
        self, name: str, args: Any, result: Any, code: CodeType | None, offset: int, has_node: bool
    ) -> None:
        """Handle an operator of the class in ``interest``; ``has_node`` if autograd constructed a node."""
        if self._restored_autocast is not None:
            locations, under = self._restored_autocast
            self._restored_autocast = None
            self._log.add("GP705", [*locations, locate_instruction("ran under it here", code, offset)], under)
        if self._cut_graphs.interest:
            self._cut_graphs.on_operator(args, result, code, offset, has_node)
        if not has_node and self._leaked_modes.is_waiting:
            self._leaked_modes.on_operator(args, code, offset)
        if self._has_escaped:
            self._escaped_tensors.on_operator(name, args, code, offset, has_node)
        self._update_interest()

    def on_subclass_view(self) -> None:
        """Trace exceptions, because a tensor subclass is viewed in inference mode, which PyTorch may refuse."""
        self._tracer.begin(self._log.find_user_frame(_getframe(1)))

    def on_backward(self, outputs: list[torch.Tensor], backward: BackwardPass, frame: FrameType) -> None:
        """Handle a backward that begins in ``frame``."""
        self._report_gradient_cycles()
        if frame.f_code.co_name == "backward" and read_local(frame, "create_graph"):
            leaves = [weakref.ref(leaf) for leaf in leaf_tensors(outputs)]
            at = self._log.locate_frame("backward here", frame)
            self._second_order = at, next(iter(locate_leaves(outputs)), None), leaves
        self.held.on_backward(backward.ranges)
        if backward.iterations >= _MIN_ITERATIONS_AGAIN:
            self._report_growing_backward(backward, frame)
        retains, creates = (read_local(frame, name) for name in ("retain_graph", "create_graph"))
        frees = not (creates if retains is None else retains)
        self.refusals.passes.add(self._log.locate_frame("backward here", frame), backward.ranges, frees=frees)

    def _report_gradient_cycles(self) -> None:
        """Report the last backward with ``create_graph`` if its gradients with their graphs are still there."""
        if self._second_order is None:
            return
        at, created, leaves = self._second_order
        self._second_order = None
        grads = (leaf.grad for ref in leaves if (leaf := ref()) is not None)
        if any(grad is not None and grad.grad_fn is not None for grad in grads):
            self._log.add("GP203", [at, created])

    def _report_growing_backward(self, backward: BackwardPass, frame: FrameType) -> None:
        """Report a backward that goes through the graphs of earlier iterations again, more of them in each iteration."""
        at = self._log.locate_frame("backward here", frame)
        places = sorted(backward.places, key=lambda item: -item[1])[:_MAX_PLACES_AGAIN]
        held = self._log.codes.held
        lines = [
            locate_instruction("graph of earlier iterations", held.get(code), offset) for (code, offset), _ in places
        ]
        self._log.add("GP205", [at, *lines], nodes=backward.again, iterations=backward.iterations)

    def on_thread_end(self) -> None:
        """Finish, because the thread is not observed any more."""
        self._tracer.end()
        self._report_gradient_cycles()
        self.held.look()
        self.held.on_thread_end()

    def _update_interest(self) -> None:
        if self._has_escaped or self._restored_autocast is not None:
            interest = ALL_OPS
        else:
            interest = self._cut_graphs.interest
            if interest < OPS_ON_GRAD_TENSORS and self._leaked_modes.is_waiting:
                interest = OPS_ON_GRAD_TENSORS
        if interest != self.interest:
            self.interest = interest
            self._ledger.on_interest(interest)

    def _check_derivative(self, ident: int, time: int) -> None:
        """Report ``jacobian`` and the like, which enable grad inside inference mode without effect."""
        frame: FrameType | None = _getframe(1)
        while frame is not None and frame.f_code.co_filename != _FUNCTIONAL:
            if self._log.find_user_frame(frame) is frame:
                return
            frame = frame.f_back
        if frame is not None:
            called = self._log.locate_frame("called here", frame)
            self._log.add("GP501", [called], [BlockAt("inference mode entered here", ident, time)])

    def _check_autocast(self, ident: int, entered: int) -> None:
        """Note that exiting inference mode restored an autocast whose block has ended."""
        if self._autocasts.open.get(ident, 0) or not is_autocast_enabled() or ident not in self._autocasts.last:
            return
        frame = self._log.find_user_frame(_getframe(1))
        while frame is not None and frame.f_code.co_flags & (_SUSPENDED):
            frame = self._log.find_user_frame(frame.f_back)
        closed = None if frame is None else locate_instruction("exited here", frame.f_code, frame.f_lasti)
        # The block is over by the time it is looked up: the moment after its entry is within it.
        under = [BlockAt("inference mode entered here", ident, entered + 1)]
        self._restored_autocast = [closed, self._autocasts.last[ident]], under

    def _log_caller(self, code: CodeType, offset: int) -> None:
        """Log the caller of a function that calls ``set_grad_enabled``, once per line."""
        if (id(code), offset) in self._callers or code.co_name == "<module>":
            return
        self._callers.add((id(code), offset))
        frame = find_frame_of(_getframe(1), code)
        if frame is not None:
            caller = self._log.locate_frame("called from here", frame.f_back)
            if caller is not None:
                self._log.add("called", [locate_instruction("set here", code, offset), caller])


def locate_leaves(outputs: list[torch.Tensor]) -> Iterator[SourceLocation]:
    """Yield the lines that created the leaves behind ``outputs``, as far as they were recorded."""
    for leaf in leaf_tensors(outputs):
        found = locate_tensor_creation(leaf, "leaf made here")
        if found is not None:
            yield found


def _is_floating_view(tensor: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return tensor is not None and bool(tensor._is_view() and tensor.is_floating_point())
