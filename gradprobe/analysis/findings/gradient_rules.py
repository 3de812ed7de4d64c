"""Rules about gradients that do not arrive."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import CUT_REASONS, MODE_CUTS, CutReason, advise_not_entering, find_reason
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.flow_lines import (
    begin_with_names,
    find_call,
    find_steps,
    locate_construction,
    locate_way,
    make_finding,
    relate,
)
from gradprobe.analysis.findings.owing_passes import choose_cut
from gradprobe.analysis.findings.parameter_copies import describe_copy, find_copy
from gradprobe.analysis.findings.story_lines import locate_differentiated
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.findings.value_exits import describe_exit, find_exit
from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import (
    CUT_BY_DATA,
    CUT_BY_DETACH,
    NOT_DIFFERENTIABLE,
    WITHOUT_GRAD,
    FlowSite,
)


def find_parameters_without_gradient(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP511, or GP105 if a decorator cuts: where the way of parameters to the backward passes ends."""
    for graph in evidence.flow_graphs:
        starved = [use for use in graph.uses.values() if use.steps_without_grad and not use.steps_with_grad]
        cut: dict[object, list[tuple[LeafUse, Cut]]] = {}
        cleared, ended = list[LeafUse](), dict[tuple[int, ...], list[LeafUse]]()
        copied: dict[int, list[LeafUse]] = {}
        withheld: dict[tuple[str, int], list[LeafUse]] = {}
        read: dict[Cut, list[LeafUse]] = {}
        for use in starved:
            # A pass after the last step, for another purpose, clears nothing.
            if use.backwards >= use.steps and use.carried:
                cleared.append(use)
            elif use.backwards and not use.carried:
                for returned in _find_returns(graph, use)[:1]:
                    withheld.setdefault(returned, []).append(use)
            elif use.sites:
                cuts = [cut for cut in graph.find_cuts(use) if not _is_copy(graph, use, cut)]
                if not cuts and not use.carried:
                    cuts = [cut for cut in graph.cuts_after([use.number]) if cut.passage in MODE_CUTS]
                copy = None if any(cut.site in graph.leading_to_sinks for cut in cuts) else find_copy(graph, use)
                if copy is not None:
                    copied.setdefault(copy.site, []).append(use)
                elif cuts:
                    first = choose_cut(graph, use, cuts)
                    cut.setdefault(_find_cause(evidence, graph, first), []).append((use, first))
                elif graph.sinks and not _has_loss_without_graph(graph):
                    left = find_exit(graph, use)
                    if left is not None:
                        read.setdefault(left, []).append(use)
                    elif not _is_only_inspected(graph, use):
                        ended.setdefault(tuple(graph.find_ends(use)), []).append(use)
        for entries in cut.values():
            first = min((entry for _, entry in entries), key=lambda entry: entry.site)
            yield _describe_cut(evidence, graph, first, [use for use, _ in entries])
        for number, uses in copied.items():
            yield describe_copy(graph, number, uses)
        for (file, last), uses in withheld.items():
            yield _describe_function(graph, file, last, uses)
        if cleared:
            yield from _describe_cleared(graph, cleared)
        for at, uses in read.items():
            yield describe_exit(graph, at, uses)
        for ends, uses in ended.items():
            yield from _describe_end(graph, ends, uses)


def _is_copy(graph: FlowGraph, use: LeafUse, cut: Cut) -> bool:
    """Return whether the cut is a copy of a parameter that was used with grad elsewhere: of a model, or for an average."""
    is_copied = cut.passage == CUT_BY_DETACH or shorten_op(graph.sites[cut.site].op) in _COPIES
    return is_copied and cut.source == use.number and bool(use.carried)


def _is_only_inspected(graph: FlowGraph, use: LeafUse) -> bool:
    """Return whether all that takes a parameter takes trained ones too, and leads to no pass: norms that are printed."""
    trained = {number for number, other in graph.uses.items() if other.steps_with_grad}
    return bool(use.carried) and all(
        site not in graph.leading_to_sinks and trained.intersection(graph.incoming[site]) for site in use.carried
    )


def _find_cause(evidence: Evidence, graph: FlowGraph, cut: Cut) -> object:
    """Return what the cuts of one cause have in common: the line that entered the mode, else that of the operator."""
    site = graph.sites[cut.site]
    mode = evidence.locate_mode(site) if cut.passage in MODE_CUTS else None
    # The modules of one class are different sites of the same line.
    return (site.file, site.line, site.op, cut.passage) if mode is None else (mode[0].file, mode[0].line, cut.passage)


