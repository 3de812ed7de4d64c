"""Detector of modes that stay disabled after the function, generator or task that disabled grad was left.

Rules GP101, GP703 and GP704. A mode change that can outlive its function is remembered with the identity of the frame that
is accountable for it. Whether that frame is still on the stack is asked when it matters: at an operator that gets no node
although an operand requires grad, and when a backward pass begins at a tensor without a graph. Nothing in the program's
frames is kept alive, and functions that do not change the mode cost nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.frames import MODULE_CALL_CODE, find_frame_of, read_local
from gradprobe.capture.location.mode_sites import (
    SUSPENDABLE,
    can_outlive_function,
    find_owner,
    is_with_statement,
)
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, ENTER, EXIT, SET_GRAD_ENABLED, Event
from gradprobe.recording.notes import SourceLocation

_LOOKS = 64
"""Number of operators to look at for one change; half as many again after each of the thread's later events."""
_ENTER_SET = SET_GRAD_ENABLED | ENTER
SetQuiet = Callable[[dict[int, CodeType], dict[int, CodeType], bool], None]
LEFT, LOST, LEAF, FRESH, BACKWARD = "left", "operator", "leaf", "fresh", "backward"
"""Kinds of evidence: nothing but the mode; an operator lost a gradient, that of a leaf which is no parameter, or of one
that was even made afterwards; a backward pass had no graph."""
_BLOCK = (lambda: None).__code__
"""Stand-in for the code of blocks that exit with their function."""


class ModeChange(NamedTuple):
    """A change that disabled grad and is in force: where, and the frame that is accountable for it."""

    key: int
    code: CodeType
    offset: int
    time_ns: int
    owner: CodeType
    owner_frame: int
    owner_line: int
    form: str
    called_from: SourceLocation | None
    is_for_good: bool
    """True if the program's main module made it, which is never left."""


