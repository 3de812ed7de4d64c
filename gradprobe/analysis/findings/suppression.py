"""What a project does not want to hear of: comments at lines, codes on the command line, and those in its configuration.

A code stands for a rule (``GP101``), the beginning of one for all whose codes begin so (``GP1``, ``GP``).
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
_ALL = ("GP",)
_BY_COMMENT = "a comment at"


@dataclass(frozen=True)
class SuppressedFinding:
    """A finding that is not shown, and what silences it."""

    finding: Finding
    by: str

    @property
    def is_by_comment(self) -> bool:
        """Whether a comment does, rather than an option or the configuration."""
        return self.by.startswith(_BY_COMMENT)


@dataclass(frozen=True)
class Suppression:
    """The codes that are ignored everywhere, each with where that was said, and those ignored in some files."""

    codes: Mapping[str, str] = field(default_factory=dict)
    by_file_pattern: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    def of(self, finding: Finding) -> str | None:
        """What silences ``finding``; None if nothing does."""
        for code, source in self.codes.items():
            if finding.rule.startswith(code):
                return source
        for pattern, codes in self.by_file_pattern.items():
            is_there = finding.file is not None and _matches(finding.file, pattern, self.folder)
            if is_there and finding.rule.startswith(tuple(codes)):
                return f"per-file-ignores {pattern!r} in {self.folder / 'pyproject.toml'}"
        for file, line in ((finding.file, finding.line), *((p.file, p.line) for p in finding.related)):
            codes_there = _comments(file).get(line or 0, ()) if file is not None else ()
            if finding.rule.startswith(tuple(codes_there)):
                return f"{_BY_COMMENT} {file}:{line}"
        return None

    def split(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[SuppressedFinding]]:
        """Those to show, and those that are silenced."""
        shown, silenced = [], []
        for finding in findings:
            by = self.of(finding)
            if by is None:
                shown.append(finding)
            else:
                silenced.append(SuppressedFinding(finding, by))
        return shown, silenced


def load_suppression(folder: Path, ignored: Sequence[str] = ()) -> Suppression:
    """What the nearest ``pyproject.toml`` from ``folder`` upwards ignores, and ``ignored`` on the command line.

    Raises ``GradprobeError`` for codes that no rule begins with, and for tables of another shape.
    """
    codes = dict.fromkeys(_checked(ignored, "--ignore"), "--ignore on the command line")
    for parent in (folder.resolve(), *folder.resolve().parents):
        path = parent / "pyproject.toml"
        if path.is_file():
            table = _table(path)
            where = f"[tool.gradprobe] in {path}"
            listed = table.get("ignore", [])
            codes |= dict.fromkeys(_checked(_list(listed, "ignore", where), f"ignore in {where}"), f"ignore in {where}")
            files = table.get("per-file-ignores", {})
            if not isinstance(files, dict):
                raise GradprobeError(f'per-file-ignores in {where} is no table; write: "tests/*" = ["GP204"]')
            by_file_pattern = {
                str(pattern): _checked(
                    _list(each, f"per-file-ignores {pattern!r}", where), f"per-file-ignores in {where}"
                )
                for pattern, each in files.items()
            }
            return Suppression(codes, by_file_pattern, parent)
    return Suppression(codes)


def _table(path: Path) -> dict[str, Any]:
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GradprobeError(f"{path} cannot be read: {error}; mend it, or run elsewhere") from None
    table = tool.get("gradprobe", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise GradprobeError(f"tool.gradprobe in {path} is no table; write [tool.gradprobe]")
    return table


def _list(value: Any, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise GradprobeError(f'{name} in {where} is {value!r}; give a list of codes, such as ["GP204"]')
    return value


def _checked(codes: Iterable[str], source: str) -> list[str]:
    found = [code.strip() for code in codes if code.strip()]
    for code in found:
        if not any(rule.startswith(code) for rule in RULES):
            raise GradprobeError(f"{source} names {code!r}, which begins no rule's code; there are {', '.join(RULES)}")
    return found


def _matches(file: str, pattern: str, folder: Path) -> bool:
    path = Path(file)
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    return fnmatch.fnmatch(inside, pattern) or fnmatch.fnmatch(path.name, pattern)


def _comments(file: str) -> Mapping[int, Sequence[str]]:
    """The codes that comments of a Python file ignore, by line; what looks like one in a string is none."""
    changed = get_file_version(file)
    return {} if changed is None else _comments_of(file, changed)


@lru_cache(256)
def _comments_of(file: str, changed: tuple[int, int]) -> Mapping[int, Sequence[str]]:
    try:
        found: dict[int, Sequence[str]] = {}
        for token in tokenize.tokenize(io.BytesIO(Path(file).read_bytes()).readline):
            match = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
            if match is not None:
                codes = [code.strip() for code in (match[1] or "").split(",") if code.strip()]
                found[token.start[0]] = codes or _ALL
        return found
    except (OSError, SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return {}
