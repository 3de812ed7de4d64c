"""Reports of the hooks and patches that level ``ops`` needs: what the program does besides running operators.

They observe refused calls, values given to other code, version counters that the program reads or bumps by hand, tensors
it swaps, autocast blocks, and work it submits to other threads.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import _getframe
from types import TracebackType
from typing import Any, Protocol

import torch

from gradprobe.capture.autograd.creation import REGISTRY, materialize_patches, swap_patches
from gradprobe.capture.autograd.version_counters import version_of, version_patches
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker
from gradprobe.capture.detectors.checkpointed_calls import report_checkpoint_without_inputs
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import Operands
from gradprobe.capture.detectors.gradient_hooks import GradientHookDetector
from gradprobe.capture.detectors.missing_gradients import report_gradient_of_result
from gradprobe.capture.detectors.persistent_tensors import PersistentTensorDetector
from gradprobe.capture.location.frames import is_called_by_torch
from gradprobe.capture.ops.inference_tensor_events import InferenceTensorEvents
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.capture.ops.native.observer import NativeObserver, ObservedThread, higher_order_patches
from gradprobe.capture.ops.refusal_hooks import GIVEN_BY_PYTORCH, refusal_patches
from gradprobe.capture.ops.transfer_phases import transfer_patches
from gradprobe.capture.patching.patches import Patches
from gradprobe.recording.op_rows import OpCounts
from gradprobe.refusals.table import WORDS


class ObservedThreads(Protocol):
    """The threads that are observed at this moment."""

    def find_current(self) -> ObservedThread | None:
        """Return the calling thread, None if it is not observed."""

    def find_observer(self) -> NativeObserver | None:
        """Return what observes the threads, None if nothing does."""


class HookReports:
    """The hooks and patches of one session, and what they report of its threads."""

    def __init__(
        self,
        threads: ObservedThreads,
        fault: Callable[[Exception], None],
        log: DetectionLog,
        tensors: InferenceTensorEvents,
        persistent: PersistentTensorDetector,
        autocasts: AutocastTracker,
        gradient_hooks: GradientHookDetector,
    ) -> None:
        self._threads, self._fault, self._log = threads, fault, log
        self._tensors, self._persistent = tensors, persistent
        self._autocasts, self._gradient_hooks = autocasts, gradient_hooks
        self._patches = Patches()
        self._installed = 0

    def install(self) -> None:
        """Apply the patches and set the hooks, unless that is done."""
        if self._patches.are_applied:
            return
        self._installed += 1
        if_installed = self._while_installed
        failed, bumped = if_installed(self._on_read_failed), if_installed(self._on_increment)
        others = [
            *swap_patches(self._tensors.forget),
            *materialize_patches(if_installed(self._on_materialized)),
            *self._autocasts.patches(),
            *higher_order_patches(load_core()),
            *transfer_patches(load_core(), self._on_transfer_failed),
            *refusal_patches(
                load_core(),
                self._on_call_refused,
                if_installed(self._on_export),
                if_installed(self._gradient_hooks.on_registered),
                if_installed(self._on_no_gradient),
                if_installed(self._on_checkpoint),
            ),
        ]
        self._patches.apply([*version_patches(load_core(), failed, bumped), *others])
        load_core().show_refusals(self._on_operator_refused, WORDS)

    def remove(self) -> None:
        """Clear the hooks and restore what was patched."""
        if self._patches.are_applied:
            self._safely(lambda: load_core().show_refusals(None, ()))
        self.restore_patches()

    def restore_patches(self) -> None:
        """Restore what was patched, and leave the hooks of the library to the process that set them."""
        self._safely(self._patches.restore)

    def look_at_persistent_tensors(self, *, at_times: bool = False) -> None:
        """Look at the tensors that the program keeps, at each call or at growing intervals."""
        with torch._C.DisableTorchFunction():
            (self._persistent.look_at_times if at_times else self._persistent.look)(_getframe(1))

    def _while_installed(self, step: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``step`` so that it does nothing if this installation's patches are no longer applied.

        Another tool that patched the same attribute may still call gradprobe's replacement after it was restored.
        """
        installed = self._installed

        def call(*arguments: Any) -> None:
            try:
                is_live = self._patches.are_applied and installed == self._installed
            except Exception as error:
                self._fault(error)
            else:
                if is_live:
                    step(*arguments)

        return call

    def _on_operator_refused(self, text: str, tensors: list[Any], op: str) -> None:
        observed = self._threads.find_current()
        if observed is not None:
            self._safely(lambda: self.look_at_persistent_tensors(at_times=True))
            self._safely(lambda: observed.detectors.refusals.on_operator(text, tensors))

    def _on_call_refused(self, error: Exception, trace: TracebackType | None, operands: Operands) -> None:
        observed = self._threads.find_current()
        if observed is not None:
            self._safely(lambda: observed.detectors.refusals.on_call(error, trace, operands))

    def _on_transfer_failed(self, error: Exception, trace: TracebackType | None) -> None:
        observed = self._threads.find_current()
        if observed is not None:
            self._safely(lambda: observed.detectors.refusals.on_transfer(error, trace))

    def _on_export(self, name: str, is_shared: bool, arguments: tuple[Any, ...]) -> None:
        """Note the line that gave the values of a tensor to NumPy or other code beyond PyTorch."""
        observer, frame = self._threads.find_observer(), _getframe(1)
        if name in GIVEN_BY_PYTORCH and is_called_by_torch(frame):
            return
        is_plain = bool(arguments) and type(arguments[0]) in (torch.Tensor, torch.nn.Parameter)
        if observer is not None and is_plain and self._threads.find_current() is not None:
            self._safely(lambda: observer.note_export(arguments[0], frame, name, is_shared=is_shared))

    def _on_no_gradient(self, tensor: torch.Tensor) -> None:
        """Report the line that reads ``grad`` of a result, which no backward fills."""
        frame = _getframe(1)
        if self._is_observed() and not tensor.retains_grad and not is_called_by_torch(frame):
            self._safely(lambda: report_gradient_of_result(tensor, frame, self._log))

    def _on_checkpoint(self, arguments: tuple[Any, ...]) -> None:
        if self._is_observed():
            self._safely(lambda: report_checkpoint_without_inputs(arguments, self._log))

    def _on_materialized(self, tensor: Any) -> None:
        observer = self._threads.find_observer()
        if observer is not None and torch.is_inference_mode_enabled() and self._is_observed():
            self._tensors.on_materialized(tensor, observer)

    def _on_read_failed(self, error: Exception, trace: TracebackType | None, tensor: torch.Tensor) -> None:
        self._on_call_refused(error, trace, Operands([tensor]))
        self._add_by_hand("Tensor._version", OpCounts(calls=1, failed_version_reads=1))

    def _on_increment(self, tensors: Any) -> None:
        if REGISTRY.library is not None and REGISTRY.library.is_running():
            return  # the operator's own account has the tensors that it writes
        with torch._C.DisableTorchFunction():
            bumped = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            number = sum(version_of(tensor) is not None for tensor in bumped)
        self._add_by_hand("increment_version", OpCounts(calls=1, version_bumps=number))

    def _add_by_hand(self, what: str, counts: OpCounts) -> None:
        """Add a read or bump of version counters that the program made by hand, at its line."""
        try:
            frame = self._log.codes.find_user_frame(_getframe(2))
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            observer = self._threads.find_observer()
            if observer is not None:
                observer.add_by_hand(*at, what, counts)
        except Exception as error:
            self._fault(error)

    def _is_observed(self) -> bool:
        return self._threads.find_current() is not None

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)
