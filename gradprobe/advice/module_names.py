"""Modules of the program: the names that its files give them, and what their texts say of all of it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cached_property

from gradprobe.advice.program_model import ProgramModel, Scope

_IN_PLACE_FLAG = re.compile(
    r"inplace\s*=\s*(?!False\b)\S|\b(ReLU6?|SELU|SiLU|Mish|Hardswish|Hardsigmoid|Identity)\(\s*True|Dropout\w*\([^()]*,\s*True"
)


class ModuleNames:
    """Reader of the names of modules.

    Args:
        program: The program.
    """

    def __init__(self, program: ProgramModel) -> None:
        self._program = program
        self.modules = _list_module_names(list(program.files))
        """Names that the modules of the program may have."""
        self.aliases = {name: dict(_list_aliases(file.tree)) for name, file in program.files.items()}
        """The names that relative imports of a file give to something, with its own."""
        self._imported = {name: _list_imported(file.tree) for name, file in program.files.items()}

    def names_module(self, node: ast.AST, scope: Scope) -> bool:
        """Return whether an expression may be a module of the program."""
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name):
            return root.id in self._imported[scope.file.file] or (root is node and self.takes_modules_by_name)
        return self.takes_modules_by_name

    @cached_property
    def has_lazy_layers(self) -> bool:
        """True if the program may have layers that make their parameters when they are called first."""
        return any("Lazy" in file.text for file in self._program.files.values())

    @cached_property
    def may_write_by_flag(self) -> bool:
        """True if modules of the program may modify what they are given."""
        return any(_IN_PLACE_FLAG.search(file.text) for file in self._program.files.values())

    @cached_property
    def takes_modules_by_name(self) -> bool:
        """True if the program takes modules from where Python keeps them, or by their names."""
        names = ("sys.modules", "import_module", "__import__")
        return any(name in file.text for file in self._program.files.values() for name in names)


def _list_module_names(files: list[str]) -> set[str]:
    """Return the names that the modules of files and their packages may have."""
    folders = [os.path.dirname(file) for file in files]
    common = os.path.commonpath(folders) if folders else ""
    names = {os.path.splitext(part)[0] for file in files for part in os.path.relpath(file, common).split(os.sep)}
    return names | {os.path.basename(common), *(os.path.basename(folder) for folder in folders)}


def _list_aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that relative imports in a tree give to something, with its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)


def _list_imported(tree: ast.AST) -> frozenset[str]:
    """Return the names that import statements of a file bind."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return frozenset((alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names)
