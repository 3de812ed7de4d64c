"""The nodes that a backward pass goes through. A graph that no backward reaches was built for nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from sys import _getframe
from types import FrameType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.autograd.graph import MAX_NODES, read_graph
from gradprobe.capture.patching.patches import Patch


def backward_patches(
    on_backward: Callable[[list[torch.Tensor], FrameType], None], fault: Callable[[Exception], None]
) -> list[Patch]:
    """Return the patch that calls ``on_backward`` with the outputs that a backward pass starts from.

    Both ``backward`` and ``grad`` call PyTorch's ``_make_grads`` with the outputs just before they start the engine. It has
    returned by then, so tracebacks of errors in the pass contain no frame of gradprobe.
    """
    module: Any = torch.autograd
    original = getattr(module, "_make_grads", None)
    if original is None:
        return []

    @functools.wraps(original)
    def make_grads(outputs: Any, *arguments: Any, **named: Any) -> Any:
        try:
            on_backward([output for output in outputs if isinstance(output, torch.Tensor)], _getframe(1))
        except Exception as error:
            fault(error)
        return original(outputs, *arguments, **named)

    return [Patch(module, "_make_grads", make_grads)]


def reachable_ranges(outputs: Iterable[torch.Tensor]) -> list[tuple[int, int]]:
    """Return the sequence numbers of all nodes behind ``outputs``, as ranges of a first and a last number.

    Raises:
        RuntimeError: If there are more than ``MAX_NODES`` nodes and the observer's library is not loaded.
    """
    library = REGISTRY.library
    if library is not None:
        ranges: list[tuple[int, int]] = library.reachable_ranges(list(outputs))
        return ranges
    graph = read_graph(outputs, read_saved=False)
    if graph.is_truncated:
        raise RuntimeError(f"cannot follow a backward pass: it goes through more than {MAX_NODES:,} nodes")
    found: list[list[int]] = []
    for number in sorted(set(graph.sequence_numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [(first, last) for first, last in found]
