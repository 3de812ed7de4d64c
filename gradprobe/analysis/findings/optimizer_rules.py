"""Rules about parameters that get gradients and that no optimizer has."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.calls_of_library import locate_calls
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.flow_lines import (
    MIN_UNTAKEN,
    begin_with_names,
    find_steps,
    is_within,
    list_names,
    locate_construction,
    make_finding,
    relate,
)
from gradprobe.analysis.findings.syntax import get_last_name, parse_file
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import UNKNOWN_PARAMETER, FlowLedger, FlowSite, Frame


def find_replaced_parameters(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP513: the line that made the parameter in use, where the optimizer was constructed and where it steps."""
    for graph in evidence.flow_graphs:
        uses = list(graph.uses.values())
        in_use = [u for u in uses if not u.steps and u.backwards and u.leaf.is_parameter and not u.is_updated]
        # Into what takes its place a program may write its values, as load_state_dict does.
        is_loaded = any(0 < u.writes < u.backwards for u in in_use)
        stale = [u for u in uses if _is_stale(u) or (is_loaded and not u.steps_with_grad and _is_only_copied(u))]
        if not stale or not in_use:
            continue
        trained = {u.leaf.name.split(".")[0] for u in uses if u.steps_with_grad}
        # Layers that were pruned or grown have another shape, but seldom all of their parameters.
        replaced = {u.leaf.name.split(".")[0] for u in in_use if any(u.leaf.shape == old.leaf.shape for old in stale)}
        step = (find_steps(graph, stale) or graph.sinks)[0]
        by_line: dict[tuple[str, int], list[LeafUse]] = {}
        for use in in_use:
            if use.leaf.name.split(".")[0] in trained | replaced:
                made = graph.sites.get(use.leaf.made_at) or step
                by_line.setdefault((made.file, made.line), []).append(use)
        for members in by_line.values():
            main = graph.sites.get(members[0].leaf.made_at) or step
            constructed = locate_construction(graph, stale)
            related = [*constructed, relate(step, "optimizer steps here")]
            if is_library(main.file):
                calls = locate_calls(main, graph.sites.values(), evidence.program_files, "replaced here")
                after = [at for at in calls if constructed and at.file == constructed[0].file]
                for at in (after or calls)[-1:]:
                    related.append(relate(main, "parameter made here"))
                    main = FlowSite(at.file, at.line, "", "", "")
            kept = {use.leaf.made_at for use in stale} - {use.leaf.made_at for use in uses if use not in stale}
            makers = [graph.sites[number] for number in sorted(kept) if number in graph.sites]
            related += [relate(site, "optimizer's parameter made here") for site in makers[:1]]
            passes = max(use.backwards for use in members)
            belong = "belong" if len(members) > 1 else "belongs"
            message = (
                f"{pluralize(passes, 'backward pass')} computed gradients for {list_names(members)}, which {belong} to no "
                "optimizer: the optimizer still has what was in that place when it was constructed, and nothing uses that "
                "any more."
            )
            yield make_finding(
                "GP513",
                message,
                main,
                passes,
                related,
                "",
                f"{pluralize(stale[0].steps_without_grad, 'step')} found no gradient",
            )


def _is_stale(use: LeafUse) -> bool:
    """Return whether an optimizer holds a parameter that nothing uses, or that nothing has used for some steps."""
    if use.steps_with_grad:
        is_abandoned = use.steps_without_grad >= MIN_UNTAKEN and use.backwards <= use.steps_with_grad
        return is_abandoned and use.leaf.name.startswith(UNKNOWN_PARAMETER)
    return bool(use.steps) and not use.sites and not use.backwards


def _is_only_copied(use: LeafUse) -> bool:
    """Return whether an optimizer holds a parameter of which nothing is used but its values, and these only in passing."""
    return bool(use.sites) and not use.uses_with_grad and not use.backwards and use.uses < use.steps


