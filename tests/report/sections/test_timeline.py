"""The timeline stays small however long the recording is, and loses no block."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.recorder import Recorder
from gradprobe.recording.events import EventBlock
from gradprobe.report.formats import html_page
from gradprobe.report.formats.registry import RECORDING_FORMATS
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.sections import recording_document, timeline
from gradprobe.tables.recording_tables import RecordingTables
from tests.conftest import FakeClock
from tests.report import samples
from tests.thoroughness import IS_THOROUGH, examples


def many_blocks(blocks: int, threads: int = 1, **options: str) -> gradprobe.Recording:
    import torch

    clock = FakeClock()

    def run() -> None:
        for number in range(blocks):
            with torch.no_grad():
                clock.advance(10 + number % 7)
                with torch.enable_grad():
                    clock.advance(5)

    with Recorder(clock=clock.clock, **options) as recording:
        run()
        for _ in range(threads - 1):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    return recording


def test_a_long_recording_is_summed_up_in_few_bars() -> None:
    times = 10_000 if IS_THOROUGH else 2_000
    recording = many_blocks(times)
    chart, sentences = timeline.build_timeline(recording._tables.processes)
    assert chart is not None
    assert len(chart.rows) <= timeline.MAX_BARS
    assert sum(bar["blocks"] for bar in chart.rows) == len(recording.regions) == 2 * times
    assert len(sentences) == 1
    assert f"1,500 longest of {2 * times:,} blocks" in sentences[0]
    assert {bar["mode"] for bar in chart.rows if bar["row"] == 1} == {"grad"}
    page = html_page.render_page(recording_document.build_document(recording._tables, charts=True))
    assert f"1,500 longest of {2 * times:,} blocks" in page
    assert len(page) < 2_500_000


def test_threads_without_a_lane_are_counted_in_a_sentence() -> None:
    recording = many_blocks(2, threads=timeline.MAX_LANES + 5)
    chart, sentences = timeline.build_timeline(recording._tables.processes)
    assert chart is not None
    assert len({bar["name"] for bar in chart.rows}) == timeline.MAX_LANES
    assert chart.rows[0]["name"] == "MainThread"
    assert sentences == ["5 threads or tasks with the fewest blocks, 20 blocks in total, have no lane."]


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_bars_lie_within_the_recording_and_sum_to_all_blocks(durations: list[int], marks: int) -> None:
    import torch

    clock = FakeClock()
    with Recorder(clock=clock.clock) as recording:
        for duration in durations:
            with torch.no_grad():
                clock.advance(duration)
        clock.advance(1)
    before, timeline.MAX_BARS = timeline.MAX_BARS, marks
    try:
        chart, _ = timeline.build_timeline(recording._tables.processes)
    finally:
        timeline.MAX_BARS = before
    assert chart is not None
    assert sum(bar["blocks"] for bar in chart.rows) == len(durations)
    end = sum(durations) + 1
    scale = {"ns": 1, "us": 1e3}[chart.unit]
    assert all(0 <= bar["start"] <= bar["end"] <= end / scale for bar in chart.rows)


def test_an_empty_recording_has_no_timeline() -> None:
    clock = FakeClock()
    with Recorder(clock=clock.clock) as recording:
        pass
    assert timeline.build_timeline(recording._tables.processes) == (None, [])
    page = html_page.render_page(recording_document.build_document(recording._tables, charts=True))
    assert "The program itself changed no mode." in page
    assert "vegaEmbed(" not in page.split("<script>")[1]


def test_lanes_of_several_processes_name_the_process_and_share_one_axis() -> None:
    first, second = samples.contents(), samples.contents()
    later = {**second.meta, "began_wall_ns": first.meta["began_wall_ns"] + 10_000_000}
    second = replace(second, meta={**later, "environment": {**samples.ENVIRONMENT, "process": 78}})
    chart, _ = timeline.build_timeline(RecordingTables([first, second], include_torch=False).processes)
    assert chart is not None
    assert list(dict.fromkeys(bar["name"] for bar in chart.rows)) == [
        *("77 MainThread", "77 validation", "78 MainThread", "78 validation")
    ]
    assert min(bar["start"] for bar in chart.rows if bar["name"].startswith("78")) == 10
    assert len({bar["row"] for bar in chart.rows}) == 6


def test_an_unfinished_recording_is_drawn_to_its_last_event() -> None:
    made = samples.contents()
    meta = {key: value for key, value in made.meta.items() if key != "ended_ns"}
    rows = [row for block in made.blocks for row in block.rows()][:3]
    tables = RecordingTables([replace(made, meta=meta, blocks=[EventBlock.of(rows)])], include_torch=False)
    chart, _ = timeline.build_timeline(tables.processes)
    assert chart is not None
    assert [(bar["what"], bar["end"]) for bar in chart.rows if bar["blocks"]] == [
        ("no_grad at serve.py:10 in predict", 1),
        ("enable_grad at serve.py:20 in refine", 1),
    ]
    for one in RECORDING_FORMATS:
        body = one.render(tables, RenderOptions(stem="r")).body
        assert one.name in ("csv", "trace", "sarif", "svg") or "is incomplete" in str(body)


def test_a_thread_has_the_colour_of_its_mode_after_tasks_changed_it() -> None:
    import asyncio

    import torch

    clock = FakeClock()

    async def task(first: asyncio.Event, last: asyncio.Event) -> None:
        with torch.no_grad():
            first.set()
            await last.wait()

    async def main() -> None:
        one, other = asyncio.Event(), asyncio.Event()
        clock.advance(100)
        tasks = [asyncio.create_task(task(one, other)), asyncio.create_task(task(asyncio.Event(), one))]
        await tasks[1]
        clock.advance(50)
        other.set()
        await tasks[0]
        clock.advance(10)

    with Recorder(clock=clock.clock) as recording:
        asyncio.run(main())
        after = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    chart, _ = timeline.build_timeline(recording._tables.processes)
    assert chart is not None
    painted = [(bar["start"], bar["end"], bar["mode"]) for bar in chart.rows if not bar["blocks"]]
    assert painted[0] == (0, 100, "grad")
    assert painted[-1][2] == ("grad" if after else "no_grad")
    assert all(one[1] == other[0] for one, other in itertools.pairwise(painted))
