"""Code within sentences, which messages have between backticks: spans of Markdown, elements of HTML.

A name in a message may contain backticks itself. What counts as code is then another part of the sentence, but every
part is escaped, as code or as text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup


def split_code(sentence: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a sentence, and whether each is code; a backtick without a partner is text."""
    parts = sentence.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["`".join(parts[-2:])]
    for at, part in enumerate(parts):
        is_code = at % 2 == 1
        if part.strip() or not is_code:
            yield part, is_code
        else:
            yield f"`{part}`", False


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown finds no tag, emphasis, cell border, link or formula in it."""
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", html.escape(text, quote=False))


def make_code_span(code: str, *, in_table: bool = False) -> str:
    """Return a code span of Markdown; its fence is longer than any run of backticks in the code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    padding = " " if len(fence) > 1 or code != code.strip(" ") else ""
    # Even in a code span, a vertical bar ends the cell of a table.
    return f"{fence}{padding}{code.replace('|', chr(92) + '|') if in_table else code}{padding}{fence}"


def to_markdown(sentence: str, *, in_table: bool = False) -> str:
    """Return a sentence as Markdown, with its code in code spans."""
    return "".join(
        make_code_span(part, in_table=in_table) if is_code else escape_markdown(part)
        for part, is_code in split_code(sentence)
    )


def to_html(sentence: str) -> Markup:
    """Return a sentence as HTML, with its code in ``<code>`` elements."""
    from markupsafe import Markup

    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if is_code else part for part, is_code in split_code(sentence))
