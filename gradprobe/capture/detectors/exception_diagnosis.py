"""Diagnosis of autograd's exceptions: the rule, the tensor concerned, and the lines that explain it.

An exception comes here by up to three ways: from an operator or a method as it is thrown, from a trace function as it
passes a frame of the program, and from the end of a recording that it leaves. Only the first way shows the operands, so
the first diagnosis of an exception is kept until the next one.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.detectors.backward_passes import BackwardPasses
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.gradient_hooks import GradientHookDetector
from gradprobe.capture.detectors.refusal_stories import Ledger, Refused, Story, Storyteller, tell_record
from gradprobe.capture.detectors.refused_tensors import find_tensor, is_half_converted, is_inference
from gradprobe.capture.location.frames import forget_locals
from gradprobe.capture.location.handlers import Catcher, FrameAt, find_catcher, is_of_python
from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR
from gradprobe.recording.notes import BlockAt, SourceLocation
from gradprobe.refusals.refusal import Refusal
from gradprobe.refusals.table import OTHER, find_refusal

_MAX_TEXT = 300
_HOOK = re.compile(r"\bhook '(\w+)'")
_NORMALIZATION = str(Path(TORCH_DIR) / "nn" / "modules" / "batchnorm.py")
_TRANSFORMS = str(Path(TORCH_DIR) / "_functorch")
_QUESTION = "inference-version"
"""Row of the message by which a program may find out whether a tensor has a version counter: there is no other way."""
_OF_PASSES = ("GP601", "GP611", "GP612")
"""Rules of backward passes that fail. None is started to find something out: one that is suppressed trains nothing."""


class Diagnosis(NamedTuple):
    """The rule that an exception comes under, with the related lines, moments of blocks and facts."""

    rule: str
    locations: list[SourceLocation | None]
    under: list[BlockAt]
    facts: dict[str, Any]


class Operands(NamedTuple):
    """Facts about the call that failed.

    ``roots`` and ``inputs`` are those of a backward pass.
    """

    tensors: Sequence[Any] = ()
    roots: Sequence[Any] = ()
    inputs: Sequence[Any] = ()


class _Known(NamedTuple):
    """The latest exception, with the number of frames that it has not left; ``catcher`` is None until it is logged."""

    text: str
    error: int | None
    depth: int
    diagnosis: Diagnosis | None
    catcher: Catcher | None


class RefusalDetector:
    """The exceptions of one thread that come from autograd."""

    def __init__(self, log: DetectionLog, ledger: Ledger, hooks: GradientHookDetector) -> None:
        self._log, self._hooks = log, hooks
        self.passes = BackwardPasses()
        self._storyteller = Storyteller(log, ledger, self.passes)
        self._latest = _Known("", None, 0, None, None)

    def on_operator(self, text: str, tensors: list[Any]) -> None:
        """Handle an exception that an operator throws."""
        frames = running_frames(sys._getframe(1))
        kind = NotImplementedError if "implemented" in text else RuntimeError
        self._see(text, None, kind, frames, frames, Operands(tensors))

    def on_call(self, error: Exception, trace: TracebackType | None, operands: Operands) -> None:
        """Handle an exception that leaves a method of a tensor or the engine."""
        frames = running_frames(sys._getframe(1))
        if not self._is_latest(error, len(frames)):
            self._see(str(error), id(error), type(error), frames + trace_frames(trace), frames, operands)

    def on_transfer(self, error: Exception, trace: TracebackType | None) -> None:
        """Handle an exception that leaves what saves or loads; most have nothing to do with autograd."""
        frames = running_frames(sys._getframe(1))
        if not self._is_latest(error, len(frames)):
            self._see(str(error), id(error), type(error), frames + trace_frames(trace), frames, None)

    def diagnose_leaving(self, error: BaseException) -> Diagnosis | None:
        """Return the diagnosis of an exception that leaves the recording, and log that nothing in it has caught it."""
        if not self._is_latest(error):
            self._see(str(error), id(error), type(error), trace_frames(error.__traceback__), [], None)
        known = self._latest
        found = known.diagnosis
        if found is not None and known.catcher is not Catcher.NOBODY:
            if known.catcher is None:
                self._log_detection(found, Catcher.NOBODY)
            else:
                self._log.revise(found.rule, found.locations, found.under, found.facts)
            self._latest = known._replace(catcher=Catcher.NOBODY)
        return found

    def _is_latest(self, error: BaseException, depth: int = 0) -> bool:
        """Return whether ``error``, which ``depth`` frames have still to see, is the latest exception that was diagnosed.

        Another one may be at the address of one that was freed. One that goes on has left a frame since it was seen.
        """
        known = self._latest
        if known.text != str(error) or known.error not in (None, id(error)):
            return False
        if known.error is not None and depth and depth >= known.depth:
            return False
        self._latest = known._replace(error=id(error), depth=depth)
        return True

    def _see(
        self,
        text: str,
        error: int | None,
        kind: type[BaseException],
        frames: list[FrameAt],
        running: list[FrameAt],
        operands: Operands | None,
    ) -> None:
        refusal = find_refusal(text)
        if refusal is OTHER and operands is None:
            refusal = None  # raised by the program or a library, for all that is known
        diagnosis, catcher = None, Catcher.NOBODY
        try:
            if refusal is not None:
                with torch._C.DisableTorchFunction():
                    diagnosis = self._diagnose(refusal, text, frames, operands)
            if diagnosis is not None:
                catcher = find_catcher(frames, kind)
        finally:
            forget_locals(frame for frame, _ in running)
        is_logged = diagnosis is not None and _is_reported(catcher, refusal)
        if is_logged and diagnosis is not None:
            self._log_detection(diagnosis, catcher)
        self._latest = _Known(text, error, len(running), diagnosis, catcher if is_logged else None)

    def _log_detection(self, diagnosis: Diagnosis, catcher: Catcher) -> None:
        caught = {} if catcher is Catcher.NOBODY else {"caught": True}
        self._log.add(diagnosis.rule, diagnosis.locations, diagnosis.under, **diagnosis.facts, **caught)

    def _diagnose(
        self, refusal: Refusal, text: str, frames: list[FrameAt], known_operands: Operands | None
    ) -> Diagnosis | None:
        place = self._find_place(frames)
        if place is None:
            return None
        operands = known_operands or Operands()
        given = [*operands.roots, *operands.tensors]
        subject = find_tensor(refusal.tensor, given, frames) if refusal.tensor else None
        is_traced = known_operands is None
        refused = Refused(text, frames, place, operands.roots, operands.inputs, subject, refusal.node, is_traced)
        story = self._storyteller.tell(refusal.story, refused)
        rule = refusal.rule
        if rule == "GP401" and subject is None:
            _tell_latest(story, self._log)
        elif rule == "GP401" and subject is not None and is_half_converted(subject.tensor):
            rule = "GP402"
        story.locations += [self._find_registration(text), self._find_transform(refusal, frames)]
        if rule == "GP641" and any(frame.f_code.co_filename == _NORMALIZATION for frame, _ in frames):
            story.facts["cause"] = "running-statistics"
        facts = {
            "error": textwrap.shorten(text.split("\n")[0], _MAX_TEXT, placeholder=" ..."),
            "key": refusal.key,
            **story.facts,
        }
        return Diagnosis(rule, story.locations, story.under, facts)

    def _find_registration(self, text: str) -> SourceLocation | None:
        """Return the line that registered the hook that a message names."""
        named = _HOOK.search(text)
        return None if named is None else self._hooks.find_registration(named.group(1))

    def _find_transform(self, refusal: Refusal, frames: list[FrameAt]) -> SourceLocation | None:
        """Return the line of the program that called a function which ``torch.func`` has transformed."""
        inside = False
        for frame, offset in reversed(frames) if refusal.rule == "GP641" else ():
            file = frame.f_code.co_filename
            inside |= file.startswith(_TRANSFORMS) and not file.endswith("functional_call.py")  # it transforms nothing
            if inside and self._log.find_user_frame(frame) is frame:
                return locate_instruction("transformed function called here", frame.f_code, offset)
        return None

    def _find_place(self, frames: list[FrameAt]) -> FrameAt | None:
        """Return the innermost line of the program or a library, which is neither PyTorch's nor Python's own."""
        for frame, offset in reversed(frames):
            if self._log.find_user_frame(frame) is frame and not is_of_python(frame.f_code.co_filename):
                return frame, offset
        return None


def running_frames(frame: FrameType | None) -> list[FrameAt]:
    """Return the running frames from the outside in to ``frame``, without those of gradprobe that were called last."""
    while frame is not None and frame.f_code.co_filename.startswith(GRADPROBE_DIR):
        frame = frame.f_back
    found = []
    while frame is not None:
        found.append((frame, frame.f_lasti))
        frame = frame.f_back
    return found[::-1]


def trace_frames(trace: TracebackType | None) -> list[FrameAt]:
    """Return the frames of a traceback, from the outside in."""
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lasti))
        trace = trace.tb_next
    return found


def _is_reported(catcher: Catcher, refusal: Refusal | None) -> bool:
    """Return whether an exception is a finding: not if who catches it has raised it to find something out."""
    if catcher is Catcher.RAISER:
        return refusal is not None and refusal.key != _QUESTION
    if catcher is Catcher.SUPPRESSED:
        return refusal is not None and refusal.rule in _OF_PASSES
    return catcher in (Catcher.NOBODY, Catcher.PROGRAM)


def _tell_latest(story: Story, log: DetectionLog) -> None:
    """Add the latest inference tensor, for one that no variable refers to.

    It is gone by now: PyTorch drops it before Python traces the exception.
    """
    known = [found for found in (_find_latest(), log.find_last_escaped()) if found is not None]
    record = max(known, key=lambda found: found[1], default=None)
    if record is not None:
        tell_record(story, record)


def _find_latest() -> CreationRecord | None:
    """Return the latest inference tensor still referenced: the best guess if no variable names one."""
    found: CreationRecord | None = None
    for entry in REGISTRY.living():
        tensor = entry[0]()
        if tensor is not None and (found is None or entry[1] > found[1]) and is_inference(tensor):
            found = entry
    return found
