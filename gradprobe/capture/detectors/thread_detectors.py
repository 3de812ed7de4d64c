"""The detectors of one thread, called for its events and, while any needs it, for its operators."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

import torch

from gradprobe.capture.autograd.creation import CreationRecord
from gradprobe.capture.autograd.graph import leaf_tensors
from gradprobe.capture.detectors.aliases import AliasDetector
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker, is_autocast_enabled
from gradprobe.capture.detectors.cleared_gradients import ClearedPart, report_cleared_part
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import EscapedTensorDetector, locate_tensor_creation
from gradprobe.capture.detectors.exception_diagnosis import RefusalDetector
from gradprobe.capture.detectors.gradient_hooks import GradientHookDetector
from gradprobe.capture.detectors.held_graphs import HeldGraphDetector
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector, loses_gradient
from gradprobe.capture.detectors.mode_dependence import ModeDependenceDetector
from gradprobe.capture.detectors.unseen_writes import UnseenWrite, report_unseen_writes
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.events import (
    ACTION_MASK,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    SET_GRAD_ENABLED,
    Event,
)
from gradprobe.recording.notes import BlockAt, SourceLocation

Origin = tuple[int, int]
"""Identity of the code object and offset of the line that constructed a node."""

_MIN_ITERATIONS_AGAIN = 3
_MAX_PLACES_AGAIN = 4

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
QUIET_IN_INFERENCE_MODE = (
    *(NO_GRAD | ENTER, NO_GRAD | EXIT, ENABLE_GRAD | EXIT, SET_GRAD_ENABLED | EXIT),
    *(INFERENCE_MODE | ENTER, INFERENCE_MODE | EXIT),
)
"""Operations of manager events that concern no detector in inference mode."""
_FUNCTIONAL = f"{TORCH_DIR}autograd/functional.py"


class BackwardPass(NamedTuple):
    """A backward pass that begins at an instruction of the program, and the nodes that it goes through.

    ``is_grad`` if it is one of ``autograd.grad``; ``retain_graph`` and ``create_graph`` as they were given. ``ranges`` of
    sequence numbers, each by its first and last one. ``again`` of its nodes an earlier pass has gone through; they were
    constructed in ``iterations`` different iterations, at ``places``. ``unseen`` are writes to what the nodes saved which
    its version counter missed. ``cleared`` is the part of the graph that leads only to leaves whose earlier gradients were
    cleared, None if there is none.
    """

    code: CodeType | None
    offset: int
    is_grad: bool
    retain_graph: bool | None
    create_graph: bool | None
    ranges: list[tuple[int, int]]
    again: int
    iterations: int
    places: list[tuple[Origin, int]]
    unseen: list[UnseenWrite]
    cleared: ClearedPart | None


class OperatorLedger(Protocol):
    """Facts about one thread that the observer of operators knows besides the operators themselves."""

    def origins_between(self, first: int, last: int) -> list[Origin]:
        """Return the lines that constructed the thread's nodes with sequence numbers from ``first`` to ``last``."""

    def writer_of(self, storage: int) -> tuple[int, int] | None:
        """Return the line that wrote a storage last, since a node had saved it."""

    def on_interest(self, interest: int) -> None:
        """Note the class of operators that the detectors look at from now on. Outside inference mode they also look at
        all that take an inference tensor, once one has escaped."""

    def on_quiet(self, is_quiet: bool) -> None:
        """Note whether no detector waits for anything, so that most events need not be shown to them."""


@dataclass(frozen=True)
class SharedDetectors:
    """Parts that the detectors of all threads have in common.

    Attributes:
        log: Log of detections.
        autocasts: Tracker of autocast blocks.
        leaks: Detector of modes that are left changed.
        held: Detector of graphs that the program keeps.
        report_hooks: Reports activations that forward hooks keep.
        on_step: Receives each optimizer that steps.
        hooks: Detector of hooks that change gradients.
        on_kept_tensor: Receives what operators outside inference mode do with an inference tensor.
        fault: Receives gradprobe's own errors.
    """

    log: DetectionLog
    autocasts: AutocastTracker
    leaks: LeakedModeDetector
    held: HeldGraphDetector
    report_hooks: Callable[[], None]
    hooks: GradientHookDetector
    on_step: Callable[[torch.optim.Optimizer], None]
    on_kept_tensor: Callable[[CreationRecord, str, CodeType | None, int], None]
    fault: Callable[[Exception], None]


