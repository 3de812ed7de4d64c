"""The place where a tensor without a graph lost it: a mode, ``detach``, a way through Python numbers, frozen operands.

From the tensor backwards: the line that created it names its operands, as long as the function that this line is in
still runs.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.expressions import names_at
from gradprobe.capture.location.handlers import FrameAt
from gradprobe.recording.notes import BlockAt, SourceLocation

_MAX_STEPS, _MAX_ITEMS = 32, 8
_DETACHING = ("aten.detach", "aten.detach_", "aten.alias")
_WITHOUT_DERIVATIVE = ("heaviside", "nextafter", "bernoulli", "multinomial", "histc", "poisson")
"""Operators with a result of floating point that has no derivative, beside those that only take its shape."""
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
        named = list(_named_values(record, code_frames))
        operands = [tensor for value in named for tensor in _tensors_in(value) if _can_carry(tensor)]
        at = record[2], record[3]
        if fallback is None and _lacks_derivative(current, record[4]) and any(each.requires_grad for each in operands):
            fallback = LostHistory("operator", [locate_instruction("without derivative here", *at)], [], record[4])
        elif fallback is None and any(_is_frozen(value) for value in named):
            fallback = LostHistory("frozen", [locate_instruction("frozen module called here", *at)], [], record[4])
        waiting += [operand for operand in operands if not operand.requires_grad]
    if fallback is None and not torch.is_grad_enabled():
        fallback = LostHistory("mode", [], [BlockAt("grad disabled here", get_ident(), log.now())], "")
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


def _named_values(record: CreationRecord, code_frames: dict[int, Any]) -> Iterator[Any]:
    """Yield what the line that created a tensor names, if its function still runs."""
    frame = code_frames.get(id(record[2]))
    if frame is not None:
        yield from (value for _, value in names_at(frame, record[3]))


def _tensors_in(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value[:_MAX_ITEMS] if isinstance(item, torch.Tensor))


def _is_frozen(value: Any) -> bool:
    """Return whether ``value`` is a module with parameters, none of which requires grad."""
    parameters = list(value.parameters()) if isinstance(value, torch.nn.Module) else []
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _lacks_derivative(tensor: Any, op: str) -> bool:
    """Return whether an operator has no derivative. What its line names is not always what the operator takes."""
    name = op.removeprefix("aten.").split(".")[0]
    return not _can_carry(tensor) or name.endswith("_like") or name.startswith(("new_", *_WITHOUT_DERIVATIVE))


def _can_carry(tensor: Any) -> bool:
    return bool(tensor.is_floating_point() or tensor.is_complex())
