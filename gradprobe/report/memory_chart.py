"""Chart of the memory of autograd graphs over time, stacked by line, with phases and iterations marked above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from gradprobe.report.document import Chart

_HEIGHT = 220
_MAX_MARKS = 6
_GREY = "#888"
_OFFSETS: dict[Literal["left", "right"], int] = {"left": 2, "right": -2}
"""Distance of a label from its line, by its alignment: those on the right would leave the chart."""


def draw_memory(chart: Chart, add_rows: Callable[[Sequence[Any]], Any]) -> Any:
    """Draw the chart; ``add_rows`` returns the data of a layer."""
    import altair

    lines = list(dict.fromkeys(row["line"] for row in chart.rows))
    time = altair.X("time:Q", title=chart.unit, scale=altair.Scale(nice=False))
    areas = (
        altair.Chart(add_rows([{**row, "order": lines.index(row["line"])} for row in chart.rows]))
        .mark_area(opacity=0.85, line=True)
        .encode(
            x=time,
            y=altair.Y("bytes:Q", stack="zero", title="bytes held by graphs", axis=altair.Axis(format=".3~s")),
            color=altair.Color(
                "line:N",
                scale=altair.Scale(domain=lines, scheme="tableau10"),
                legend=altair.Legend(title=None, orient="bottom", columns=2, labelLimit=360),
            ),
            order="order:Q",
            tooltip=[
                "line:N",
                altair.Tooltip("shown:N", title="bytes"),
                "nodes:Q",
                "iteration:Q",
                "phase:N",
            ],
        )
    )
    marks = list_marks(chart.rows)
    layers = [areas, altair.Chart(add_rows(marks)).mark_rule(color=_GREY, strokeDash=[2, 3]).encode(x="time:Q")]
    for align, offset in _OFFSETS.items():
        labelled = [mark for mark in marks if mark["align"] == align]
        text = altair.Chart(add_rows(labelled)).mark_text(align=align, baseline="bottom", dx=offset, dy=-2, color=_GREY)
        layers.append(text.encode(x="time:Q", y=altair.value(0), text="label:N"))
    return altair.layer(*layers).properties(height=_HEIGHT)


def list_marks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the moments to mark, each with its label: where phases begin, and iterations where there is room between."""
    moments = list({row["time"]: row for row in rows}.values())
    if not moments:
        return []
    begin, length = moments[0]["time"], moments[-1]["time"] - moments[0]["time"]
    before = [{"phase": "", "iteration": 0}, *moments]
    phases = [now for last, now in zip(before, moments, strict=False) if now["phase"] not in ("", last["phase"])]
    marks: dict[float, str] = {}
    for row, label in [
        *((row, row["phase"]) for row in phases),
        *((row, f"iteration {row['iteration']:,}") for row in moments if row["iteration"]),
    ]:
        if all(abs(row["time"] - time) >= length / _MAX_MARKS for time in marks):
            marks[row["time"]] = label
    return [
        {"time": time, "label": label, "align": "right" if time > begin + 0.8 * length else "left"}
        for time, label in sorted(marks.items())
    ]
