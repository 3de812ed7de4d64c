"""Rules about gradients that do not arrive, and gradients that nobody takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.flow_graph import Cut, FlowGraph, LeafUse
from gradprobe.recording.flow import (
    CUT_BY_DATA,
    CUT_BY_DETACH,
    CUT_BY_INFERENCE,
    CUT_BY_NO_GRAD,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
    WITHOUT_GRAD,
    FlowLedger,
    FlowSite,
    Frame,
)

_MIN_BACKWARDS = 2
_MAX_NAMES = 3

_REASONS = {
    CUT_BY_NO_GRAD: ("runs under no_grad", "Run this line with grad enabled."),
    CUT_BY_INFERENCE: ("runs in inference mode", "Run this line outside inference mode."),
    CUT_BY_DETACH: ("detaches it", "Remove the `detach()`."),
    CUT_BY_DATA: ("reads it through `.data`", "Use the tensor itself instead of `.data`."),
    NOT_DIFFERENTIABLE: ("has no derivative", "Use a differentiable operation, or a surrogate gradient."),
}


def find_parameters_without_gradient(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP511, or GP105 if a decorator cuts: where the way of parameters to the backward passes ends."""
    for graph in evidence.flow_graphs:
        starved = [use for use in graph.uses.values() if use.steps_without_grad and not use.steps_with_grad]
        cut: dict[tuple[int, int], list[tuple[LeafUse, Cut]]] = {}
        cleared, ended = list[LeafUse](), dict[tuple[int, ...], list[LeafUse]]()
        for use in starved:
            if use.backwards and use.carried:
                cleared.append(use)
            elif use.backwards:
                yield from _describe_function(graph, use)
            elif use.sites:
                cuts = graph.find_cuts(use)
                if cuts:
                    cut.setdefault((cuts[0].site, cuts[0].passage), []).append((use, cuts[0]))
                elif graph.sinks and not _has_loss_without_graph(graph):
                    ended.setdefault(tuple(graph.find_ends(use)), []).append(use)
        for (site, passage), entries in cut.items():
            yield _describe_cut(evidence, graph, site, passage, [use for use, _ in entries])
        if cleared:
            yield from _describe_cleared(graph, cleared)
        for ends, uses in ended.items():
            yield from _describe_end(graph, ends, uses)


def _describe_cut(evidence: Evidence, graph: FlowGraph, number: int, passage: int, uses: list[LeafUse]) -> Finding:
    site, steps = graph.sites[number], max(use.steps for use in uses)
    how, fix = _REASONS[passage]
    if site.op == GRAD_SITE:
        how, fix = "computes gradients without a graph of their own", "Pass `create_graph=True`."
    related = []
    rule, mode = "GP511", evidence.locate_mode(site) if passage in (CUT_BY_NO_GRAD, CUT_BY_INFERENCE) else None
    if mode is not None:
        at, manager, form = mode
        related.append(at)
        fix = f"Leave {manager}, entered at {at.file.rsplit('/', 1)[-1]}:{at.line}, out of the training path."
        rule = "GP105" if form == "decorator" else rule
    related += _locate_way(graph, uses, number)
    names = _list_names(uses)
    message = (
        f"{names} took part in the forward pass but got no gradient in any of {steps:,} optimizer steps: "
        f"`{_short(site.op)}` at this line {how}, and the loss is computed from its result."
    )
    text = f"0 of {steps:,} steps found a gradient; {len(uses):,} parameters are concerned"
    return _make(rule, message, site, len(uses), related, fix, text)


def _locate_way(graph: FlowGraph, uses: Sequence[LeafUse], stop: int = 0) -> list[RelatedLine]:
    """Return the lines where parameters enter, where the backward pass starts, and where the optimizer steps."""
    lines = []
    for use in uses[:_MAX_NAMES]:
        lines += [_related(graph.sites[site], "parameter used here") for site in use.sites[:1] if site != stop]
    if stop:
        onward = sorted(graph.outgoing.get(stop, {}), key=lambda n: n not in graph.leading_to_sinks)
        lines += [_related(graph.sites[n], "result used here") for n in onward[:1] if n in graph.sites]
    lines += [_related(site, "backward called here") for site in graph.sinks[:2]]
    lines += [_related(site, "optimizer steps here") for site in _steps_of(graph, uses)[:1]]
    return lines


