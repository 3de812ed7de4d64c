"""Diagnosis of autograd's exceptions: the rule, the tensor concerned, and the line that created it."""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.autograd.version_counters import version_of
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import find_creation_block, locate_creation
from gradprobe.capture.location.expressions import assignment_before, names_at
from gradprobe.capture.location.frames import find_frame
from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR
from gradprobe.recording.notes import BlockAt, SourceLocation


class Diagnosis(NamedTuple):
    """The rule that an exception comes under, with the related lines and moments of blocks."""

    rule: str
    locations: list[SourceLocation | None]
    under: list[BlockAt]


_Predicate = Callable[[Any], bool]


def _is_inference(tensor: Any) -> bool:
    return bool(tensor.is_inference()) or not _has_counter(tensor)


def _is_half_converted(tensor: Any) -> bool:
    return not tensor.is_inference() and not _has_counter(tensor)


def _is_wrapper(tensor: Any) -> bool:
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter)


def _is_view(tensor: Any) -> bool:
    return bool(tensor._is_view())


def _has_counter(tensor: Any) -> bool:
    return version_of(tensor) is not None


_CAUSES: tuple[tuple[str, str, _Predicate], ...] = (
    ("Cannot set version_counter for inference tensor", "GP303", _is_wrapper),
    ("Inference tensors cannot be saved for backward", "GP401", _is_inference),
    ("Inplace update to inference tensor outside InferenceMode", "GP401", _is_inference),
    ("Inference tensors do not track version counter", "GP401", _is_inference),
    ("requires_grad=True on inference tensor outside InferenceMode", "GP401", _is_inference),
    ("A view was created in no_grad mode", "GP602", _is_view),
    ("A view was created in inference mode", "GP602", _is_view),
)
"""Parts of PyTorch's texts, each with its rule and a predicate of the tensors that it can mean."""


_MODIFIED_TEXT = "has been modified by an inplace operation"


def diagnose_exception(error: BaseException, trace: TracebackType | None, log: DetectionLog) -> Diagnosis | None:
    """Return the diagnosis of ``error``, raised at the end of ``trace``, or None if no rule is cause it."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if _MODIFIED_TEXT in text and log.modified_saved is not None:
        return Diagnosis("GP601", list(log.modified_saved), [])
    cause = next(((rule, matches) for part, rule, matches in _CAUSES if part in text), None)
    if cause is None:
        return None
    rule, matches = cause
    frames = _frames(trace)
    place = next((f for f in reversed(frames) if log.find_user_frame(f[0]) is f[0]), None)
    if place is None:
        return None
    if "do not track version counter" in text and _is_read_by_program(frames, log):
        return None
    used = locate_instruction("used here", place[0].f_code, place[1])
    with torch._C.DisableTorchFunction():
        tensor, name = _find_tensor(frames, matches) or (None, None)
        entry = None if tensor is None else REGISTRY.get(tensor)
        if tensor is None and rule == "GP401":
            # A tensor that no variable refers to is gone by now: PyTorch drops it before Python traces the exception.
            known = [found for found in (_find_latest(), log.last_escaped) if found is not None]
            entry = max(known, key=lambda found: found[1], default=None)
        elif rule == "GP401" and _is_half_converted(tensor):
            rule = "GP402"
    if rule in ("GP303", "GP602"):
        return _diagnose_view(rule, used, tensor, entry, place, name, log)
    if entry is None:
        return Diagnosis(rule, [used], [])
    source = _find_source(entry)
    locations = [used, locate_creation(source)]
    if source is not entry:
        locations.append(locate_instruction("taken from it here", entry[2], entry[3]))
    return Diagnosis(rule, locations, [find_creation_block(source)])


def _is_read_by_program(frames: list[tuple[FrameType, int]], log: DetectionLog) -> bool:
    """Return whether the program itself read ``_version``, and may expect the exception."""
    outside = [frame for frame, _ in frames if not frame.f_code.co_filename.startswith(GRADPROBE_DIR)]
    reads = outside and log.find_user_frame(outside[-1]) is outside[-1]
    return bool(reads) and "_version" in outside[-1].f_code.co_names


def report_failed_version_read(tensor: torch.Tensor, log: DetectionLog) -> None:
    """Report a read of an inference tensor's ``_version`` by PyTorch's code, not by the program's."""
    frame = find_frame(sys._getframe(1), lambda f: not f.f_code.co_filename.startswith(GRADPROBE_DIR))
    if frame is None or not frame.f_code.co_filename.startswith(TORCH_DIR):
        return
    entry = REGISTRY.get(tensor)
    locations = [log.locate_frame("used here", frame)]
    locations += [] if entry is None else [locate_creation(entry)]
    log.add(
        "GP401", locations, [] if entry is None else [find_creation_block(entry)], error="its _version was asked for"
    )


def _diagnose_view(
    rule: str,
    used: SourceLocation | None,
    tensor: Any,
    entry: CreationRecord | None,
    place: tuple[FrameType, int],
    name: str | None,
    log: DetectionLog,
) -> Diagnosis:
    locations: list[SourceLocation | None] = [used]
    under: list[BlockAt] = []
    if rule == "GP303":
        # No operator creates a wrapper subclass: the line that assigned the variable is used instead.
        locations.append(assignment_before("created here", place[0], name))
        return Diagnosis(rule, locations, [BlockAt("inference mode entered here", get_ident(), log.now())])
    if entry is not None:
        locations.append(locate_instruction("view made here", entry[2], entry[3]))
        under.append(BlockAt("mode entered here", entry[7], entry[1]))
        base = None if tensor is None else REGISTRY.get(tensor._base) if tensor._base is not None else None
        source = base or _find_source(entry)
        if source is not entry:
            locations.append(locate_instruction("of the tensor created here", source[2], source[3]))
    return Diagnosis(rule, locations, under)


def _frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lasti))
        trace = trace.tb_next
    return found


def _find_source(entry: CreationRecord) -> CreationRecord:
    """Return the record of the tensor that a view was taken from, found by its storage's creation time."""
    if entry[6] in (entry[1], -1):
        return entry
    for other in REGISTRY.living():
        if other[1] == entry[6]:
            return other
    return entry


def _find_latest() -> CreationRecord | None:
    """Return the latest inference tensor still referenced: the best guess if no variable names one."""
    found: CreationRecord | None = None
    for entry in REGISTRY.living():
        tensor = entry[0]()
        if tensor is not None and (found is None or entry[1] > found[1]) and _is_inference(tensor):
            found = entry
    return found


def _find_tensor(frames: list[tuple[FrameType, int]], matches: _Predicate) -> tuple[Any, str | None] | None:
    """Return the tensor, and its name, that the failed expressions name, or else one among the variables."""
    for frame, offset in reversed(frames):
        for name, value in names_at(frame, offset):
            for tensor in _tensors_in(value):
                if matches(tensor):
                    return tensor, name
    for frame, _ in reversed(frames[-3:]):
        for name, value in list(frame.f_locals.items()):
            for tensor in _tensors_in(value):
                if matches(tensor):
                    return tensor, name
    return None


def _tensors_in(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value[:100] if isinstance(item, torch.Tensor))
    elif isinstance(value, torch.nn.Module):
        for module in value.modules():
            yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)
