"""Outermost modules: records of their names, and the paths of modules as tables and reports show them.

A recorded path begins with a name that no two outermost modules have at once: the class, and a number from the second on.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from gradprobe.recording.notes import Note, NoteKind

NUMBER_MARK = "#"
"""Separates the class from the number in the name of a further module of a class."""

_STEP = re.compile(r"(?:\[[^\]]*\]|\([^)]*\)|[^.\[(])+")
"""A step of a path: keys of containers, in brackets, and classes, in parentheses, may have dots."""


class ModuleRoot(NamedTuple):
    """An outermost module: its name in recorded paths, its class, and the variable by which it was called.

    ``variable`` is "" if none is known. ``path`` is not empty if it turned out to be part of another one, called by itself:
    its path in that one.
    """

    name: str
    class_name: str
    variable: str
    path: str = ""


def split_path(path: str) -> list[str]:
    """Return the steps of the path of a module.

    Example:
        >>> split_path("Net.heads['a.b'].fc")
        ['Net', "heads['a.b']", 'fc']
    """
    return _STEP.findall(path)


def write_root(root: ModuleRoot) -> Note:
    """Return the note of an outermost module. Of several notes of one name the last one counts."""
    return NoteKind.MODULE_ROOT.value, json.dumps(root), 1


class ModuleNames:
    """Names of modules for a reader: of the class if an outermost module is the only one of it, otherwise of the variable.

    Args:
        roots: The outermost modules of a process.

    Example:
        >>> names = ModuleNames([ModuleRoot("Net", "Net", "student"), ModuleRoot("Net#2", "Net", "teacher")])
        >>> names.show("Net#2.fc")
        'teacher.fc'
    """

    def __init__(self, roots: Iterable[ModuleRoot]) -> None:
        self._paths: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        """Classes of the outermost modules by their names for a reader."""
        by_class: dict[str, list[ModuleRoot]] = defaultdict(list)
        for root in {root.name: root for root in roots}.values():
            if root.path and root.path.partition(".")[0] != root.name:
                self._paths[root.name] = root.path
            else:
                by_class[root.class_name].append(root)
        for class_name, same in by_class.items():
            for root, name in zip(same, self._choose_names(class_name, same, set(by_class)), strict=True):
                self._paths[root.name] = name
                self.classes[name] = class_name

    def _choose_names(self, class_name: str, same: list[ModuleRoot], classes: set[str]) -> list[str]:
        if len(same) == 1:
            return [class_name]
        uses = Counter(root.variable for root in same)
        taken = {*self.classes, *classes, ""}
        return [
            root.variable
            if uses[root.variable] == 1 and root.variable not in taken
            else f"{class_name}{NUMBER_MARK}{root.name.partition(NUMBER_MARK)[2] or 1}"
            for root in same
        ]

    def show(self, path: str) -> str:
        """Return a recorded path, or a dotted name that begins with one, as a reader knows it."""
        for _ in self._paths:
            head, dot, rest = path.partition(".")
            known = self._paths.get(head, head)
            path = f"{known}{dot}{rest}"
            if known == head or "." not in known:  # only a part of another module has to be looked up again
                break
        return path

    def show_class(self, name: str) -> str:
        """Return a name for a reader with the class of the outermost module in place of its own name."""
        head, dot, rest = name.partition(".")
        return f"{self.classes.get(head, head)}{dot}{rest}"


def read_module_names(notes: Iterable[Note]) -> ModuleNames:
    """Return the names of the modules in a recording's notes. Notes that do not parse are left out."""
    roots = []
    for kind, text, _ in notes:
        if kind == NoteKind.MODULE_ROOT:
            try:
                name, class_name, variable, path = json.loads(text)
            except (ValueError, TypeError, RecursionError):
                continue
            roots.append(ModuleRoot(str(name), str(class_name), str(variable), str(path)))
    return ModuleNames(roots)