def _steps_of(graph: FlowGraph, uses: Sequence[LeafUse]) -> list[FlowSite]:
    found = {number for use in uses for number in graph.outgoing.get(use.number, {}) if graph.is_step(number)}
    return [graph.sites[number] for number in sorted(found)]


def _describe_cleared(graph: FlowGraph, uses: list[LeafUse]) -> Iterator[Finding]:
    for step in _steps_of(graph, uses)[:1]:
        names, steps = _list_names(uses), max(use.steps for use in uses)
        related = [_related(site, "backward called here") for site in graph.sinks[:2]]
        clearing = _find_call(step.file, "zero_grad", step.line)
        if clearing is not None:
            related.insert(0, RelatedLine(step.file, clearing, "gradients cleared here"))
        message = (
            f"{names} had no gradient in any of {steps:,} optimizer steps although the backward passes reached them: the "
            "gradients are cleared between the backward pass and the step."
        )
        fix = "Call `zero_grad()` before `backward()` or after `step()`, not between them."
        yield _make("GP511", message, step, len(uses), related, fix, f"0 of {steps:,} steps found a gradient")


def _describe_function(graph: FlowGraph, use: LeafUse) -> Iterator[Finding]:
    """Yield a parameter that only a custom Function takes: its ``backward`` returns no gradient for it."""
    for site in (graph.sites[number] for number in use.sites):
        source = parse_file(site.file)
        returned = None if source is None else source.find_backward_return(site.line)
        if source is None or returned is None:
            continue
        applied = source.find_apply(site.line)
        related = [_related(site, "parameter used here"), *_locate_way(graph, [use])]
        if applied is not None:
            related.insert(0, RelatedLine(site.file, applied, "Function applied here"))
        message = (
            f"{_list_names([use])} had no gradient in any of {use.steps:,} optimizer steps: the `backward` of this "
            "autograd.Function returns None for it."
        )
        main = site._replace(line=returned)
        fix = "Return the gradient of this input from `backward`."
        yield _make("GP511", message, main, 1, related, fix, f"0 of {use.steps:,} steps found a gradient")
        return


def _describe_end(graph: FlowGraph, ends: tuple[int, ...], uses: list[LeafUse]) -> Iterator[Finding]:
    """Yield the parameters whose results no backward pass starts from: the way ends, and nothing has cut it."""
    sites = [graph.sites[number] for number in ends if number in graph.sites]
    own = [site for site in sites if not is_library(site.file)] or sites
    if not own:
        return
    steps = max(use.steps for use in uses)
    names = _list_names(uses)
    if any(use.grads for use in uses):
        message = (
            f"{names} got no gradient in any of {steps:,} optimizer steps: `torch.autograd.grad` reaches them, but "
            "it returns the gradients instead of storing them in `.grad`."
        )
        fix = "Assign the returned gradients to `.grad`, or call `backward()`."
    else:
        message = (
            f"{names} took part in the forward pass but got no gradient in any of {steps:,} optimizer steps: no "
            "backward pass starts from what is computed here."
        )
        fix = "Add this result to the loss, or take the parameters out of the optimizer."
    text = f"0 of {steps:,} steps found a gradient"
    is_certain = any(use.grads for use in uses) or all(use.carried for use in uses)
    yield _make("GP511", message, own[-1], len(uses), _locate_way(graph, uses), fix, text, "" if is_certain else NOTE)


