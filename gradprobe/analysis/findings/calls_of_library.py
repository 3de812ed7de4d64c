"""Calls by which the program reaches a line of a library, as the sources of both show them.

The stack at that line is not recorded. Its function, and the functions of the library that call it, are followed by their
names until the program calls one of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gradprobe.analysis.findings.evidence import is_library
from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import ParsedFile, get_last_name, parse_file
from gradprobe.recording.flow import FlowSite

_MAX_CALLS, _MAX_FILES, _MAX_LINES = 4, 20, 3
_COMMON = frozenset(("__init__", "forward", "__call__", "build", "main", "run", "apply", "to"))
"""Names of so many functions that a call of one says nothing."""


def locate_calls(site: FlowSite, sites: Iterable[FlowSite], files: Iterable[str], role: str) -> list[RelatedLine]:
    """Return the lines of the program that call the function of a library in which a site is, or one that leads there.

    Args:
        site: The site, in a library.
        sites: All sites: the library's files are those among them.
        files: The files of the program.
        role: What happens at the lines.
    """
    owner, _, function = site.function.rpartition(".")
    # A constructor is called by the name of its class.
    names = {owner.rpartition(".")[2] if function == "__init__" else function} - {""}
    of_library = dict.fromkeys([site.file, *(each.file for each in sites if is_library(each.file))])
    sources = [source for file in list(of_library)[:_MAX_FILES] if (source := parse_file(file)) is not None]
    for _ in range(_MAX_CALLS):
        found = [
            RelatedLine(file, line, role)
            for file in files
            if (source := parse_file(file)) is not None
            for line in _find_calls(source, names)
        ]
        if found:
            return found[:_MAX_LINES]
        names |= {name for source in sources for name in _find_callers(source, names)}
    return []


def _find_calls(source: ParsedFile, names: set[str]) -> list[int]:
    calls = source.calls
    return sorted({call.lineno for call in calls if get_last_name(call.func) in names})


def _find_callers(source: ParsedFile, names: set[str]) -> list[str]:
    functions = source.index_functions().items()
    return [
        name
        for name, function in functions
        if name not in _COMMON
        and any(isinstance(node, ast.Call) and get_last_name(node.func) in names for node in ast.walk(function))
    ]
