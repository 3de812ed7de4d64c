"""The place where a tensor without a graph lost it: a mode, ``detach``, a way through Python numbers, frozen operands.

From the tensor backwards: the line that created it names its operands, as long as the function that this line is in
still runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.expressions import names_at
from gradprobe.capture.location.handlers import FrameAt
from gradprobe.recording.notes import BlockAt, SourceLocation

_MAX_STEPS = 32
_DETACHING = ("aten.detach", "aten.detach_", "aten.alias")
_FROM_VALUES = ("aten.lift_fresh", "aten.tensor", "aten.scalar_tensor", "aten.from_file")


class LostHistory(NamedTuple):
    """Why a tensor has no graph.

    ``cause`` is a key of ``CAUSES`` in ``gradprobe.refusals.causes``.
    """

    cause: str
    locations: list[SourceLocation | None]
    under: list[BlockAt]
    op: str


def find_lost_history(tensor: Any, frames: Sequence[FrameAt], log: DetectionLog) -> LostHistory:
    """Return where the graph of ``tensor`` ends, as far as the records of tensors and the running functions show it."""
    code_frames = {id(frame.f_code): frame for frame, _ in frames}
    seen: set[int] = set()
    waiting = [tensor]
    fallback: LostHistory | None = None
    for _ in range(_MAX_STEPS):
        if not waiting:
            break
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        record = REGISTRY.get(current)
        if record is None:
            continue
        found = _explain(current, record, log)
        if found is not None:
            return found
        operands = list(_operands(record, code_frames))
        if fallback is None and any(_can_carry(t) and t.requires_grad for t in operands):
            at = locate_instruction("result without derivative here", record[2], record[3])
            fallback = LostHistory("operator", [at], [], record[4])
        waiting += [operand for operand in operands if _can_carry(operand) and not operand.requires_grad]
    return fallback or LostHistory("", [], [], "")


def _explain(tensor: Any, record: CreationRecord, log: DetectionLog) -> LostHistory | None:
    """Return why ``tensor`` itself has no graph, None if that is so because of its operands."""
    if tensor.is_inference():
        block = BlockAt("inference mode entered here", record[7], record[1])
        at = locate_instruction("created here", record[2], record[3])
        return LostHistory("inference", [at], [block], record[4])
    if record[4] in _DETACHING:
        return LostHistory("detach", [locate_instruction("detached here", record[2], record[3])], [], record[4])
    block = BlockAt("grad disabled here", record[7], record[1])
    if log.locate_block(block) is not None:
        return LostHistory("mode", [locate_instruction("computed here", record[2], record[3])], [block], record[4])
    if record[4].startswith(_FROM_VALUES):
        return LostHistory("values", [locate_instruction("made of values here", record[2], record[3])], [], record[4])
    return None


def _operands(record: CreationRecord, code_frames: dict[int, Any]) -> Iterator[Any]:
    frame = code_frames.get(id(record[2]))
    if frame is None:
        return
    for _, value in names_at(frame, record[3]):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value[:8] if isinstance(item, torch.Tensor))


def _can_carry(tensor: Any) -> bool:
    return bool(tensor.is_floating_point() or tensor.is_complex())
