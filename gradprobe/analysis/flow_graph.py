"""Questions to the flow ledger: how gradient gets from a parameter to a backward pass, and where its way ends."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from gradprobe.history.leaf_uses import LeafUse, read_leaf_uses
from gradprobe.recording.flow import (
    BACKWARD_SITE,
    CARRIED,
    CUT_BY_INFERENCE,
    CUT_BY_NO_GRAD,
    CUTS,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
    STEP_SITE,
    WITHOUT_GRAD,
    WRITTEN,
    FlowLedger,
    FlowSite,
)

_MAX_STEPS_FROM_GRADIENT = 6
_FIRST_STEPS = 64
"""Steps of a thread that the observer looks at one by one, ``FIRST_STEPS`` of its library: of later ones, only at some."""
_CLEARING = frozenset(("zero_", "fill_", "_foreach_zero_", "copy_", "_foreach_copy_"))
_SHARING = frozenset(
    ("detach", "alias", "view", "reshape", "t", "transpose", "permute", "squeeze", "unsqueeze", "expand", "flatten")
    + ("select", "slice", "narrow", "contiguous", "to", "view_as", "unbind", "chunk", "split", "numpy_T", "mT")
)
"""Operators whose result may share the memory of their operand."""
_SINKS = (BACKWARD_SITE, GRAD_SITE)
_MODES = (CUT_BY_NO_GRAD, CUT_BY_INFERENCE)


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


class FlowGraph:
    """The flow of one process as a graph."""

    def __init__(self, ledger: FlowLedger) -> None:
        self._ledger = ledger
        self.sites, self.leaves = ledger.sites, ledger.leaves
        self.outgoing: dict[int, dict[int, list[int]]] = defaultdict(dict)
        self.incoming: dict[int, dict[int, list[int]]] = defaultdict(dict)
        self.gradient_ways: dict[tuple[int, int], list[int]] = {}
        """Edges from what stands for a gradient to the passes that add to it and to the steps that take it."""
        for (source, target), counts in ledger.edges.items():
            if source not in self.leaves and (self.is_step(target) or (counts[WRITTEN] and self.is_sink(target))):
                self.gradient_ways[source, target] = counts
                counts = [*counts[:WRITTEN], 0]
                if self.is_step(target) or not any(counts):
                    continue
            self.outgoing[source][target] = counts
            self.incoming[target][source] = counts

    def name_of(self, number: int) -> str:
        """Return a short name of a site or leaf for messages."""
        return self._ledger.name_of(number)

    def is_sink(self, number: int) -> bool:
        """Return whether a site stands for a backward pass."""
        site = self.sites.get(number)
        return site is not None and site.op in _SINKS

    def is_step(self, number: int) -> bool:
        """Return whether a site stands for an optimizer's step."""
        site = self.sites.get(number)
        return site is not None and site.op == STEP_SITE

    def clears(self, number: int) -> bool:
        """Return whether a site gives a tensor other values without a look at those that it has, as `zero_grad()` does."""
        site = self.sites.get(number)
        return site is not None and shorten_op(site.op) in _CLEARING

    @cached_property
    def uses(self) -> dict[int, LeafUse]:
        """All leaves."""
        uses = read_leaf_uses(self._ledger)
        for use in uses.values():
            use.is_updated = any(map(self._takes_gradient, use.written))
        return uses

    def _takes_gradient(self, number: int) -> bool:
        """Return whether a site takes the result of a backward pass, directly or through a few operators.

        As an optimizer steps, it takes the gradients: what reads them in a step that the program wrote follows it.
        """
        level = {number}
        for _ in range(_MAX_STEPS_FROM_GRADIENT):
            level = {source for site in level for source in self.incoming.get(site, ()) if source not in self.leaves}
            if any(self.is_sink(site) or self.is_step(site) for site in level):
                return True
        return False

    def count_steps(self, steps: int) -> str:
        """Return all of a number of optimizer steps as text, which says so if the program may have made more of them."""
        found = "the one optimizer step" if steps == 1 else f"any of {steps:,} optimizer steps"
        return found + ("" if self.has_every_step else " that the recording looked at")

    @cached_property
    def has_every_step(self) -> bool:
        """True if the observer has certainly looked at each step of all optimizers."""
        looks: dict[tuple[int, str, str], int] = {}
        for use in self.uses.values():
            for number, counts in self.outgoing.get(use.number, {}).items():
                if self.is_step(number):
                    # A line may call several optimizers, which have parameters of different modules.
                    key = (number, use.leaf.optimizer, use.leaf.name.split(".")[0])
                    looks[key] = max(looks.get(key, 0), sum(counts[:WRITTEN]))
        return sum(looks.values()) < _FIRST_STEPS

    @cached_property
    def leading_to_sinks(self) -> frozenset[int]:
        """Sites from whose results, by edges of any kind, a backward pass was started."""
        return self.find_behind(number for number in self.sites if self.is_sink(number))

    @cached_property
    def leading_to_new_leaves(self) -> frozenset[int]:
        """Sites from whose results a leaf was made that is no parameter, and that a backward pass reached."""
        new = (use.leaf for use in self.uses.values() if use.backwards and not use.leaf.is_parameter)
        return self.find_behind(leaf.made_at for leaf in new if not leaf.optimizer and leaf.made_at in self.sites)

    def find_behind(self, starts: Iterable[int]) -> frozenset[int]:
        """Return some sites, and all from whose results theirs were computed."""
        waiting = deque(starts)
        found = set(waiting)
        while waiting:
            for source in self.incoming.get(waiting.popleft(), ()):
                if source not in found and source not in self.leaves:
                    found.add(source)
                    waiting.append(source)
        return frozenset(found)

    def is_target(self, number: int) -> bool:
        """Return whether what a site makes under a mode is only a target: the loss compares what is trained with it.

        It is more than that if a parameter that is trained is applied to it, or if the mode also cuts what leads there.
        """
        trained = {target for use in self.uses.values() if use.steps_with_grad for target in use.carried}
        waiting, found = deque([number]), {number}
        while waiting:
            current = waiting.popleft()
            if current in trained or any(
                c.source not in self.leaves and c.passage in _MODES for c in self.cuts_at(current)
            ):
                return False
            for target in self.outgoing.get(current, ()):
                if target not in found and target in self.leading_to_sinks and not self.is_sink(target):
                    found.add(target)
                    waiting.append(target)
        return True

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

    def find_sinks(self, starts: Iterable[int]) -> list[int]:
        """Return the backward passes that gradient can come from to some sites, the nearest first."""
        return [number for number in self.follow(starts) if self.is_sink(number)]

    def find_leaves(self, sites: Iterable[int]) -> list[int]:
        """Return the leaves whose gradient goes through some sites, the nearest first."""
        waiting = deque(sites)
        found = dict.fromkeys(waiting)
        while waiting:
            for source, counts in self.incoming.get(waiting.popleft(), {}).items():
                if counts[CARRIED] and source not in found:
                    found[source] = None
                    waiting.append(source)
        return [number for number in found if number in self.leaves]

    def find_way(self, start: int) -> list[int]:
        """Return the sites on a shortest way of gradient from a site to a backward pass, empty if there is none."""
        before: dict[int, int | None] = {start: None}
        waiting = deque([start])
        while waiting:
            number: int | None = waiting.popleft()
            if number is not None and self.is_sink(number):
                way = []
                while number is not None:
                    way.append(number)
                    number = before[number]
                return way[::-1]
            for target, counts in self.outgoing.get(number or 0, {}).items():
                if counts[CARRIED] and target not in before and target in self.sites:
                    before[target] = number
                    waiting.append(target)
        return []

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

    def cuts_at(self, number: int) -> list[Cut]:
        """Return the edges into a site that cut the graph, unless it is a backward pass or a step."""
        if self.is_sink(number) or self.is_step(number):
            return []
        edges = self.incoming.get(number, {}).items()
        return [Cut(source, number, p, counts[p]) for source, counts in edges for p in CUTS if counts[p]]

    def find_cuts(self, use: LeafUse) -> list[Cut]:
        """Return where the ways of a leaf to the backward passes are cut, the nearest first.

        Where none leads to a pass, it is what cuts the ways to other leaves, which were made of what is computed from it.
        """
        cuts = self.cuts_after([use.number, *self.follow(use.carried)])
        return [cut for cut in cuts if cut.site in self.leading_to_sinks] or [
            cut for cut in cuts if cut.site in self.leading_to_new_leaves
        ]

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

    def are_gradients_read(self, number: int, leaves: Collection[int]) -> bool:
        """Return whether operators read the gradients that a backward pass gave some of its leaves.

        It is known how many gradients of a pass an operator has read, not which: they are read if there are more than the
        other leaves have.
        """
        reached = {n: counts[CARRIED] for n, counts in self.incoming.get(number, {}).items() if n in self.leaves}
        others = sum(passes for leaf, passes in reached.items() if leaf not in leaves)
        reads = (
            sum(counts)
            for target, counts in self.outgoing.get(number, {}).items()
            if target in self.sites
            and not self.is_step(target)
            and not self.is_sink(target)
            and not self.clears(target)
        )
        return max(reads, default=0) > others

    def find_ends(self, use: LeafUse) -> list[int]:
        """Return the sites whose results carry the gradient of a leaf and that nothing takes further."""
        ends = []
        for number in self.follow(use.carried):
            onward = self.outgoing.get(number, {})
            if number in self.sites and not self.is_sink(number) and not any(c[CARRIED] for c in onward.values()):
                ends.append(number)
        return ends

    def find_new_leaves(self, start: int) -> list[int]:
        """Return the sites that made leaves of what is computed from the result of a site, the nearest first."""
        waiting = deque([start] if start in self.leading_to_new_leaves else [])
        found = dict.fromkeys(waiting)
        while waiting:
            for target in self.outgoing.get(waiting.popleft(), ()):
                if target in self.leading_to_new_leaves and target not in found:
                    found[target] = None
                    waiting.append(target)
        made = {leaf.made_at for leaf in self.leaves.values()}
        return [number for number in found if number in made]

    def find_meetings(self, start: int) -> list[tuple[int, int]]:
        """Return the edges by which values without a graph from a site meet what has one, the nearest first."""
        waiting, found, meetings = deque([start]), {start}, list[tuple[int, int]]()
        while waiting:
            number = waiting.popleft()
            for target, counts in self.outgoing.get(number, {}).items():
                if target in found or not counts[WITHOUT_GRAD] or target not in self.leading_to_sinks:
                    continue
                found.add(target)
                if not any(others[CARRIED] for others in self.incoming[target].values()):
                    waiting.append(target)
                elif not self.is_sink(target):
                    meetings.append((number, target))
        return meetings

    def trace_memory(self, number: int) -> list[int]:
        """Return the sites whose memory a view or a detached tensor shares, the nearest first."""
        found = list[int]()
        while number not in found and shorten_op(self.sites[number].op) in _SHARING:
            found.append(number)
            sources = [source for source in self.incoming.get(number, {}) if source in self.sites]
            if len(sources) != 1:
                return found[1:]
            number = sources[0]
        return [*found[1:], number] if found and number not in found else found[1:]

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


def shorten_op(op: str) -> str:
    """Return the name of an operator without its namespace and overload: ``add`` for ``aten.add.Tensor``."""
    return op.split(".")[1] if op.count(".") else op
