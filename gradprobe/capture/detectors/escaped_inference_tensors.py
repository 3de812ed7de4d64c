"""Detector of inference tensors used outside inference mode before they fail (GP402, GP502).

A parameter may be converted only halfway to a normal tensor, and a custom ``autograd.Function`` may return an inference
tensor, of which nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import _getframe
from types import CodeType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, is_same_creation
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.expressions import assignment_before, names_at
from gradprobe.capture.location.frames import find_frame_of
from gradprobe.recording.notes import BlockAt, SourceLocation

_CONVERSIONS = ("aten._to_copy", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.clone")


class EscapedTensorDetector:
    """Detector of one thread, for the operators that it runs outside inference mode and that take an inference tensor.

    While it ``waits``, it looks at all others too.
    """

    def __init__(self, log: DetectionLog, on_use: Callable[[CreationRecord, str, CodeType | None, int], None]) -> None:
        self._log, self._on_use = log, on_use
        self._converted: dict[int, tuple[CreationRecord, SourceLocation | None]] = {}

    @property
    def waits(self) -> bool:
        """True if it waits for a tensor that is no inference tensor any more."""
        return bool(self._converted)

    def on_operator(self, name: str, args: Any, code: CodeType | None, offset: int, has_node: bool) -> None:
        """Look at an operator that ran in normal mode; ``has_node`` if autograd constructed a node for it."""
        for operand in iter_tensors(args):
            entry = REGISTRY.get(operand)
            if entry is None:
                continue
            if operand.is_inference():
                self._on_use(entry, name, code, offset)
            if not operand.is_inference():
                self._report_half_converted(operand, entry)
            elif isinstance(operand, torch.nn.Parameter):
                if name in _CONVERSIONS:
                    self._converted[id(operand)] = entry, locate_instruction("converted here", code, offset)
            elif operand.requires_grad and not has_node and not operand.is_leaf:
                used = locate_instruction("nothing recorded here", code, offset)
                applied = _locate_assignment(operand, code)
                self._log.add("GP502", [used, locate_creation(entry), applied], [find_creation_block(entry)])

    def _report_half_converted(self, operand: Any, entry: CreationRecord) -> None:
        converted = self._converted.get(id(operand))
        if converted is not None and is_same_creation(converted[0], entry):
            del self._converted[id(operand)]
            self._log.add("GP402", [converted[1], locate_creation(entry)], [find_creation_block(entry)])


def locate_creation(entry: CreationRecord) -> SourceLocation | None:
    """Return the line where a tensor was created."""
    return locate_instruction("created here", entry[2], entry[3])


def locate_tensor_creation(tensor: torch.Tensor, role: str) -> SourceLocation | None:
    """Return the line where ``tensor`` was created, if that was recorded."""
    entry = REGISTRY.get(tensor)
    return None if entry is None else locate_instruction(role, entry[2], entry[3])


def find_creation_block(entry: CreationRecord) -> BlockAt:
    """Return the moment of creation of a tensor, which identifies the block around it."""
    return BlockAt("inference mode entered here", entry[7], entry[1])


def _locate_assignment(tensor: Any, code: CodeType | None) -> SourceLocation | None:
    """Return the line that assigned the variable by which the running line of ``code`` names ``tensor``."""
    frame = find_frame_of(_getframe(1), code)
    if frame is None:
        return None
    names = (name for name, value in names_at(frame, frame.f_lasti) if value is tensor)
    return assignment_before("returned by the Function here", frame, next(names, None))