def _describe_cut(evidence: Evidence, graph: FlowGraph, cut: Cut, uses: list[LeafUse]) -> Finding:
    number, passage = cut.site, cut.passage
    is_used = number in graph.leading_to_sinks
    site, steps = graph.sites[number], max(use.steps for use in uses)
    how, fix = _NEW_LEAF if _makes_leaf(graph, cut) else find_reason(site.op, passage)
    related = []
    rule, mode = "GP511", evidence.locate_mode(site) if passage in MODE_CUTS else None
    if passage in MODE_CUTS and mode is None and find_call(site.file, "sample", site.line) == site.line:
        how, fix = _SAMPLED
    if mode is not None:
        at, manager, form = mode
        related.append(at)
        fix = _NOT_KEEPING if _is_kept(graph, cut) else advise_not_entering(manager, at.file, at.line)
        rule = "GP105" if form == "decorator" else rule
    related += locate_way(graph, uses, number)
    related += locate_construction(graph, uses) if _makes_leaf(graph, cut) else []
    names = begin_with_names(uses)
    message = (
        f"{names} took part in the forward pass but got no gradient in {graph.count_steps(steps)}: "
        f"`{_name_operator(graph, cut)}` at this line {how}, "
        + (
            "and the loss is computed from its result."
            if is_used
            else "so that no gradient comes back through its result."
        )
    )
    text = f"0 of {pluralize(steps, 'step')} found a gradient for {pluralize(len(uses), 'parameter')}"
    # A target network may be among the parameters of the optimizer, as a part of the module that trains: nothing is lost.
    level = NOTE if passage in MODE_CUTS and graph.is_target(number) else ""
    return make_finding(rule, message, site, len(uses), related, fix, text, level)


def _is_kept(graph: FlowGraph, cut: Cut) -> bool:
    """Return whether what a mode has cut once was used many times, as a result is that a module keeps for later calls."""
    return any(graph.outgoing[n][join][WITHOUT_GRAD] > 2 * cut.count for n, join in graph.find_meetings(cut.site)[:1])


def _makes_leaf(graph: FlowGraph, cut: Cut) -> bool:
    """Return whether a line makes a new leaf without a `detach()` of its own, as `nn.Parameter(...)` does."""
    site = graph.sites[cut.site]
    is_leaf = cut.passage == CUT_BY_DETACH and graph.find_new_leaves(cut.site)[:1] == [cut.site]
    return is_leaf and find_call(site.file, "detach", site.line) != site.line


def _name_operator(graph: FlowGraph, cut: Cut) -> str:
    """Return how the source calls what cuts: ``nn.Parameter(...)`` detaches what it is given."""
    site = graph.sites[cut.site]
    is_parameter = _makes_leaf(graph, cut) and find_call(site.file, "Parameter", site.line) == site.line
    return "nn.Parameter" if is_parameter else shorten_op(site.op)


def _describe_cleared(graph: FlowGraph, uses: list[LeafUse]) -> Iterator[Finding]:
    for step in find_steps(graph, uses)[:1]:
        names, steps = begin_with_names(uses), max(use.steps for use in uses)
        related = [relate(site, "backward called here") for site in graph.sinks[:2]]
        clearing = find_call(step.file, "zero_grad", step.line)
        if clearing is not None:
            related.insert(0, RelatedLine(step.file, clearing, "gradients cleared here"))
        message = (
            f"{names} had no gradient in {graph.count_steps(steps)} although the backward passes reached them: the "
            "gradients are cleared between the backward pass and the step."
        )
        fix = "Call `zero_grad()` before `backward()` or after `step()`, not between them."
        yield make_finding(
            "GP511", message, step, len(uses), related, fix, f"0 of {pluralize(steps, 'step')} found a gradient"
        )


def _find_returns(graph: FlowGraph, use: LeafUse) -> list[tuple[str, int]]:
    """Return the last lines of the ``backward`` of the custom Functions that take a parameter."""
    found = []
    for site in (graph.sites[number] for number in use.sites):
        source = parse_file(site.file)
        returned = None if source is None else source.find_backward_return(site.line)
        found += [] if returned is None else [(site.file, returned)]
    return found


def _describe_function(graph: FlowGraph, file: str, returned: int, uses: list[LeafUse]) -> Finding:
    """Return the finding on parameters that only a custom Function takes: its ``backward`` returns no gradient for them."""
    taking = next(graph.sites[number] for number in uses[0].sites if graph.sites[number].file == file)
    steps = max(use.steps for use in uses)
    source = parse_file(file)
    applied = None if source is None else source.find_apply(taking.line)
    related = [relate(taking, "parameter used here"), *locate_way(graph, uses)]
    if applied is not None:
        related.insert(0, RelatedLine(file, applied, "Function applied here"))
    differentiated = locate_differentiated(file, returned)
    why = "" if not differentiated else " What it differentiates has no graph: grad is disabled in a `backward`."
    message = (
        f"{begin_with_names(uses)} had no gradient in {graph.count_steps(steps)}: the `backward` of this "
        f"autograd.Function returns None for {'them' if len(uses) > 1 else 'it'}.{why}"
    )
    fix = (
        "Compute what is differentiated under `torch.enable_grad()`."
        if differentiated
        else "Return the gradient of this input from `backward`."
    )
    found = f"0 of {pluralize(steps, 'step')} found a gradient"
    main = taking._replace(line=returned)
    return make_finding("GP511", message, main, len(uses), [*differentiated, *related], fix, found)


