"""From the charts of a document to Vega-Lite, by Altair, and to pictures, by vl-convert: the extra ``html``.

What the rows of a chart hold, by its kind:

    timeline    lane, name, row, start, end (in the chart's unit), mode, what, took, own, nodes, blocks
    shares      of (what is shared out), mode, share, shown
    intervals   workload, mode, ratio, low, high, shown
    parts       workload, part, percent, shown
    points      workload, mode, ratio, shown
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.time_by_mode import MODES
from gradprobe.report.document import UNEXPLAINED, Chart

if TYPE_CHECKING:
    import altair

INSTALL_HINT = "Charts need Altair and vl-convert: pip install 'gradprobe[html]'"
WIDTH = 760
_BAR = 15
_GREY = "#9a9a9a"
_COLOURS = {
    **dict(zip(MODES, ("#4c78a8", "#e8923a", "#3f9b6e", "#9569b8"), strict=True)),
    "inference_mode+parameters": "#8cbf3f",
    "no_grad again": _GREY,
}
_PALETTE = ("#4c78a8", "#f58518", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d")
_LABEL = 48


@functools.cache
def can_draw() -> bool:
    """Whether what draws charts is installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def build_specification(chart: Chart, *, width: int | str = "container") -> dict[str, Any]:
    """The chart in Vega-Lite, as a dict; it needs nothing from outside of it."""
    drawn = _DRAWN[chart.kind](chart).properties(width=width, description=chart.caption)
    plain: dict[str, Any] = drawn.configure_view(stroke=None).to_dict()
    plain["autosize"] = {"type": "fit-x", "contains": "padding"}
    return plain


def render_svg(chart: Chart) -> str:
    """The chart as an SVG picture, on white."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_picture(chart), vl_version=_version()))


def render_png(chart: Chart) -> bytes:
    """The chart as a PNG picture, on white, at twice the size."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_picture(chart), vl_version=_version(), scale=2))


