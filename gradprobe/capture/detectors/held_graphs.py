"""Detector of graphs that the program keeps from iteration to iteration (GP201).

A loss that is appended to a list, a sum of losses, a hook, a cache or a stored exception keeps the graph behind a
tensor, and with it all that its nodes saved. What matters is only that graphs of several iterations are alive at once
and that no backward pass uses them later; how they are kept is told afterwards, by what refers to them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from sys import _getframe
from typing import Any, NamedTuple

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.holders import Holder, find_holder
from gradprobe.capture.time_share import TimeShare
from gradprobe.recording.notes import SourceLocation

_MIN_ITERATIONS = 3
"""Minimum number of ended iterations whose nodes are alive at once."""
_MIN_UNUSED = 5
"""Minimum number of tensors of one line, or terms of one sum, that are alive at once and that no backward has reached."""
_SINGLE = ("local", "global", "attribute")
"""Kinds of holders that hold one tensor, unless their name shows that it is an item of a container."""
_MAX_PLACES = 4
_ALLOWANCE_S, _MAX_SHARE = 0.05, 0.01
"""Processor time in seconds that looks may take, and their share of the time beyond that."""
_MAX_SEARCH_S = 1.0
"""Processor time in seconds after which a look searches for no more holders."""

Place = tuple[int, int]
"""Identity of a code object, and an offset in it."""


class HeldGraphs(NamedTuple):
    """The graphs behind the living results of one operator at one line, as the observer's library knows them."""

    place: Place
    op: str
    heads: list[torch.Tensor]
    saved_bytes: int
    number: int
    nodes: int
    old_nodes: int
    unused_nodes: int
    iterations: int
    places: list[tuple[Place, int]]
    samples: list[int]


@dataclass
class _Growth:
    """Graphs that were found to be kept, without the tensors that keep them."""

    held: HeldGraphs
    holder: Holder | None


class HeldGraphDetector:
    """Detector of all threads: what one of them keeps, a backward pass in another may use.

    Args:
        log: Receives the detections.
        list_held: Returns the graphs that the program holds.
        roots: Returns the modules that were outermost in some call.
    """

    def __init__(
        self, log: DetectionLog, list_held: Callable[[], Iterable[tuple[Any, ...]]], roots: Callable[[], list[Any]]
    ) -> None:
        self._log, self._list_held, self._roots = log, list_held, roots
        self._found: dict[tuple[Place, str], _Growth] = {}
        self._in_vain: dict[tuple[Place, str], int] = {}
        """How many tensors there were when no holder was found first."""
        self._looking_in = 0
        self._time = TimeShare(_ALLOWANCE_S, _MAX_SHARE)

    def look(self, *, is_last: bool = False) -> None:
        """Look at the graphs that are alive, unless another thread does or looks have taken their share of the time.

        Two threads that look at once would find what the other one has in hand.
        """
        if self._looking_in == os.getpid() or not (is_last or self._time.is_left()):
            return
        self._looking_in = os.getpid()
        try:
            with self._time.spend():
                self._look(is_last=is_last)
        finally:
            self._looking_in = 0

    def _look(self, *, is_last: bool) -> None:
        deadline = time.thread_time() + _MAX_SEARCH_S
        for held in itertools.starmap(HeldGraphs, self._list_held()):
            is_growth = held.iterations >= _MIN_ITERATIONS
            if not is_growth and not _may_grow(held):
                continue
            key = (held.place, held.op)
            known = self._found.get(key)
            holder = None if known is None else known.holder
            if (known is None or _has_grown(known, held)) and time.thread_time() <= deadline:
                # What several threads work with has no holder and stays as it is; what is kept grows.
                goes_up = is_last or is_growth or held.number >= 2 * self._in_vain.setdefault(key, held.number)
                older = held.heads[1:] or held.heads  # a variable of the running line holds the latest
                holder = find_holder(older, self._log.codes, _getframe(1), self._roots(), goes_up=goes_up)
            if is_growth or (holder is not None and not _holds_only_the_latest(held, holder)):
                self._found[key] = _Growth(held._replace(heads=[]), holder)

    def on_backward(self, runs: Iterable[tuple[int, int]]) -> None:
        """Note that a backward goes through the nodes in ``runs``: what it uses was not kept in vain."""
        for key, growth in list(self._found.items()) if self._found else ():
            samples = growth.held.samples
            if any(first <= node <= last for first, last in runs for node in samples):
                self._found.pop(key, None)

    def report(self) -> None:
        """Report what is kept."""
        found, self._found = self._found, {}
        self._in_vain.clear()
        self._time.restart()
        for growth in found.values():
            held, holder = growth.held, growth.holder
            main = self._locate("kept from here", held.place)
            if main is None:
                continue
            places = sorted(held.places, key=lambda item: -item[1])
            built = [
                self._locate("graph built here", place) for place, _ in places[:_MAX_PLACES] if place != held.place
            ]
            facts: dict[str, Any] = {
                "number": held.number,
                "nodes": held.nodes,
                "iterations": held.iterations,
                "bytes": held.saved_bytes,
                "op": held.op,
            }
            locations = [main, *built]
            if holder is not None:
                facts |= {"holder": holder.name, "holder_kind": holder.kind, "holder_function": holder.function}
                if holder.file:
                    locations.insert(1, SourceLocation("held by", holder.file, holder.line, holder.function))
            self._log.add("GP201", locations, **facts)

    def _locate(self, role: str, place: Place) -> SourceLocation | None:
        return locate_instruction(role, self._log.codes.held.get(place[0]), place[1])


def _has_grown(known: _Growth, held: HeldGraphs) -> bool:
    """Return whether it is worth the time to look for the holder again."""
    if known.holder is None:
        return held.number > known.held.number
    return held.iterations >= 2 * known.held.iterations


def _may_grow(held: HeldGraphs) -> bool:
    """Return whether several results of one line are alive, or one that is a long sum, and no backward has reached them."""
    if 2 * held.unused_nodes < held.nodes or held.unused_nodes < _MIN_UNUSED:
        return False
    return held.number >= _MIN_UNUSED or _count_terms(held.heads[0]) >= _MIN_UNUSED


def _holds_only_the_latest(held: HeldGraphs, holder: Holder) -> bool:
    """Return whether a holder has room for one tensor, which is no sum: the others are those of the running iteration."""
    return holder.kind in _SINGLE and "[" not in holder.name and _count_terms(held.heads[0]) < _MIN_UNUSED


def _count_terms(tensor: torch.Tensor) -> int:
    """Return how many nodes of the same type lead from a tensor straight backwards, as those of a running total do."""
    node, number = tensor.grad_fn, 0
    while node is not None and number < _MIN_UNUSED:
        number += 1
        name = node.name()
        node = next((n for n, _ in node.next_functions if n is not None and n.name() == name), None)
    return number
