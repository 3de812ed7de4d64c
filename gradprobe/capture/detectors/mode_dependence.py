"""Detector of functions that give other results under another mode for the same arguments (GP503).

A function that asks for the mode may cache, checkpoint or take a fused path, which all give the same numbers. Only numbers
decide: a sample of the arguments, of what the function's operators gave last, and the versions of the parameters of its
module. Calls are compared if everything that the function could depend on is the same but the mode.
"""

from __future__ import annotations

import inspect
from collections import deque
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.detectors.asker_calls import (
    Belonging,
    RunningCall,
    find_belonging,
    identify_call,
    mode_at_entry,
)
from gradprobe.capture.detectors.call_inputs import describe_module, read_inputs
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.frames import find_frame_of
from gradprobe.recording.events import Event

_TOLERANCE = 2e-3
"""Relative difference of results from which on they count as different: other kernels in 32 bits differ by 1e-5."""
_MAX_CALLS, _MAX_SITES, _MAX_VALUES = 256, 128, 256

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

Values = tuple[tuple[int, ...], bool, tuple[float, ...]]
"""Shape of a result, whether it is of floating-point numbers, and some of its values."""
Site = tuple[int, int]


class _Call(NamedTuple):
    """Record of one call of a function: its mode, the lines of its own and of what it called, and its result."""

    mode: tuple[int, bool]
    own: tuple[Site, ...]
    sites: tuple[Site, ...]
    values: Values
    is_random: bool


class _Open:
    """A call whose operators are still running."""

    def __init__(
        self, code: CodeType, where: RunningCall, key: tuple[Any, ...], mode: tuple[int, bool], random_state: int
    ) -> None:
        self.code, self.where, self.key, self.mode, self.random_state = code, where, key, mode, random_state
        self.own: dict[Site, None] = {}
        self.sites: dict[Site, None] = {}
        self.values: Values | None = None
        self.is_random = self.is_doubtful = False
        self.mode_now = mode[0]


