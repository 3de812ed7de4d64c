"""Methods that override a decorated method without the decorator, across all files of a scan."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import delegates
from gradprobe.analysis.imported_names import ImportedNames


@dataclass(frozen=True)
class MethodSummary:
    """Summary of a method.

    ``decorator_line`` is the line of a decorator that disables grad. ``delegates`` is True if the method calls the method
    that it overrides, or sets a mode itself.
    """

    name: str
    line: int
    decorator_line: int | None
    delegates: bool
    is_abstract: bool


@dataclass(frozen=True)
class ClassSummary:
    """Summary of a class for the classes that derive from it. ``bases`` are names without modules."""

    file: str
    name: str
    bases: tuple[str, ...]
    methods: tuple[MethodSummary, ...]


def summarize_class(file: str, node: ast.ClassDef, names: ImportedNames) -> ClassSummary:
    """Return the summary of a class definition."""
    bases = tuple((names.resolve(base) or "").rpartition(".")[2] for base in node.bases)
    methods = tuple(_summarize_method(each, names) for each in node.body if isinstance(each, ast.FunctionDef))
    return ClassSummary(file, node.name, bases, methods)


def find_undecorated_overrides(classes: Iterable[ClassSummary]) -> Iterator[Finding]:
    """Yield GP106 for bases that are in the same file, or the only scanned class of their name."""
    by_name: dict[str, list[ClassSummary]] = defaultdict(list)
    for each in classes:
        by_name[each.name].append(each)
    for known in by_name.values():
        for child in known:
            for method in child.methods:
                if method.decorator_line is None and not method.delegates:
                    yield from _check_override(child, method, by_name)


def _check_override(
    child: ClassSummary, method: MethodSummary, by_name: dict[str, list[ClassSummary]]
) -> Iterator[Finding]:
    for name in child.bases:
        known = by_name.get(name, [])
        here = [each for each in known if each.file == child.file]
        base = here[-1] if here else known[0] if len(known) == 1 else None
        overridden = None if base is None else next((m for m in base.methods if m.name == method.name), None)
        if base is None or overridden is None or overridden.decorator_line is None or overridden.is_abstract:
            continue
        related = RelatedLine(base.file, overridden.decorator_line, "the overridden method is decorated here")
        message = f"{child.name}.{method.name} overrides a decorated method without the decorator."
        yield Finding("GP106", message, child.file, method.line, f"{child.name}.{method.name}", 1, (related,))


def _summarize_method(function: ast.FunctionDef, names: ImportedNames) -> MethodSummary:
    decorator = names.find_grad_decorator(function)
    line = None if decorator is None else decorator.lineno
    body = [statement for statement in function.body if not isinstance(statement, ast.Expr)]
    is_abstract = all(isinstance(statement, ast.Raise | ast.Pass) for statement in body)
    return MethodSummary(function.name, function.lineno, line, delegates(function, names), is_abstract)
