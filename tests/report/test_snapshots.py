"""Every renderer's exact text, from records whose every number is known. To renew a snapshot, delete it and run twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.errors import GradprobeError
from gradprobe.report import charts
from gradprobe.report.formats import html_page
from gradprobe.report.formats.registry import FORMATS, find_format
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.sections import comparison_document, recording_document
from gradprobe.report.sections.timeline import build_timeline
from gradprobe.tables.recording_tables import RecordingTables
from tests.report import samples

SNAPSHOTS = Path(__file__).with_name("snapshots")
SUFFIXES = {"terminal": "txt", "markdown": "md", "json": "json", "csv": "csv", "trace": "trace.json"}


def check(name: str, text: str) -> None:
    path = SNAPSHOTS / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
        pytest.fail(f"{path.name} was missing and is written now: look at it, then run again")
    assert text == path.read_bytes().decode("utf-8")


def subject(kind: str) -> RecordingTables | ComparisonOutcome:
    finding = samples.finding("serve.py", 20)
    return samples.outcome() if kind == "comparison" else samples.tables([finding])


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("recording", "comparison") for n in SUFFIXES])
def test_the_text_of_each_format(kind: str, name: str) -> None:
    if find_format(name).render_comparison is None and kind == "comparison":
        with pytest.raises(GradprobeError, match=r"cannot write as trace: .*; use one of \.txt, \.md"):
            find_format(name).render(subject(kind), RenderOptions())
        return
    rendered = find_format(name).render(subject(kind), RenderOptions(stem="r"))
    assert isinstance(rendered.body, str)
    check(f"{kind}.{SUFFIXES[name]}", rendered.body)
    for file, content in rendered.attachments.items():
        check(f"{kind}{file.removeprefix('r')}", str(content))


@pytest.mark.parametrize("kind", ["recording", "comparison"])
def test_the_page_without_its_styles_and_scripts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "can_draw", lambda: False)
    body = find_format("html").render(subject(kind), RenderOptions()).body
    assert isinstance(body, str)
    assert charts.INSTALL_HINT.replace("'", "&#39;") in body, "without the extra a line says how to get the charts"
    check(f"{kind}.html", re.sub(r"(?s)(<style>|<script>).*?(</style>|</script>)", r"\1\2", body))


def test_what_the_charts_draw() -> None:
    chart, sentences = build_timeline(samples.tables().processes)
    assert chart is not None
    assert sentences == []
    assert chart.unit == "ms"
    drawn = [(bar["name"], bar["row"], bar["start"], bar["end"], bar["mode"], bar["what"]) for bar in chart.rows]
    assert drawn == [
        ("MainThread", 0, 0.0, 1.0, "no_grad", "thread in no_grad"),
        ("MainThread", 0, 1.0, 3.0, "grad", "thread in grad"),
        ("MainThread", 0, 0.0, 1.5, "no_grad", "no_grad at serve.py:10 in predict"),
        ("MainThread", 1, 1.0, 1.25, "grad", "enable_grad at serve.py:20 in refine"),
        ("MainThread", 1, 1.25, 1.5, "grad", "enable_grad at serve.py:20 in refine"),
        ("validation", 2, 1.5, 2.5, "inference_mode", "thread in inference_mode"),
        ("validation", 2, 1.5, 2.5, "inference_mode", "inference_mode at serve.py:30 in validate"),
    ]
    documents = [
        recording_document.build_document(samples.tables(), charts=True),
        comparison_document.build_document(samples.outcome()),
    ]
    rows = {chart.name: chart.rows for document in documents for chart in document.charts}
    assert [(row["of"], row["mode"], row["share"]) for row in rows["modes"]] == [
        *(("time", "grad", 0.5), ("time", "no_grad", 0.25), ("time", "inference_mode", 0.25)),
        ("nodes", "grad", 1.0),
    ]
    assert [(row["workload"], row["mode"], row["low"], row["ratio"], row["high"]) for row in rows["ratios"]] == [
        ("decoder", "grad", 1.48, 1.5, 1.52),
        ("decoder", "inference_mode", 0.89, 0.9, 0.91),
        ("decoder", "no_grad again", 0.998, 1.001, 1.004),
        ("matmul", "inference_mode", 0.999, 1.001, 1.003),
        ("matmul", "no_grad again", 0.999, 1.0, 1.001),
    ]
    assert {(row["workload"], row["part"]): round(row["percent"], 6) for row in rows["parts"]} == {
        ("decoder, grad", "node"): 40.0,
        ("decoder, grad", "unexplained"): 10.0,
        ("decoder, inference_mode", "version counter"): -4.5,
        ("decoder, inference_mode", "tracked view"): -5.0,
        ("decoder, inference_mode", "unexplained"): -0.5,
    }
    assert [row["ratio"] for row in rows["processes"]] == [1.49, 1.51, 0.895, 0.905, 1.0, 1.002, 1.0, 1.002, 1.0, 1.0]


def test_every_chart_can_be_drawn_as_a_picture() -> None:
    documents = [
        recording_document.build_document(samples.tables(), charts=True),
        comparison_document.build_document(samples.outcome()),
    ]
    pictures = {chart.name: charts.render_svg(chart) for document in documents for chart in document.charts}
    assert sorted(pictures) == ["modes", "parts", "processes", "ratios", "timeline"]
    assert all(picture.startswith("<svg") for picture in pictures.values())
    assert pictures["timeline"].count('aria-roledescription="rect mark"') == 7
    assert "MainThread" in pictures["timeline"]
    assert charts.render_png(documents[0].charts[0]).startswith(b"\x89PNG")


def test_a_notebook_gets_tables_and_pictures_and_no_script() -> None:
    for shown in (
        samples.recording()._repr_html_(),
        html_page.render_fragment(comparison_document.build_document(samples.outcome())),
    ):
        assert shown.count("<svg") >= 2
        assert "<table>" in shown
        assert "<script" not in shown


def test_format_names_and_suffixes_are_unique() -> None:
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert len({one.name for one in FORMATS}) == len(FORMATS)
