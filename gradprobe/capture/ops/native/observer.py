"""The observer of operators, and the threads that it observes: the library in ``observer.cpp`` as the rest of gradprobe
sees it."""

from __future__ import annotations

import functools
from _thread import get_ident as thread
from collections.abc import Callable
from sys import _current_frames, _getframe
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, dead_ref
from gradprobe.capture.detectors.thread_detectors import (
    QUIET_IN_INFERENCE_MODE,
    BackwardPass,
    Origin,
    SharedDetectors,
    ThreadDetectors,
)
from gradprobe.capture.location.frames import MODULE_CALL_CODE, FrameClassifier
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.optimizers import find_step
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.events import Event
from gradprobe.recording.op_rows import OpCounts


class NativeObserver:
    """The observer of one session.

    Args:
        library: The module that ``load_core`` returns.
        emit: Receives the events of operators.
        now: The clock, in nanoseconds.
        fault: Receives gradprobe's own errors.
        codes: The kinds of code.
        paths: The paths of modules.
        tasks: The labels of asyncio tasks.
        shared: What the detectors of all threads have in common.
    """

    def __init__(
        self,
        library: Any,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
        codes: FrameClassifier,
        paths: ModulePaths,
        tasks: TaskLabels,
        shared: SharedDetectors,
    ) -> None:
        self._library, self._now, self._codes = library, now, codes
        context = {
            "learn": codes.learn_with_questions,
            "find_module_path": paths.path,
            "module_call_code": MODULE_CALL_CODE,
            "task_label": tasks.label,
            "fault": fault,
            "emit": emit,
            "now": now,
            "left_modes": shared.leaks.open,
            "autocasts": shared.autocasts.last,
            "quiet_in_inference_mode": QUIET_IN_INFERENCE_MODE,
        }
        # C++ calls these outside of every function that torch.compile was already made to skip.
        skip_when_compiling(*(function for function in context.values() if hasattr(function, "__code__")))
        self._observer = library.Observer(context)
        self.flush: Callable[[], None] = self._observer.flush_all
        """Emit the operators of all threads so far."""
        self.enable_tasks: Callable[[], None] = lambda: self._observer.set_tasks(True)
        """Ask for the asyncio task of each operator from now on."""
        self.show_parts: Callable[[bool], None] = self._observer.set_parts
        """Observe the parts of composite operators too, or not."""
        self.make_gate: Callable[[Callable[[Event], object]], Callable[[Event], None]] = self._observer.make_gate
        """Return a callable that passes manager events on to another one, after the operators before each."""
        paths.on_change = library.module_paths_changed
        REGISTRY.library = library

    def attach(self, shared: SharedDetectors, on_escaped: Callable[[list[CreationRecord]], None]) -> ObservedThread:
        """Observe the calling thread.

        Args:
            shared: What its detectors have in common with those of other threads.
            on_escaped: Receives the inference tensors of new lines that exist as the thread leaves inference mode, and
                nothing when it is time to look for the places of all.
        """
        observed = ObservedThread(self._library, self._observer, self._now, shared, on_escaped)
        observed.attach()
        return observed

    def take_flow(self) -> tuple[list[Any], list[Any]]:
        """Return the edges of the flow and the paths of calls that were used since the last time."""
        edges, paths = self._observer.take_flow()
        return edges, paths

    def list_held_graphs(self) -> list[tuple[Any, ...]]:
        """Return the graphs that the program holds, by the line whose results hold them."""
        held: list[tuple[Any, ...]] = self._observer.held_graphs()
        return held

    def note_export(self, tensor: torch.Tensor, frame: FrameType, name: str, *, is_shared: bool) -> None:
        """Note that code beyond PyTorch gets the values of a tensor, with its memory or without, by a call in ``frame``."""
        at = _instruction(self._codes.find_user_frame(frame))
        self._observer.note_export(tensor, *at, name, is_shared)

    def take_escaped(self) -> list[CreationRecord]:
        """Return the records of the inference tensors that exist beyond their block, each once."""
        records: list[CreationRecord] = self._observer.take_escaped()
        return records

    def request_look(self) -> None:
        """Let ``on_escaped`` be called as the next thread leaves inference mode, whatever that leaves behind."""
        self._observer.request_look()

    def latest_escaped(self) -> list[CreationRecord]:
        """Return the records of the latest of these tensors by the line that made them."""
        records: list[CreationRecord] = self._observer.latest_escaped()
        return records

    def last_escaped(self) -> CreationRecord | None:
        """Return the record of the last of these tensors, without a reference to it."""
        record = self._observer.last_escaped()
        return None if record is None else (dead_ref, *record[1:])

    def was_reached(self, tensor: torch.Tensor) -> bool:
        """Return whether a backward has gone through the node of ``tensor``."""
        return bool(self._observer.was_reached(tensor))

    def add_by_hand(self, code: int, offset: int, what: str, counts: OpCounts) -> None:
        """Add what the program did by hand, such as a read of a version counter, to the operators of the calling thread.

        Args:
            code: The identity of the code object whose line did it, 0 if it is not known.
            offset: The offset of the instruction in it.
            what: The name of the row.
            counts: What it did.
        """
        self._observer.log_of(thread()).add_by_hand(code, offset, what, counts)

    def stop(self) -> None:
        """Observe nothing more, in any thread."""
        self._observer.flush_all()
        self._observer.stop()
        self._library.clear_saved()

    def abandon(self) -> None:
        """Observe nothing more in a forked child, where locks of the parent's threads may be held for ever."""
        self._library.include_key(False)
        self._observer.stop()


