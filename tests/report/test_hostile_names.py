"""A recording may contain any names: none of them breaks a format or has an effect in it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradprobe.recording.contents import Contents
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from tests.report import samples
from tests.report.reading import Page
from tests.thoroughness import IS_THOROUGH

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp;",
    "{{ 7 * 7 }} {% raw %}",
    "right\u202eto left\u200f\u2066",
    "lone \ud800 surrogate \udcff",
    "line\nfeed\r\n\u2028\u2029\x85\x00\x1b[2J",
    "x" * 10_000,
    "=cmd|' /C calc'!A0",
    "+1", "-1+1", "@SUM(A1)", "\t=1", " =1", "\uff1d1",
    '"],toString:function(){alert(1)},x:["',
    "datum.x'+alert(1)+'",
]  # fmt: skip
names = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), min_size=1, max_size=60))
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "h1",
        "h2",
        "div",
        "p",
        "noscript",
        "section",
    ),
    *(
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "script",
        "ol",
        "ul",
        "li",
    ),
    *("strong", "code", "pre", "span", "i", "a"),
}


@pytest.fixture(scope="module")
def made() -> Contents:
    return samples.contents()


def bodies(made: Contents, name: str) -> dict[str, Any]:
    """A recording and a comparison full of ``name``, in every format."""
    tables = samples.tables([samples.finding(f"/{name}.py", 20, name)], samples.renamed(made, name))
    found = {f"recording {one}": find_format(one).render(tables, RenderOptions(stem="r")) for one in FORMATS}
    outcome = samples.outcome(name)
    return found | {f"comparison {one}": find_format(one).render(outcome, RenderOptions(stem="r")) for one in FORMATS}


FORMATS = ("terminal", "markdown", "html", "json", "csv")


@settings(
    max_examples=40 if IS_THOROUGH else 4,  # beside those below
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=names)
@example(name=HOSTILE[0])
@example(name=HOSTILE[6])
@example(name=HOSTILE[8])
def test_no_name_breaks_a_format(made: Contents, name: str) -> None:
    for kind, written in bodies(made, name).items():
        body = written.body
        assert isinstance(body, str)
        body.encode("utf-8", "backslashreplace")
        if "html" in kind:
            check_page(body)
        elif "json" in kind:
            json.loads(body)
        elif "csv" in kind:
            for text in (body, *written.attachments.values()):
                check_sheet(str(text))
        else:
            assert all(character.isprintable() for character in body.replace("\n", ""))


def check_page(body: str) -> None:
    page = Page(body)
    assert set(page.names) <= TAGS
    assert page.names.count("script") == body.count("<script") == body.count("</script>")
    assert page.loads == []
    for chart in re.findall(r'<script type="application/json">(.*?)</script>', body):
        assert json.loads(chart)["description"]


def check_sheet(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    for row in rows[1:]:
        for cell in row:
            is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", cell)
            assert is_number or cell.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d"), cell


def test_excerpts_come_from_python_files_only(tmp_path: Path) -> None:
    secret = "password = '</pre><script>hunter2'"
    for name in ("secrets.txt", "id_rsa", ".env", "source.py"):
        (tmp_path / name).write_text(f"\n\n{secret}\n")
        tables = samples.tables([samples.finding(tmp_path / name, 3)])
        for one in FORMATS:
            body = str(find_format(one).render(tables, RenderOptions()).body)
            has_source = name == "source.py" and one in ("terminal", "markdown", "html")
            assert ("hunter2" in body) == has_source, (name, one)
            assert "<script>hunter2" not in body or one != "html"
    for line, file in ((0, "source.py"), (99, "source.py"), (1, "no such file.py"), (1, "a folder.py")):
        (tmp_path / "a folder.py").mkdir(exist_ok=True)
        body = str(
            find_format("html").render(samples.tables([samples.finding(tmp_path / file, line)]), RenderOptions()).body
        )
        assert "a graph is kept" in body
        assert "pre" not in Page(body).names


def test_no_report_contains_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradprobe

    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    with gradprobe.record() as recording:
        pass
    for one in FORMATS:
        assert "hunter2hunter2" not in str(find_format(one).render(recording._tables, RenderOptions(stem="r")))
