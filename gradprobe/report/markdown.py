"""The document as GitHub-flavoured Markdown, its long parts folded away."""

from __future__ import annotations

import html
import re

from tabulate import tabulate

from gradprobe.report.document import Document, Section, Table
from gradprobe.report.units import many


def render(document: Document) -> str:
    """Markdown that can be pasted into a pull request."""
    parts = [f"## {_text(document.title)}", "", *(f"{_text(line)}  " for line in document.verdict)]
    for section in document.sections:
        parts += ["", *_section(section)]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    body = [f"- {_text(sentence)}" for sentence in section.sentences]
    if section.table is not None:
        body += ["", _table(section.table)] if body else [_table(section.table)]
    if section.folded:
        return [f"<details><summary>{html.escape(section.title)}</summary>", "", *body, "", "</details>"]
    return [f"### {_text(section.title)}", "", *body]


def _table(table: Table) -> str:
    text = tabulate(
        [[_text(cell) for cell in row] for row in table.rows],
        headers=table.columns,
        tablefmt="github",
        disable_numparse=True,
        colalign=["right" if column in table.numeric else "left" for column in table.columns] if table.rows else None,
    )
    return text + (f"\n\n{many(table.left_out, 'more row')} left out." if table.left_out else "")


def _text(text: str) -> str:
    """``text`` so that Markdown shows it as it is: no tag, no emphasis, no cell border, no link, no formula."""
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", html.escape(text, quote=False))
