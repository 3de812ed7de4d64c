"""Calls of a function that asks for the mode: to which one an operator belongs, and the mode that it began under.

The observer's library tells where the function, its first argument or the mode changes. A function that changes the mode
itself, or by what it calls, is still in the same call; the mode that its result may depend on is the one it was called
under. Python has no name for a call, and a reference to its frame would keep the program's objects alive. Up to Python 3.12
the dictionary of the frame's variables, emptied, tells calls apart; later versions have none, and there calls are told
apart by what differs between them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from enum import Enum
from types import FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.location.frames import F_LOCALS_IS_SNAPSHOT, forget_locals, walk_frames
from gradprobe.recording.events import Event

_READS_LOCALS = {"locals", "vars", "dir", "eval", "exec"}
"""Names by which a function fills the dictionary of its variables itself, which then must not outlive it."""


class RunningCall(NamedTuple):
    """Marks of a call: the frame and the instruction that calls it, by identity, its arguments, and where it is."""

    snapshot: dict[str, Any] | None
    """The dictionary of the frame's variables, emptied: no other call has it as long as it is referenced."""
    place: tuple[int, int, int]
    arguments: tuple[int, ...]
    instruction: int
    has_results: bool
    """True if a local variable besides the arguments is a tensor: some of its operators have run."""


def identify_call(running: FrameType) -> RunningCall:
    """Return the marks of a running call of a function."""
    code, caller = running.f_code, running.f_back
    number = code.co_argcount + code.co_kwonlyargcount
    number += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    local = running.f_locals
    arguments = tuple(id(local.get(name)) for name in code.co_varnames[:number])
    has_results = any(isinstance(local.get(name), torch.Tensor) for name in code.co_varnames[number:])
    snapshot = local if F_LOCALS_IS_SNAPSHOT and _READS_LOCALS.isdisjoint(code.co_names) else None
    del local
    forget_locals([running])
    place = (id(running), id(caller), -1 if caller is None else caller.f_lasti)
    return RunningCall(snapshot, place, arguments, running.f_lasti, has_results)


class Belonging(Enum):
    """Call that an operator belongs to: that of the operator before, another one, or one of the two."""

    SAME, OTHER, EITHER = range(3)


def find_belonging(
    before: RunningCall,
    now: RunningCall,
    frame: FrameType | None,
    running: FrameType,
    events: Sequence[Event],
    *,
    is_unbroken: bool,
    has_new_mode: bool,
) -> Belonging:
    """Return whether an operator is in the same call as the one that the detector looked at before it.

    Args:
        before: The marks of the call at the operator before.
        now: The marks at this operator.
        frame: The innermost frame.
        running: The frame of the function.
        events: The manager events of the thread.
        is_unbroken: Whether all operators between the two were in calls of the function, under one mode.
        has_new_mode: Whether the mode differs from that of the operator before.
    """
    if before.snapshot is not None:
        return Belonging.SAME if before.snapshot is now.snapshot else Belonging.OTHER
    is_further = before.arguments == now.arguments or now.instruction > before.instruction
    if before.place != now.place or not is_further:
        return Belonging.OTHER
    if is_unbroken:
        return Belonging.SAME
    last = events[-1][3] if events else None
    if has_new_mode and last in _list_codes_inside(frame, running):
        return Belonging.SAME
    if not has_new_mode or any(outer.f_code is last for outer in walk_frames(running.f_back)):
        return Belonging.OTHER
    # A helper has set the mode and returned: called by the function, or by its caller between two calls.
    return Belonging.EITHER if now.has_results or now.instruction >= before.instruction else Belonging.OTHER


def mode_at_entry(frame: FrameType | None, running: FrameType, mode: int, events: Sequence[Event]) -> int:
    """Return the mode under which a function was called that may have changed it since.

    Args:
        frame: The innermost frame.
        running: The frame of the function.
        mode: The mode now: 1 for grad enabled, plus 2 for inference mode.
        events: The manager events of the thread.
    """
    inside = _list_codes_inside(frame, running)
    for event in reversed(events):
        if event[3] not in inside:
            break
        mode = (1 if event[5] else 0) + (2 if event[6] else 0)  # what an earlier call changed it has changed back
    return mode


def _list_codes_inside(frame: FrameType | None, running: FrameType) -> set[object]:
    """Return the code of the frames from the innermost one to that of the function."""
    codes: set[object] = set()
    for inner in walk_frames(frame):
        codes.add(inner.f_code)
        if inner is running:
            break
    return codes
