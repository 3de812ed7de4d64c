"""Knowledge of a recording that explanations draw on: its flow, modes, graphs and findings, by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import MODE_CUTS, advise_not_entering, find_reason
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import Suppression
from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.analysis.why.explanation import Story, join_names, show_place
from gradprobe.recording.flow import FlowSite, PathCounts
from gradprobe.tables.recording_tables import RecordingTables

Line = tuple[str, int]
_MAX_FINDINGS = 3
_BYSTANDERS = ("backward called here", "optimizer steps here")


@dataclass(frozen=True)
class SiteAt:
    """A site and the flow of its process."""

    graph: FlowGraph
    number: int

    @property
    def site(self) -> FlowSite:
        """The site itself."""
        return self.graph.sites[self.number]


class Knowledge:
    """A recording as explanations query it."""

    def __init__(self, tables: RecordingTables) -> None:
        self.tables = tables
        self.evidence = Evidence(tables)

    @cached_property
    def findings(self) -> list[Finding]:
        """Findings, without those that comments in the source suppress."""
        return Suppression().split(find_all(self.tables))[0]

    @property
    def graphs(self) -> list[FlowGraph]:
        """Flow of each process."""
        return self.evidence.flow_graphs

    @cached_property
    def sites(self) -> list[SiteAt]:
        """Sites of all processes."""
        return [SiteAt(graph, number) for graph in self.graphs for number in graph.sites]

    def is_empty(self) -> bool:
        """Return whether nothing is known of the flow, as below level ``ops``."""
        return not self.sites

    def count_paths(self, lines: Collection[Line]) -> PathCounts:
        """Return what calls through these lines constructed, each path once."""
        total = PathCounts()
        for ledger in self.evidence.flows:
            for path, counts in ledger.paths.items():
                if any((frame.file, frame.line) in lines for frame in path):
                    for name in ("built", "reached", "forgotten", "calls", "saved_bytes"):
                        setattr(total, name, getattr(total, name) + getattr(counts, name))
        return total

    def list_class_names(self, name: str) -> set[str]:
        """Return a dotted name with the class of its outermost module, which tells nothing where it has several modules."""
        return {process.module_names.show_class(name) for process in self.tables.processes}

    def describe_cut(self, story: Story, graph: FlowGraph, cut: Cut) -> tuple[str, str]:
        """Return where and why an edge cuts the graph, and the fix."""
        site = graph.sites[cut.site]
        story.told.add((site.file, site.line))
        how, fix = find_reason(site.op, cut.passage)
        where = f"`{shorten(site.op)}` at {story.name('cut here', site.file, site.line)}"
        mode = self.evidence.locate_mode(site) if cut.passage in MODE_CUTS else None
        if mode is not None:
            at, manager, form = mode
            how = f"runs under {manager}, entered at {story.name('mode entered here', at.file, at.line)} ({form})"
            fix = advise_not_entering(manager, at.file, at.line)
        return f"{where} {how}", fix

    def list_sinks(self, story: Story, starts: Iterable[SiteAt]) -> str:
        """Return the backward passes that start from what these sites lead to, as text."""
        found = []
        for graph, numbers in group_by_graph(starts):
            for number in graph.find_sinks(numbers):
                site = graph.sites[number]
                found.append(f"`{site.op}` at {story.name('backward called here', site.file, site.line)}")
        return join_names(found)

    @cached_property
    def _calls(self) -> dict[FlowSite, int]:
        ops = self.tables.ops[["file", "line", "function", "op", "module", "count"]].dropna()
        found: Counter[FlowSite] = Counter()
        for *place, count in ops.itertuples(index=False):
            found[FlowSite(*place)] += int(count)
        return found

    def describe_calls(self, sites: Iterable[SiteAt]) -> str:
        """Return the operators of some sites as text, the most frequent first."""
        found: Counter[str] = Counter()
        for at in sites:
            # Backward passes and steps are not in the table of operators.
            edges = at.graph.incoming.get(at.number, {}).values()
            times = self._calls.get(at.site) or max((sum(counts) for counts in edges), default=0)
            found[shorten(at.site.op)] += times
        return join_names([f"`{op}`" + (f" {pluralize(n, 'time')}" if n else "") for op, n in found.most_common()])

    def tell_holders(self, story: Story, lines: Collection[Line]) -> None:
        """Add what keeps the graphs of these lines."""
        for located in self.evidence.select_detections("GP201"):
            if any((at.file, at.line) in lines for at in located.lines):
                read, holder = located.detection.read_count, str(located.detection.facts.get("holder", ""))
                iterations = read("iterations")
                story.tell(
                    "Kept",
                    f"{f'`{holder}`' if holder else 'something'} keeps {pluralize(read('number'), 'tensor')} with "
                    f"{pluralize(read('nodes'), 'node')}"
                    + (f" of {pluralize(iterations, 'iteration')}" if iterations else ""),
                )

    def tell_findings(self, story: Story, findings: list[Finding]) -> None:
        """Add the findings, with their messages where the cause does not say the same, and the first one's fix."""
        for finding in findings[:_MAX_FINDINGS]:
            at = finding.file or "", finding.line or 0
            text = f"{finding.rule} ({finding.severity}) at {show_place(*at)}"
            story.tell("Finding", text if at in story.told else f"{text}: {finding.message}")
            if finding.severity != NOTE and finding.rule.startswith(_RULES_ABOUT_TENSORS):
                related = [each for each in finding.related if (each.file, each.line) not in story.told]
                lines = [f"{each.role} {story.name(each.role, each.file, each.line)}" for each in related]
                story.tell("Lines", "; ".join(lines))
        if len(findings) > _MAX_FINDINGS:
            story.tell("Findings", f"{len(findings) - _MAX_FINDINGS:,} more, see `gradprobe check`")
        if findings and not story.fix and not _is_bystander(story, findings[0]):
            story.fix = findings[0].advice

    def findings_at(self, lines: Collection[Line]) -> list[Finding]:
        """Return the findings whose main line or a related one is among these, the former first."""
        touching = [f for f in self.findings if any(line in lines for line in lines_of_finding(f))]
        return sorted(touching, key=lambda f: (f.file, f.line) not in lines)


_RULES_ABOUT_TENSORS = ("GP101", "GP4", "GP6")
"""Rules that follow one tensor or mode from line to line, which the flow in the rest of a story does not show."""


def _is_bystander(story: Story, finding: Finding) -> bool:
    """Return whether the first line of a story only takes part in a finding whose fix is an edit elsewhere."""
    first = next(iter(story.places), None)
    return any(related.role in _BYSTANDERS and (related.file, related.line) == first for related in finding.related)


def lines_of_finding(finding: Finding) -> Iterator[Line]:
    """Yield the main line of a finding and the related ones."""
    yield finding.file or "", finding.line or 0
    yield from ((related.file, related.line) for related in finding.related)


def group_by_graph(sites: Iterable[SiteAt]) -> list[tuple[FlowGraph, list[int]]]:
    """Return the numbers of sites for each process."""
    found: dict[int, tuple[FlowGraph, list[int]]] = {}
    for at in sites:
        found.setdefault(id(at.graph), (at.graph, []))[1].append(at.number)
    return list(found.values())


def shorten(op: str) -> str:
    """Return the name of an operator without its library and overload."""
    return op.split(".")[1] if op.startswith("aten.") else op
