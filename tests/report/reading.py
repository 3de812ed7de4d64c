"""Readers for reports, one per format and independent of the renderers."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser


def terminal_table(text: str, title: str) -> list[dict[str, str]]:
    """Return the table of a terminal report under ``title``."""
    lines = text[text.index(f"\n{title}\n") :].splitlines()[3:]
    while not re.fullmatch("-+(  -*)*", lines[1]):
        lines.pop(0)  # a sentence above the table
    spans = [match.span() for match in re.finditer("-+", lines[1])]

    def cells(line: str) -> list[str]:
        return [line[start:end].strip() for start, end in spans]

    found = []
    for line in lines[2:]:
        if not line:
            break
        found.append(dict(zip(cells(lines[0]), cells(line), strict=True)))
    return found


def markdown_table(text: str, title: str) -> list[dict[str, str]]:
    """Return the table of a Markdown report under ``title``."""
    lines = text[text.index(title) :].splitlines()[1:]
    while not lines[0].startswith("|"):
        lines.pop(0)

    def cells(line: str) -> list[str]:
        return [html.unescape(re.sub(r"\\(.)", r"\1", cell.strip())) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]

    found = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        found.append(dict(zip(cells(lines[0]), cells(line), strict=True)))
    return found


class Page(HTMLParser):
    """An HTML report: ``tables`` by the title of their section, each row a dict of (text, value) by column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, tuple[str, float | None]]]] = {}
        self.names: list[str] = []
        """The tags, in order."""
        self.loads: list[str] = []
        """Addresses that the page would fetch."""
        self._title = self._text = ""
        self._columns: list[str] = []
        self._row: list[tuple[str, float | None]] = []
        self._value: float | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.loads += [
            str(value)
            for key, value in attrs
            if key in ("src", "href", "action", "srcset", "data") and not str(value).startswith("#")
        ]
        if tag in ("h2", "th", "td"):
            self._text = ""
            value = dict(attrs).get("data-value")
            self._value = None if value is None else float(value)
        elif tag == "table":
            self.tables[self._title] = []
            self._columns = []
        elif tag == "tr":
            self._row = []

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2":
            self._title = self._text
        elif tag == "th":
            self._columns.append(self._text)
        elif tag == "td":
            self._row.append((self._text, self._value))
        elif tag == "tr" and self._row:
            self.tables[self._title].append(dict(zip(self._columns, self._row, strict=True)))
