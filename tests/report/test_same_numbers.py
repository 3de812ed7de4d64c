"""Every format of one report shows the same numbers."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pytest

import gradprobe
from gradprobe.analysis.comparison_json import parse_outcome
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.formats.text_style import TextStyle
from tests.report import samples
from tests.report.reading import Page, markdown_table, terminal_table

SITES = "Time by site"
NAMES = {"count": "count", "total": "total_ns", "self": "self_ns", "median": "median_ns", "nodes": "nodes"}


def text(subject: Any, name: str) -> str:
    body = find_format(name).render(subject, RenderOptions(style=TextStyle(shows_all=True))).body
    assert isinstance(body, str)
    return body


@pytest.fixture(scope="module", params=["hand-made", "real"])
def tables(request: pytest.FixtureRequest) -> Any:
    if request.param == "hand-made":
        return samples.tables()
    import torch

    weight = torch.ones(3, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        for _ in range(1200):
            with torch.no_grad():
                weight * 2
        with torch.inference_mode(), torch.no_grad():
            torch.ones(3).add_(1)
        with torch.enable_grad():
            (weight.exp() * 3).sum().backward()
    return recording._tables


def test_the_sites_are_the_same_in_every_format(tables: Any) -> None:
    exact = json.loads(text(tables, "json"))["sites"]
    sheet = pd.read_csv(io.StringIO(text(tables, "csv"))).to_dict("records")
    page = Page(text(tables, "html")).tables[SITES]
    plain, markdown = terminal_table(text(tables, "terminal"), SITES), markdown_table(text(tables, "markdown"), SITES)
    slices = [event for event in json.loads(text(tables, "trace"))["traceEvents"] if event["ph"] == "X"]
    assert 3 <= len(exact) == len(sheet) == len(page) == len(plain) == len(markdown)
    for site, row, shown, line, cells in zip(exact, sheet, page, plain, markdown, strict=True):
        assert (row["manager"], row["line"], row["function"]) == (site["manager"], site["line"], site["function"])
        for column, name in NAMES.items():
            assert shown[column][1] == site[name] == row[name]
            assert shown[column][0] == line[column] == cells[column]
        of_site = [one for one in slices if one["name"] == f"{site['manager']} {shown['site'][0]}"]
        assert len(of_site) == site["count"]
        assert sum(one["dur"] for one in of_site) == pytest.approx(site["total_ns"] / 1000)
        assert sum(one["args"]["nodes"] for one in of_site) == site["nodes"]


def test_the_times_by_mode_are_the_same_in_every_format(tables: Any) -> None:
    exact = json.loads(text(tables, "json"))["summary"]["time_by_mode"]
    page = Page(text(tables, "html")).tables["Time by mode"]
    plain = terminal_table(text(tables, "terminal"), "Time by mode")
    markdown = markdown_table(text(tables, "markdown"), "### Time by mode")
    for mode, shown, line, cells in zip(exact, page, plain, markdown, strict=True):
        assert shown["mode"][0] == line["mode"] == cells["mode"] == mode["mode"]
        assert (shown["time"][1], shown["share"][1], shown["nodes"][1]) == (mode["ns"], mode["share"], mode["nodes"])
        for column in ("time", "share", "nodes"):
            assert shown[column][0] == line[column] == cells[column]


def test_the_sums_of_operators_are_the_same_in_every_format(tables: Any) -> None:
    exact = json.loads(text(tables, "json"))
    if exact["summary"]["operators"] is None:
        assert "Operators" not in Page(text(tables, "html")).tables
        return
    page = Page(text(tables, "html")).tables
    for title in ("Operators", "Operators by line"):
        whole = page[title][-1]
        assert (
            terminal_table(text(tables, "terminal"), title)[-1].items() >= {k: v[0] for k, v in whole.items()}.items()
        )
        for column, name in {
            "calls": "count",
            "nodes": "nodes",
            "saved bytes": "saved_bytes",
            "version bumps": "version_bumps",
        }.items():
            if exact["summary"]["operators"][name] is None:
                assert whole[column][0] == "-"
                continue
            assert whole[column][1] == exact["summary"]["operators"][name] == sum(op[name] for op in exact["ops"])
            assert sum(row[column][1] or 0 for row in page[title][:-1]) == whole[column][1]


def test_the_ratios_are_the_same_in_every_format() -> None:
    made = samples.outcome()
    exact = {
        (workload["workload"], arm["mode"]): arm
        for workload in json.loads(text(made, "json"))["workloads"]
        for arm in workload["arms"]
    }
    sheet = pd.read_csv(io.StringIO(text(made, "csv"))).to_dict("records")
    page = Page(text(made, "html")).tables["Time"]
    plain = terminal_table(text(made, "terminal"), "Time")
    markdown = markdown_table(text(made, "markdown"), "### Time")
    assert len(page) == len(plain) == len(markdown) == len(sheet) + 2, "the controls have rows of their own"
    for shown, line, cells in zip(page, plain, markdown, strict=True):
        assert {name: cell[0] for name, cell in shown.items()} == line == cells
        arm = exact.get((shown["workload"][0], shown["mode"][0]))
        if arm is not None and arm["ratio"] is not None:
            assert (shown["ratio to no_grad"][1], shown["time per call"][1]) == (arm["ratio"], arm["median_ns"])
            assert shown["verdict"][0] == arm["verdict"]
    for row in sheet:
        arm = exact[row["workload"], row["mode"]]
        assert (row["verdict"], None if pd.isna(row["ratio"]) else row["ratio"]) == (arm["verdict"], arm["ratio"])


def test_values_saved_as_null_are_shown_as_not_measured() -> None:
    plain = json.loads(text(samples.outcome(), "json"))
    for workload in plain["workloads"]:
        for arm in workload["arms"]:
            arm.update(median_ns=None, process_ratios=[None, 1.0], explained_ns={"node": None})
    read = parse_outcome(plain, "a file")
    for name in ("terminal", "markdown", "html", "json", "csv"):
        assert "decoder" in text(read, name)
    assert all(row["time per call"][0] == "-" for row in Page(text(read, "html")).tables["Time"][:3])
