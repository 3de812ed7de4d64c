"""Detector of activations that the program's forward hooks keep together with their graphs (GP202)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.escaped_inference_tensors import locate_tensor_creation
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.notes import SourceLocation

_MAX_ITEMS = 1_000
"""Maximum number of items looked at per container."""


def report_activation_hooks(
    roots: Iterable[torch.nn.Module], was_reached: Callable[[torch.Tensor], bool], log: DetectionLog
) -> None:
    """Report each forward hook of these modules whose variables hold a tensor with a graph that no backward has reached."""
    for root in roots:
        for module in root.modules():
            for hook in list(module._forward_hooks.values()):
                kept = next(
                    (tensor for tensor in _tensors_kept_by(hook) if _has_graph(tensor) and not was_reached(tensor)),
                    None,
                )
                if kept is not None and isinstance(hook, FunctionType):
                    code = hook.__code__
                    stored = SourceLocation("stored here", code.co_filename, code.co_firstlineno, code.co_name)
                    log.add("GP202", [stored, locate_tensor_creation(kept, "computed here")])


def _has_graph(tensor: torch.Tensor) -> bool:
    return tensor.requires_grad and not tensor.is_leaf


def _tensors_kept_by(hook: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in the containers that a function refers to."""
    if not isinstance(hook, FunctionType) or hook.__code__.co_filename.startswith(TORCH_DIR):
        return
    values = [hook.__globals__[name] for name in hook.__code__.co_names if name in hook.__globals__]
    for cell in hook.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    for value in values:
        items: Iterable[Any] = ()
        if isinstance(value, dict):
            items = list(value.values())
        elif isinstance(value, list | tuple | set):
            items = list(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
            items = list(vars(value).values())
        for item in list(items)[:_MAX_ITEMS]:
            for inner in item if isinstance(item, list | tuple) else (item,):
                if isinstance(inner, torch.Tensor):
                    yield inner
