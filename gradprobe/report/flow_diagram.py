"""Drawing of the picture of the flow as SVG, by itself or in a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from gradprobe.analysis.flow_boxes import BoxKind, CutPlace, FlowBox, FlowEdge, FlowView, Gradient
from gradprobe.report.flow_labels import (
    LEGEND,
    describe_box,
    describe_edge,
    describe_parameters,
    find_only_root,
    locate_box,
    locate_cause,
    name_box,
    name_reason,
    shorten_place,
)
from gradprobe.report.layered_layout import Layout, Node, Point, lay_out
from gradprobe.report.units import escape_unprintable, truncate, truncate_start

MAX_EDGES = 150
"""Maximum number of edges of a picture, the most important ones; its table has them all."""
_TITLE_WIDTH, _TEXT_WIDTH = 8.1, 6.5
"""Mean widths of letters of the two sizes, a little more than those of the usual fonts."""
_MAX_TITLE, _MAX_TEXT = 30, 36
_LINE, _PADDING, _MARGIN, _LEGEND_LINE = 15.0, 10.0, 16.0, 20.0
_MAX_CUTS = 2
_ARROW = 7.0

LIGHT = {
    "paper": "#ffffff", "ink": "#1c2128", "quiet": "#5b6470", "line": "#d8dde4", "shade": "#f4f6f8", "accent": "#2f6db3",
    "cut": "#c2410c",
}  # fmt: skip
DARK = {
    "paper": "#15191e", "ink": "#e2e6ea", "quiet": "#9aa4b0", "line": "#343b44", "shade": "#1e242b", "accent": "#7db0ea",
    "cut": "#fb923c",
}  # fmt: skip
"""Colours as in pages, whose styles have them as variables of these names."""

_CLASSES = {
    Gradient.CARRIED: "carried",
    Gradient.CUT: "cut",
    Gradient.CUT_ASIDE: "aside",
    Gradient.BUILT: "built",
    Gradient.NOT_NEEDED: "plain",
    Gradient.WRITTEN: "written",
}
_IMPORTANCE = list(_CLASSES)


def build_style(colours: Mapping[str, str]) -> str:
    """Return the rules of a picture with these colours."""
    c = colours
    return f"""
.flow text {{ font: 11px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: {c["quiet"]}; }}
.flow .title {{ font-size: 12.5px; font-weight: 600; fill: {c["ink"]}; }}
.flow .why {{ fill: {c["cut"]}; }}
.flow a text {{ text-decoration: underline; }}
.flow .paper {{ fill: {c["paper"]}; }}
.flow .box {{ fill: {c["shade"]}; stroke: {c["line"]}; stroke-width: 1.2; }}
.flow .fed .box {{ stroke: {c["accent"]}; }}
.flow .starved .box {{ stroke: {c["cut"]}; stroke-dasharray: 5 3; }}
.flow .backward .box {{ fill: {c["accent"]}; stroke: {c["accent"]}; }}
.flow .backward text {{ fill: {c["paper"]}; }}
.flow .pill {{ fill: {c["paper"]}; stroke: {c["cut"]}; }}
.flow .aside .pill {{ stroke: {c["line"]}; }}
.flow .aside .why {{ fill: {c["quiet"]}; }}
.flow .way {{ fill: none; stroke: {c["quiet"]}; stroke-width: 1.1; }}
.flow .head {{ fill: {c["quiet"]}; stroke: none; }}
.flow .carried .way {{ stroke: {c["accent"]}; stroke-width: 2.2; }}
.flow .carried .head {{ fill: {c["accent"]}; }}
.flow .cut .way {{ stroke: {c["cut"]}; stroke-width: 1.8; stroke-dasharray: 6 4; }}
.flow .cut .head {{ fill: {c["cut"]}; }}
.flow .aside .way {{ stroke-dasharray: 6 4; }}
.flow .built .way {{ stroke: {c["accent"]}; stroke-dasharray: 1 3; stroke-linecap: round; }}
.flow .built .head {{ fill: {c["accent"]}; }}
.flow .written .way {{ stroke-dasharray: 1 4; stroke-linecap: round; stroke-width: 1.6; }}
"""


PAGE_STYLE = build_style({name: f"var(--{name})" for name in LIGHT})
"""Rules of pictures in a page, which has the colours as variables."""
_OWN_STYLE = f"{build_style(LIGHT)}@media (prefers-color-scheme: dark) {{{build_style(DARK)}}}\n"


@dataclass
class _Drawn:
    """A box or a pill: its text, as (class, text, place to link to), and how it is drawn."""

    lines: Sequence[tuple[str, str, str]]
    style: str
    order: float
    is_pill: bool = False
    title: str = ""
    width: float = field(init=False)
    height: float = field(init=False)

    def __post_init__(self) -> None:
        widths = [len(text) * (_TITLE_WIDTH if style == "title" else _TEXT_WIDTH) for style, text, _ in self.lines]
        self.width = max(widths, default=0) + 2 * _PADDING
        self.height = len(self.lines) * _LINE + (6 if self.is_pill else 2 * _PADDING - 4)


def draw_flow(
    view: FlowView, *, is_alone: bool = True, caption: str = "", anchors: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return a view of the flow as SVG.

    Args:
        view: The view.
        is_alone: Whether it is a file by itself, with its own style and background, rather than part of a page.
        caption: Title for those who do not see it.
        anchors: Anchors of the page by the location of a line as tables show it.
    """
    edges = sorted(view.edges, key=lambda edge: (_IMPORTANCE.index(edge.gradient), -edge.count))[:MAX_EDGES]
    root = find_only_root(view)
    drawn = [_describe(box, view.folded.get(box.group, 0), at, root) for at, box in enumerate(view.boxes)]
    ways: list[tuple[int, int]] = []
    of_ways: list[tuple[FlowEdge, bool]] = []
    for edge in edges:
        if not edge.cuts:
            ways.append((edge.source, edge.target))
            of_ways.append((edge, True))
            continue
        drawn.append(_make_pill(edge, edge.cuts, min(edge.source, edge.target) + 0.5))
        ways += [(edge.source, len(drawn) - 1), (len(drawn) - 1, edge.target)]
        of_ways += [(edge, False), (edge, True)]
    layout = lay_out([Node(one.width, one.height, one.order) for one in drawn], ways)
    body = [
        _draw_way(points, edge, describe_edge(view, edge), has_head=has_head)
        for points, (edge, has_head) in zip(layout.routes, of_ways, strict=True)
    ]
    body += [_draw_box(one, corner, anchors) for one, corner in zip(drawn, layout.corners, strict=True)]
    return _frame(body, layout, [edge.gradient for edge in edges], is_alone=is_alone, caption=caption)


