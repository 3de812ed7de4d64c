"""The files of a scan: which there are, and what each gives away."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.errors import GradprobeError
from gradprobe.scan.overrides import ClassSummary, find_undecorated_overrides
from gradprobe.scan.source_rules import FileScanner, ManagerUse

_LEFT_OUT = {
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
_NAMED = re.compile(rb"no_grad|inference_mode|enable_grad|set_grad_enabled")
_ALONE = 200
"""Up to so many files are parsed in this process: to start others takes as long."""


@dataclass(frozen=True)
class ScanResult:
    """What a scan found, where managers stand, and the files that it could not read, with the reason."""

    files: int
    findings: list[Finding]
    sites: list[ManagerUse]
    unread: list[str]


@dataclass(frozen=True)
class _Seen:
    findings: Sequence[Finding] = ()
    sites: Sequence[ManagerUse] = ()
    classes: Sequence[ClassSummary] = ()
    unread: str | None = None


def scan_paths(paths: Iterable[Path]) -> ScanResult:
    """Goes through Python files and folders of them, and runs nothing.

    Raises ``GradprobeError`` for a path that is not there.
    """
    files = 0
    named: list[str] = []
    others: list[str] = []
    for path in _python_files(paths):
        files += 1
        try:
            # Most files name no manager and need no parsing, which takes long.
            (named if _NAMED.search(path.read_bytes()) else others).append(str(path))
        except OSError:
            named.append(str(path))
    seen = _all(named)
    bases = {c.name for one in seen for c in one.classes if any(m.decorated for m in c.methods)}
    if bases:
        derives = re.compile(rf"^ *class\b[^:]*\b(?:{'|'.join(map(re.escape, sorted(bases)))})\b".encode(), re.M)
        seen += _all([file for file in others if derives.search(Path(file).read_bytes())])
    found = [finding for one in seen for finding in one.findings]
    found += find_undecorated_overrides(each for one in seen for each in one.classes)
    sites = [site for one in seen for site in one.sites]
    return ScanResult(files, merge_duplicates(found), sites, [one.unread for one in seen if one.unread is not None])


def _all(files: Sequence[str]) -> list[_Seen]:
    if len(files) <= _ALONE:
        return [_see(file) for file in files]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_see, files, chunksize=16))


def _see(file: str) -> _Seen:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            look = FileScanner(file, ast.parse(Path(file).read_bytes()))
        return _Seen(look.findings, look.sites, look.classes)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _Seen(unread=f"{file}: {error}")


def _python_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(
                    name for name in folders if name not in _LEFT_OUT and not name.endswith(".egg-info")
                )
                yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
        elif path.is_file():
            yield path
        else:
            raise GradprobeError(f"{path}: there is no such file or folder; name Python files, or folders of them")
