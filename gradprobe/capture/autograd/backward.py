"""Which nodes a backward pass goes through: a graph that none reaches was built for nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from sys import _getframe
from types import FrameType
from typing import Any

import torch

from gradprobe.capture.autograd.graph import MAX_NODES, read_graph
from gradprobe.capture.patching.patches import Patch


def backward_patches(
    begins: Callable[[list[torch.Tensor], FrameType], None], fault: Callable[[Exception], None]
) -> list[Patch]:
    """Calls ``begins`` with the outputs that ``backward`` or ``grad`` is about to start from.

    PyTorch's ``_make_grads`` is what both call with the outputs just before they start the engine, and it has returned
    by then: no frame of ours stands in the traceback of what fails in the pass.
    """
    module: Any = torch.autograd
    original = getattr(module, "_make_grads", None)
    if original is None:
        return []

    @functools.wraps(original)
    def make_grads(outputs: Any, *arguments: Any, **named: Any) -> Any:
        try:
            begins([output for output in outputs if isinstance(output, torch.Tensor)], _getframe(1))
        except Exception as error:
            fault(error)
        return original(outputs, *arguments, **named)

    return [Patch(module, "_make_grads", make_grads)]


def reachable_ranges(outputs: Iterable[torch.Tensor]) -> list[tuple[int, int]]:
    """The sequence numbers of all nodes behind ``outputs``, as runs of a first and a last. Raises for too many nodes."""
    graph = read_graph(outputs, read_saved=False)
    if graph.is_truncated:
        raise RuntimeError(f"a backward pass went through more than {MAX_NODES:,} nodes, and was not followed")
    found: list[list[int]] = []
    for number in sorted(set(graph.sequence_numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [(first, last) for first, last in found]
