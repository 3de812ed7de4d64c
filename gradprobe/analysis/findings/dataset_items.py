"""Code that the workers of a data loader run: the lines of a dataset that call what it holds, from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, get_last_name, parse_file, walk_scope

_LOADER, _MAKING_ITEMS = "DataLoader", ("__getitem__", "__getitems__", "__iter__")


def locate_item_code(file: str, line: int) -> Iterator[RelatedLine]:
    """Yield where the dataset of the nearest loader calls something that it holds, as a model, to make an item of it."""
    source = parse_file(file)
    if source is None:
        return
    loaders = [call for call in source.calls if get_last_name(call.func) == _LOADER]
    for loader in sorted(loaders, key=lambda call: abs(call.lineno - line))[:1]:
        given = [*loader.args[:1], *(keyword.value for keyword in loader.keywords if keyword.arg == "dataset")]
        owner = source.index_classes().get(_find_class(source, given[0])) if given else None
        methods = [] if owner is None else [node for node in owner.body if isinstance(node, FunctionNode)]
        names = {method.name for method in methods}
        for method in (method for method in methods if method.name in _MAKING_ITEMS):
            for call in walk_scope(method, ast.Call):
                held = call.func if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else None
                if held is not None and ast.unparse(held.value) == "self" and held.attr not in names:
                    yield RelatedLine(file, held.lineno, "runs in the worker here")


def _find_class(source: ParsedFile, dataset: ast.expr) -> str:
    """Return the name of the class that an expression constructs, or the variable or attribute that it is."""
    if isinstance(dataset, ast.Call):
        return get_last_name(dataset.func)
    assignments = (node for node in source.nodes if isinstance(node, ast.Assign))
    names = [
        get_last_name(node.value.func)
        for node in assignments
        if isinstance(node.value, ast.Call) and get_last_name(dataset) in map(get_last_name, node.targets)
    ]
    return names[-1] if names else ""