class LeakedModeDetector:
    """Detector of all threads: the changes that disabled grad and can outlive their function.

    ``quiet`` has the code objects, by identity, whose events need not be examined, ``silent`` those whose calls of
    ``set_grad_enabled`` need not be either.
    """

    def __init__(self, log: DetectionLog) -> None:
        self._log = log
        self.quiet: dict[int, CodeType] = {}
        self.silent: dict[int, CodeType] = {}
        self.open: dict[int, list[ModeChange]] = {}
        """The changes in force by thread, in their order; without threads that have none."""
        self._on_watch: SetQuiet = lambda quiet, silent, has_open: None
        self._looks: dict[int, int] = {}
        self._checked: ModeChange | None = None
        self._checks = 0
        self._seen: dict[tuple[int, int, str], CodeType] = {}
        """Reports so far; the code is kept, because its identity is part of the key."""

    def connect(self, set_quiet: SetQuiet) -> None:
        """Set the function that tells the hooks which code need not be examined."""
        self._on_watch = set_quiet
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        if self.open:
            self._on_watch({}, {}, True)
        else:
            self._on_watch(self.quiet, self.silent, False)

    def examine(self, event: Event) -> None:
        """Take in a change by code that is not quiet; while any change is open, all events come here."""
        op, time, ident, code, offset, grad, _, grad_after, _, key = event[:10]
        action = op & ACTION_MASK
        changes = self.open.get(ident, [])
        if changes and not grad:
            self._check_left(ident)
        if action == EXIT:
            if code is not None and code.co_flags & SUSPENDABLE:
                self._note_close(event)
            self._replace(ident, [c for c in changes if c.key != key and not (grad_after is True and c.form == "call")])
        elif action == CONSTRUCT:
            if grad_after:
                self._replace(ident, [c for c in changes if c.form == "generator"])
            elif grad:
                self._open(event, "call")
        else:
            left = [c for c in changes if c.key != key] if op & ~ACTION_MASK == SET_GRAD_ENABLED else changes
            self._replace(ident, left)
            if action == ENTER and not grad_after:
                is_one = op == _ENTER_SET and len(left) < len(changes)
                is_opened = offset >= 0 and (grad or is_one) and self._open(event, "with")
                if left and not is_opened:
                    self._replace(ident, [*left, ModeChange(key, _BLOCK, 0, time, _BLOCK, 0, 0, "block", None, False)])
        if code is not None and id(code) not in self.quiet and not can_outlive_function(code):
            self.quiet[id(code)] = code
        if code is not None and code.co_filename.startswith(TORCH_DIR):
            self.silent[id(code)] = (
                code  # what it sets, as an optimizer does around its step, is not the program's change
            )
        if changes:
            self._looks[ident] = max(self._looks.get(ident, 0), _LOOKS // 8)

    def begin_recording(self, ident: int) -> None:
        """Report again what was reported to earlier recordings, but for changes of this thread that are undone by now."""
        self._seen.clear()
        if torch.is_grad_enabled():
            self.forget_thread(ident)

    def forget_thread(self, ident: int) -> None:
        """Forget the changes of a thread, which ends."""
        self._replace(ident, [])

    def wants_operators(self, ident: int) -> bool:
        """Return whether operators on tensors that require grad can show that a mode was left changed."""
        return ident in self.open and self._looks.get(ident, 0) > 0

    def on_operator(self, ident: int, args: Any, result: Any, code: CodeType | None, offset: int) -> None:
        """Look at an operator that ran without a node."""
        self._looks[ident] = self._looks.get(ident, 0) - 1
        if torch.is_grad_enabled():
            return
        operands = _find_grad_operands(args)
        if not _can_require_grad(result, operands):
            return
        change, now = self._find_left(ident)
        if change is None:
            return
        leaves = [each for each in operands if each.is_leaf and not isinstance(each, torch.nn.Parameter)]
        kind = FRESH if any(_is_made_since(leaf, change.time_ns) for leaf in leaves) else LEAF if leaves else LOST
        role = "gradient of a new tensor lost here" if kind == FRESH else "first gradient lost here"
        self._report(ident, change, kind, locate_instruction(role, code, offset), now, training=_is_training())

    def on_backward(self, ident: int, outputs: list[torch.Tensor], frame: FrameType) -> None:
        """Look at a backward pass that begins in ``frame``."""
        if ident in self.open and not torch.is_grad_enabled() and all(o.grad_fn is None for o in outputs):
            change, now = self._find_left(ident)
            if change is not None:
                at = self._log.locate_frame("this backward pass has no graph", frame)
                record = REGISTRY.get(outputs[0]) if outputs else None
                root = None if record is None else locate_instruction("its result was computed here", *record[2:4])
                self._report(ident, change, BACKWARD, at, now, root=root)

    def _open(self, event: Event, form: str) -> bool:
        """Remember a change if it can outlive its function, and return whether it can."""
        _, time, ident, code, offset, *_ = event
        key = event[9]
        if code is None or code.co_filename.startswith(TORCH_DIR):
            return False
        if not code.co_flags & SUSPENDABLE and is_with_statement(code, offset):
            return False  # the block ends in its function, whoever is accountable for that
        frame = find_frame_of(_getframe(1), code)
        owner = None if frame is None else find_owner(frame)
        if frame is None or owner is None:
            return False
        is_with = is_with_statement(code, offset) and not owner.f_code.co_flags & SUSPENDABLE
        if is_with and (owner is frame or is_with_statement(owner.f_code, owner.f_lasti)):
            return False
        is_main = owner.f_code.co_name == "<module>" and owner.f_globals.get("__name__") == "__main__"
        if is_main and owner is frame:
            return False
        if form == "with":
            form = "generator" if owner.f_code.co_flags & SUSPENDABLE else "enter"
        called = None
        if form != "generator":
            called = self._log.locate_frame("called from here", owner.f_back if owner is frame else owner)
        change = ModeChange(key, code, offset, time, owner.f_code, id(owner), owner.f_lineno, form, called, is_main)
        self._replace(ident, [*self.open.get(ident, ()), change])
        self._looks[ident] = _LOOKS
        return True

    def _replace(self, ident: int, changes: list[ModeChange]) -> None:
        was_open = bool(self.open)
        if changes:
            self.open[ident] = changes
        else:
            self.open.pop(ident, None)
        if bool(self.open) != was_open:
            self._tell_quiet()

    def _find_left(self, ident: int) -> tuple[ModeChange | None, int]:
        """Return the latest change if its function was left, and the line that the function runs now, 0 if none."""
        changes = self.open.get(ident)
        if not changes:
            return None, 0
        change = changes[-1]
        if change.form == "block":
            return None, 0
        for frame in _iter_frames():
            if frame.f_code is change.owner and (change.is_for_good or id(frame) == change.owner_frame):
                # A helper's block may have ended in it; the rule compares the lines.
                return (change, frame.f_lineno) if change.owner is not change.code else (None, 0)
        return (None, 0) if change.is_for_good else (change, 0)

    def _check_left(self, ident: int) -> None:
        """Note that a function was left with its change in force; looked for less and less often while it runs."""
        change = self.open[ident][-1]
        self._checks = number = self._checks + 1 if change is self._checked else 1
        self._checked = change
        if number & (number - 1) == 0 and (id(change.code), change.offset, LEFT) not in self._seen:
            left, now = self._find_left(ident)
            if left is not None and not now:
                self._report(ident, left, LEFT, None, 0)

    def _report(
        self,
        ident: int,
        change: ModeChange,
        kind: str,
        lost: SourceLocation | None,
        now: int,
        training: bool | None = None,
        root: SourceLocation | None = None,
    ) -> None:
        seen = (id(change.code), change.offset, f"{kind}{lost if now else ''}")
        if seen in self._seen:
            return
        self._seen[seen] = change.code
        set_at = locate_instruction("mode set here", change.code, change.offset)
        within = [change.owner.co_filename, change.owner_line, now] if now else None
        self._log.add(
            "left-mode",
            [set_at, change.called_from, lost, root],
            kind=kind,
            form=change.form,
            suspends="generator"
            if change.owner.co_flags & inspect.CO_GENERATOR
            else "task"
            if change.owner.co_flags & SUSPENDABLE
            else "",
            thread=ident,
            set_ns=change.time_ns,
            time_ns=self._log.now(),
            training=training,
            within=within,
        )

    def _note_close(self, event: Event) -> None:
        """Note who closed a suspended generator or coroutine whose block was open, and in which thread."""
        _, time, ident, code, offset, *_ = event
        if event[10] is not GeneratorExit:
            return
        frame = find_frame_of(_getframe(1), code)
        closer = None if frame is None else self._log.locate_frame("closed from here", frame.f_back)
        if closer is not None:
            exited = locate_instruction("block entered here", code, offset)
            self._log.add("closed", [exited, closer], thread=ident, time_ns=time)


def _iter_frames() -> Iterator[FrameType]:
    frame: FrameType | None = _getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def loses_gradient(args: Any, result: Any) -> bool:
    """Return whether an operator without a node would have had one with grad enabled."""
    return _can_require_grad(result, _find_grad_operands(args))


def _find_grad_operands(args: Any) -> list[torch.Tensor]:
    tensors = (t for arg in args for t in iter_tensors(arg))
    return [tensor for tensor in tensors if tensor.requires_grad]


def _can_require_grad(result: Any, operands: list[torch.Tensor]) -> bool:
    """Return whether a result would have a graph with grad enabled: it is no integer, and no leaf that was written to."""
    return bool(operands) and any(
        (r.is_floating_point() or r.is_complex()) and not any(r is operand and r.is_leaf for operand in operands)
        for r in iter_tensors(result)
    )


def _is_made_since(tensor: torch.Tensor, time_ns: int) -> bool:
    """Return whether a tensor was made after a moment."""
    record = REGISTRY.get(tensor)
    return record is not None and record[1] > time_ns


def _is_training() -> bool | None:
    """Return whether the innermost module that is running is in training mode, None outside of modules."""
    frame = find_frame_of(_getframe(1), MODULE_CALL_CODE)
    module = None if frame is None else read_local(frame, "self")
    return None if module is None else bool(module.training)