def draw_message(text: str) -> str:
    """Return a picture with a sentence in place of boxes."""
    width = len(text) * _TEXT_WIDTH
    shown = f'<text x="0" y="12">{_escape(text)}</text>'
    return _frame([shown], Layout((), (), width, _LINE), [], is_alone=True, caption=text)


def _escape(text: str) -> str:
    return html.escape(escape_unprintable(text))


def _describe(box: FlowBox, folded: int, order: int, root: str) -> _Drawn:
    name = name_box(box, root)
    lines = [("title", truncate_start(name, _MAX_TITLE), locate_box(box))]
    for text in describe_box(box, folded, root):
        place = locate_box(box) if box.kind is BoxKind.BACKWARD else ""
        lines.append(("", truncate(text, _MAX_TEXT), place))
    is_starved = box.leads_to_backward and box.reached < box.parameters
    if box.parameters:
        lines.append(("why" if is_starved else "", describe_parameters(box), ""))
    for gradient in (Gradient.CUT, Gradient.CUT_ASIDE):
        lines += _describe_cuts(box.inside.get(gradient, {}), "why" if gradient is Gradient.CUT else "")
    is_cut = bool(box.inside.get(Gradient.CUT)) and not box.has_gradient
    style = "starved" if is_cut or (is_starved and not box.reached) else "fed" if box.has_gradient else "idle"
    return _Drawn(lines, "backward" if box.kind is BoxKind.BACKWARD else style, order, title=name)


def _describe_cuts(cuts: Mapping[CutPlace, int], style: str) -> list[tuple[str, str, str]]:
    """Return lines of text on the places where gradient ends; those that differ in the operator alone are one."""
    places = list({(name_reason(cut), locate_cause(cut)): cut for cut in cuts}.values())
    lines = []
    for cut in places[:_MAX_CUTS]:
        at = shorten_place(locate_cause(cut))
        lines.append((style, truncate(f"\u00d7 {name_reason(cut)}, {at}", _MAX_TEXT), locate_cause(cut)))
    if len(places) > _MAX_CUTS:
        lines.append((style, f"and {len(places) - _MAX_CUTS:,} more", ""))
    return lines


