"""Detector of backward passes that go through a part of the graph for gradients that are cleared (GP515).

The flow ledger counts the gradients that are cleared before any optimizer steps with them. Which part of a graph is there
for them alone is seen while the graph exists: the lines whose nodes lead to no other leaves.
"""

from __future__ import annotations

from types import CodeType, FrameType

from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.frames import walk_frames
from gradprobe.recording.notes import SourceLocation

_MIN_LEAVES_ON_SHARED_LINE = 3
"""A weight that is computed from others, as weight normalization does it, is a part of its own with two leaves."""
_MAX_LINES = 3

_Path = list[tuple[int, int]]
ClearedPart = tuple[list[tuple[_Path, int, int]], int]
"""The paths of calls that constructed the graph, each with the numbers of all its nodes and of those that lead to leaves
with cleared gradients only, and the largest number of such leaves behind one node."""


def report_cleared_part(
    part: ClearedPart, at: SourceLocation | None, frame: FrameType | None, log: DetectionLog
) -> None:
    """Report the lines of running functions that constructed the part of a graph, as a backward begins.

    Args:
        part: The part of the graph.
        at: The line that calls the backward.
        frame: The innermost frame that runs.
        log: The log of detections.
    """
    paths, most_leaves = part
    running = {id(each.f_code) for each in walk_frames(frame)}
    lines: dict[tuple[CodeType | None, int], list[int]] = {}
    for path, nodes, chosen in paths:
        code, offset = _find_line(path, running)
        counts = lines.setdefault((log.codes.held.get(code), offset), [0, 0])
        counts[0] += nodes
        counts[1] += chosen
    is_large = most_leaves >= _MIN_LEAVES_ON_SHARED_LINE
    found = [
        (chosen, line)
        for line, (nodes, chosen) in lines.items()
        if line[0] is not None and (chosen == nodes or (chosen and is_large))
    ]
    if not found:
        return
    largest = sorted(found, key=lambda entry: -entry[0])[:_MAX_LINES]
    built = [locate_instruction("graph built here", *line) for _, line in largest]
    log.add("GP515", [at, *built], nodes=sum(chosen for chosen, _ in found), all=sum(nodes for _, nodes, _ in paths))


def _find_line(path: _Path, running: set[int]) -> tuple[int, int]:
    """Return the innermost line of a function that still runs, or else the outermost line."""
    return next((line for line in path if line[0] in running), path[-1] if path else (0, 0))