def _describe_end(graph: FlowGraph, ends: tuple[int, ...], uses: list[LeafUse]) -> Iterator[Finding]:
    """Yield the parameters whose results no backward pass starts from: the way ends, and nothing has cut it."""
    sites = [graph.sites[number] for number in ends if number in graph.sites]
    own = [site for site in sites if not is_library(site.file)] or sites
    if not own:
        return
    steps = max(use.steps for use in uses)
    names = begin_with_names(uses)
    if any(use.grads for use in uses):
        message = (
            f"{names} got no gradient in {graph.count_steps(steps)}: `torch.autograd.grad` reaches them, but "
            "it returns the gradients instead of storing them in `.grad`."
        )
        fix = "Assign the returned gradients to `.grad`, or call `backward()`."
    elif _writes_past_graph(own[-1]):
        message = (
            f"{names} took part in the forward pass but got no gradient in {graph.count_steps(steps)}: this line writes "
            "what is computed from them into the memory of a tensor, past its graph."
        )
        fix = "Write into the tensor itself, or build it of its parts with `torch.stack` or `torch.cat`."
    elif (read := _find_data_read(own[-1])) is not None:
        how, fix = CUT_REASONS[CUT_BY_DATA]
        message = (
            f"{names} took part in the forward pass but got no gradient in {graph.count_steps(steps)}: this line {how}, "
            "so that no gradient comes back through the result."
        )
        own.append(own[-1]._replace(line=read))
    else:
        message = (
            f"{names} took part in the forward pass but got no gradient in {graph.count_steps(steps)}: no "
            "backward pass starts from what is computed here."
        )
        fix = "Add this result to the loss, or take the parameters out of the optimizer."
    text = f"0 of {pluralize(steps, 'step')} found a gradient"
    # What a model of a library computes beside the result that the program asked for is not the program's choice.
    is_own = not is_library(own[-1].file)
    is_certain = any(use.grads for use in uses) or (is_own and all(use.carried for use in uses))
    yield make_finding(
        "GP511", message, own[-1], len(uses), locate_way(graph, uses), fix, text, "" if is_certain else NOTE
    )


def _find_data_read(site: FlowSite) -> int | None:
    """Return the line that reads what a site computes through ``.data``, which no operator shows, from the source."""
    source = parse_file(site.file)
    return None if source is None else source.find_data_read(site.line)


def _writes_past_graph(site: FlowSite) -> bool:
    """Return whether a line writes in place through ``.data`` or a detached tensor."""
    source = parse_file(site.file)
    return source is not None and shorten_op(site.op).endswith("_") and source.writes_through(site.line, _PAST_GRAPH)


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
            related = [relate(backward, "backward called here")]
            cuts = graph.trace_back(use.leaf.made_at) if made is not None else []
            for cut in cuts[:2]:
                related.append(relate(graph.sites[cut.site], "cut from the graph here"))
                mode = evidence.locate_mode(graph.sites[cut.site])
                if mode is not None:
                    related.append(mode[0])
            related += [relate(site, "values leave the graph here") for site in _find_exits(graph, main)]
            message = (
                "`backward()` starts at a tensor without a graph: what this line makes is a new leaf, so no "
                "parameter gets a gradient from it."
            )
            yield make_finding(
                "GP512", message, main, use.roots, related, "", f"{pluralize(use.roots, 'pass')} reached no parameter"
            )


def _has_loss_without_graph(graph: FlowGraph) -> bool:
    return any(use.roots and not use.steps and not use.carried for use in graph.uses.values())


def _find_exits(graph: FlowGraph, near: FlowSite) -> list[FlowSite]:
    """Return the sites where results of parameters leave the graph and do not come back, the most likely ones first."""
    starved = [use for use in graph.uses.values() if use.steps and not use.steps_with_grad]
    reached = graph.follow(number for use in starved for number in use.carried)
    cuts = [cut for cut in graph.cuts_after(reached) if cut.site not in graph.leading_to_sinks]
    cuts.sort(
        key=lambda cut: (
            cut.passage == NOT_DIFFERENTIABLE and shorten_op(graph.sites[cut.site].op) not in _EXITS,
            -cut.count,
        )
    )
    sites = [graph.sites[cut.site] for cut in cuts]
    return sorted(sites, key=lambda site: (site.file, site.function) != (near.file, near.function))[:2]


_NOT_KEEPING = (
    "Do not keep what was computed there for later calls: compute it again where grad is enabled, or keep it only while "
    "grad is disabled."
)
_PAST_GRAPH = ("data", "detach")
_SAMPLED = CutReason(
    "belongs to `sample()`, which computes without grad",
    "Call `rsample()`, through whose result gradient passes, or compute the loss from `log_prob()` of what was sampled.",
)
_NEW_LEAF = CutReason("makes a new leaf of it", "Use the result itself instead of a new parameter or leaf.")
_COPIES = (
    *("clone", "copy", "copy_", "_to_copy", "lerp", "lerp_", "_foreach_copy_", "_foreach_lerp_"),
    *("add", "add_", "sub", "mul", "mul_"),
)
"""Operators that a parameter goes through when a model is copied or averaged."""
_EXITS = ("item", "_local_scalar_dense", "is_nonzero", "equal")


RULES = (find_parameters_without_gradient, find_losses_without_graph)
"""Rules of this family; a recording is checked against each."""
