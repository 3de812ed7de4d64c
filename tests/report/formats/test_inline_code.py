"""Code in messages becomes code in Markdown and in HTML, whatever names the messages contain."""

from __future__ import annotations

import re

import pytest

from gradprobe.analysis.findings.finding import Finding
from gradprobe.report.formats.code_hosts import render_markdown
from gradprobe.report.formats.inline_code import make_code_span, split_code, to_html, to_markdown

HOSTILE = (
    "`",
    "``",
    "a`b",
    "<script>alert(1)</script>",
    "`<img src=x>`",
    "[x](http://a)",
    "*b* | c",
    "\\`x`",
    "` `",
    "$`a`$",
)


def test_code_becomes_a_span_and_an_element() -> None:
    fix = "Store `loss.detach()`: it is not *in* a <graph>."
    assert to_markdown(fix) == "Store `loss.detach()`: it is not \\*in\\* a &lt;graph&gt;."
    assert to_html(fix) == "Store <code>loss.detach()</code>: it is not *in* a &lt;graph&gt;."
    assert to_markdown("`a | b`", in_table=True) == "`a \\| b`"


@pytest.mark.parametrize("text", HOSTILE)
def test_every_part_is_escaped_and_none_is_lost(text: str) -> None:
    for sentence in (text, f"`{text}` is kept", f"before `{text}", f"{text} `after`"):
        parts = [f"`{part}`" if is_code else part for part, is_code in split_code(sentence)]
        assert "".join(parts) == sentence
        assert re.findall(r"<(?!/?code>)", to_html(sentence)) == []
        outside = "".join(part for part, is_code in split_code(sentence) if not is_code)
        assert len(re.findall(r"(?<!\\)[*\[<]", re.sub(r"(`+).*?\1", "", to_markdown(outside)))) == 0


@pytest.mark.parametrize("code", ["a", "a`b", "`", "``a```", " a"])
def test_the_fence_of_a_span_is_longer_than_any_in_it(code: str) -> None:
    span = make_code_span(code)
    fence = re.match("`+", span)
    assert fence is not None
    assert span.endswith(fence[0])
    assert fence[0] not in span[len(fence[0]) : -len(fence[0])]


def test_a_cell_of_a_table_ends_only_where_it_should() -> None:
    finding = Finding("GP201", "`a|b` | c `d", "we|ird`.py", 3, fix="Use `x | y`.")
    (row,) = render_markdown([finding]).splitlines()[2:]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