class ModeDependenceDetector:
    """Detector of one thread."""

    def __init__(self, log: DetectionLog, events: deque[Event]) -> None:
        self._log, self._events = log, events
        self._open: _Open | None = None
        self._calls: dict[tuple[CodeType, tuple[Any, ...]], list[_Call]] = {}
        self._inconsistent: set[CodeType] = set()
        self._reports: deque[tuple[CodeType, _Call, _Call, float]] = deque(maxlen=_MAX_CALLS)
        self.library: Any = None

    def on_operator(
        self,
        frame: FrameType | None,
        is_new: bool,
        mode: int,
        leaf_writes: int,
        asker: CodeType,
        code: int,
        offset: int,
        is_random: bool,
        values: Values | None,
    ) -> None:
        """Look at an operator within a call of a function that asks for the mode.

        Args:
            frame: The innermost frame.
            is_new: Whether it is the first operator of a call.
            mode: 1 for grad enabled, plus 2 for inference mode.
            leaf_writes: The number of operators of the thread that have written to leaves.
            asker: The function's code.
            code: The identity of the code object of the operator's line.
            offset: The offset of the instruction.
            is_random: Whether the operator may draw random numbers.
            values: A sample of the result.
        """
        running = find_frame_of(frame, asker)
        if running is None:
            return
        self._follow(frame, running, is_new, mode, leaf_writes, is_random)
        call = self._open
        if call is None or call.code is not asker:
            return
        if is_random:  # dropout of an evaluated model draws nothing
            state = self.library.hash_random_state()
            call.is_random |= state != call.random_state
            call.random_state = state
        if len(call.sites) < _MAX_SITES:
            call.sites[code, offset] = None
            call.own[id(asker), running.f_lasti] = None
        call.values = values

    def _follow(
        self, frame: FrameType | None, running: FrameType, is_new: bool, mode: int, leaf_writes: int, is_random: bool
    ) -> None:
        """Let the open call go on, or close it and open the one that an operator belongs to."""
        asker = running.f_code
        if asker.co_flags & _SUSPENDED:
            return  # others run, and change the mode, while it waits
        call = self._open if self._open is not None and self._open.code is asker else None
        if call is None and not is_new:
            return
        where = identify_call(running)
        if call is not None:
            has_new_mode = mode != call.mode_now
            belonging = find_belonging(
                call.where, where, frame, running, self._events, is_unbroken=not is_new, has_new_mode=has_new_mode
            )
            if belonging is not Belonging.OTHER:
                call.is_doubtful |= belonging is Belonging.EITHER
                call.where, call.mode_now = where, mode
                return
        self.close()
        if asker in self._inconsistent:
            return
        self._open = self._begin(running, where, mode_at_entry(frame, running, mode, self._events), leaf_writes)
        if self._open is not None:
            # It has run by now: whether it drew numbers is not known. What an earlier part of the same call drew may
            # have been kept in a variable.
            is_part = call is not None and call.where.place == where.place
            self._open.is_random = is_random or (call is not None and is_part and call.is_random)
            self._open.mode_now = mode

    def finish(self) -> None:
        """Report what was found, but for functions that depend on more than was compared."""
        self.close()
        for report in self._reports:
            if report[0] not in self._inconsistent:
                self._report(*report)
        self._reports.clear()

    def close(self) -> None:
        """Compare the call that has ended with earlier ones of the same arguments."""
        call, self._open = self._open, None
        if call is None or call.is_doubtful or call.values is None or not call.values[2]:
            return
        done = _Call(call.mode, tuple(call.own), tuple(call.sites), call.values, call.is_random)
        if len(self._calls) >= _MAX_CALLS:
            self._calls.pop(next(iter(self._calls)))
        known = self._calls.setdefault((call.code, call.key), [])
        for other in known:
            if other.mode != done.mode and not (other.is_random and done.is_random):
                difference = _difference(other.values, done.values)
                if difference is not None and difference > _TOLERANCE:
                    self._reports.append((call.code, other, done, difference))
        same = [other for other in known if other.mode == done.mode]
        if any((_difference(other.values, done.values) or 0) > _TOLERANCE and not done.is_random for other in same):
            self._inconsistent.add(call.code)  # it depends on more than what is compared
        elif not same:
            known.append(done)

    def _begin(self, running: FrameType, where: RunningCall, mode: int, leaf_writes: int) -> _Open | None:
        arguments, surroundings = read_inputs(running)
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        values = [*arguments, *surroundings]
        key = (leaf_writes, *map(self._identify, values))
        if None in key or len(values) > _MAX_VALUES:
            return None
        state = self.library.hash_random_state()
        return _Open(running.f_code, where, key, (mode, any(t.requires_grad for t in tensors)), state)

    def _identify(self, value: Any) -> Any:
        """Return something that is equal for values by which a function gives the same result, None if unknown."""
        if isinstance(value, torch.Tensor):
            sample = self.library.sample_values(value)
            return (tuple(value.shape), str(value.dtype), tuple(sample)) if sample else None
        if isinstance(value, torch.nn.Module):
            return id(value), *describe_module(value)
        if isinstance(value, bool | int | float | str | bytes | type(None)):
            return type(value).__name__, value
        return type(value).__name__, id(value)

    def _report(self, asker: CodeType, one: _Call, other: _Call, difference: float) -> None:
        if one.mode[0] != other.mode[0]:
            one, other = sorted((one, other), key=lambda call: -_rank(call.mode[0]))
        held = self._log.codes.held
        lines = [locate_instruction("asks for the mode", asker, 0)]
        lines = [lines[0] and lines[0]._replace(line=asker.co_firstlineno)]
        for call, rest in ((one, other), (other, one)):
            role = f"runs only {_describe_mode(*call.mode, is_alike=one.mode[0] == other.mode[0])}"
            for mine, theirs in ((call.own, rest.own), (call.sites, rest.sites)):
                code, offset = next((site for site in mine if site not in theirs), (0, 0))
                lines.append(locate_instruction(role, held.get(code), offset))
        self._log.add(
            "GP503",
            lines,
            difference=round(difference, 3),
            one=_describe_mode(*one.mode, is_alike=one.mode[0] == other.mode[0]),
            other=_describe_mode(*other.mode, is_alike=one.mode[0] == other.mode[0]),
            random=int(one.is_random != other.is_random),
        )


def _rank(mode: int) -> int:
    return {1: 2, 0: 1}.get(mode, 0)


def _describe_mode(mode: int, requires_grad: bool, *, is_alike: bool) -> str:
    if is_alike:
        return "with arguments that require grad" if requires_grad else "with arguments that do not require grad"
    if mode & 2:
        return "in inference mode"
    return "with grad enabled" if mode else "under no_grad"


def _difference(one: Values, other: Values) -> float | None:
    """Return the largest difference of two results relative to their size, None if they are not of one kind."""
    if one[0] != other[0] or not (one[1] and other[1]) or len(one[2]) != len(other[2]):
        return None
    size = max(map(abs, (*one[2], *other[2])), default=0.0)
    largest = max(abs(a - b) for a, b in zip(one[2], other[2], strict=True))
    return largest / size if size > 0 and largest == largest else None
