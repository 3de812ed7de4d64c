"""Text of a Python file as lines, which are moved and indented without a change to what a string contains."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

_Statement = TypeVar("_Statement", bound=ast.AST)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_INDENT = re.compile(r"[ \t\f]*")
# Since Python 3.12 the tokens of a formatted string are those of its parts.
_STRING_STARTS = [getattr(tokenize, name) for name in ("FSTRING_START", "TSTRING_START") if hasattr(tokenize, name)]
_STRING_ENDS = [getattr(tokenize, name) for name in ("FSTRING_END", "TSTRING_END") if hasattr(tokenize, name)]


@dataclass(frozen=True)
class SourceText:
    """Lines of a file with their ends, and the encoding that the file declares. Numbers of lines begin at 1."""

    lines: tuple[str, ...]
    encoding: str

    @classmethod
    def decode(cls, content: bytes) -> SourceText:
        """Decode a file; raise ``SyntaxError`` or ``UnicodeDecodeError`` if it is not what it declares to be."""
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return cls(tuple(split_lines(content.decode(encoding))), encoding)

    def encode(self) -> bytes:
        """Return the content of the file."""
        return "".join(self.lines).encode(self.encoding)

    @cached_property
    def tree(self) -> ast.Module:
        """Syntax tree; raises ``SyntaxError`` if the text does not parse."""
        return ast.parse(self.encode())

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """Tokens, of which those within f-strings depend on the version of Python."""
        return [*tokenize.tokenize(io.BytesIO(self.encode()).readline)]

    @cached_property
    def _inside_strings(self) -> frozenset[int]:
        """Lines that begin inside a string: an indentation there is part of its value."""
        found: set[int] = set()
        begun: list[int] = []
        for token in self.tokens:
            if token.type == tokenize.STRING:
                found.update(range(token.start[0] + 1, token.end[0] + 1))
            elif token.type in _STRING_STARTS:
                begun.append(token.start[0])
            elif token.type in _STRING_ENDS:
                found.update(range(begun.pop() + 1, token.end[0] + 1))
        return frozenset(found)

    def get_segment(self, node: ast.expr | ast.stmt) -> str:
        """Return the text of an expression or a statement."""
        return ast.get_source_segment("".join(self.lines), node) or ""

    def begins_line(self, node: ast.expr | ast.stmt) -> bool:
        """Return whether nothing but white space is before a statement or an expression."""
        return node.col_offset == len(self.get_indent(node.lineno).encode())

    def find_at(self, line: int, kind: type[_Statement]) -> _Statement | None:
        """Return the statement of a kind that begins at a line."""
        found = (node for node in ast.walk(self.tree) if isinstance(node, kind) and getattr(node, "lineno", 0) == line)
        return next(found, None)

    def get_indent(self, line: int) -> str:
        """Return the white space before the first character of a line."""
        found = _INDENT.match(self.lines[line - 1])
        return "" if found is None else found[0]

    def get_end(self, line: int) -> str:
        """Return the end of a line, as the file writes it."""
        text = self.lines[line - 1]
        return text[len(text.rstrip("\r\n")) :] or "\n"

    def indent(self, first: int, last: int, by: str) -> SourceText:
        """Indent lines, except empty ones and those that begin inside a string."""
        changed = {
            line: by + self.lines[line - 1]
            for line in range(first, last + 1)
            if line not in self._inside_strings and self.lines[line - 1].strip()
        }
        return self._replace(changed)

    def dedent(self, first: int, last: int, by: str) -> SourceText:
        """Remove one level of indentation ``by`` from lines, as far as they have it."""
        changed = {
            line: self.lines[line - 1].removeprefix(by)
            for line in range(first, last + 1)
            if line not in self._inside_strings
        }
        return self._replace(changed)

    def substitute(self, first: int, last: int, new: Iterable[str]) -> SourceText:
        """Replace lines from ``first`` to ``last``; with ``last`` before ``first`` insert before ``first``."""
        return replace(self, lines=(*self.lines[: first - 1], *new, *self.lines[last:]))

    def find_block_end(self, statement: ast.stmt) -> int:
        """Return the last line of the block that a statement ends, with the comments below it that are indented so."""
        indent, end = len(self.get_indent(statement.lineno).expandtabs()), statement.end_lineno or statement.lineno
        for line in range(end + 1, len(self.lines) + 1):
            text = self.lines[line - 1].strip()
            if text.startswith("#") and len(self.get_indent(line).expandtabs()) >= indent:
                end = line
            elif text:
                break
        return end

    def find_comment(self, line: int) -> str:
        """Return the comment at the end of a line, or the empty string."""
        return next((t.string for t in self.tokens if t.type == tokenize.COMMENT and t.start[0] == line), "")

    def _replace(self, changed: dict[int, str]) -> SourceText:
        return replace(self, lines=tuple(changed.get(number, text) for number, text in enumerate(self.lines, 1)))


def split_lines(text: str) -> list[str]:
    """Return the lines of a Python source with their ends: other than for ``str``, a form feed ends none."""
    return _LINE.findall(text)
