"""Detector of reentrant checkpoints of which no input requires grad, so that nothing within them is trained (GP526)."""

from __future__ import annotations

import functools
from _thread import get_ident as thread
from collections.abc import Iterator
from itertools import islice
from sys import _getframe
from types import FrameType, MethodType
from typing import Any

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.location.frames import read_local
from gradprobe.recording.notes import BlockAt

HARMLESS = "harmless here: grad is disabled"
"""Role of a call for which PyTorch warns of the same, though nothing is lost."""
_MAX_VARIABLES = 100


def report_checkpoint_without_inputs(arguments: tuple[Any, ...], log: DetectionLog) -> None:
    """Report the call of a checkpoint of a module that is trained, if none of its inputs requires grad.

    Args:
        arguments: Those of PyTorch's function that looks at the inputs, which the checkpoint calls.
        log: The log of detections.
    """
    inputs = arguments[0] if arguments else ()
    if any(isinstance(one, torch.Tensor) and one.requires_grad for one in inputs):
        return
    frame: FrameType | None = _getframe(1)
    while frame is not None and "run_function" not in frame.f_code.co_varnames:
        frame = frame.f_back
    modules = [] if frame is None else list(_list_modules(read_local(frame, "run_function")))
    trained = [m for m in modules if m.training and any(p.requires_grad for p in m.parameters())]
    if not trained:
        return
    block = log.locate_block(BlockAt("grad disabled here", thread(), log.now()))
    if block is not None:
        log.add("GP526", [log.locate_frame(HARMLESS, frame), block])
        return
    number = sum(p.requires_grad for m in trained for p in m.parameters())
    log.add("GP526", [log.locate_frame("checkpointed here", frame)], module=type(trained[0]).__name__, number=number)


def _list_modules(function: Any) -> Iterator[torch.nn.Module]:
    """Yield the modules that a function is, belongs to, is given, or refers to."""
    if isinstance(function, torch.nn.Module):
        yield function
    elif isinstance(function, MethodType):
        yield from _list_modules(function.__self__)
    elif isinstance(function, functools.partial):
        for value in (function.func, *function.args, *function.keywords.values()):
            yield from _list_modules(value)
    elif isinstance(function, list | tuple):
        yield from (value for value in function[:_MAX_VARIABLES] if isinstance(value, torch.nn.Module))
    else:
        for cell in islice(getattr(function, "__closure__", None) or (), _MAX_VARIABLES):
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            yield from _list_modules(value) if value is not function else ()
