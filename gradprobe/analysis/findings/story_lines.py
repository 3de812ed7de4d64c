"""Lines that complete the story of a tensor: where the program kept it, and where its values left autograd."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from types import UnionType

from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, parse_file, walk_scope

_MAX_DEPTH, _MAX_LINES = 3, 3
_ENABLING = "enable_grad"
_LOOPS = (ast.For, ast.While)
_LEAVING = frozenset({"item", "tolist", "numpy", "detach", "__array__"})
_MAKING = frozenset({"from_numpy", "as_tensor", "tensor", "from_dlpack", "FloatTensor", "Tensor"})


def locate_keeping(holder: str, places: Sequence[tuple[str, int]]) -> list[RelatedLine]:
    """Return the line that put a tensor into what holds it, and the line that made the container.

    Args:
        holder: The expression that leads to the tensor, such as ``Model.cache[...]``.
        places: The lines that the story names, that of the creation first.
    """
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[[^\]]*\]", "", holder))[::-1]
    for name in names:
        for file, line in places:
            source = parse_file(file)
            stored = None if source is None else source.find_store(name, line)
            if source is None or stored is None:
                continue
            container = source.find_container(name, stored) if "[" in holder else None
            made = [] if container is None else [RelatedLine(file, container, "container made here")]
            return [RelatedLine(file, stored, "kept here"), *made]
    for file in dict.fromkeys(file for file, _ in places):
        source = parse_file(file)
        assigned = None if source is None else _find_outer_variable(source, holder)
        if assigned is not None:
            return [RelatedLine(file, assigned, "kept here")]
    return []


def _find_outer_variable(source: ParsedFile, holder: str) -> int | None:
    """Return the last line that assigns a variable that a function takes from the one around it: ``closure.prediction``."""
    function, _, name = holder.rpartition(".")
    inner = source.index_functions().get(function.rpartition(".")[2])
    lines = [
        node.lineno
        for scope in ([] if inner is None else source.list_scopes_around(inner.lineno))
        if scope is not inner
        for node in walk_scope(scope, ast.Assign)
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)
    ]
    return max(lines, default=None)


def find_carried(
    built: Sequence[tuple[str, int]], backward: tuple[str | None, int | None]
) -> tuple[str, RelatedLine] | None:
    """Return the variable or attribute that carries a graph on, and the line that computes it from its own last value.

    Args:
        built: The lines that built the graph: attributes are carried from one call of their functions to the next.
        backward: The line of the backward pass: variables are carried through the loop that it is in.
    """
    for file, line in built:
        source = parse_file(file)
        scope = None if source is None else source.find_scope_at(line)
        for node in [] if scope is None else _list_assignments(scope):
            name = _find_own_value(node, ast.Attribute)
            if scope is not None and name and node.lineno <= line <= (node.end_lineno or 0):
                # What the function itself has set before is no value of an earlier call.
                before = (each for each in scope.body if isinstance(each, ast.Assign) and each.lineno < line)
                if not any(name in map(ast.unparse, each.targets) for each in before):
                    return name, RelatedLine(file, node.lineno, "carried on here")
    file, line = backward  # type: ignore[assignment]
    source = parse_file(file)
    kept = None if source is None or line is None else _find_kept_attribute(source.find_scope_at(line), line)
    if kept is not None:
        return ast.unparse(kept[0]), RelatedLine(file, kept[1], "carried on here")
    start = None if source is None or line is None else source.find_loop_at(line)
    if source is None or start is None:
        return None
    loops = [node for node in source.nodes if isinstance(node, _LOOPS) and node.lineno == start]
    for loop in loops[:1]:
        fresh = {part.id for part in ast.walk(getattr(loop, "target", loop.body[0])) if isinstance(part, ast.Name)}
        fresh = fresh if isinstance(loop, ast.For) else set()
        for node in sorted(_list_assignments(loop), key=lambda node: node.lineno):
            name = _find_own_value(node, ast.Name | ast.Attribute)
            if name and name not in fresh:
                return name, RelatedLine(file, node.lineno, "carried on here")
            fresh |= {ast.unparse(part) for target in node.targets for part in _list_parts(target)}
    return None


def _find_kept_attribute(scope: ast.Module | FunctionNode, line: int) -> tuple[ast.Attribute, int] | None:
    """Return the attribute that a loss depends on and that the same function gives a new value, and the line of that.

    Args:
        scope: The function, which a backward pass is in. Each call of it finds the value of the one before.
        line: The line of the backward pass.
    """
    if isinstance(scope, ast.Module):
        return None
    reads, fresh = _list_reads_behind(scope, line), set[str]()
    for assignment in sorted(_list_assignments(scope), key=lambda node: node.lineno):
        attributes = [part for t in assignment.targets for part in _list_parts(t) if isinstance(part, ast.Attribute)]
        for attribute in attributes:
            name = ast.unparse(attribute)
            if name not in fresh and reads.get(name, line + 1) <= assignment.lineno and not _leaves(assignment.value):
                return attribute, assignment.lineno
            fresh.add(name)
    return None


def _list_reads_behind(scope: FunctionNode, line: int) -> dict[str, int]:
    """Return the attributes from which what is differentiated at a line is computed, with the lines that read them."""
    names = {
        part.id
        for call in walk_scope(scope, ast.Call)
        if isinstance(call, ast.Call) and call.lineno <= line <= (call.end_lineno or call.lineno)
        for part in ast.walk(call)
        if isinstance(part, ast.Name) and part.id != "self"
    }
    reads: dict[str, int] = {}
    for assignment in sorted(_list_assignments(scope), key=lambda node: -node.lineno):
        targets = {ast.unparse(part) for target in assignment.targets for part in _list_parts(target)}
        if assignment.lineno <= line and targets & (names | set(reads)):
            names |= {part.id for part in ast.walk(assignment.value) if isinstance(part, ast.Name)} - {"self"}
            parts = (part for part in ast.walk(assignment.value) if isinstance(part, ast.Attribute))
            reads.update((ast.unparse(part), assignment.lineno) for part in parts)
    return reads


def _leaves(value: ast.expr) -> bool:
    """Return whether an expression has an exit from autograd in it, or is a constant."""
    return isinstance(value, ast.Constant) or any(
        isinstance(part, ast.Attribute) and part.attr in _LEAVING for part in ast.walk(value)
    )


def _list_assignments(scope: ast.AST) -> list[ast.Assign]:
    return [node for node in walk_scope(scope, ast.Assign) if isinstance(node, ast.Assign)]


def _find_own_value(node: ast.Assign, kinds: type[ast.expr] | UnionType) -> str:
    """Return what a statement assigns that it also reads, and does not detach; "" if there is nothing."""
    if _leaves(node.value):
        return ""
    read = {ast.unparse(part) for part in ast.walk(node.value) if isinstance(part, ast.Name | ast.Attribute)}
    parts = (part for target in node.targets for part in _list_parts(target) if isinstance(part, kinds))
    return next((name for part in parts if (name := ast.unparse(part)) in read), "")


def _list_parts(target: ast.expr) -> list[ast.expr]:
    return list(target.elts) if isinstance(target, ast.Tuple) else [target]


def locate_differentiated(file: str, line: int) -> list[RelatedLine]:
    """Return where the ``backward`` around a line computes what it differentiates, if nothing enables grad there."""
    source = parse_file(file)
    scope = None if source is None else source.find_scope_at(line)
    if not isinstance(scope, FunctionNode) or any(_ENABLING in ast.unparse(one) for one in scope.decorator_list):
        return []
    calls = (node for node in walk_scope(scope, ast.Call) if isinstance(node, ast.Call) and node.args)
    outputs = [call.args[0] for call in calls if ast.unparse(call.func).endswith("autograd.grad")]
    names = {node.id for output in outputs for node in ast.walk(output) if isinstance(node, ast.Name)}
    blocks = [node for node in walk_scope(scope, ast.With) if isinstance(node, ast.With)]
    enabled = {
        inner
        for block in blocks
        if any(_ENABLING in ast.unparse(item) for item in block.items)
        for inner in ast.walk(block)
    }
    return [
        RelatedLine(file, node.lineno, "computed with grad disabled here")
        for node in walk_scope(scope, ast.Assign)
        if isinstance(node, ast.Assign) and node not in enabled and names & set(map(ast.unparse, node.targets))
    ][:_MAX_LINES]


def locate_values(file: str, line: int) -> list[RelatedLine]:
    """Return the lines on the way to a line that turn tensors into values without history, or values into tensors.

    The way is read from the source: the line itself, the assignments of the variables in it, and the functions that it
    calls.
    """
    source = parse_file(file)
    statement = None if source is None else _find_simple_statement(source, line)
    if source is None or statement is None:
        return []
    found: dict[int, RelatedLine] = {}
    for at, role in _find_exits(source, statement, source.find_scope_at(line), _MAX_DEPTH):
        found.setdefault(at, RelatedLine(file, at, role))
    return list(found.values())[:_MAX_LINES]


def _find_simple_statement(source: ParsedFile, line: int) -> ast.AST | None:
    spans = [
        node
        for node in source.nodes
        if isinstance(node, ast.stmt)
        and not hasattr(node, "body")
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return min(spans, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)


def _find_exits(
    source: ParsedFile, node: ast.AST, scope: ast.Module | FunctionNode, depth: int
) -> Iterator[tuple[int, str]]:
    """Yield the lines with exits of values in a statement, and in what it uses if it has none."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    own = [(each.lineno, role) for each in calls if (role := _role(each))]
    yield from own
    if depth == 0:
        return
    functions = source.index_functions()
    for call in calls:
        called = functions.get(ast.unparse(call.func).rpartition(".")[2])
        if called is not None and called is not scope:
            for inner in called.body:
                yield from _find_exits(source, inner, called, 0)
    if own and not any(role.startswith("made") for _, role in own):
        return
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    before = getattr(node, "lineno", 0)
    for each in walk_scope(scope, ast.Assign):
        if isinstance(each, ast.Assign) and each.lineno < before:
            targets = {part.id for target in each.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            if targets & names:
                yield from _find_exits(source, each, scope, depth - 1)


def _role(call: ast.Call) -> str:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name in _LEAVING and isinstance(call.func, ast.Attribute):
        return "values leave autograd here"
    return "made of values here" if name in _MAKING else ""
