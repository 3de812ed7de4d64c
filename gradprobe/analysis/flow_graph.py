"""Questions to the flow ledger: how gradient gets from a parameter to a backward pass, and where its way ends."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from gradprobe.recording.flow import (
    BACKWARD_SITE,
    CARRIED,
    CUTS,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
    STEP_SITE,
    WITHOUT_GRAD,
    WRITTEN,
    FlowLeaf,
    FlowLedger,
    FlowSite,
)

_MAX_STEPS_FROM_GRADIENT = 6
_SINKS = (BACKWARD_SITE, GRAD_SITE)


@dataclass(frozen=True)
class Cut:
    """An edge along which gradient could have flowed and did not.

    ``source`` and ``site`` are the numbers of its ends, ``passage`` the index of the reason in ``PASSAGES``, ``count`` how
    often.
    """

    source: int
    site: int
    passage: int
    count: int


@dataclass(frozen=True)
class LeafUse:
    """Account of one leaf: the sites that took it, passes and steps."""

    number: int
    leaf: FlowLeaf
    sites: tuple[int, ...]
    """Sites that took it, without backward passes and steps."""
    carried: tuple[int, ...]
    """Sites among them where a node was constructed for it."""
    backwards: int
    grads: int
    """Passes of ``autograd.grad`` that reached it."""
    roots: int
    """Backward passes that began at the leaf itself."""
    steps_with_grad: int
    steps_without_grad: int
    is_updated: bool
    """True if an operator wrote it in place with what a backward pass had computed."""

    @property
    def steps(self) -> int:
        """Number of steps of optimizers that have the leaf."""
        return self.steps_with_grad + self.steps_without_grad


class FlowGraph:
    """The flow of one process as a graph."""

    def __init__(self, ledger: FlowLedger) -> None:
        self.sites, self.leaves = ledger.sites, ledger.leaves
        self.outgoing: dict[int, dict[int, list[int]]] = defaultdict(dict)
        self.incoming: dict[int, dict[int, list[int]]] = defaultdict(dict)
        for (source, target), counts in ledger.edges.items():
            self.outgoing[source][target] = counts
            self.incoming[target][source] = counts

    def is_sink(self, number: int) -> bool:
        """Return whether a site stands for a backward pass."""
        site = self.sites.get(number)
        return site is not None and site.op in _SINKS

    def is_step(self, number: int) -> bool:
        """Return whether a site stands for an optimizer's step."""
        site = self.sites.get(number)
        return site is not None and site.op == STEP_SITE

    @cached_property
    def uses(self) -> dict[int, LeafUse]:
        """All leaves."""
        return {number: self._read_leaf(number, leaf) for number, leaf in self.leaves.items()}

    def _read_leaf(self, number: int, leaf: FlowLeaf) -> LeafUse:
        sites, carried = [], []
        backwards = grads = roots = with_grad = without_grad = 0
        is_updated = False
        for target, counts in self.outgoing.get(number, {}).items():
            site = self.sites.get(target)
            if site is None:
                continue
            if site.op == BACKWARD_SITE:
                backwards += counts[CARRIED]
                roots += counts[WITHOUT_GRAD]
            elif site.op == GRAD_SITE:
                grads += counts[CARRIED]
            elif site.op == STEP_SITE:
                with_grad += counts[CARRIED]
                without_grad += counts[WITHOUT_GRAD]
            else:
                is_updated = is_updated or (counts[WRITTEN] > 0 and self._takes_gradient(target))
                if any(counts[:WRITTEN]):
                    sites.append(target)
                if counts[CARRIED]:
                    carried.append(target)
        return LeafUse(
            number, leaf, tuple(sites), tuple(carried), backwards, grads, roots, with_grad, without_grad, is_updated
        )

    def _takes_gradient(self, number: int) -> bool:
        """Return whether a site takes the result of a backward pass, directly or through a few operators."""
        level = {number}
        for _ in range(_MAX_STEPS_FROM_GRADIENT):
            level = {source for site in level for source in self.incoming.get(site, ()) if source not in self.leaves}
            if any(map(self.is_sink, level)):
                return True
        return False

    @cached_property
    def leading_to_sinks(self) -> frozenset[int]:
        """Sites from whose results, by edges of any kind, a backward pass was started."""
        waiting = deque(number for number in self.sites if self.is_sink(number))
        found = set(waiting)
        while waiting:
            for source in self.incoming.get(waiting.popleft(), ()):
                if source not in found and source not in self.leaves:
                    found.add(source)
                    waiting.append(source)
        return frozenset(found)

    def mixes(self, number: int) -> bool:
        """Return whether a site takes other tensors than leaves, as a layer takes its input and its weights."""
        return any(source not in self.leaves for source in self.incoming.get(number, ()))

    def follow(self, starts: Iterable[int]) -> list[int]:
        """Return the sites that gradient can reach from some sites, the nearest first, the sites themselves included."""
        waiting = deque(starts)
        found = dict.fromkeys(waiting)
        while waiting:
            number = waiting.popleft()
            for target, counts in self.outgoing.get(number, {}).items():
                if counts[CARRIED] and target not in found:
                    found[target] = None
                    waiting.append(target)
        return list(found)

    def cuts_after(self, sources: Iterable[int]) -> list[Cut]:
        """Return the edges out of these sites and leaves that cut the graph, in their order."""
        cuts = []
        for source in sources:
            for target, counts in self.outgoing.get(source, {}).items():
                if self.is_sink(source) and counts[WITHOUT_GRAD] and target in self.leading_to_sinks:
                    cuts.append(Cut(source, source, NOT_DIFFERENTIABLE, counts[WITHOUT_GRAD]))
                elif not self.is_sink(target) and not self.is_step(target):
                    cuts += [Cut(source, target, passage, counts[passage]) for passage in CUTS if counts[passage]]
        return cuts

    def find_cuts(self, use: LeafUse) -> list[Cut]:
        """Return where the ways of a leaf to the backward passes are cut, the nearest first."""
        direct = self.cuts_after([use.number])
        behind = self.cuts_after(self.follow(use.carried))
        cuts = [*direct, *behind]
        leading = [cut for cut in cuts if cut.site in self.leading_to_sinks]
        if leading or not self.sinks:
            return leading
        return []

    @cached_property
    def sites_by_line(self) -> dict[tuple[str, int], list[int]]:
        """Numbers of the sites of each line where nodes were constructed."""
        found: dict[tuple[str, int], list[int]] = defaultdict(list)
        for number, site in self.sites.items():
            if any(counts[CARRIED] for counts in self.incoming.get(number, {}).values()) and not self.is_sink(number):
                found[site.file, site.line].append(number)
        return found

    @cached_property
    def sinks(self) -> list[FlowSite]:
        """The backward passes."""
        return [site for number, site in self.sites.items() if self.is_sink(number)]

    def find_ends(self, use: LeafUse) -> list[int]:
        """Return the sites whose results carry the gradient of a leaf and that nothing takes further."""
        ends = []
        for number in self.follow(use.carried):
            onward = self.outgoing.get(number, {})
            if number in self.sites and not self.is_sink(number) and not any(c[CARRIED] for c in onward.values()):
                ends.append(number)
        return ends

    def trace_back(self, number: int) -> list[Cut]:
        """Return the cuts behind a site or leaf whose result has no graph, the nearest first."""
        waiting, found, cuts = deque([number]), {number}, list[Cut]()
        while waiting:
            current = waiting.popleft()
            for source, counts in self.incoming.get(current, {}).items():
                cuts += [Cut(source, current, passage, counts[passage]) for passage in CUTS if counts[passage]]
                if counts[WITHOUT_GRAD] and source not in found and source not in self.leaves:
                    found.add(source)
                    waiting.append(source)
        return cuts
