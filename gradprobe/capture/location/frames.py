"""Stack frames: walks along them, reads of their variables, and the kind of code that each runs."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import sysconfig
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.location.mode_questions import ModeQuestions
from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR

MODULE_CALL_CODE: CodeType = torch.nn.Module._wrapped_call_impl.__code__
"""The code that runs whenever a module is called.

Its frame is read rather than that of the function it calls, which has many local variables to copy.
"""
SKIPPED, USER, MODULE_CALL, OPTIMIZER, OWN = range(5)
"""Kinds of code; the observer's library uses the same numbers. ``OWN`` is that of gradprobe which
looks at the program's tensors."""
ASKS_MODE = 16
"""Added to a kind for the observer's library: the code asks whether grad or inference mode is enabled."""
_OPTIMIZER_DIR = f"{TORCH_DIR}optim"
_STDLIB_DIR = f"{sysconfig.get_path('stdlib')}{os.sep}"
_NOT_SKIPPED = (
    # It enters and exits managers for the program, which the detectors of modes look at.
    contextlib.__file__,
    *(f"{_STDLIB_DIR}{name}{os.sep}" for name in ("site-packages", "dist-packages")),
)
_OBSERVING = (f"{GRADPROBE_DIR}capture", f"{GRADPROBE_DIR}inspection")
F_LOCALS_IS_SNAPSHOT = sys.version_info < (3, 13)
"""Whether a frame keeps one dictionary of its local variables, which each read of ``f_locals`` fills anew."""


def walk_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield ``frame`` and its callers, from the inside out."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def find_frame(frame: FrameType | None, predicate: Callable[[FrameType], bool]) -> FrameType | None:
    """Return the innermost frame that meets ``predicate``, from ``frame`` outwards."""
    while frame is not None and not predicate(frame):
        frame = frame.f_back
    return frame


def find_frame_of(frame: FrameType | None, code: CodeType | None) -> FrameType | None:
    """Return the innermost frame that runs ``code``, from ``frame`` outwards."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame


def list_other_frames() -> list[FrameType]:
    """Return the innermost frame of each other thread. A frame that refers to itself would keep its variables alive."""
    frames = sys._current_frames()
    frames.pop(get_ident(), None)
    return list(frames.values())


def is_called_by_torch(frame: FrameType | None) -> bool:
    """Return whether the innermost frame that is not gradprobe's, from ``frame`` outwards, is PyTorch's."""
    caller = find_frame(frame, lambda outer: not outer.f_code.co_filename.startswith(GRADPROBE_DIR))
    return caller is not None and caller.f_code.co_filename.startswith(TORCH_DIR)


def read_local(frame: FrameType, name: str) -> Any:
    """Return a local variable of ``frame``, None if it is not set."""
    names = frame.f_locals
    value = names.get(name)
    if F_LOCALS_IS_SNAPSHOT:
        # The snapshot lives as long as the frame, and would keep alive the objects that the frame releases.
        names.clear()
    return value


def forget_locals(frames: Iterable[FrameType]) -> None:
    """Empty the snapshots of local variables that were taken of running frames, which would keep objects alive.

    Not for frames that a trace function is called for: Python copies its snapshot back into those.
    """
    for frame in frames if F_LOCALS_IS_SNAPSHOT else ():
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # the variables of a module or class are no snapshot
            frame.f_locals.clear()


class FrameClassifier:
    """The kinds of code objects. Keeps a reference to each, because the id of a freed one may be reused."""

    def __init__(self) -> None:
        self.kinds: dict[int, int] = {}
        self.held: dict[int, CodeType] = {}
        self._questions = ModeQuestions()

    def kind(self, code: CodeType) -> int:
        """Return the kind of ``code``."""
        known = self.kinds.get(id(code))
        return self.learn(code) if known is None else known

    def learn(self, code: CodeType) -> int:
        """Determine the kind of ``code``, remember it and return it."""
        file = code.co_filename
        if code is MODULE_CALL_CODE:
            kind = MODULE_CALL
        elif file.startswith(_OPTIMIZER_DIR):
            kind = OPTIMIZER
        elif file.startswith(_OBSERVING):
            kind = OWN
        else:
            is_stdlib = file.startswith(_STDLIB_DIR) and not file.startswith(_NOT_SKIPPED)
            kind = SKIPPED if is_stdlib or file.startswith((TORCH_DIR, GRADPROBE_DIR, "<frozen ")) else USER
        self.held[id(code)] = code
        self.kinds[id(code)] = kind
        return kind

    def learn_with_questions(self, code: CodeType) -> int:
        """Return the kind of ``code``, with ``ASKS_MODE`` added if it is the program's and asks for the mode."""
        kind = self.learn(code)
        return kind | ASKS_MODE if kind == USER and self._questions.are_asked_in(code) else kind

    def find_user_frame(self, frame: FrameType | None) -> FrameType | None:
        """Return the innermost frame of the user's program, from ``frame`` outwards."""
        while frame is not None and self.kind(frame.f_code) != USER:
            frame = frame.f_back
        return frame
