"""The picture of the flow as SVG: well-formed, escaped, with boxes that do not overlap, in the colours of the page."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

import gradprobe
from gradprobe.analysis.flow_boxes import CODE, BoxKind, CutPlace, FlowBox, FlowEdge, FlowView, Gradient
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.analysis.flow_picture import FlowPicture
from gradprobe.report.flow_diagram import DARK, LIGHT, MAX_EDGES, draw_flow
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.layered_layout import Node, lay_out
from gradprobe.report.sections import flow_section

HOSTILE = "<script>alert('&\"]]>\x00\x1b[31m\u202e"


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # our own text


@pytest.fixture(scope="module")
def recording() -> gradprobe.Recording:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with gradprobe.record(level="ops") as recorded:
        whole = model(torch.ones(1, 2)).sum()
        hidden = model[0](torch.ones(1, 2)).detach()
        (model[1](hidden).sum() + whole).backward()
    return recorded


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "in a page"])
def test_views_are_well_formed_and_show_every_box(recording: gradprobe.Recording, is_alone: bool) -> None:
    for view in FlowPicture(FlowGraph(recording._tables.processes[0].flow)).build_views():
        picture = parse(draw_flow(view, is_alone=is_alone))
        boxes = [each for each in picture.iter() if each.get("class") == "box"]
        assert len(boxes) == len(view.boxes)
        assert bool(list(picture.iter("{http://www.w3.org/2000/svg}style"))) is is_alone
        text = "".join(picture.itertext())
        assert "detach(), test_flow_diagram.py" in text
        assert "\u00d7 detach()" in text


def test_names_from_the_program_are_escaped() -> None:
    boxes = [FlowBox((HOSTILE,), BoxKind.MODULE, 1), FlowBox((CODE, HOSTILE, HOSTILE), BoxKind.CODE, 2)]
    boxes[0].ops[HOSTILE] = 1
    boxes[0].inside[Gradient.CUT][CutPlace("detach", HOSTILE, HOSTILE, 3)] = 1
    cuts = Counter({CutPlace("not_differentiable", HOSTILE, HOSTILE, 3): 1})
    view = FlowView(1, boxes, [FlowEdge(0, 1, Gradient.CUT, 1, cuts)], {(HOSTILE,): 2}, Counter())
    for is_alone in (True, False):
        text = draw_flow(view, is_alone=is_alone, caption=HOSTILE, anchors={f"{HOSTILE}:3": HOSTILE})
        parse(text)
        assert "<script" not in text


def test_locations_lead_to_the_source_in_a_page(recording: gradprobe.Recording) -> None:
    page = find_format("html").render(recording._tables, RenderOptions()).body
    assert isinstance(page, str)
    picture = page[page.index('<svg class="flow"') : page.rindex("</svg>")]
    anchors = re.findall(r'<a href="#([^"]+)">', picture)
    assert anchors
    assert all(f'id="{anchor}"' in page for anchor in anchors)
    assert (
        page.count('<svg class="flow"') == len(re.findall(r'type="radio"', page))
        or page.count('<svg class="flow"') == 1
    )


def test_the_format_svg_is_a_picture_by_itself(recording: gradprobe.Recording, tmp_path: Path) -> None:
    text = find_format("svg").render(recording._tables, RenderOptions()).body
    assert isinstance(text, str)
    picture = parse(text)
    assert "Gradient is cut before a loss" in picture.get("aria-label", "")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"(href|src)=", text), "nothing is fetched"
    shallow = find_format("svg").render(recording._tables, RenderOptions(depth=1)).body
    assert len(shallow) < len(text)


def test_without_a_flow_there_is_no_picture() -> None:
    with gradprobe.record() as recorded:
        pass
    assert flow_section.build_section(recorded._tables, 15) is None
    text = str(find_format("svg").render(recorded._tables, RenderOptions()).body)
    assert "record a program that trains with --level ops" in "".join(parse(text).itertext())


def test_markdown_has_the_picture_beside_it(recording: gradprobe.Recording) -> None:
    rendered = find_format("markdown").render(recording._tables, RenderOptions(charts="svg", stem="r"))
    assert "(r.flow.svg)" in str(rendered.body)
    parse(str(rendered.attachments["r.flow.svg"]))


def test_a_picture_has_the_most_important_edges_only() -> None:
    boxes = [FlowBox((f"Net{at}",), BoxKind.MODULE, at) for at in range(20)]
    edges = [FlowEdge(a, b, Gradient.NOT_NEEDED, 1) for a in range(20) for b in range(20) if a != b]
    edges.append(FlowEdge(0, 1, Gradient.CARRIED, 1))
    picture = draw_flow(FlowView(1, boxes, edges, {}, Counter()))
    assert picture.count('class="head"') == MAX_EDGES + 2, "and two in the legend"
    assert '<g class="carried"><title>' in picture


def test_colours_are_those_of_the_page() -> None:
    style = (files("gradprobe.report") / "templates" / "page.css").read_text(encoding="utf-8")
    for colours, number in ((LIGHT, 1), (DARK, 2)):
        for name, value in colours.items():
            assert style.count(f"--{name}: {value};") == number, name


@pytest.mark.parametrize("seed", range(6))
def test_boxes_do_not_overlap_and_edges_end_at_them(seed: int) -> None:
    chance = random.Random(seed)
    nodes = [Node(chance.randint(20, 200), chance.randint(20, 80), chance.choice([at, 0])) for at in range(30)]
    edges = [(a, b) for a in range(30) for b in range(30) if a != b and chance.random() < 0.06]
    layout = lay_out(nodes, edges)
    corners = list(zip(layout.corners, nodes, strict=True))
    for at, ((x, y), one) in enumerate(corners):
        assert x >= -0.01
        assert x + one.width <= layout.width + 0.01
        assert y + one.height <= layout.height + 0.01
        for (other_x, other_y), other in corners[:at]:
            is_beside = x + one.width <= other_x + 0.01 or other_x + other.width <= x + 0.01
            assert is_beside or y + one.height <= other_y or other_y + other.height <= y
    for (source, target), route in zip(edges, layout.routes, strict=True):
        for node, (x, y) in ((source, route[0]), (target, route[-1])):
            (left, top), box = corners[node]
            assert left - 0.01 <= x <= left + box.width + 0.01
            assert y in (top, top + box.height)


def test_nothing_is_laid_out_as_nothing() -> None:
    assert lay_out([], []).height == 0