def find_losses_without_graph(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP512: the line that made a loss without a graph, where its value left the graph, and the backward pass."""
    for graph in evidence.flow_graphs:
        for use in graph.uses.values():
            if not use.roots or use.steps or use.carried or use.leaf.is_parameter:
                continue
            sinks = [n for n, counts in graph.outgoing[use.number].items() if graph.is_sink(n) and counts[WITHOUT_GRAD]]
            backward = graph.sites[sinks[0]]
            made = graph.sites.get(use.leaf.made_at)
            main = made or backward
            related = [_related(backward, "backward called here")]
            cuts = graph.trace_back(use.leaf.made_at) if made is not None else []
            for cut in cuts[:2]:
                related.append(_related(graph.sites[cut.site], "cut from the graph here"))
                mode = evidence.locate_mode(graph.sites[cut.site])
                if mode is not None:
                    related.append(mode[0])
            related += [_related(site, "values leave the graph here") for site in _find_exits(graph, main)]
            message = (
                "`backward()` starts at a tensor without a graph: what this line makes is a new leaf, so no "
                f"parameter gets a gradient from it ({use.roots:,} times)."
            )
            yield _make("GP512", message, main, use.roots, related, "", f"{use.roots:,} passes reached no parameter")


def _has_loss_without_graph(graph: FlowGraph) -> bool:
    return any(use.roots and not use.steps and not use.carried for use in graph.uses.values())


def _find_exits(graph: FlowGraph, near: FlowSite) -> list[FlowSite]:
    """Return the sites where results of parameters leave the graph and do not come back, the most likely ones first."""
    starved = [use for use in graph.uses.values() if use.steps and not use.steps_with_grad]
    reached = graph.follow(number for use in starved for number in use.carried)
    cuts = [cut for cut in graph.cuts_after(reached) if cut.site not in graph.leading_to_sinks]
    cuts.sort(
        key=lambda cut: (
            cut.passage == NOT_DIFFERENTIABLE and _short(graph.sites[cut.site].op) not in _EXITS,
            -cut.count,
        )
    )
    sites = [graph.sites[cut.site] for cut in cuts]
    return sorted(sites, key=lambda site: (site.file, site.function) != (near.file, near.function))[:2]


_EXITS = ("item", "_local_scalar_dense", "is_nonzero", "equal")


def find_replaced_parameters(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP513: the line that made the parameter in use, where the optimizer was constructed and where it steps."""
    for graph in evidence.flow_graphs:
        uses = list(graph.uses.values())
        stale = [u for u in uses if _is_stale(u)]
        in_use = [u for u in uses if not u.steps and u.backwards and u.leaf.is_parameter and not u.is_updated]
        if not stale or not in_use:
            continue
        trained = {u.leaf.name.split(".")[0] for u in uses if u.steps_with_grad}
        by_line: dict[int, list[LeafUse]] = {}
        for use in in_use:
            is_same = any(old.leaf.shape == use.leaf.shape for old in stale)
            if is_same or use.leaf.name.split(".")[0] in trained:
                by_line.setdefault(use.leaf.made_at, []).append(use)
        for made_at, members in by_line.items():
            step = (_steps_of(graph, stale) or graph.sinks)[0]
            main = graph.sites.get(made_at) or step
            related = [*_locate_construction(graph, stale), _related(step, "optimizer steps here")]
            passes = max(use.backwards for use in members)
            message = (
                f"{_list_names(members)} gets gradients ({passes:,} backward passes), but the optimizer holds "
                "another parameter in its place, which nothing uses: it was replaced after the optimizer was "
                "constructed."
            )
            yield _make("GP513", message, main, passes, related, "", f"{stale[0].steps:,} steps found no gradient")


def _is_stale(use: LeafUse) -> bool:
    return bool(use.steps) and not use.steps_with_grad and not use.sites and not use.backwards


def _locate_construction(graph: FlowGraph, uses: Sequence[LeafUse]) -> list[RelatedLine]:
    """Return the line that constructed the optimizer of some parameters, from the source of the line that steps."""
    for step in _steps_of(graph, uses)[:1]:
        for name in {use.leaf.optimizer for use in uses if use.leaf.optimizer}:
            line = _find_call(step.file, name, step.line)
            if line is not None:
                return [RelatedLine(step.file, line, "optimizer constructed here")]
    return []


def find_gradients_nobody_takes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP514: where parameters are used that get gradients, but that no optimizer has and nothing writes."""
    for graph, ledger in zip(evidence.flow_graphs, evidence.flows, strict=True):
        uses = list(graph.uses.values())
        if not any(use.steps_with_grad for use in uses):
            continue
        has_stale = any(map(_is_stale, uses))
        groups: dict[str, list[LeafUse]] = {}
        for use in uses:
            is_taken = use.steps or use.is_updated or use.backwards < _MIN_BACKWARDS
            if not is_taken and use.carried and not (has_stale and use.leaf.is_parameter):
                groups.setdefault(use.leaf.name.split(".")[0], []).append(use)
        trained = {use.leaf.name.split(".")[0] for use in uses if use.steps_with_grad}
        for root, members in groups.items():
            yield _describe_untaken(graph, ledger, root, members, is_partial=bool(root) and root in trained)


def _describe_untaken(
    graph: FlowGraph, ledger: FlowLedger, root: str, uses: list[LeafUse], *, is_partial: bool
) -> Finding:
    first = graph.sites[uses[0].carried[0]]
    called = _find_outer_call(ledger, uses, graph)
    passes = max(use.backwards for use in uses)
    related = [_related(site, "backward called here") for site in graph.sinks[:2]]
    related += [
        _related(graph.sites[u.leaf.made_at], "created here") for u in uses[:1] if u.leaf.made_at in graph.sites
    ]
    related.append(_related(first, "parameter used here"))
    related += _locate_construction(graph, [use for use in graph.uses.values() if use.steps_with_grad])
    if is_partial:
        source = parse_file(first.file)
        lines = [] if source is None else source.find_requires_grad()
        related += [RelatedLine(first.file, line, "requires_grad set here") for line in lines[:2]]
    are, them, theirs = ("are", "them", "their gradients") if len(uses) > 1 else ("is", "it", "its gradient")
    message = (
        f"{_list_names(uses)} {are} not in any optimizer, and nothing writes to {them}, but {passes:,} backward passes "
        f"compute {theirs}."
    )
    if is_partial:
        message += f" Other parameters of {root} are trained."
    fix = (
        "Add them to the optimizer, or freeze them with `requires_grad_(False)`."
        if is_partial or not root
        else f"Run {root} under `torch.no_grad()`, or freeze it with `requires_grad_(False)`."
    )
    main = first if called is None else FlowSite(*called, "", "")
    return _make("GP514", message, main, len(uses), related, fix, f"{passes:,} passes, {len(uses):,} parameters")


def _find_outer_call(ledger: FlowLedger, uses: Sequence[LeafUse], graph: FlowGraph) -> Frame | None:
    """Return the line outside of any ``forward`` that calls the module with these parameters."""
    lines = {(graph.sites[n].file, graph.sites[n].line) for use in uses for n in use.carried}
    for path, counts in ledger.paths.items():
        if not path or not counts.reached or (path[0].file, path[0].line) not in lines:
            continue
        for frame in path:
            if frame.function.rsplit(".", 1)[-1] != "forward" and not is_library(frame.file):
                return frame
    return None


def _find_call(file: str, name: str, near: int) -> int | None:
    """Return the line nearest to ``near`` that calls a function or class of this name."""
    source = parse_file(file)
    lines = [
        node.lineno
        for node in (() if source is None else ast.walk(source.tree))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] == name
    ]
    return min(lines, key=lambda line: abs(line - near), default=None)


def _list_names(uses: Sequence[LeafUse]) -> str:
    names = [use.leaf.name or f"a leaf of shape {list(use.leaf.shape)}" for use in uses]
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _short(op: str) -> str:
    return op.split(".")[1] if op.count(".") else op


def _related(site: FlowSite, role: str) -> RelatedLine:
    return RelatedLine(site.file, site.line, role)


def _make(
    rule: str,
    message: str,
    main: FlowSite,
    count: int,
    related: Sequence[RelatedLine],
    fix: str,
    evidence: str,
    level: str = "",
) -> Finding:
    lines = dict[tuple[str, int], RelatedLine]()
    for line in related:
        if line.file and (line.file, line.line) != (main.file, main.line):
            lines.setdefault((line.file, line.line), line)
    function = main.function
    return Finding(rule, message, main.file, main.line, function, count, tuple(lines.values()), fix, evidence, level)


RULES = (
    find_parameters_without_gradient,
    find_losses_without_graph,
    find_replaced_parameters,
    find_gradients_nobody_takes,
)
"""Rules of this family; a recording is checked against each."""