class ThreadDetectors:
    """The detectors of one thread.

    ``interest`` is the class of operators that a detector looks at, from ``interest.py``.
    """

    def __init__(self, shared: SharedDetectors, ident: int, ledger: OperatorLedger) -> None:
        self.interest = NO_OPS
        self._ledger, self._ident = ledger, ident
        log = shared.log
        self.held = shared.held
        self.hooks = shared.hooks
        self.aliases = AliasDetector(log)
        events = log.events_of(ident)
        events.clear()  # a block that an earlier recording saw entered has ended since, unseen
        self.mode_dependence = ModeDependenceDetector(log, events)
        self.refusals = RefusalDetector(log, ledger, shared.hooks)
        self._log, self._autocasts, self._leaks = log, shared.autocasts, shared.leaks
        self._report_hooks = shared.report_hooks
        self._escaped_tensors = EscapedTensorDetector(log, shared.on_kept_tensor)
        self._resets_gradients = False
        self._second_order: (
            tuple[SourceLocation | None, SourceLocation | None, list[weakref.ref[torch.Tensor]]] | None
        ) = None
        self._restored_autocast: tuple[list[SourceLocation | None], list[BlockAt]] | None = None
        self._vain: dict[int, BlockAt] = {}
        self.keep_event: Callable[[Event], None] = events.append
        """Keep a manager event, by which blocks are found later."""
        self._is_quiet = False

    def on_event(self, event: Event, is_due: bool) -> None:
        """Handle a manager event that may concern a detector.

        Args:
            event: The event, whose operators have been emitted.
            is_due: Whether to look for what is looked for at times.
        """
        self._look_at(event)
        if is_due:
            self._report_hooks()

    def _look_at(self, event: Event) -> None:
        op, time, ident, code, _, _, inference, grad_after, _, key = event[:10]
        action = op & ACTION_MASK
        if action == ENTER:
            if op == ENABLE_GRAD | ENTER and inference:
                self._check_derivative(ident, time)
            enables = grad_after is True and inference is True and code is not None
            if enables and torch.is_inference_mode_enabled():
                self._vain[key] = BlockAt("inference mode entered here", ident, time)
        elif action == EXIT:
            self._vain.pop(key, None)
            if op == INFERENCE_MODE | EXIT:
                self._check_autocast(ident, self._log.time_of_entry(ident, key, time))
        self._update_interest()
        self._update_quiet()

    def on_operator(
        self, name: str, args: Any, result: Any, code: CodeType | None, offset: int, has_node: bool
    ) -> None:
        """Handle an operator of the class in ``interest``; ``has_node`` if autograd constructed a node."""
        if self._restored_autocast is not None:
            locations, under = self._restored_autocast
            self._restored_autocast = None
            self._log.add("GP705", [*locations, locate_instruction("ran under it here", code, offset)], under)
        if not has_node and self._vain:
            self._on_vain_operator(args, result, code, offset)
        if not has_node and self._leaks.wants_operators(self._ident):
            self._leaks.on_operator(self._ident, args, result, code, offset)
        if not torch.is_inference_mode_enabled():
            self._escaped_tensors.on_operator(name, args, code, offset, has_node)
        self._update_interest()

    def on_backward(self, outputs: list[torch.Tensor], backward: BackwardPass) -> None:
        """Handle a backward that begins."""
        retains, creates = backward.retain_graph, backward.create_graph
        if creates and not backward.is_grad:
            self._report_gradient_cycles()
            leaves = [weakref.ref(leaf) for leaf in leaf_tensors(outputs)]
            self._second_order = _locate_backward(backward), next(iter(locate_leaves(outputs)), None), leaves
        self.held.on_backward(backward.ranges)
        if backward.iterations >= _MIN_ITERATIONS_AGAIN:
            self._report_growing_backward(backward)
        if backward.unseen:
            report_unseen_writes(backward.unseen, _locate_backward(backward), _getframe(1), self._log)
        if backward.cleared is not None:
            report_cleared_part(backward.cleared, _locate_backward(backward), _getframe(1), self._log)
        frees = not (creates if retains is None else retains)
        self.refusals.passes.add(backward.code, backward.offset, backward.ranges, frees=frees)

    def _report_gradient_cycles(self) -> None:
        """Report the last backward with ``create_graph`` if its gradients with their graphs are still there.

        The time to look is the next such backward, not the next backward of any kind: until then an optimizer may
        differentiate the gradients, or another model may be trained.
        """
        if self._second_order is None:
            return
        at, created, leaves = self._second_order
        self._second_order = None
        grads = (leaf.grad for ref in leaves if (leaf := ref()) is not None)
        if any(grad is not None and grad.grad_fn is not None for grad in grads):
            self._log.add("GP203", [at, created])
        else:
            self._resets_gradients = True

    def _report_growing_backward(self, backward: BackwardPass) -> None:
        """Report a backward that goes through the graphs of earlier iterations again, more of them in each iteration."""
        at = _locate_backward(backward)
        places = sorted(backward.places, key=lambda item: -item[1])[:_MAX_PLACES_AGAIN]
        held = self._log.codes.held
        lines = [
            locate_instruction("graph of earlier iterations", held.get(code), offset) for (code, offset), _ in places
        ]
        self._log.add("GP205", [at, *lines], nodes=backward.again, iterations=backward.iterations)

    def on_thread_end(self) -> None:
        """Finish, because the calling thread is not observed any more."""
        self.finish()

    def finish(self) -> None:
        """Report what waited for more of the thread; called in any thread."""
        if not self._resets_gradients:  # else only the last iteration has not come to it
            self._report_gradient_cycles()
        self.mode_dependence.finish()

    def _update_interest(self) -> None:
        if self._restored_autocast is not None or self._escaped_tensors.waits:
            interest = ALL_OPS
        elif self._vain or self._leaks.wants_operators(self._ident):
            interest = OPS_ON_GRAD_TENSORS
        else:
            interest = NO_OPS
        if interest != self.interest:
            self.interest = interest
            self._ledger.on_interest(interest)

    def _update_quiet(self) -> None:
        is_quiet = not self.interest
        if is_quiet is not self._is_quiet:
            self._is_quiet = is_quiet
            self._ledger.on_quiet(is_quiet)

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

    def _on_vain_operator(self, args: Any, result: Any, code: CodeType | None, offset: int) -> None:
        """Report an operator that enabling grad was meant for, but that gets no node because of inference mode."""
        if loses_gradient(args, result):
            key, under = self._vain.popitem()
            self._log.add("GP103", [locate_instruction("records nothing", code, offset)], [under], key=key)


def _locate_backward(backward: BackwardPass) -> SourceLocation | None:
    return locate_instruction("backward here", backward.code, backward.offset)


def locate_leaves(outputs: list[torch.Tensor]) -> Iterator[SourceLocation]:
    """Yield the lines that created the leaves behind ``outputs``, as far as they were recorded."""
    for leaf in leaf_tensors(outputs):
        found = locate_tensor_creation(leaf, "leaf made here")
        if found is not None:
            yield found
