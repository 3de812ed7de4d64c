"""Files of a program beside those that are examined: what its modules do with the tensors of a block counts too."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradprobe.advice.library_results import is_test_file
from gradprobe.advice.manager_sites import SourceFile
from gradprobe.analysis.findings.evidence import is_library
from gradprobe.capture.location.sites import GRADPROBE_DIR
from gradprobe.errors import GradprobeError


def read_source(path: Path) -> SourceFile:
    """Read a file.

    Raises:
        GradprobeError: It cannot be read, or is not Python.
    """
    try:
        return SourceFile.read(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise GradprobeError(f"cannot read {path}: {error}; name a Python file") from None


def list_other_files(known: Sequence[SourceFile], script: str | None, modules: Sequence[str]) -> list[SourceFile]:
    """Return the other files of a program: its script, what it imported, and what its files say that they may import.

    Args:
        known: The files that are examined.
        script: The script that is the program, or None if it is a command.
        modules: The files of all modules that it had imported in the end.
    """
    found = {os.path.realpath(file.file): file for file in known}
    waiting = list(known)
    folders = _list_folders(known, script)
    names = [*([] if script is None else [script]), *(name for name in modules if _is_of_program(name, folders))]
    names += list(_list_named_imports(waiting, folders))
    while names:
        name = names.pop(0)
        if os.path.realpath(name) in found or (name != script and is_test_file(name)):
            continue
        try:
            file = read_source(Path(name))
        except GradprobeError:
            continue
        found[os.path.realpath(name)] = file
        names += list(_list_named_imports([file], folders))
    return [file for file in found.values() if not any(file is each for each in known)]


def _list_folders(known: Sequence[SourceFile], script: str | None) -> tuple[str, ...]:
    """Return the folders below which the files of the program are."""
    inside = [file.file for file in known] + ([] if script is None else [script])
    roots = [os.getcwd(), *(os.path.dirname(os.path.abspath(file)) for file in inside)]
    return tuple(os.path.join(root, "") for root in dict.fromkeys(roots))


def _is_of_program(name: str, folders: tuple[str, ...]) -> bool:
    return os.path.abspath(name).startswith(folders) and not is_library(name) and not name.startswith(GRADPROBE_DIR)


def _list_named_imports(files: Sequence[SourceFile], folders: Sequence[str]) -> Iterator[str]:
    """Yield the files in the folders that import statements name, on lines that may not have run."""
    for file in files:
        paths = [os.path.join(folder, *name.split(".")) for name in _list_imported(file) for folder in folders]
        for path in (*paths, *_list_neighbours(file)):
            yield from (each for each in (f"{path}.py", os.path.join(path, "__init__.py")) if os.path.isfile(each))


def _list_neighbours(file: SourceFile) -> Iterator[str]:
    """Yield the paths that relative imports name, without the ends of files."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = os.path.dirname(file.file)
            for _ in range(node.level - 1):
                folder = os.path.dirname(folder)
            path = os.path.join(folder, *(node.module or "").split("."))
            yield from (path, *(os.path.join(path, alias.name) for alias in node.names))


def _list_imported(file: SourceFile) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
