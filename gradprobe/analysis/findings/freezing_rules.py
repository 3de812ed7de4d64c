"""Rules about lines that are meant to freeze parameters, and set an attribute that nothing reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.flow_lines import (
    MIN_UNTAKEN,
    find_steps,
    is_within,
    list_names,
    make_finding,
    relate,
)
from gradprobe.analysis.findings.syntax import ParsedFile, get_last_name, parse_file, walk_scope
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import REQUIRES_GRAD, FlowLedger, FlowSite

_OF_PARAMETERS = ("parameters", "named_parameters")
_OF_MODULES = ("children", "modules", "named_children", "named_modules", "values", "items")


def find_futile_freezes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP519: the line that sets the attribute, and where the parameters are used and trained all the same."""
    for process, graph in zip(evidence.tables.processes, evidence.flow_graphs, strict=True):
        ledger = process.flow
        found: dict[tuple[RelatedLine | None, str], list[LeafUse]] = {}
        for owner, attribute in ledger.flags.items():
            uses = [use for use in graph.uses.values() if is_within(use.leaf.name, owner) and _has_gradients(use)]
            if uses:
                owners = {owner, process.module_names.show_class(owner)}
                line = _find_freeze(evidence, ledger, owners, attribute)
                found.setdefault((line, attribute), []).extend(uses)
        for (line, attribute), uses in found.items():
            yield _describe(graph, line, attribute, uses)


def _has_gradients(use: LeafUse) -> bool:
    return bool(use.steps_with_grad) or (not use.steps and use.backwards >= MIN_UNTAKEN)


def _find_freeze(evidence: Evidence, ledger: FlowLedger, owners: set[str], attribute: str) -> RelatedLine | None:
    """Return the line that sets an attribute of a module or parameter, best in a function of which lines ran."""
    ran = {(frame.file, frame.function) for path in ledger.paths for frame in path}
    ran |= {(site.file, site.function) for site in ledger.sites.values()}
    lines: list[tuple[bool, RelatedLine]] = []
    for file in evidence.program_files:
        source = parse_file(file)
        for number, target in [] if source is None else _iter_freezes(source, attribute):
            if source is not None and _names(source, number, target, owners):
                function = getattr(source.find_function_at(number), "name", "<module>")
                has_run = any(at == file and name.rsplit(".", 1)[-1] == function for at, name in ran)
                lines.append((not has_run, RelatedLine(file, number, ast.unparse(target))))
    return min(lines, key=lambda item: item[0])[1] if lines else None


def _iter_freezes(source: ParsedFile, attribute: str) -> Iterator[tuple[int, ast.Attribute]]:
    """Yield the assignments of False to an attribute."""
    for node in source.nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is False:
            attributes = (target for target in node.targets if isinstance(target, ast.Attribute))
            yield from ((node.lineno, target) for target in attributes if target.attr == attribute)


def _names(source: ParsedFile, line: int, target: ast.Attribute, owners: set[str]) -> bool:
    """Return whether the target of an assignment may be the attribute of this module or parameter."""
    meant, is_parameter = _resolve(source, line, target.value)
    if meant is None or (is_parameter and target.attr == REQUIRES_GRAD):
        return False
    tail = _list_components(meant)
    return any(
        parts[i : i + len(tail)] == tail for owner in owners for parts in [owner.split(".")] for i in range(len(parts))
    )


def _resolve(source: ParsedFile, line: int, owner: ast.expr) -> tuple[ast.expr | None, bool]:
    """Return what a variable stands for, and whether it is a parameter of that: an attribute, an item or a class."""
    if not isinstance(owner, ast.Name):
        return owner, False
    for scope in reversed(source.list_scopes_around(line)):
        for node in walk_scope(scope, (ast.For, ast.Assign)):
            if (
                isinstance(node, ast.For)
                and _is_bound(node.target, owner.id)
                and node.lineno <= line <= (node.end_lineno or 0)
            ):
                return _resolve_items(source, line, node.iter)
            if (
                isinstance(node, ast.Assign)
                and node.lineno < line
                and any(_is_bound(one, owner.id) for one in node.targets)
            ):
                value = node.value
                return (value.func, False) if isinstance(value, ast.Call) else (value, False)
    return None, False


def _resolve_items(source: ParsedFile, line: int, items: ast.expr) -> tuple[ast.expr | None, bool]:
    """Return the module that a loop goes through, and whether it goes through its parameters."""
    if isinstance(items, ast.Call) and isinstance(items.func, ast.Name) and items.args:  # list(...), enumerate(...)
        return _resolve_items(source, line, items.args[0])
    if isinstance(items, ast.Call) and isinstance(items.func, ast.Attribute):
        if items.func.attr in (*_OF_PARAMETERS, *_OF_MODULES):
            owner, _ = _resolve(source, line, items.func.value)
            return owner, items.func.attr in _OF_PARAMETERS
        return None, False
    return _resolve(source, line, items)


def _is_bound(target: ast.expr, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(target))


def _list_components(owner: ast.expr) -> list[str]:
    """Return the last names of an expression as they are in the name of a parameter: ``["layers", "0"]``."""
    if isinstance(owner, ast.Subscript):
        index = owner.slice.value if isinstance(owner.slice, ast.Constant) else None
        return [*_list_components(owner.value), *([] if index is None else [str(index)])]
    return [get_last_name(owner)]


def _describe(graph: FlowGraph, line: RelatedLine | None, attribute: str, uses: Sequence[LeafUse]) -> Finding:
    steps = max(use.steps_with_grad for use in uses)
    target = attribute if line is None else line.role
    what = "of a module" if attribute == REQUIRES_GRAD else f"that PyTorch does not know: the flag is `{REQUIRES_GRAD}`"
    happened = (
        f"{list_names(uses)} had gradients in {pluralize(steps, 'step')} of the optimizer"
        if steps
        else f"{max(use.backwards for use in uses):,} backward passes compute gradients of {list_names(uses)}, which no "
        "optimizer takes"
    )
    message = f"`{target} = False` sets an attribute {what}. It freezes nothing: {happened}."
    owner = target.rsplit(".", 1)[0]
    fix = (
        f"Call `{owner}.requires_grad_(False)`."
        if attribute == REQUIRES_GRAD
        else f"Write `{owner}.{REQUIRES_GRAD} = False`."
    )
    related = [relate(graph.sites[use.carried[0]], "parameter used here") for use in uses[:1] if use.carried]
    related += [relate(site, "optimizer steps here") for site in find_steps(graph, uses)[:1]]
    main = FlowSite(line.file, line.line, "", "", "") if line is not None else graph.sites[uses[0].carried[0]]
    parameters = pluralize(len(uses), "parameter")
    seen = f"{parameters} trained in {pluralize(steps, 'step')}" if steps else f"{parameters} with gradients"
    return make_finding("GP519", message, main, len(uses), related, fix, seen)


RULES = (find_futile_freezes,)
"""Rules of this family; a recording is checked against each."""
