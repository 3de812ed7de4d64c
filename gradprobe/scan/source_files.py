"""Files of a scan, and the findings of all of them."""

from __future__ import annotations

import ast
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.errors import GradprobeError
from gradprobe.scan.overrides import ClassSummary, find_undecorated_overrides
from gradprobe.scan.source_rules import FileScanner, ManagerUse

_EXCLUDED_FOLDERS = {
    ".git",
    ".hg",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    "build",
    "dist",
    ".tox",
    ".nox",
    ".mypy_cache",
}
_MANAGER_NAME = re.compile(rb"no_grad|inference_mode|enable_grad|set_grad_enabled")
_MAX_FILES_IN_PROCESS = 200
"""Maximum number of files to parse in this process: starting others takes as long as parsing so many."""


@dataclass(frozen=True)
class ScanResult:
    """Findings of a scan, uses of context managers, unreadable files with the reason, and paths that are not files."""

    files: int
    findings: list[Finding]
    manager_uses: list[ManagerUse]
    unreadable: list[str]
    skipped: list[str]


@dataclass(frozen=True)
class _FileResult:
    findings: Sequence[Finding] = ()
    manager_uses: Sequence[ManagerUse] = ()
    classes: Sequence[ClassSummary] = ()
    unreadable: str | None = None


def scan_paths(paths: Iterable[Path]) -> ScanResult:
    """Scan Python files, and folders of them, without running anything.

    Raises:
        GradprobeError: A path does not exist, or is neither a file nor a folder.
    """
    files, skipped = 0, list[str]()
    with_managers: list[str] = []
    others: list[str] = []
    for path in _walk_python_paths(paths):
        if _is_special(path):
            skipped.append(f"{path}: it is not a regular file")
            continue
        files += 1
        try:
            # Most files do not mention a context manager and need not be parsed, which is slow.
            (with_managers if _MANAGER_NAME.search(path.read_bytes()) else others).append(str(path))
        except OSError:
            with_managers.append(str(path))
    results = _scan_files(with_managers)
    bases = {c.name for one in results for c in one.classes if any(m.decorator_line for m in c.methods)}
    if bases:
        derives = re.compile(rf"^ *class\b[^:]*\b(?:{'|'.join(map(re.escape, sorted(bases)))})\b".encode(), re.M)
        results += _scan_files([file for file in others if derives.search(Path(file).read_bytes())])
    found = [finding for one in results for finding in one.findings]
    found += find_undecorated_overrides(each for one in results for each in one.classes)
    uses = [use for one in results for use in one.manager_uses]
    unreadable = [one.unreadable for one in results if one.unreadable is not None]
    return ScanResult(files, merge_duplicates(found), uses, unreadable, skipped)


def _scan_files(files: Sequence[str]) -> list[_FileResult]:
    if len(files) <= _MAX_FILES_IN_PROCESS:
        return [_scan_file(file) for file in files]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_scan_file, files, chunksize=16))


def _scan_file(file: str) -> _FileResult:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scanner = FileScanner(file, ast.parse(Path(file).read_bytes()))
        return _FileResult(scanner.findings, scanner.manager_uses, scanner.classes)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _FileResult(unreadable=f"{file}: {error}")


def list_python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield Python files, and those of folders, without what is not the program's own source."""
    yield from (path for path in _walk_python_paths(paths) if not _is_special(path))


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, a socket or a device, of which reading may never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # reported when it is read
        return False


def _walk_python_paths(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(
                    name for name in folders if name not in _EXCLUDED_FOLDERS and not name.endswith(".egg-info")
                )
                yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
        elif path.is_file():
            yield path
        else:
            cause = "it is not a regular file" if path.exists() else "no such file or folder"
            raise GradprobeError(f"cannot scan {path}: {cause}; name Python files or folders of them")
