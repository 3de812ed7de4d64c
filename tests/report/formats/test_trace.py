"""Traces: the format, what is nested in what, and one time axis with torch.profiler's own."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.__main__ import main
from gradprobe.errors import GradprobeError
from gradprobe.recorder import Recorder
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from tests.capabilities import needs_saved
from tests.conftest import FakeClock
from tests.report import samples
from tests.report.test_hostile_names import HOSTILE
from tests.thoroughness import examples

CLOCKS_US = 5_000
"""Allowed difference between the clocks of torch.profiler and of the recording on a busy machine."""


def events_of(tables: Any) -> list[dict[str, Any]]:
    body = find_format("trace").render(tables, RenderOptions()).body
    found: list[dict[str, Any]] = json.loads(body)["traceEvents"]
    return found


def check_format(events: list[dict[str, Any]]) -> None:
    """Check the fields that the trace-event format requires for each phase, and that slices of a track nest."""
    needed = {"X": {"ts", "dur"}, "M": {"args"}, "C": {"ts", "args"}, "i": {"ts", "s"}}
    tracks = defaultdict(list)
    for event in events:
        assert needed[event["ph"]] | {"name", "pid", "tid"} <= set(event)
        assert isinstance(event["name"], str)
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        if event["ph"] == "M":
            assert event["name"] in {"process_name", "thread_name", "thread_sort_index"}
    for slices in tracks.values():
        for start, end in slices:
            for other_start, other_end in slices:
                crosses = start < other_start < end < other_end
                assert not crosses or min(end - other_start, other_start - start) < 1e-3


def test_regions_are_slices_counters_count_and_findings_are_instants() -> None:
    events = events_of(samples.tables([samples.finding("serve.py", 20), samples.finding(None, None, "elsewhere")]))
    check_format(events)
    slices = [(e["name"], e["ts"], e["dur"], e["args"]["mode"]) for e in events if e["ph"] == "X"]
    assert slices == [
        ("no_grad serve.py:10", 0, 1500, "no_grad"),
        ("enable_grad serve.py:20", 1000, 250, "grad"),
        ("enable_grad serve.py:20", 1250, 250, "grad"),
        ("inference_mode serve.py:30", 1500, 1000, "inference_mode"),
    ]
    counted = [(e["name"], e["ts"], e["args"]) for e in events if e["ph"] == "C"]
    assert counted == [
        ("autograd nodes: MainThread", 0, {"nodes": 0}),
        ("autograd nodes: MainThread", 1250, {"nodes": 2}),
        ("autograd nodes: MainThread", 1500, {"nodes": 4}),
        ("autograd nodes: validation", 1500, {"nodes": 0}),
    ]
    assert [(e["name"], e["ts"]) for e in events if e["ph"] == "i"] == [("leak", 1000), ("elsewhere", 0)]
    named = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert named == {"MainThread", "validation"}


@needs_saved
def test_saved_bytes_are_counted_where_operators_were_seen() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        results = []
        for _ in range(3):
            with torch.enable_grad():
                results.append(weight.exp())
    counted = [e["args"]["bytes"] for e in events_of(recording._tables) if "bytes" in e.get("args", {})]
    assert counted[0] == 0
    assert counted[-1] == recording.sites["saved_bytes"].sum() > 0
    assert counted == sorted(counted)


def test_tasks_of_a_thread_have_tracks_of_their_own() -> None:
    @gradprobe.no_grad()
    async def step() -> None:
        await asyncio.sleep(0.001)

    async def run() -> None:
        await asyncio.gather(*(asyncio.create_task(step(), name=f"step {number}") for number in range(3)))

    with gradprobe.record() as recording:
        asyncio.run(run())
    events = events_of(recording._tables)
    check_format(events)
    assert {f"MainThread step {number}" for number in range(3)} <= {
        e["args"].get("name") for e in events if "args" in e
    }


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["enter", "exit", "set"]), st.integers(0, 3), st.integers(0, 9)), max_size=30)
)
def test_slices_nest_and_keep_the_total_time(steps: list[tuple[str, int, int]]) -> None:
    clock, managers, entered = FakeClock(), [torch.no_grad() for _ in range(4)], set()
    with Recorder(clock=clock.clock) as recording:
        for what, which, ns in steps:
            clock.advance(1000 * ns)
            if what == "enter" and which not in entered:
                managers[which].__enter__()
                entered.add(which)
            elif what == "exit" and which in entered:
                managers[which].__exit__(None, None, None)
                entered.remove(which)
            elif what == "set":
                torch.set_grad_enabled(which % 2 == 0)
        clock.advance(1000)
    torch.set_grad_enabled(True)
    events = events_of(recording._tables)
    check_format(events)
    drawn = sum(event["dur"] for event in events if event["ph"] == "X")
    assert drawn == pytest.approx(recording.regions["duration_ns"].sum() / 1000)


def test_output_is_reproducible_and_compressed_by_suffix(tmp_path: Path) -> None:
    recording = samples.recording()
    recording.to_trace(tmp_path / "a.trace.json.gz")
    recording.to_trace(tmp_path / "b.trace.json.gz")
    recording.to_trace(tmp_path / "c.trace.json")
    packed = (tmp_path / "a.trace.json.gz").read_bytes()
    assert packed == (tmp_path / "b.trace.json.gz").read_bytes()
    assert json.loads(gzip.decompress(packed)) == json.loads((tmp_path / "c.trace.json").read_text())
    with pytest.raises(GradprobeError, match="exists already"):
        recording.to_trace(tmp_path / "a.trace.json.gz")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_names(name: str) -> None:
    tables = samples.tables([samples.finding("serve.py", 20, name)], samples.renamed(samples.contents(), name))
    body = find_format("trace").render(tables, RenderOptions()).body
    assert isinstance(body, str)
    assert body.isascii()
    events = json.loads(body)["traceEvents"]
    check_format(events)
    assert all(len(event["name"]) < 400 and event["name"].isprintable() for event in events)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[gradprobe.Recording, Path]:
    """A run that torch.profiler and a recorder both watched: a product in inference mode between two that are not."""
    a = torch.ones(200, 200)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with gradprobe.record() as recording, torch.profiler.profile(activities=activities) as profiler:
        a.exp()
        time.sleep(0.03)
        with torch.inference_mode():
            time.sleep(0.02)
            a.mm(a)
            time.sleep(0.02)
        time.sleep(0.03)
        a.exp()
    path = tmp_path_factory.mktemp("torch") / "torch.json"
    profiler.export_chrome_trace(str(path))
    return recording, path


def test_events_have_the_fields_of_torch_profiler(profiled: tuple[gradprobe.Recording, Path]) -> None:
    recording, path = profiled
    theirs, ours = json.loads(path.read_text())["traceEvents"], events_of(recording._tables)
    for phase in ("X", "M"):
        common = set.intersection(*(set(event) for event in theirs if event["ph"] == phase)) - {"ts"}
        assert all(common <= set(event) for event in ours if event["ph"] == phase)


@pytest.mark.parametrize("is_packed", [False, True])
def test_merged_slices_cover_the_operators_in_them(
    profiled: tuple[gradprobe.Recording, Path], tmp_path: Path, is_packed: bool
) -> None:
    recording, path = profiled
    if is_packed:
        (tmp_path / "torch.json.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "torch.json.gz"
    theirs = json.loads(profiled[1].read_text())
    recording.save(tmp_path / "r.gradprobe")
    output = tmp_path / "both.trace.json.gz"
    assert main(["report", str(tmp_path / "r.gradprobe"), "--merge", str(path), "-o", str(output)]) == 0
    merged = json.loads(gzip.decompress(output.read_bytes()))
    events = merged["traceEvents"]
    assert events[: len(theirs["traceEvents"])] == theirs["traceEvents"]
    assert {**merged, "traceEvents": 0, "otherData": 0} == {**theirs, "traceEvents": 0, "otherData": 0}
    added = events[len(theirs["traceEvents"]) :]
    check_format(added)
    (block,) = (event for event in added if event["ph"] == "X")
    start, end = block["ts"] - CLOCKS_US, block["ts"] + block["dur"] + CLOCKS_US
    products = [event for event in theirs["traceEvents"] if event["name"] == "aten::mm"]
    assert products
    assert all(start <= event["ts"] <= event["ts"] + event["dur"] <= end for event in products)
    others = [event for event in theirs["traceEvents"] if event["name"] == "aten::exp"]
    assert len(others) == 2
    assert all(event["ts"] + event["dur"] < start or event["ts"] > end for event in others)
    assert {event["pid"] for event in added} == {products[0]["pid"]}
    assert "process_name" not in {event["name"] for event in added}, "torch.profiler named it"


def test_other_files_than_the_trace_of_the_run_are_rejected(
    profiled: tuple[gradprobe.Recording, Path], tmp_path: Path
) -> None:
    recording, path = profiled
    plain = json.loads(path.read_text())
    cases: dict[str, tuple[bytes | None, str]] = {
        "missing": (None, "cannot read"),
        "text": (b"hello", "not valid JSON"),
        "list": (b"[1, 2]", "not a trace"),
        "events": (b'{"traceEvents": [1]}', "not a trace"),
        "cut": (gzip.compress(b"{}" * 1000)[:-9], "damaged gzip"),
        "baseless": (json.dumps({**plain, "baseTimeNanoseconds": None}).encode(), "baseTimeNanoseconds"),
        "other": (json.dumps({**plain, "baseTimeNanoseconds": 0}).encode(), "no time in common"),
    }
    for name, (content, said) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(GradprobeError, match=said) as error:
            recording.to_trace(tmp_path / "o.trace.json", merge=tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert not (tmp_path / "o.trace.json").exists()


def test_options_of_another_format_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.recording().save(tmp_path / "r.gradprobe")
    for words, said in (
        (["--torch-trace", "t.json", "-o", str(tmp_path / "o.md")], "--torch-trace needs the format trace"),
        (["--charts", "svg", "-o", str(tmp_path / "o.html")], "--charts needs the format markdown"),
        (["--charts", "svg", "--format", "markdown"], "-o"),
    ):
        assert main(["report", str(tmp_path / "r.gradprobe"), *words]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.gradprobe"]
