"""Suppression of findings by comments, by codes on the command line, and by configuration.

A code names one rule (``GP101``), a beginning of a code all rules whose codes begin so (``GP1``, ``GP``).
"""

from __future__ import annotations

import fnmatch
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradprobe.analysis.findings.catalogue import RULES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.syntax import get_file_version
from gradprobe.errors import GradprobeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_COMMENT = re.compile(r"#\s*gradprobe:\s*ignore(?:\[([^\]]*)\])?")
_ALL_CODES = ("GP",)
_BY_COMMENT = "a comment at"


@dataclass(frozen=True)
class SuppressedFinding:
    """A finding that is not shown, and the source of its suppression in words."""

    finding: Finding
    by: str

    @property
    def is_by_comment(self) -> bool:
        """Return whether a comment in the source suppresses it, not an option or the configuration."""
        return self.by.startswith(_BY_COMMENT)


@dataclass(frozen=True)
class Suppression:
    """Codes to ignore everywhere, each with its source in words, and in files that match a pattern.

    Patterns are relative to ``folder``.
    """

    codes: Mapping[str, str] = field(default_factory=dict)
    by_file_pattern: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    def find_source(self, finding: Finding) -> str | None:
        """Return what suppresses a finding, in words, or None if it is to be shown."""
        for code, source in self.codes.items():
            if finding.rule.startswith(code):
                return source
        for pattern, codes in self.by_file_pattern.items():
            is_there = finding.file is not None and _matches(finding.file, pattern, self.folder)
            if is_there and finding.rule.startswith(tuple(codes)):
                return f"per-file-ignores {pattern!r} in {self.folder / 'pyproject.toml'}"
        for file, line in ((finding.file, finding.line), *((p.file, p.line) for p in finding.related)):
            codes_there = _read_comments(file).get(line or 0, ()) if file is not None else ()
            if finding.rule.startswith(tuple(codes_there)):
                return f"{_BY_COMMENT} {file}:{line}"
        return None

    def split(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[SuppressedFinding]]:
        """Split findings into those to show and those that are suppressed."""
        shown, suppressed = [], []
        for finding in findings:
            source = self.find_source(finding)
            if source is None:
                shown.append(finding)
            else:
                suppressed.append(SuppressedFinding(finding, source))
        return shown, suppressed


def load_suppression(folder: Path, ignored: Sequence[str] = ()) -> Suppression:
    """Load the suppression of the nearest ``pyproject.toml`` above ``folder``, and add codes to it.

    Args:
        folder: Folder to start from.
        ignored: Codes that the command line ignores.

    Raises:
        GradprobeError: A code does not begin any rule's code, or the configuration has another shape.
    """
    codes = dict.fromkeys(_check_codes(ignored, "--ignore"), "--ignore on the command line")
    for parent in (folder.resolve(), *folder.resolve().parents):
        path = parent / "pyproject.toml"
        if path.is_file():
            table = _read_table(path)
            where = f"[tool.gradprobe] in {path}"
            listed = _check_list(table.get("ignore", []), "ignore", where)
            codes |= dict.fromkeys(_check_codes(listed, f"ignore in {where}"), f"ignore in {where}")
            files = table.get("per-file-ignores", {})
            if not isinstance(files, dict):
                raise GradprobeError(
                    f'per-file-ignores in {where} must be a table such as {{"tests/*" = ["GP204"]}}, got {files!r}'
                )
            by_file_pattern = {
                str(pattern): _check_codes(
                    _check_list(each, f"per-file-ignores {pattern!r}", where), f"per-file-ignores in {where}"
                )
                for pattern, each in files.items()
            }
            return Suppression(codes, by_file_pattern, parent)
    return Suppression(codes)


def _read_table(path: Path) -> dict[str, Any]:
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GradprobeError(f"cannot read {path}: {error}; correct it, or run in another folder") from None
    table = tool.get("gradprobe", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise GradprobeError(f"tool.gradprobe in {path} must be a table, [tool.gradprobe], got {table!r}")
    return table


def _check_list(value: Any, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise GradprobeError(f'{name} in {where} must be a list of codes such as ["GP204"], got {value!r}')
    return value


def _check_codes(codes: Iterable[str], source: str) -> list[str]:
    found = [code.strip() for code in codes if code.strip()]
    for code in found:
        if not any(rule.startswith(code) for rule in RULES):
            raise GradprobeError(
                f"unknown rule code {code!r} in {source}; use one of {', '.join(RULES)}, or its beginning"
            )
    return found


def _matches(file: str, pattern: str, folder: Path) -> bool:
    path = Path(file)
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    return fnmatch.fnmatch(inside, pattern) or fnmatch.fnmatch(path.name, pattern)


def _read_comments(file: str) -> Mapping[int, Sequence[str]]:
    """Return the codes that comments of a Python file ignore, by line; strings do not count."""
    version = get_file_version(file)
    return {} if version is None else _parse_comments(file, version)


@lru_cache(256)
def _parse_comments(file: str, version: tuple[int, int]) -> Mapping[int, Sequence[str]]:
    try:
        found: dict[int, Sequence[str]] = {}
        for token in tokenize.tokenize(io.BytesIO(Path(file).read_bytes()).readline):
            match = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
            if match is not None:
                codes = [code.strip() for code in (match[1] or "").split(",") if code.strip()]
                found[token.start[0]] = codes or _ALL_CODES
        return found
    except (OSError, SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return {}
