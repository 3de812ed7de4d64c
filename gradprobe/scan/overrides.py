"""Methods that override a decorated one without its decorator, over all files of a scan."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.scan.names import OFF, ImportedNames


@dataclass(frozen=True)
class MethodSummary:
    """``decorated`` is the line of a decorator without gradients; ``delegates`` says that it leaves the modes to others."""

    name: str
    line: int
    decorated: int | None
    delegates: bool
    is_abstract: bool


@dataclass(frozen=True)
class ClassSummary:
    """What of a class matters to those that derive from it. ``bases`` are bare names."""

    file: str
    name: str
    bases: tuple[str, ...]
    methods: tuple[MethodSummary, ...]


def summarize_class(file: str, node: ast.ClassDef, names: ImportedNames) -> ClassSummary:
    """A class definition in short."""
    bases = tuple((names.full(base) or "").rpartition(".")[2] for base in node.bases)
    methods = tuple(_method(each, names) for each in node.body if isinstance(each, ast.FunctionDef))
    return ClassSummary(file, node.name, bases, methods)


def find_undecorated_overrides(classes: Iterable[ClassSummary]) -> Iterator[Finding]:
    """GP106, where the base is in the same file, or the only class of its name."""
    named: dict[str, list[ClassSummary]] = defaultdict(list)
    for each in classes:
        named[each.name].append(each)
    for known in named.values():
        for child in known:
            for method in child.methods:
                if method.decorated is None and not method.delegates:
                    yield from _of_method(child, method, named)


def _of_method(child: ClassSummary, method: MethodSummary, named: dict[str, list[ClassSummary]]) -> Iterator[Finding]:
    for name in child.bases:
        known = named.get(name, [])
        here = [each for each in known if each.file == child.file]
        base = here[-1] if here else known[0] if len(known) == 1 else None
        overridden = None if base is None else next((m for m in base.methods if m.name == method.name), None)
        if base is None or overridden is None or overridden.decorated is None or overridden.is_abstract:
            continue
        related = RelatedLine(base.file, overridden.decorated, "the overridden method is decorated here")
        message = f"{child.name}.{method.name} overrides a decorated method, and has no decorator itself."
        yield Finding("GP106", message, child.file, method.line, f"{child.name}.{method.name}", 1, (related,))


def _method(function: ast.FunctionDef, names: ImportedNames) -> MethodSummary:
    decorator = next((d for d in function.decorator_list if names.manager(d) in OFF), None)
    line = None if decorator is None else decorator.lineno
    body = [statement for statement in function.body if not isinstance(statement, ast.Expr)]
    is_abstract = all(isinstance(statement, ast.Raise | ast.Pass) for statement in body)
    return MethodSummary(function.name, function.lineno, line, _delegates(function, names), is_abstract)


def _delegates(function: ast.FunctionDef, names: ImportedNames) -> bool:
    """Whether it calls the method that it overrides, decorator and all, or enters a mode itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.With) and any(names.manager(item.context_expr) for item in node.items):
            return True
        if isinstance(node, ast.Attribute) and node.attr == function.name and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Name) and called.id == "super":
                return True
    return False
