"""Targets of questions: ``FILE:LINE``, the name of a parameter or the path of a module, and what a recording has there."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.why.explanation import Explanation, join_names, show_place
from gradprobe.analysis.why.knowledge import Knowledge, Line, SiteAt, lines_of_finding
from gradprobe.analysis.why.line_story import tell_line
from gradprobe.analysis.why.module_story import tell_module
from gradprobe.analysis.why.parameter_story import LeafAt, tell_parameter
from gradprobe.errors import InvalidArgument
from gradprobe.tables.recording_tables import RecordingTables

_MAX_NEAREST = 5


def explain(tables: RecordingTables, target: str) -> Explanation:
    """Return the story of a line, a parameter or a module.

    Raises:
        InvalidArgument: The recording has nothing of this name, or several things.
    """
    knowledge = Knowledge(tables)
    at = re.fullmatch(r"(.+):(\d+)", target, re.DOTALL)
    if at is not None:
        return tell_line(knowledge, _find_line(knowledge, at.group(1), int(at.group(2))))
    if knowledge.is_empty():
        raise InvalidArgument(
            f"cannot explain {target!r}: the recording has no operators; record again with --level ops"
        )
    leaves = _leaves_by_name(knowledge)
    modules = _modules_by_name(knowledge, leaves)
    for known in (leaves, modules):
        names = [target] if target in known else [name for name in known if name.endswith(f".{target}")]
        names = names or [name for name in known if target in knowledge.list_class_names(name)]
        if len(names) > 1:
            raise InvalidArgument(
                f"cannot explain {target!r}: it may be {join_names(names, _MAX_NEAREST)}; name one of them"
            )
        if names and known is leaves:
            return tell_parameter(knowledge, leaves[names[0]])
        if names:
            (name,) = names
            inside = [one for each, found in leaves.items() if each.startswith(f"{name}.") for one in found]
            return tell_module(knowledge, name, modules[name], inside)
    raise InvalidArgument(f"cannot explain {target!r}: {_list_nearest(target, [*leaves, *modules])}")


def _list_nearest(target: str, names: Iterable[str]) -> str:
    """Return the names most like a target, compared as a whole and by their last parts."""
    known: dict[str, str] = {}
    for name in names:
        parts = name.lower().split(".")
        for start in range(len(parts)):
            known.setdefault(".".join(parts[start:]), name)
    near = difflib.get_close_matches(target.lower(), known, n=2 * _MAX_NEAREST, cutoff=0.4)
    found = join_names([known[name] for name in near][:_MAX_NEAREST], _MAX_NEAREST)
    return (
        f"the recording has no such parameter or module; the nearest are {found}"
        if found
        else ("the recording has no such parameter or module; give FILE:LINE")
    )


def _leaves_by_name(knowledge: Knowledge) -> dict[str, list[LeafAt]]:
    found: dict[str, list[LeafAt]] = {}
    for graph in knowledge.graphs:
        for use in graph.uses.values():
            if use.leaf.name:
                found.setdefault(use.leaf.name, []).append((graph, use))
    return found


def _modules_by_name(knowledge: Knowledge, leaves: Iterable[str]) -> dict[str, list[SiteAt]]:
    """Return the sites of each module and of those in it, by its path."""
    found: dict[str, list[SiteAt]] = {
        name.rsplit(".", depth)[0]: [] for name in leaves for depth in range(1, name.count(".") + 1) if " " not in name
    }
    for at in knowledge.sites:
        path = at.site.module
        for depth in range(path.count(".") + 1) if path else ():
            found.setdefault(path.rsplit(".", depth)[0], []).append(at)
    return found


def _find_line(knowledge: Knowledge, file: str, line: int) -> Line:
    """Return a line that the recording knows, with the file as it names it."""
    known = _lines_of(knowledge)
    files = [name for name in known if _is_same_file(name, file)]
    if len(files) == 1:
        line = _find_recorded_line(files[0], line, known[files[0]])
    exact = [name for name in files if line in known[name]]
    if len(exact) == 1:
        return exact[0], line
    if len(exact) > 1:
        names = join_names([show_place(name, line) for name in exact], _MAX_NEAREST)
        raise InvalidArgument(f"cannot explain {file}:{line}: it may be {names}; name one of them")
    if files:
        near = sorted(known[files[0]], key=lambda number: (abs(number - line), number))[:_MAX_NEAREST]
        places = ", ".join(show_place(files[0], number) for number in sorted(near))
        raise InvalidArgument(
            f"cannot explain {file}:{line}: nothing was recorded there; the nearest lines are {places}"
        )
    near_files = difflib.get_close_matches(file, known, n=_MAX_NEAREST, cutoff=0.3) or list(known)[:_MAX_NEAREST]
    nearest = join_names([show_place(name, 0)[:-2] for name in near_files], _MAX_NEAREST)
    raise InvalidArgument(
        f"cannot explain {file}:{line}: nothing was recorded in that file"
        + (f"; the nearest are {nearest}" if nearest else "; the recording is empty")
    )


def _find_recorded_line(file: str, line: int, known: set[int]) -> int:
    """Return the line of a statement's recorded part for any line of it: a call in several lines runs at the first."""
    source = None if line in known else parse_file(file)
    span = None if source is None else source.find_statement(line)
    inside = [] if span is None else [number for number in known if span[0] <= number <= span[1]]
    return min(inside, key=lambda number: abs(number - line), default=line)


def _is_same_file(known: str, given: str) -> bool:
    """Return whether a file may be named so: by its path, or by the last parts of it."""
    if known == given or os.path.abspath(given) == known:
        return True
    parts, last = known.replace("\\", "/").split("/"), os.path.normpath(given).replace("\\", "/").split("/")
    return parts[-len(last) :] == last


def _lines_of(knowledge: Knowledge) -> dict[str, set[int]]:
    """Return the lines of which the recording knows something, by file."""
    found: dict[str, set[int]] = {}
    tables = knowledge.tables
    for frame in (tables.ops, tables.sites):
        rows = frame[["file", "line"]].dropna().drop_duplicates()
        for file, line in zip(rows["file"], rows["line"], strict=True):
            found.setdefault(str(file), set()).add(int(line))
    for at in knowledge.sites:
        found.setdefault(at.site.file, set()).add(at.site.line)
    for ledger in knowledge.evidence.flows:
        for path in ledger.paths:
            for each in path:
                found.setdefault(each.file, set()).add(each.line)
    for finding in knowledge.findings:
        for file, number in lines_of_finding(finding):
            found.setdefault(file, set()).add(number)
    found.pop("", None)
    return found