def find_untaken_gradients(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP514: where parameters are used that get gradients, but that no optimizer has and nothing writes."""
    for graph, ledger in zip(evidence.flow_graphs, evidence.flows, strict=True):
        uses = list(graph.uses.values())
        if not any(use.steps_with_grad for use in uses):
            continue
        has_stale = any(map(_is_stale, uses))
        groups: dict[str, list[LeafUse]] = {}
        for use in uses:
            is_taken = use.steps or use.is_updated or use.backwards < MIN_UNTAKEN
            # A line that was meant to freeze them has a finding of its own.
            is_taken = is_taken or any(is_within(use.leaf.name, owner) for owner in ledger.flags)
            is_taken = (
                is_taken or _serves_copy(graph, use) or _is_internal(graph, use) or not _is_beside_trained(graph, use)
            )
            if not is_taken and use.carried and not (has_stale and use.leaf.is_parameter):
                groups.setdefault(use.leaf.name.split(".")[0], []).append(use)
        trained = {use.leaf.name.split(".")[0] for use in uses if use.steps_with_grad}
        found: dict[object, list[tuple[str, Frame | None]]] = {}
        for root, members in groups.items():
            called = _find_outer_call(ledger, members, graph, root, is_partial=root in trained)
            # One call may run several parts of a model that is not called as a whole itself.
            at = called if called is not None and root and root not in trained else root
            found.setdefault(at, []).append((root, called))
        for parts in found.values():
            roots = [root for root, _ in parts]
            members = [use for root in roots for use in groups[root]]
            is_partial = bool(roots[0]) and roots[0] in trained
            yield _describe_untaken(graph, parts[0][1], roots, members, is_partial=is_partial)


def _serves_copy(graph: FlowGraph, use: LeafUse) -> bool:
    """Return whether gradients are read and values written back, as for the copy that an optimizer has of a parameter."""
    sinks = (number for number in graph.outgoing[use.number] if graph.is_sink(number))
    return 2 * use.writes >= use.backwards and any(graph.are_gradients_read(number, {use.number}) for number in sinks)


def _is_beside_trained(graph: FlowGraph, use: LeafUse) -> bool:
    """Return whether a pass that reaches a leaf reaches others that are trained, too: else it may serve another purpose."""
    sinks = (number for number in graph.outgoing[use.number] if graph.is_sink(number))
    return any(graph.uses[n].steps_with_grad for sink in sinks for n in graph.incoming[sink] if n in graph.leaves)


def _is_internal(graph: FlowGraph, use: LeafUse) -> bool:
    """Return whether a library made the leaf for itself: what a sum begins with, or an input whose gradient it reads."""
    made = graph.sites.get(use.leaf.made_at)
    return not use.leaf.name and made is not None and is_library(made.file)


def _describe_untaken(
    graph: FlowGraph, called: Frame | None, roots: Sequence[str], uses: list[LeafUse], *, is_partial: bool
) -> Finding:
    root = " and ".join(roots)
    first = graph.sites[uses[0].carried[0]]
    passes = max(use.backwards for use in uses)
    related = [relate(site, "backward called here") for site in graph.sinks[:2]]
    related += [relate(graph.sites[u.leaf.made_at], "created here") for u in uses[:1] if u.leaf.made_at in graph.sites]
    related.append(relate(first, "parameter used here"))
    related += locate_construction(graph, [use for use in graph.uses.values() if use.steps_with_grad])
    source = parse_file(first.file)
    if is_partial:
        lines = [] if source is None else source.find_requires_grad()
        related += [RelatedLine(first.file, line, "requires_grad set here") for line in lines[:2]]
    are, them, theirs = ("are", "them", "their gradients") if len(uses) > 1 else ("is", "it", "its gradient")
    message = (
        f"{begin_with_names(uses)} {are} not in any optimizer, and nothing writes to {them}, but "
        f"{passes:,} backward passes compute {theirs}."
    )
    made = graph.sites.get(uses[0].leaf.made_at)
    is_operand = made is not None and not root and _is_operand(made)
    if is_partial:
        message += f" Other parameters of {root} are trained."
    elif is_operand:
        message += (
            " The program keeps the result of an operator instead, which was computed once and is not a parameter."
        )
    container = _find_container(uses)
    if container:
        message += f" They are in a plain container, `{container}`, where `parameters()` does not find them."
        kept = None if source is None else source.find_store(container, first.line)
        if kept is not None:
            related.insert(0, RelatedLine(first.file, kept, "kept in a container here"))
    if container:
        fix = "Keep them in `nn.ModuleList`, `nn.ModuleDict` or `nn.ParameterList`, which register them."
    elif is_operand:
        fix = "Put `nn.Parameter(...)` around the whole expression, so that its result is the parameter."
    elif is_partial or not root:
        fix = f"Add {them} to the optimizer, or freeze {them} with `requires_grad_(False)`."
    else:
        fix = _advise_freezing(roots, needs_no_gradient=called is not None and _takes_constants(graph, uses))
    main = first if called is None else FlowSite(*called, "", "")
    if called is not None:
        lines = _find_calls(called.file, root)
        related += [RelatedLine(called.file, line, f"{root} called here") for line in lines[:3] if line != called.line]
    return make_finding(
        "GP514",
        message,
        main,
        len(uses),
        related,
        fix,
        f"{pluralize(passes, 'pass')}, {pluralize(len(uses), 'parameter')}",
    )


def _find_container(uses: Sequence[LeafUse]) -> str:
    """Return the attribute with a plain container that keeps some parameters: ``blocks`` for ``Net.blocks[0].weight``."""
    found = {use.leaf.name.split("[")[0].rsplit(".", 1)[-1] if "[" in use.leaf.name else "" for use in uses}
    return found.pop() if len(found) == 1 else ""


def _advise_freezing(roots: Sequence[str], *, needs_no_gradient: bool) -> str:
    freeze = f"Freeze {' and '.join(roots)} with `requires_grad_(False)`"
    if needs_no_gradient:
        return f"{freeze}, or run this line under `torch.no_grad()`: nothing that it takes needs a gradient."
    them = "them" if len(roots) > 1 else "it"
    return f"{freeze}: gradients still pass through {them}. Where none has to, run this line under `torch.no_grad()`."


def _is_operand(made: FlowSite) -> bool:
    """Return whether a line makes a parameter only to compute something from it, as ``nn.Parameter(x) * scale`` does."""
    source = parse_file(made.file)
    return source is not None and any(
        isinstance(node, ast.Assign)
        and node.lineno <= made.line <= (node.end_lineno or node.lineno)
        and any(
            isinstance(part, ast.Call) and get_last_name(part.func) == "Parameter"
            for part in _walk_operands(node.value)
        )
        for node in source.nodes
    )


def _makes_parameter(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and get_last_name(node.func) == "Parameter"


def _walk_operands(node: ast.expr) -> Iterator[ast.expr]:
    """Yield what operators and methods in an expression are applied to, not the arguments of calls."""
    if isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        parts = [node.operand]
    else:
        parts = [node.func.value] if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else []
    for part in parts:
        yield part
        yield from _walk_operands(part)


def _takes_constants(graph: FlowGraph, uses: Sequence[LeafUse]) -> bool:
    """Return whether nothing that comes before the operators with some parameters has other leaves behind it."""
    own = {use.number for use in uses}
    return own.issuperset(graph.find_leaves(site for use in uses for site in use.carried))


def _find_outer_call(
    ledger: FlowLedger, uses: Sequence[LeafUse], graph: FlowGraph, root: str, *, is_partial: bool
) -> Frame | None:
    """Return the line that calls the module with these parameters, or the part of a module if others of it are trained.

    A line that names the module comes first: it may give it to a function that calls it and others.
    """
    lines = {(graph.sites[n].file, graph.sites[n].line) for use in uses for n in use.carried}
    found = list[Frame]()
    for path, counts in ledger.paths.items():
        if not path or not counts.reached or (path[0].file, path[0].line) not in lines:
            continue
        inside = [number for number, frame in enumerate(path) if frame.function.rsplit(".", 1)[-1] == "forward"]
        first = 0 if not inside else (inside[0] if is_partial else inside[-1]) + 1
        outer = [f for f in path[first:] if f.function.rsplit(".", 1)[-1] != "forward" and not is_library(f.file)]
        naming = [] if is_partial else [frame for frame in outer if frame.line in _find_calls(frame.file, root)]
        if naming:
            return naming[0]
        found += outer[:1]
    return found[0] if found else None


def _find_calls(file: str, name: str) -> list[int]:
    """Return the lines of a file that call what has this name, or give it to a function; not those that construct it."""
    source = parse_file(file)
    is_variable = name[:1].islower() and name.isidentifier()
    return source.find_calls_with(name) if source is not None and is_variable else []


RULES = (find_replaced_parameters, find_untaken_gradients)
"""Rules of this family; a recording is checked against each."""
