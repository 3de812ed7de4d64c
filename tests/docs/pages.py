"""The pages of the documentation, and what of them is text and what is code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_THE_TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")


def _named(pattern: str) -> list[str]:
    return sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob(pattern))


PAGES = ["README.md", "CONTRIBUTING.md", *_named("docs/*.md")]
RULES = _named("docs/rules/*.md")
ALL = sorted(
    {*AT_THE_TOP, *PAGES, *RULES, *_named("docs/api/*.md"), *_named("reports/*.md"), *_named(".github/**/*.md")}
)
"""Every page of Markdown in the repository."""

_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=fence)[ ]*$", re.S | re.M)
_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.S)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return [found["code"] for found in _FENCE.finditer(read(page)) if found["language"].strip() == language]


def prose(text: str) -> str:
    """Return Markdown without its code: fenced and indented blocks, spans, and comments."""
    text = re.sub(r"<!--.*?-->", "", _FENCE.sub("", text), flags=re.S)
    text = re.sub(r"(?<=\n\n)(?: {4}[^\n]*\n+)+", "", text)
    return _SPAN.sub("`code`", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", text), re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, most in found.items() for n in range(most + 1)}
