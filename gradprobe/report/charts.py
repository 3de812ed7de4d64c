"""Drawing of charts as Vega-Lite, by Altair, and as pictures, by vl-convert (the extra ``html``).

Keys of a chart's rows, by its kind (``start`` and ``end`` are in the unit of the chart):

    timeline    lane, name, row, start, end, mode, what, took, own, nodes, blocks
    shares      of (the quantity), mode, share, shown
    memory      time, line, bytes, shown, nodes, iteration, phase; each line at each time
    intervals   workload, mode, ratio, low, high, shown
    parts       workload, part, percent, shown
    points      workload, mode, ratio, shown
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.time_by_mode import MODES
from gradprobe.report.document import UNEXPLAINED, Chart
from gradprobe.report.memory_chart import draw_memory
from gradprobe.report.units import truncate

if TYPE_CHECKING:
    import altair

INSTALL_HINT = "Charts need Altair and vl-convert: pip install 'gradprobe[html]'"
WIDTH = 760
_BAR_HEIGHT = 15
_GREY = "#9a9a9a"
_COLOURS = {
    **dict(zip(MODES, ("#4c78a8", "#e8923a", "#3f9b6e", "#9569b8"), strict=True)),
    "inference_mode+parameters": "#8cbf3f",
    "no_grad again": _GREY,
}
_PALETTE = ("#4c78a8", "#f58518", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d")
_LABEL_WIDTH = 48
_BUNDLE_TIMEOUT_S = 60
_BUNDLE_PROGRAM = """
import sys, vl_convert
sys.stdout.buffer.write(vl_convert.javascript_bundle(None, vl_version=sys.argv[1]).encode())
"""


@functools.cache
def can_draw() -> bool:
    """Return whether the libraries that draw charts are installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def build_specification(chart: Chart, *, width: int | str = "container") -> dict[str, Any]:
    """Return the self-contained Vega-Lite specification of a chart."""
    data = _NamedRows()
    drawn = _DRAW_BY_KIND[chart.kind](chart, data).properties(width=width, description=chart.caption)
    plain: dict[str, Any] = drawn.configure_view(stroke=None).to_dict()
    data.insert(plain)
    plain["autosize"] = {"type": "fit-x", "contains": "padding"}
    return plain


def render_svg(chart: Chart) -> str:
    """Draw a chart as an SVG picture on white."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_build_picture(chart), vl_version=_get_vega_version()))


def render_png(chart: Chart) -> bytes:
    """Draw a chart as a PNG picture on white, at twice the size."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_build_picture(chart), vl_version=_get_vega_version(), scale=2))


def convert_svg(picture: str) -> bytes:
    """Return an SVG picture as PNG, at twice the size."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(picture, scale=2))


@functools.cache
def load_vega_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one JavaScript program, which sets ``vegaEmbed``."""
    bundle = _bundle_apart() or _bundle_here(_get_vega_version())
    # Inside a string or a regular expression of JavaScript this means the same.
    return bundle.replace("</script", "<\\/script")


