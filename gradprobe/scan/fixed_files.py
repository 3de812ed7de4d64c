"""Fixed files: edits are applied one by one, and each is kept only if the result proves to be what it should be."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import shutil
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.finding import Finding
from gradprobe.errors import GradprobeError
from gradprobe.scan.edits import Edit, find_edit
from gradprobe.scan.source_rules import FileScanner
from gradprobe.scan.source_text import SourceText

_UNPARSABLE = (OSError, SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError, LookupError)


@dataclass
class FixedFile:
    """A file before and after its edits; ``unsafe`` counts the edits that were left out as unsafe."""

    path: str
    before: bytes
    after: bytes
    done: list[tuple[Finding, str]] = field(default_factory=list)
    unsafe: int = 0

    def write(self) -> None:
        """Replace the file completely or not at all, keeping its permissions and the links to it.

        Raises:
            GradprobeError: The file cannot be written.
        """
        path = Path(os.path.realpath(self.path))
        part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
        try:
            if not os.access(path, os.W_OK):
                raise PermissionError(0, "it is read-only")
            part.write_bytes(self.after)
            shutil.copymode(path, part)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise GradprobeError(f"cannot fix {self.path}: {error.strerror}; correct it by hand") from None

    def iter_diff(self) -> Iterator[str]:
        """Yield the lines of a unified diff, which ``patch -p0`` and ``git apply -p0`` read."""
        before, after = (SourceText.decode(content).lines for content in (self.before, self.after))
        for line in difflib.unified_diff(before, after, self.path, self.path):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def fix_files(findings: Iterable[Finding], *, unsafe: bool = False) -> list[FixedFile]:
    """Return the files of findings with all their edits, without writing anything.

    Args:
        findings: What a scan found, without what is suppressed.
        unsafe: Whether to apply edits too that may change what callers see.
    """
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.file is not None:
            by_file.setdefault(finding.file, []).append(finding)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of strings in the user's files
        fixed = [_fix_file(file, here, unsafe) for file, here in sorted(by_file.items())]
    return [each for each in fixed if each is not None]


def _fix_file(file: str, findings: list[Finding], unsafe: bool) -> FixedFile | None:
    try:
        if not Path(file).is_file():  # reading a pipe or a device may never end
            return None
        content = Path(file).read_bytes()
        text = SourceText.decode(content)
    except _UNPARSABLE:
        return None
    fixed = FixedFile(file, content, content)
    # An edit changes nothing above its line, so the lines of the findings above it stay right.
    for finding in sorted(findings, key=lambda one: -(one.line or 0)):
        edit = _find_proven_edit(finding, text, file)
        if edit is None:
            continue
        if edit.is_unsafe and not unsafe:
            fixed.unsafe += 1
            continue
        text = edit.text
        fixed.done.insert(0, (finding, edit.action))
    fixed.after = text.encode() if fixed.done else content
    return fixed


def _find_proven_edit(finding: Finding, text: SourceText, file: str) -> Edit | None:
    try:
        edit = find_edit(finding, text)
        return edit if edit is not None and _is_proven(edit.text, text, finding, file) else None
    except _UNPARSABLE:
        return None


def _is_proven(after: SourceText, before: SourceText, finding: Finding, file: str) -> bool:
    """Return whether a result parses, has the same strings and comments, and lacks the finding and new ones."""
    if _list_strings(after) != _list_strings(before) or _list_comments(after) != _list_comments(before):
        return False
    found = [FileScanner(file, text.tree).findings for text in (before, after)]
    serious = [sum(one.severity != NOTE for one in findings) for findings in found]
    same_rule = [sum(one.rule == finding.rule for one in findings) for findings in found]
    return same_rule[1] < same_rule[0] and serious[1] <= serious[0]


def _list_strings(text: SourceText) -> list[str]:
    nodes = (node.value for node in ast.walk(text.tree) if isinstance(node, ast.Constant))
    return sorted(repr(value) for value in nodes if isinstance(value, str | bytes))


def _list_comments(text: SourceText) -> list[str]:
    return [token.string for token in text.tokens if token.type == tokenize.COMMENT]
