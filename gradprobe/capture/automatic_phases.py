"""Phases that gradprobe finds without being given their names: after the first ``backward``, and capture of a CUDA graph.

``compile/dynamo.py`` finds compilations. Each is certain where it begins and ends, and costs nothing in between.
"""

from __future__ import annotations

import functools
from _thread import get_ident
from typing import Any

import torch

from gradprobe.capture.patching.patches import Patch
from gradprobe.phases import AFTER_BACKWARD, CAPTURE, OpenPhase, begin, end


class AutomaticPhases:
    """The phases that gradprobe has begun and will end."""

    def __init__(self) -> None:
        self._after_backward: dict[int, OpenPhase] = {}

    def on_backward(self) -> None:
        """Begin the phase of the calling thread that follows its first backward."""
        if get_ident() not in self._after_backward:
            self._after_backward[get_ident()] = begin(OpenPhase(AFTER_BACKWARD, None, 0, is_automatic=True))

    def end_thread(self) -> None:
        """End the phase of the calling thread, which ends as well."""
        self._end(get_ident())

    def end_all(self) -> None:
        """End the phases of all threads, since nothing records any more."""
        for ident in list(self._after_backward):
            self._end(ident)

    def _end(self, ident: int) -> None:
        opened = self._after_backward.pop(ident, None)
        if opened is not None:
            end(opened)

    def patches(self) -> list[Patch]:
        """Return the patches that see a CUDA graph being captured."""
        graph: Any = getattr(torch.cuda, "graph", None)
        if graph is None:
            return []
        enter, leave = graph.__enter__, graph.__exit__
        captures: dict[int, OpenPhase] = {}

        @functools.wraps(enter)
        def __enter__(self: Any) -> Any:  # noqa: N807
            result = enter(self)
            captures[id(self)] = begin(OpenPhase(CAPTURE, None, 0, is_automatic=True))
            return result

        @functools.wraps(leave)
        def __exit__(self: Any, *error: Any) -> Any:  # noqa: N807
            opened = captures.pop(id(self), None)
            if opened is not None:
                end(opened)
            return leave(self, *error)

        return [Patch(graph, "__enter__", __enter__), Patch(graph, "__exit__", __exit__)]
