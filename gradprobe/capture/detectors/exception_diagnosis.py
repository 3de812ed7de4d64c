"""What an exception of autograd's is about: which tensor it means, where that was born, and which rule it comes under."""

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
    """The rule that an exception comes under, the lines that it has to do with, and the moments of blocks that do."""

    rule: str
    locations: list[SourceLocation | None]
    under: list[BlockAt]


_Is = Callable[[Any], bool]


def _is_inference(tensor: Any) -> bool:
    return bool(tensor.is_inference()) or not _has_counter(tensor)


def _is_half(tensor: Any) -> bool:
    return not tensor.is_inference() and not _has_counter(tensor)


def _is_wrapper(tensor: Any) -> bool:
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter)


def _is_view(tensor: Any) -> bool:
    return bool(tensor._is_view())


def _has_counter(tensor: Any) -> bool:
    return version_of(tensor) is not None


_ABOUT: tuple[tuple[str, str, _Is], ...] = (
    ("Cannot set version_counter for inference tensor", "GP303", _is_wrapper),
    ("Inference tensors cannot be saved for backward", "GP401", _is_inference),
    ("Inplace update to inference tensor outside InferenceMode", "GP401", _is_inference),
    ("Inference tensors do not track version counter", "GP401", _is_inference),
    ("requires_grad=True on inference tensor outside InferenceMode", "GP401", _is_inference),
    ("A view was created in no_grad mode", "GP602", _is_view),
    ("A view was created in inference mode", "GP602", _is_view),
)
"""A part of PyTorch's text, the rule, and which tensors it can mean."""


_CHANGED = "has been modified by an inplace operation"


def diagnose_exception(error: BaseException, trace: TracebackType | None, sightings: DetectionLog) -> Diagnosis | None:
    """What is known of ``error``, raised where ``trace`` ends; None if it has nothing to do with inference tensors."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if _CHANGED in text and sightings.changed is not None:
        return Diagnosis("GP601", list(sightings.changed), [])
    about = next(((rule, fits) for part, rule, fits in _ABOUT if part in text), None)
    if about is None:
        return None
    rule, fits = about
    frames = _frames(trace)
    place = next((f for f in reversed(frames) if sightings.find_user_frame(f[0]) is f[0]), None)
    if place is None:
        return None
    if "do not track version counter" in text and _asked_by_program(frames, sightings):
        return None
    used = locate_instruction("used here", place[0].f_code, place[1])
    with torch._C.DisableTorchFunction():
        tensor, name = _meant(frames, fits) or (None, None)
        entry = None if tensor is None else REGISTRY.get(tensor)
        if tensor is None and rule == "GP401":
            # One that no variable holds has died by now: PyTorch lets go of it before Python tells of the exception.
            known = [found for found in (_latest_alive(), sightings.outlived) if found is not None]
            entry = max(known, key=lambda found: found[1], default=None)
        elif rule == "GP401" and _is_half(tensor):
            rule = "GP402"
    if rule in ("GP303", "GP602"):
        return _of_views(rule, used, tensor, entry, place, name, sightings)
    if entry is None:
        return Diagnosis(rule, [used], [])
    source = _source_of(entry)
    locations = [used, locate_creation(source)]
    if source is not entry:
        locations.append(locate_instruction("taken from it here", entry[2], entry[3]))
    return Diagnosis(rule, locations, [find_creation_block(source)])


def _asked_by_program(frames: list[tuple[FrameType, int]], sightings: DetectionLog) -> bool:
    """Whether the program itself read ``_version``, and may expect what comes of it."""
    outside = [frame for frame, _ in frames if not frame.f_code.co_filename.startswith(GRADPROBE_DIR)]
    reads = outside and sightings.find_user_frame(outside[-1]) is outside[-1]
    return bool(reads) and "_version" in outside[-1].f_code.co_names


def report_failed_version_read(tensor: torch.Tensor, sightings: DetectionLog) -> None:
    """PyTorch's own code asked an inference tensor for its version; what the program asks itself, it may expect."""
    frame = find_frame(sys._getframe(1), lambda f: not f.f_code.co_filename.startswith(GRADPROBE_DIR))
    if frame is None or not frame.f_code.co_filename.startswith(TORCH_DIR):
        return
    entry = REGISTRY.get(tensor)
    locations = [sightings.locate_frame("used here", frame)]
    locations += [] if entry is None else [locate_creation(entry)]
    sightings.add(
        "GP401", locations, [] if entry is None else [find_creation_block(entry)], error="its _version was asked for"
    )


def _of_views(
    rule: str,
    used: SourceLocation | None,
    tensor: Any,
    entry: CreationRecord | None,
    place: tuple[FrameType, int],
    name: str | None,
    sightings: DetectionLog,
) -> Diagnosis:
    locations: list[SourceLocation | None] = [used]
    under: list[BlockAt] = []
    if rule == "GP303":
        # A wrapper is made by no operator: the line that gave the variable its value must do.
        locations.append(assignment_before("born here", place[0], name))
        return Diagnosis(rule, locations, [BlockAt("inference mode entered here", get_ident(), sightings.now())])
    if entry is not None:
        locations.append(locate_instruction("view made here", entry[2], entry[3]))
        under.append(BlockAt("mode entered here", entry[7], entry[1]))
        base = None if tensor is None else REGISTRY.get(tensor._base) if tensor._base is not None else None
        source = base or _source_of(entry)
        if source is not entry:
            locations.append(locate_instruction("of the tensor born here", source[2], source[3]))
    return Diagnosis(rule, locations, under)


def _frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lasti))
        trace = trace.tb_next
    return found


def _source_of(entry: CreationRecord) -> CreationRecord:
    """The birth of the tensor that a view was taken from, by the time when its storage was made."""
    if entry[6] in (entry[1], -1):
        return entry
    for other in list(REGISTRY.entries.values()):
        if other[1] == entry[6]:
            return other
    return entry


def _latest_alive() -> CreationRecord | None:
    """The inference tensor that was born last and lives: what PyTorch's own code tripped over, if nothing tells."""
    found: CreationRecord | None = None
    for entry in list(REGISTRY.entries.values()):
        tensor = entry[0]()
        if tensor is not None and (found is None or entry[1] > found[1]) and _is_inference(tensor):
            found = entry
    return found


def _meant(frames: list[tuple[FrameType, int]], fits: _Is) -> tuple[Any, str | None] | None:
    """The tensor that the innermost frames name in the expression that failed, else one among their variables."""
    for frame, offset in reversed(frames):
        for name, value in names_at(frame, offset):
            for tensor in _tensors_in(value):
                if fits(tensor):
                    return tensor, name
    for frame, _ in reversed(frames[-3:]):
        for name, value in list(frame.f_locals.items()):
            for tensor in _tensors_in(value):
                if fits(tensor):
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