def _bundle_apart() -> str:
    """Return the program, or "" if it cannot be made by another process.

    Making it takes 100 MB that a process never gives back, at the moment at which a large report takes the most.
    """
    if not os.path.basename(sys.executable or "").startswith("python"):
        return ""  # a program that has Python in it
    command = [sys.executable, "-I", "-c", _BUNDLE_PROGRAM, _get_vega_version()]
    try:
        made = subprocess.run(
            command, capture_output=True, check=True, timeout=_BUNDLE_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return made.stdout.decode()


def _bundle_here(version: str) -> str:
    import vl_convert

    # Without a snippet it returns all of Vega-Embed; its annotations do not allow that.
    return str(vl_convert.javascript_bundle(None, vl_version=version))  # type: ignore[arg-type]


def _get_vega_version() -> str:
    import altair

    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _build_picture(chart: Chart) -> dict[str, Any]:
    return {**build_specification(chart, width=WIDTH), "background": "white"}


class _NamedRows:
    """Rows of a chart, which its specification names until it is built: Altair checks and copies rows one by one."""

    def __init__(self) -> None:
        self._rows: dict[str, Sequence[Any]] = {}

    def add(self, rows: Sequence[Any]) -> Any:
        """Return the name of ``rows`` as data of a chart."""
        from altair import Data

        name = f"rows {len(self._rows)}"
        self._rows[name] = list(rows)
        return Data(name=name)  # type: ignore[no-untyped-call]

    def insert(self, specification: dict[str, Any]) -> None:
        """Put the rows where a specification, or one of its layers, names them."""
        if "data" in specification:
            specification["data"] = {"values": self._rows[specification["data"]["name"]]}
        for layer in specification.get("layer", ()):
            self.insert(layer)


def _color_by_mode(rows: Sequence[Any]) -> altair.Color:
    """Return the colours of the modes that occur, in an order that does not depend on the rows."""
    import altair

    known = [mode for mode in _COLOURS if any(row["mode"] == mode for row in rows)]
    scale = altair.Scale(domain=known, range=[_COLOURS[mode] for mode in known])
    return altair.Color("mode:N", scale=scale, legend=altair.Legend(title=None, orient="top"))


def _draw_timeline(chart: Chart, data: _NamedRows) -> Any:
    import altair

    height = 1 + max(row["row"] for row in chart.rows)
    names: dict[int, str] = {}
    lane_of: dict[int, int] = {}
    for row in chart.rows:
        if row["lane"] not in lane_of.values():
            lane_of[row["row"]] = row["lane"]
            names[row["row"]] = row["name"]
    label = f"{json.dumps({str(at): truncate(name, _LABEL_WIDTH) for at, name in names.items()})}[datum.value]"
    axis = altair.Axis(
        values=list(names), labelExpr=label, title=None, labelOffset=_BAR_HEIGHT / 2, labelLimit=160, grid=False
    )
    rows = [{**row, "below": row["row"] + 0.86} for row in chart.rows]
    span = [min(row["start"] for row in rows), max(row["end"] for row in rows)]
    return (
        altair.Chart(data.add(rows))
        .mark_rect(clip=True, cornerRadius=1)
        .encode(
            x=altair.X("start:Q", title=chart.unit, scale=altair.Scale(domain=span, nice=False)),
            x2="end:Q",
            y=altair.Y("row:Q", axis=axis, scale=altair.Scale(domain=[0, height], reverse=True, nice=False)),
            y2="below:Q",
            color=_color_by_mode(rows),
            tooltip=[
                altair.Tooltip("what:N", title="block"),
                altair.Tooltip("mode:N"),
                altair.Tooltip("took:N", title="time"),
                altair.Tooltip("own:N", title="self time"),
                altair.Tooltip("nodes:N"),
                altair.Tooltip("blocks:Q"),
                altair.Tooltip("name:N", title="thread or task"),
            ],
        )
        .add_params(altair.selection_interval(name="zoom", bind="scales", encodings=["x"]))
        .properties(height=height * _BAR_HEIGHT + 4)
    )


def _draw_shares(chart: Chart, data: _NamedRows) -> Any:
    import altair

    whole = list(dict.fromkeys(row["of"] for row in chart.rows))
    return (
        altair.Chart(data.add(chart.rows))
        .mark_bar()
        .encode(
            x=altair.X("share:Q", title=None, axis=altair.Axis(format="%"), scale=altair.Scale(domain=[0, 1])),
            y=altair.Y("of:N", title=None, sort=whole),
            color=_color_by_mode(chart.rows),
            tooltip=["of:N", "mode:N", altair.Tooltip("shown:N", title="amount")],
        )
        .properties(height=26 * len(whole))
    )


def _draw_intervals(chart: Chart, data: _NamedRows) -> Any:
    import altair

    base = altair.Chart(data.add(chart.rows))
    rows, offset = _place_workloads(chart.rows), _offset_by_mode(chart.rows)
    low, high = min(row["low"] for row in chart.rows), max(row["high"] for row in chart.rows)
    scale = altair.Scale(type="log", domain=[min(low, 0.985) * 0.99, max(high, 1.015) * 1.01], nice=False)
    ticks = [tick for tick in (*_TICKS, *_LARGE_TICKS) if scale["domain"][0] <= tick <= scale["domain"][1]]
    axis = altair.Axis(
        values=_thin_ticks(ticks, scale["domain"]), format="~r", title="time per call, relative to no_grad"
    )
    tooltip = ["workload:N", "mode:N", altair.Tooltip("shown:N", title="ratio to no_grad")]
    one = altair.Chart(data.add([{"at": 1, "from": 0.99, "to": 1.01}]))
    noise = one.mark_rect(opacity=0.18, color="#888").encode(x="from:Q", x2="to:Q")
    line = one.mark_rule(color="#888").encode(x=altair.X("at:Q", scale=scale, axis=axis))
    bars = base.mark_rule(strokeWidth=2.5).encode(
        x=altair.X("low:Q", scale=scale, axis=axis),
        x2="high:Q",
        y=rows,
        yOffset=offset,
        color=_color_by_mode(chart.rows),
        tooltip=tooltip,
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=altair.X("ratio:Q", scale=scale), y=rows, yOffset=offset, color=_color_by_mode(chart.rows), tooltip=tooltip
    )
    return altair.layer(noise, line, bars, dots).properties(height=_compute_height(chart.rows))


def _draw_points(chart: Chart, data: _NamedRows) -> Any:
    import altair

    dots = (
        altair.Chart(data.add(chart.rows))
        .mark_point(size=40, filled=True, opacity=0.6)
        .encode(
            x=altair.X("ratio:Q", title="ratio to no_grad, one dot per process", scale=altair.Scale(zero=False)),
            y=_place_workloads(chart.rows),
            yOffset=_offset_by_mode(chart.rows),
            color=_color_by_mode(chart.rows),
            tooltip=["workload:N", "mode:N", altair.Tooltip("shown:N", title="ratio to no_grad")],
        )
    )
    line = altair.Chart(data.add([{"at": 1}])).mark_rule(color="#888").encode(x="at:Q")
    return altair.layer(line, dots).properties(height=_compute_height(chart.rows))


def _draw_parts(chart: Chart, data: _NamedRows) -> Any:
    import altair

    rows = list(dict.fromkeys(row["workload"] for row in chart.rows))
    parts = sorted({row["part"] for row in chart.rows}, key=lambda part: (part == UNEXPLAINED, part))
    colours = [_GREY if part == UNEXPLAINED else _PALETTE[at % len(_PALETTE)] for at, part in enumerate(parts)]
    scale = altair.Scale(domain=parts, range=colours)
    return (
        altair.Chart(data.add(chart.rows))
        .mark_bar()
        .encode(
            x=altair.X("sum(percent):Q", title="% of a call under no_grad"),
            y=altair.Y("workload:N", sort=rows, title=None, axis=altair.Axis(labelLimit=280)),
            color=altair.Color("part:N", scale=scale, legend=altair.Legend(title=None, orient="top", columns=4)),
            tooltip=["workload:N", "part:N", altair.Tooltip("shown:N", title="time")],
        )
        .properties(height=22 * len(rows) + 10)
    )


_DRAW_BY_KIND: dict[str, Callable[[Chart, _NamedRows], Any]] = {
    "timeline": _draw_timeline,
    "shares": _draw_shares,
    "memory": lambda chart, data: draw_memory(chart, data.add),
    "intervals": _draw_intervals,
    "parts": _draw_parts,
    "points": _draw_points,
}


def _place_workloads(rows: Sequence[Any]) -> altair.Y:
    import altair

    order = list(dict.fromkeys(row["workload"] for row in rows))
    return altair.Y("workload:N", sort=order, title=None, axis=altair.Axis(labelLimit=220, grid=True))


def _offset_by_mode(rows: Sequence[Any]) -> altair.YOffset:
    import altair

    return altair.YOffset("mode:N", sort=[mode for mode in _COLOURS if any(row["mode"] == mode for row in rows)])


def _compute_height(rows: Sequence[Any]) -> int:
    workloads, modes = len({row["workload"] for row in rows}), len({row["mode"] for row in rows})
    return workloads * (8 + 11 * modes) + 10


_TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1, 1.02, 1.05, 1.1, 1.2, 1.5)
_LARGE_TICKS = (2, 3, 5, 10, 20, 50, 100, 1000)


def _thin_ticks(ticks: Sequence[float], domain: Sequence[float]) -> list[float]:
    """Return the ticks whose labels have room, always with 1."""
    room = math.log(domain[1] / domain[0]) / 14
    kept = [1.0]
    for tick in sorted(ticks, key=lambda tick: abs(math.log(tick)), reverse=True):
        if all(abs(math.log(tick / other)) >= room for other in kept):
            kept.append(tick)
    return sorted(kept)
