"""Rules about aliases that were taken for copies."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe._counted_nouns import times
from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.recording.flow import WRITTEN

_MAX_WRITERS = 2


def find_copies_onto_themselves(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP606: the copy, the line that made the alias, and the lines that wrote to the memory in between."""
    for located in evidence.select_detections("GP606"):
        name, writers = _describe_leaf(evidence, located)
        writes = located.detection.facts.get("writes", 0)
        message = (
            f"This copies {name or 'a tensor'} onto itself: the source is an alias of the target, not an earlier "
            f"state of it, and was written {times(writes)} since the alias was made."
        )
        yield located.make_finding(message, (*located.related, *writers))


def find_comparisons_with_themselves(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP607: the comparison, and the lines that made the aliases and wrote to their memory."""
    for located in evidence.select_detections("GP607"):
        name, writers = _describe_leaf(evidence, located)
        if not name and not located.detection.facts.get("writes", 0):
            continue
        message = (
            f"This compares {name or 'a tensor'} with an alias of itself: the difference is always 0, because what "
            "was kept follows each write."
        )
        yield located.make_finding(message, (*located.related, *writers))


def find_stacks_of_aliases(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP608: the stack, and the lines that made the aliases."""
    for located in evidence.select_detections("GP608"):
        number = located.detection.facts.get("number", 0)
        message = (
            f"All {number:,} tensors that are stacked here share one memory: each of them shows what was written "
            "last, not the value from when it was stored."
        )
        yield located.make_finding(message)


def _describe_leaf(evidence: Evidence, located: LocatedDetection) -> tuple[str, list[RelatedLine]]:
    """Return the name of the leaf whose memory it is, and the lines that write to it."""
    number = int(located.detection.facts.get("leaf", 0))
    for graph in evidence.flow_graphs:
        leaf = graph.leaves.get(number)
        if leaf is None:
            continue
        sites = graph.outgoing.get(number, {})
        steps = [graph.sites[n] for n in sites if n in graph.sites and graph.is_step(n)]
        written = [graph.sites[n] for n, counts in sites.items() if n in graph.sites and counts[WRITTEN]]
        lines = [RelatedLine(site.file, site.line, "written here") for site in (steps or written)[:_MAX_WRITERS]]
        return leaf.name, lines
    return "", []


RULES = (
    find_copies_onto_themselves,
    find_comparisons_with_themselves,
    find_stacks_of_aliases,
)
"""Rules of this family; a recording is checked against each."""
