"""Uses of leaves: which operators took a parameter, which backward passes reached it, and what optimizers found."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradprobe.recording.flow import (
    BACKWARD_SITE,
    CARRIED,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
    STEP_SITE,
    WITHOUT_GRAD,
    WRITTEN,
    FlowLeaf,
    FlowLedger,
)


@dataclass
class LeafUse:
    """Uses and gradients of one leaf."""

    number: int
    leaf: FlowLeaf
    sites: list[int] = field(default_factory=list)
    """Sites that took it, without backward passes and steps."""
    carried: list[int] = field(default_factory=list)
    """Sites among them where a node was constructed for it."""
    uses: int = 0
    uses_with_grad: int = 0
    backwards: int = 0
    grads: int = 0
    """Passes of ``autograd.grad`` that reached it."""
    roots: int = 0
    """Backward passes that began at the leaf itself."""
    steps_with_grad: int = 0
    steps_without_grad: int = 0
    steps_with_zeros: int = 0
    """Steps among those with a gradient that found only zeros in it."""
    writes: int = 0
    """Operators that wrote it in place without a node, but for those of the line that created it."""
    written: list[int] = field(default_factory=list)
    """Sites that wrote it in place without a node."""
    is_updated: bool = False
    """True if an operator wrote it in place with what a backward pass had computed; the graph of the flow knows it."""

    @property
    def steps(self) -> int:
        """Number of steps of optimizers that have the leaf."""
        return self.steps_with_grad + self.steps_without_grad


def read_leaf_uses(ledger: FlowLedger) -> dict[int, LeafUse]:
    """Return what a process did with each of its leaves, by number."""
    uses = {number: LeafUse(number, leaf) for number, leaf in ledger.leaves.items()}
    for (source, target), counts in ledger.edges.items():
        use, site = uses.get(source), ledger.sites.get(target)
        if use is None or site is None:
            continue
        if site.op == BACKWARD_SITE:
            use.backwards += counts[CARRIED]
            use.roots += counts[WITHOUT_GRAD]
        elif site.op == GRAD_SITE:
            use.grads += counts[CARRIED]
        elif site.op == STEP_SITE:
            use.steps_with_grad += counts[CARRIED]
            use.steps_without_grad += counts[WITHOUT_GRAD]
            use.steps_with_zeros += counts[NOT_DIFFERENTIABLE]
        else:
            made = ledger.sites.get(use.leaf.made_at)
            if made is None or (made.file, made.line) != (site.file, site.line):
                use.writes += counts[WRITTEN]
            if counts[WRITTEN]:
                use.written.append(target)
            use.uses += sum(counts[:WRITTEN])
            use.uses_with_grad += counts[CARRIED]
            if any(counts[:WRITTEN]):
                use.sites.append(target)
            if counts[CARRIED]:
                use.carried.append(target)
    return uses