def load_vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one JavaScript text, which sets ``vegaEmbed``."""
    import vl_convert

    # Without a snippet it gives the whole of Vega-Embed, which its annotations do not know.
    bundle = str(vl_convert.javascript_bundle(None, vl_version=_version()))  # type: ignore[arg-type]
    # Within a string or a regular expression of JavaScript this means the same.
    return bundle.replace("</script", "<\\/script")


def _version() -> str:
    import altair

    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _picture(chart: Chart) -> dict[str, Any]:
    return {**build_specification(chart, width=WIDTH), "background": "white"}


def _data(rows: Sequence[Any]) -> Any:
    from altair import Data

    return Data(values=list(rows))  # type: ignore[no-untyped-call]


def _modes(rows: Sequence[Any]) -> altair.Color:
    """Colours of the modes that occur, in an order that does not depend on the rows."""
    import altair

    known = [mode for mode in _COLOURS if any(row["mode"] == mode for row in rows)]
    scale = altair.Scale(domain=known, range=[_COLOURS[mode] for mode in known])
    return altair.Color("mode:N", scale=scale, legend=altair.Legend(title=None, orient="top"))


def _timeline(chart: Chart) -> Any:
    import altair

    height = 1 + max(row["row"] for row in chart.rows)
    names: dict[int, str] = {}
    lane_of: dict[int, int] = {}
    for row in chart.rows:
        if row["lane"] not in lane_of.values():
            lane_of[row["row"]] = row["lane"]
            names[row["row"]] = row["name"]
    label = f"{json.dumps({str(at): _clipped(name) for at, name in names.items()})}[datum.value]"
    axis = altair.Axis(
        values=list(names), labelExpr=label, title=None, labelOffset=_BAR / 2, labelLimit=160, grid=False
    )
    rows = [{**row, "below": row["row"] + 0.86} for row in chart.rows]
    span = [min(row["start"] for row in rows), max(row["end"] for row in rows)]
    return (
        altair.Chart(_data(rows))
        .mark_rect(clip=True, cornerRadius=1)
        .encode(
            x=altair.X("start:Q", title=chart.unit, scale=altair.Scale(domain=span, nice=False)),
            x2="end:Q",
            y=altair.Y("row:Q", axis=axis, scale=altair.Scale(domain=[0, height], reverse=True, nice=False)),
            y2="below:Q",
            color=_modes(rows),
            tooltip=[
                altair.Tooltip("what:N", title="block"),
                altair.Tooltip("mode:N"),
                altair.Tooltip("took:N", title="time"),
                altair.Tooltip("own:N", title="own time"),
                altair.Tooltip("nodes:N"),
                altair.Tooltip("blocks:Q"),
                altair.Tooltip("name:N", title="in"),
            ],
        )
        .add_params(altair.selection_interval(name="zoom", bind="scales", encodings=["x"]))
        .properties(height=height * _BAR + 4)
    )


def _shares(chart: Chart) -> Any:
    import altair

    whole = list(dict.fromkeys(row["of"] for row in chart.rows))
    return (
        altair.Chart(_data(chart.rows))
        .mark_bar()
        .encode(
            x=altair.X("share:Q", title=None, axis=altair.Axis(format="%"), scale=altair.Scale(domain=[0, 1])),
            y=altair.Y("of:N", title=None, sort=whole),
            color=_modes(chart.rows),
            tooltip=["of:N", "mode:N", altair.Tooltip("shown:N", title="amount")],
        )
        .properties(height=26 * len(whole))
    )


def _intervals(chart: Chart) -> Any:
    import altair

    base = altair.Chart(_data(chart.rows))
    rows, offset = _workloads(chart.rows), _offset(chart.rows)
    low, high = min(row["low"] for row in chart.rows), max(row["high"] for row in chart.rows)
    scale = altair.Scale(type="log", domain=[min(low, 0.985) * 0.99, max(high, 1.015) * 1.01], nice=False)
    ticks = [tick for tick in (*_TICKS, *_LARGE_TICKS) if scale["domain"][0] <= tick <= scale["domain"][1]]
    axis = altair.Axis(values=_thinned(ticks, scale["domain"]), format="~r", title="time of a call, to no_grad")
    tooltip = ["workload:N", "mode:N", altair.Tooltip("shown:N", title="to no_grad")]
    one = altair.Chart(_data([{"at": 1, "from": 0.99, "to": 1.01}]))
    noise = one.mark_rect(opacity=0.18, color="#888").encode(x="from:Q", x2="to:Q")
    line = one.mark_rule(color="#888").encode(x=altair.X("at:Q", scale=scale, axis=axis))
    bars = base.mark_rule(strokeWidth=2.5).encode(
        x=altair.X("low:Q", scale=scale, axis=axis),
        x2="high:Q",
        y=rows,
        yOffset=offset,
        color=_modes(chart.rows),
        tooltip=tooltip,
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=altair.X("ratio:Q", scale=scale), y=rows, yOffset=offset, color=_modes(chart.rows), tooltip=tooltip
    )
    return altair.layer(noise, line, bars, dots).properties(height=_height(chart.rows))


def _points(chart: Chart) -> Any:
    import altair

    dots = (
        altair.Chart(_data(chart.rows))
        .mark_point(size=40, filled=True, opacity=0.6)
        .encode(
            x=altair.X("ratio:Q", title="to no_grad, a dot per process", scale=altair.Scale(zero=False)),
            y=_workloads(chart.rows),
            yOffset=_offset(chart.rows),
            color=_modes(chart.rows),
            tooltip=["workload:N", "mode:N", altair.Tooltip("shown:N", title="to no_grad")],
        )
    )
    line = altair.Chart(_data([{"at": 1}])).mark_rule(color="#888").encode(x="at:Q")
    return altair.layer(line, dots).properties(height=_height(chart.rows))


def _parts(chart: Chart) -> Any:
    import altair

    rows = list(dict.fromkeys(row["workload"] for row in chart.rows))
    parts = sorted({row["part"] for row in chart.rows}, key=lambda part: (part == UNEXPLAINED, part))
    colours = [_GREY if part == UNEXPLAINED else _PALETTE[at % len(_PALETTE)] for at, part in enumerate(parts)]
    scale = altair.Scale(domain=parts, range=colours)
    return (
        altair.Chart(_data(chart.rows))
        .mark_bar()
        .encode(
            x=altair.X("sum(percent):Q", title="per cent of a call under no_grad"),
            y=altair.Y("workload:N", sort=rows, title=None, axis=altair.Axis(labelLimit=280)),
            color=altair.Color("part:N", scale=scale, legend=altair.Legend(title=None, orient="top", columns=4)),
            tooltip=["workload:N", "part:N", altair.Tooltip("shown:N", title="time")],
        )
        .properties(height=22 * len(rows) + 10)
    )


_DRAWN: dict[str, Callable[[Chart], Any]] = {
    "timeline": _timeline,
    "shares": _shares,
    "intervals": _intervals,
    "parts": _parts,
    "points": _points,
}


def _workloads(rows: Sequence[Any]) -> altair.Y:
    import altair

    order = list(dict.fromkeys(row["workload"] for row in rows))
    return altair.Y("workload:N", sort=order, title=None, axis=altair.Axis(labelLimit=220, grid=True))


def _offset(rows: Sequence[Any]) -> altair.YOffset:
    import altair

    return altair.YOffset("mode:N", sort=[mode for mode in _COLOURS if any(row["mode"] == mode for row in rows)])


def _height(rows: Sequence[Any]) -> int:
    workloads, modes = len({row["workload"] for row in rows}), len({row["mode"] for row in rows})
    return workloads * (8 + 11 * modes) + 10


_TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1, 1.02, 1.05, 1.1, 1.2, 1.5)
_LARGE_TICKS = (2, 3, 5, 10, 20, 50, 100, 1000)


def _thinned(ticks: Sequence[float], domain: Sequence[float]) -> list[float]:
    """Those of ``ticks`` whose labels have room, 1 among them."""
    room = math.log(domain[1] / domain[0]) / 14
    kept = [1.0]
    for tick in sorted(ticks, key=lambda tick: abs(math.log(tick)), reverse=True):
        if all(abs(math.log(tick / other)) >= room for other in kept):
            kept.append(tick)
    return sorted(kept)


def _clipped(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 3]}..."
