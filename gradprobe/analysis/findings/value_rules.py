"""Rules about values that changed without a version counter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.array_writes import find_writes_after, find_writes_to_wrapped
from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import parse_file

_SAVED, _WRITTEN, _SHARED = "saved for backward here", "written here", "memory given away here"


def find_unseen_writes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP609: the line that wrote or shared the memory, the lines that saved it, and the backward pass."""
    groups: dict[tuple[object, ...], list[LocatedDetection]] = {}
    for located in evidence.select_detections("GP609"):
        # One write concerns each node that has saved the memory.
        others = tuple(at for at in located.detection.locations if at.role != _SAVED)
        groups.setdefault((id(located.process), *others), []).append(located)
    yield from _link([_describe(group) for group in groups.values()])


def _link(findings: list[Finding]) -> Iterator[Finding]:
    """Yield the findings, each with the other lines that wrote what the same line had saved: they are edited together."""
    for finding in findings:
        saved = _list_saved(finding)
        known = {(finding.file, finding.line), *((at.file, at.line) for at in finding.related)}
        others = dict.fromkeys(
            RelatedLine(other.file, other.line, "also written here")
            for other in findings
            if other.file and other.line and saved & _list_saved(other) and (other.file, other.line) not in known
        )
        yield replace(finding, related=(*finding.related, *others))


def _list_saved(finding: Finding) -> set[tuple[str, int]]:
    return {(at.file, at.line) for at in finding.related if at.role == _SAVED}


def _describe(group: list[LocatedDetection]) -> Finding:
    by_operator = bool(group[0].detection.facts.get("by_operator"))
    lines = [line for located in group for line in located.lines]
    if not by_operator:
        lines += _find_writes(lines)
    main = next((line for role in (_WRITTEN, _SHARED, _SAVED) for line in lines if line.role == role), lines[0])
    count = max(located.count for located in group)
    how = (
        "through a tensor with a version counter of its own, as `.data` returns one"
        if by_operator
        else "through NumPy or another library that shares it"
    )
    message = (
        f"The memory of a tensor that was saved for backward was written before the backward pass {how}. Autograd "
        f"cannot notice that: the gradients of {pluralize(count, 'backward pass')} are computed from the new values."
    )
    related: dict[tuple[str, int], RelatedLine] = {}
    for line in lines:
        if (line.file, line.line) != (main.file, main.line):
            related.setdefault((line.file, line.line), line)
    known = [at for located in group for at in located.detection.locations]
    function = next((at.function for at in known if (at.file, at.line) == (main.file, main.line)), "")
    text = f"{pluralize(count, 'backward pass')} used memory that was written after it was saved"
    return Finding("GP609", message, main.file, main.line, function, count, tuple(related.values()), "", text)


def _find_writes(lines: list[RelatedLine]) -> list[RelatedLine]:
    """Return the lines that may have written through an array, from the source of the lines that are known."""
    is_shared = any(line.role == _SHARED for line in lines)
    for line in lines:
        if is_library(line.file) or (is_shared and line.role != _SHARED):
            continue
        source = parse_file(line.file)
        if source is None:
            continue
        writes = find_writes_after(source, line.line) if is_shared else find_writes_to_wrapped(source)
        if writes:
            return [RelatedLine(line.file, number, _WRITTEN) for number in writes]
    return []


RULES = (find_unseen_writes,)
"""Rules of this family; a recording is checked against each."""
