"""Inference tensors outside of inference mode, seen before they fail: converted halfway, or behind a custom Function."""

from __future__ import annotations

from sys import _getframe
from types import CodeType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.expressions import assignment_before, names_at
from gradprobe.capture.location.frames import find_frame_of
from gradprobe.recording.notes import BlockAt, SourceLocation

_CONVERSIONS = ("aten._to_copy", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.clone")


class EscapedTensorDetector:
    """What a thread does with inference tensors outside of the mode."""

    def __init__(self, sightings: DetectionLog) -> None:
        self._sightings = sightings
        self._converted: dict[int, tuple[CreationRecord, SourceLocation | None]] = {}

    def look(self, name: str, args: Any, code: CodeType | None, offset: int, records: bool) -> None:
        """An operator ran at a place in normal mode; ``records`` if autograd constructed a node for it."""
        for operand in iter_tensors(args):
            entry = REGISTRY.get(operand)
            if entry is None:
                continue
            if not operand.is_inference():
                self._look_at_half(operand, entry)
            elif isinstance(operand, torch.nn.Parameter):
                if name in _CONVERSIONS:
                    self._converted[id(operand)] = entry, locate_instruction("converted here", code, offset)
            elif operand.requires_grad and not records and not operand.is_leaf:
                used = locate_instruction("nothing recorded here", code, offset)
                applied = _given_its_value(operand, code)
                self._sightings.add("GP502", [used, locate_creation(entry), applied], [find_creation_block(entry)])

    def _look_at_half(self, operand: Any, entry: CreationRecord) -> None:
        converted = self._converted.get(id(operand))
        if converted is not None and converted[0] is entry:
            del self._converted[id(operand)]
            self._sightings.add("GP402", [converted[1], locate_creation(entry)], [find_creation_block(entry)])


def locate_creation(entry: CreationRecord) -> SourceLocation | None:
    """The line where a tensor was made."""
    return locate_instruction("born here", entry[2], entry[3])


def locate_tensor_creation(tensor: torch.Tensor, role: str) -> SourceLocation | None:
    """The line where ``tensor`` was made, if that was seen."""
    entry = REGISTRY.get(tensor)
    return None if entry is None else locate_instruction(role, entry[2], entry[3])


def find_creation_block(entry: CreationRecord) -> BlockAt:
    """The block that a tensor was made in."""
    return BlockAt("inference mode entered here", entry[7], entry[1])


def _given_its_value(tensor: Any, code: CodeType | None) -> SourceLocation | None:
    """The line that assigned the variable by which the running expression of ``code`` names ``tensor``."""
    frame = find_frame_of(_getframe(1), code)
    if frame is None:
        return None
    names = (name for name, value in names_at(frame, frame.f_lasti) if value is tensor)
    return assignment_before("returned by the Function here", frame, next(names, None))
