"""Rules about hooks on tensors that change gradients, and about gradients that are read where none are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradprobe._counted_nouns import pluralize, times
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import find_steps, list_names, relate
from gradprobe.history.leaf_uses import LeafUse

_MIN_TIMES = 2
_MIN_SHARE = 0.75


def find_hooks_on_gradients(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP524: the line in the hook, where it was registered, and where the backward pass began."""
    for located in evidence.select_detections("GP524"):
        if is_library(located.main.file):
            continue
        if located.detection.facts.get("zeros") is True:
            yield from _describe_zeros(evidence, located)
        else:
            yield _describe_change(located, is_shared=located.detection.facts.get("shared") is True)


def _describe_zeros(evidence: Evidence, located: LocatedDetection) -> Iterator[Finding]:
    """Yield a hook that leaves nothing of a gradient, if parameters that are trained got nothing but zeros."""
    for graph in evidence.flow_graphs:
        lost = [use for use in graph.uses.values() if _has_only_zeros(use)]
        if located.count < _MIN_TIMES or not lost:
            continue
        steps = max(use.steps_with_grad for use in lost)
        message = (
            f"A hook on a tensor makes zeros of the gradient here. Nothing is left for {list_names(lost)}, whose gradients "
            f"were zero in {pluralize(steps, 'step')} of the optimizer."
        )
        fix = "Return the gradient, or freeze the parameters behind it with `requires_grad_(False)` if that is meant."
        finding = located.make_finding(message)
        at = tuple(relate(site, "optimizer steps here") for site in find_steps(graph, lost)[:1])
        text = f"zeros in {pluralize(steps, 'step')} for {pluralize(len(lost), 'parameter')}"
        yield replace(finding, related=(*finding.related, *at), fix=fix, evidence=text)
        return


def _has_only_zeros(use: LeafUse) -> bool:
    return use.steps_with_zeros >= max(_MIN_TIMES, _MIN_SHARE * use.steps_with_grad)


def _describe_change(located: LocatedDetection, *, is_shared: bool) -> Finding:
    if is_shared:
        message = (
            "A hook on a tensor changes a gradient in place here that other tensors get too: an addition, for example, "
            "hands one gradient to both of its operands. Theirs are changed with it."
        )
    else:
        message = (
            "A hook on a tensor changes the gradient in place here. No other tensor got the same one in this run, but "
            "PyTorch does not promise that."
        )
    fix = "Return a new tensor from the hook: `return grad * 0.5` instead of `grad.mul_(0.5)`."
    finding = located.make_finding(message)
    return replace(
        finding, fix=fix, evidence=f"gradient changed in place {times(located.count)}", level="" if is_shared else NOTE
    )


def find_gradients_of_results(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP523: the line that reads ``grad``, and the line that computed the tensor."""
    for located in evidence.select_detections("GP523"):
        if is_library(located.main.file):
            continue
        message = (
            "This reads `.grad` of a tensor that an operator computed, and gets None: a backward pass stores gradients in "
            "leaves only, such as parameters."
        )
        fix = (
            "Call `retain_grad()` on it before `backward()`, or make it a leaf: "
            "`x = (...).detach().requires_grad_()`, or `device=` and `dtype=` in the call that creates it."
        )
        finding = located.make_finding(message)
        yield replace(finding, fix=fix, evidence=f"read {times(located.count)}")


RULES = (find_hooks_on_gradients, find_gradients_of_results)
"""Rules of this family; a recording is checked against each."""