class ObservedThread:
    """The calling thread under observation: its operators, and what the detectors ask about them."""

    def __init__(
        self,
        library: Any,
        observer: Any,
        now: Callable[[], int],
        shared: SharedDetectors,
        on_escaped: Callable[[list[CreationRecord]], None],
    ) -> None:
        self._library, self._observer, self._now, self._ident = library, observer, now, thread()
        self._codes, self._on_step, self._on_escaped = shared.log.codes, shared.on_step, on_escaped
        self.detectors = ThreadDetectors(shared, self._ident, self)
        self.detectors.mode_dependence.library = library
        self._log = observer.log_of(self._ident)
        self.settle_at: Callable[[int], None] = self._log.settle
        """Emit the thread's operators up to a moment, as ``settle`` does for the present one."""

    def attach(self) -> None:
        """Begin to observe."""
        hidden = {
            "on_operator": _without_function_modes(self.detectors.on_operator),
            "on_step": _without_function_modes(self._note_step),
            "on_growth": _without_function_modes(self.detectors.held.look),
            "on_aliases": _without_function_modes(self.detectors.aliases.on_aliases),
            "on_asker": _without_function_modes(self._note_operator_of_asker),
            "on_hook": self.detectors.hooks.on_operator,
            "on_escaped": _without_function_modes(self._on_escaped),
        }
        skip_when_compiling(*hidden.values())
        callbacks = {
            **hidden,
            "on_event": self.detectors.on_event,
            "keep_event": self.detectors.keep_event,
        }
        self._observer.attach(callbacks, self._now())

    def settle(self) -> None:
        """Emit the thread's operators so far, and the nodes that none of them constructed."""
        self.settle_at(self._now())

    def detach(self) -> None:
        """Observe no more; from another thread, the key stays in the thread, where it does nothing."""
        is_own = thread() == self._ident
        if is_own:
            self.settle()
            self._library.include_key(False)
        self._observer.forget_thread(self._ident)
        if is_own:
            self._log.drop_detectors()  # they lead back here, and no garbage collector sees the log between

    def settle_ended(self) -> None:
        """Emit what is left of the thread if it has ended, as one does unseen that imported torch itself."""
        if self._ident not in _current_frames():
            self._log.end()

    def begin_backward(self, outputs: list[torch.Tensor]) -> BackwardPass:
        """Emit the operators so far, and note a backward from ``outputs``, which the running function of PyTorch begins."""
        return BackwardPass(*self._observer.begin_backward(outputs, self._now()))

    def _note_step(self) -> None:
        frame = _getframe(1)
        step = find_step(frame)
        if step is None:
            return
        parameters = [p for group in step.optimizer.param_groups for p in group["params"]]
        # Gradients that no pass has computed yet are not missing: the closure may be about to compute them.
        if not step.has_closure or any(p.grad is not None for p in parameters):
            caller = self._codes.find_user_frame(frame)
            self._observer.begin_step(parameters, *_instruction(caller))
        self._on_step(step.optimizer)

    def _note_operator_of_asker(self, *facts: Any) -> None:
        self.detectors.mode_dependence.on_operator(_getframe(1), *facts)

    # What the detectors ask: see OperatorLedger.

    def origins_between(self, first: int, last: int) -> list[Origin]:
        """Return the lines that constructed the thread's nodes with sequence numbers from ``first`` to ``last``."""
        places: list[Origin] = self._log.origins_between(max(first, 0), last)
        return places

    def writer_of(self, storage: int) -> tuple[int, int] | None:
        """Return the line that wrote a storage last, since a node had saved it."""
        place: tuple[int, int] | None = self._log.writer_of(storage)
        return place

    def on_interest(self, interest: int) -> None:
        """Note the class of operators that the detectors look at from now on."""
        self._log.set_interest(interest)

    def on_quiet(self, is_quiet: bool) -> None:
        """Note whether no detector waits for anything, so that most events need not be shown to them."""
        self._log.set_quiet(is_quiet)


_set_tracing_state: Callable[[Any], None] = torch._C._set_tracing_state  # type: ignore[attr-defined]


def higher_order_patches(library: Any) -> list[Patch]:
    """Return the patch that keeps the observer's key from operators that take functions, such as ``torch.cond``.

    Python chooses what runs for these operators by the highest key of the thread, and none is registered for this one.
    """
    original = getattr(torch._ops, "key_extractor", None)
    if original is None:
        return []

    @functools.wraps(original)
    def key_extractor(*arguments: Any) -> Any:
        return original(*arguments) - library.KEYS

    skip_when_compiling(key_extractor)
    return [Patch(torch._ops, "key_extractor", key_extractor)]


def _instruction(frame: FrameType | None) -> tuple[CodeType | None, int]:
    return (None, 0) if frame is None else (frame.f_code, frame.f_lasti)


def _without_function_modes(callback: Callable[..., None]) -> Callable[..., None]:
    """Return ``callback`` so that what it reads is seen neither by function modes and tensor subclasses of the program nor
    by ``torch.jit.trace``."""

    def call(*arguments: Any) -> None:
        tracing = torch._C._get_tracing_state()
        if tracing is not None:
            _set_tracing_state(None)
        try:
            with torch._C.DisableTorchFunction():
                callback(*arguments)
        finally:
            if tracing is not None:
                _set_tracing_state(tracing)

    return call
