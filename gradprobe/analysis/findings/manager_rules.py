"""Rules about context managers that are used in a way in which they do not work: never entered, or entered while open."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence, is_library, locate_site
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.never_entered import NeverEntered, find_never_entered, iter_statements
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, parse_file


def find_reentered_managers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP102: the inner block, and the outer block that has the same context manager object open."""
    for process, outer in evidence.iter_regions(lambda columns: columns.is_reentered):
        for inner in outer.reentrant_regions:
            at = locate_site(process, inner.site, "")
            opened = locate_site(process, outer.site, "already open since here")
            if at is None or opened is None or outer.before == outer.inside:
                continue
            related = (opened, *_find_creation(opened))
            message = (
                f"This {inner.manager} object is entered again while it is still open, so the thread ends up in the wrong "
                "mode."
            )
            yield Finding("GP102", message, at.file, at.line, process.place(inner.site)[2], 1, related)


def _find_creation(block: RelatedLine) -> Iterator[RelatedLine]:
    """Yield the line that created the context manager which a ``with`` statement names."""
    source = parse_file(block.file)
    statement = None if source is None else source.find_block_at(block.line)
    for item in statement.items if statement is not None else ():
        if source is not None and isinstance(item.context_expr, ast.Name | ast.Attribute):
            line = source.find_assignment(ast.unparse(item.context_expr), block.line)
            if line is not None:
                yield RelatedLine(block.file, line, "made here")


def find_managers_never_entered(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP104: a context manager that the source creates and never enters, and the line after it that built a graph.

    The source files of the program that the recording names are read. Where operators were observed, a graph must have been
    built after the statement.
    """
    ops = evidence.tables.ops
    for file, lines in sorted(_list_lines_that_ran(evidence).items()):
        source = parse_file(file)
        if source is None or not source.names.imports_torch:
            continue
        for scope in source.iter_scopes():
            end = getattr(scope, "end_lineno", None) or max(lines)
            if not any(getattr(scope, "lineno", 0) <= line <= end for line in lines):
                continue
            for statement in iter_statements(scope):
                for unused in find_never_entered(statement, scope, source.names):
                    here = ops[ops["file"] == file] if len(ops) else ops
                    yield from _judge(evidence, source, scope, unused, here)


def _judge(
    evidence: Evidence, source: ParsedFile, scope: ast.Module | FunctionNode, unused: NeverEntered, ops: pd.DataFrame
) -> Iterator[Finding]:
    at = unused.at.lineno
    built = _find_first_graph_after(ops, source, scope, at)
    if built is None and any(process.counts_operators for process in evidence.processes):
        return
    message = f"This {unused.how}: no block is entered, and the code after it runs with the mode as it was."
    if built is not None:
        message += f" Line {built[0]} built {pluralize(built[1], 'autograd node')}."
    related = () if built is None else (RelatedLine(source.file, built[0], "builds a graph all the same"),)
    function = getattr(scope, "name", "<module>")
    yield Finding("GP104", message, source.file, at, function, 1, related, unused.fix)


def _list_lines_that_ran(evidence: Evidence) -> dict[str, set[int]]:
    """Return the lines of the program that the recording names, by file."""
    found: dict[str, set[int]] = defaultdict(set)
    for process in evidence.processes:
        sites = set(process.history.transitions.sites)
        sites.update(fold.site for fold in process.contents.folds)
        if process.counts_operators:
            sites.update(np.unique(process.op_totals.ops.columns.site).tolist())
        for file, line, _ in map(process.place, sites):
            if file is not None and line is not None and not is_library(file):
                found[file].add(line)
    return found


def _find_first_graph_after(
    ops: pd.DataFrame, source: ParsedFile, scope: ast.Module | FunctionNode, line: int
) -> tuple[int, int] | None:
    """Return the first line after another one in its function that built a graph, and the number of nodes.

    Functions that the scope calls count if it has no such line of its own.
    """
    if ops.empty:
        return None
    built = ops[(ops["nodes"] > 0) & (ops["phase"] == "forward")].groupby("line")["nodes"].sum()
    nodes = {int(str(at)): int(number) for at, number in built.items()}
    own = [at for at in nodes if at >= line and source.find_scope_at(at) is scope]
    if own:
        return min(own), nodes[min(own)]
    called = [at for at in nodes if source.find_scope_at(at) is not scope]
    most = max(called, key=lambda at: nodes[at], default=None)
    return None if most is None else (most, nodes[most])


RULES = (
    find_reentered_managers,
    find_managers_never_entered,
)
"""Rules of this family; a recording is checked against each."""