def _make_pill(edge: FlowEdge, cuts: Mapping[CutPlace, int], order: float) -> _Drawn:
    return _Drawn(_describe_cuts(cuts, "why"), _CLASSES[edge.gradient], order, is_pill=True)


def _draw_box(one: _Drawn, corner: Point, anchors: Mapping[str, str]) -> str:
    x, y = corner
    shape, radius = ("pill", one.height / 2 if len(one.lines) == 1 else 9) if one.is_pill else ("box", 6)
    size = f'width="{one.width:.1f}" height="{one.height:.1f}" rx="{radius:.1f}"'
    rectangle = f'<rect class="{shape}" x="{x:.1f}" y="{y:.1f}" {size}/>'
    texts = []
    top = y + (one.height - len(one.lines) * _LINE) / 2
    for number, (style, text, place) in enumerate(one.lines):
        name = f' class="{style}"' if style else ""
        middle, line = x + one.width / 2, top + _LINE * number + 11.5
        shown = f'<text{name} x="{middle:.1f}" y="{line:.1f}" text-anchor="middle">{_escape(text)}</text>'
        anchor = anchors.get(place)
        texts.append(shown if anchor is None else f'<a href="#{_escape(anchor)}">{shown}</a>')
    title = f"<title>{_escape(one.title)}</title>" if one.title else ""
    return f'<g class="{one.style}">{title}{rectangle}{"".join(texts)}</g>'


def _draw_way(points: Sequence[Point], edge: FlowEdge, title: str, *, has_head: bool) -> str:
    """Draw an edge through points, in curves that leave and come vertically."""
    (x, y), (x1, y1) = points[0], points[-1]
    steps = [f"M{x:.1f} {y:.1f}"]
    if has_head:
        goes_down = y1 >= points[-2][1]
        y1 -= _ARROW if goes_down else -_ARROW
    for next_x, next_y in [*points[1:-1], (x1, y1)]:
        middle = (y + next_y) / 2
        straight = abs(next_x - x) < 0.05
        steps.append(
            f"V{next_y:.1f}"
            if straight
            else f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
        )
        x, y = next_x, next_y
    head = ""
    if has_head:
        tip = points[-1][1]
        head = f'<path class="head" d="M{x:.1f} {tip:.1f}l-4.5 {y1 - tip:.1f}h9z"/>'
    text = f"<title>{_escape(title)}</title>"
    return f'<g class="{_CLASSES[edge.gradient]}">{text}<path class="way" d="{"".join(steps)}"/>{head}</g>'


def _frame(body: Sequence[str], layout: Layout, gradients: Sequence[Gradient], *, is_alone: bool, caption: str) -> str:
    """Return the picture with its legend."""
    used = [gradient for gradient in _IMPORTANCE if gradient in gradients]
    legend, legend_width, legend_height = _draw_legend(used, max(layout.width, 420), layout.height + 22)
    width = max(layout.width, legend_width, 120) + 2 * _MARGIN
    height = layout.height + legend_height + 2 * _MARGIN
    shift = (width - 2 * _MARGIN - layout.width) / 2
    style = f"<style>{_OWN_STYLE}</style>" if is_alone else ""
    paper = f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>' if is_alone else ""
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if is_alone else ""
    name = _escape(caption or "Flow of gradient")
    return (
        f'<svg class="flow"{namespace} width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="{"img" if is_alone else "group"}" aria-label="{name}">{style}{paper}'
        f'<g transform="translate({_MARGIN + shift:.1f} {_MARGIN})">{"".join(body)}</g>'
        f'<g transform="translate({_MARGIN} {_MARGIN})">{legend}</g></svg>'
    )


def _draw_legend(gradients: Sequence[Gradient], width: float, top: float) -> tuple[str, float, float]:
    """Return the legend, its width and its height."""
    parts, x, y, widest = [], 0.0, top, 0.0
    for gradient in gradients:
        size = 46 + len(LEGEND[gradient]) * _TEXT_WIDTH
        if x and x + size > width:
            x, y = 0.0, y + _LEGEND_LINE
        parts.append(
            f'<g class="{_CLASSES[gradient]}"><path class="way" d="M{x:.0f} {y:.0f}h24"/>'
            f'<path class="head" d="M{x + 31:.0f} {y:.0f}l-7 -4.5v9z"/></g>'
            f'<text x="{x + 38:.0f}" y="{y + 4:.0f}">{_escape(LEGEND[gradient])}</text>'
        )
        x += size + 8
        widest = max(widest, x)
    return "".join(parts), widest, y - top + 30 if parts else 0
