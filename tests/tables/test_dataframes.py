"""Numbers and shapes of the tables, with a clock that moves only when a test advances it."""

from __future__ import annotations

import threading
from pathlib import Path

import pandas as pd
import pytest
import torch

import gradprobe
from gradprobe.analysis.time_by_mode import sum_by_mode
from gradprobe.capture.clock import Clock
from gradprobe.recorder import Recorder
from gradprobe.tables.column_definition import Column, Table
from gradprobe.tables.column_frames import make_dataframe
from tests.conftest import FakeClock

COLUMNS = {
    "transitions": "order time_ns process rank thread task manager form event grad_before inference_before grad_after "
    "inference_after redundant depth region file line function",
    "regions": "region parent manager form file line function process rank thread task depth start_ns duration_ns "
    "self_ns device_ns nodes self_nodes saved_bytes version_bumps counters_created tracked_views inference_tensors "
    "error closed",
    "sites": "file line function manager form count total_ns self_ns median_ns nodes saved_bytes version_bumps device_ns",
    "ops": "region op file line function count nodes saved_bytes version_bumps counters_created tracked_views "
    "inference_outputs normal_outputs",
    "findings": "rule severity message file line function count related fix",
}


def times(recording: gradprobe.Recording) -> dict[str, int]:
    return {t.mode: t.ns for t in sum_by_mode(recording._tables.processes)}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_columns_that_users_rely_on_come_first_and_in_order_also_where_nothing_was_recorded(
    name: str, clock: FakeClock
) -> None:
    promised = COLUMNS[name].split()
    recorder = Recorder(clock=clock.clock)
    recorder.start()
    empty = recorder.stop()
    recorder = Recorder(clock=clock.clock)
    with recorder as full, torch.no_grad():
        torch.set_grad_enabled(True)
    for recording in (empty, full):
        assert list(getattr(recording, name).columns)[: len(promised)] == promised
    assert getattr(empty, name).empty
    assert str(empty)


def test_counts_that_may_be_missing_are_nullable_and_times_are_integers(clock: FakeClock) -> None:
    with Recorder(clock=clock.clock) as recording, torch.no_grad(), torch.enable_grad():
        clock.advance(1)
    regions, transitions, sites = recording.regions, recording.transitions, recording.sites
    for frame, name in (
        (regions, "parent"),
        (regions, "nodes"),
        (regions, "rank"),
        (sites, "nodes"),
        (sites, "line"),
    ):
        assert frame[name].dtype == "Int64", name
    for frame, name in (
        (regions, "start_ns"),
        (regions, "duration_ns"),
        (transitions, "time_ns"),
        (sites, "total_ns"),
    ):
        assert pd.api.types.is_integer_dtype(frame[name]), name
    for name in ("grad_before", "inference_after", "redundant"):
        assert transitions[name].dtype == bool
    for name in (
        "device_ns",
        "saved_bytes",
        "version_bumps",
        "counters_created",
        "tracked_views",
        "inference_tensors",
    ):
        assert regions[name].isna().all(), "what was not measured is no zero"
    assert regions["rank"].isna().all()


def test_own_times_and_the_median_of_a_site(clock: FakeClock) -> None:
    with Recorder(clock=clock.clock) as recording:
        for ns in (5, 100, 9, 7):
            with torch.inference_mode():
                clock.advance(ns)
                with torch.no_grad():
                    clock.advance(1)
                    torch.set_grad_enabled(False)
                    clock.advance(2)
        clock.advance(50)
    sites = recording.sites.set_index("manager")
    assert sites.loc["inference_mode", ["count", "total_ns", "self_ns", "median_ns"]].tolist() == [4, 133, 121, 11]
    assert sites.loc["no_grad", ["count", "total_ns", "self_ns", "median_ns"]].tolist() == [4, 12, 4, 3]
    assert sites.loc["set_grad_enabled", ["count", "total_ns", "self_ns", "median_ns"]].tolist() == [4, 8, 8, 2]
    assert list(recording.sites["manager"]) == ["inference_mode", "no_grad", "set_grad_enabled"], "the longest first"
    assert recording.sites.set_index("manager")["redundant"].to_dict() == {
        "inference_mode": 0,
        "no_grad": 4,
        "set_grad_enabled": 4,
    }
    assert times(recording) == {"inference_mode": 133, "grad": 50}
    assert recording.sites["self_ns"].sum() == 133


def test_without_a_node_count_nodes_are_missing_and_not_zero(clock: FakeClock) -> None:
    with Recorder(level="modes", clock=clock.clock) as recording, torch.enable_grad():
        torch.ones(1, requires_grad=True) * 2
    assert recording.regions["nodes"].isna().all()
    assert recording.sites["nodes"].isna().all()
    assert recording.sites["self_nodes"].isna().all()


def test_another_recording_that_begins_meanwhile_costs_no_time(clock: FakeClock) -> None:
    outer, inner = Recorder(clock=clock.clock), Recorder(clock=clock.clock)
    recording = outer.start()
    clock.advance(100)
    with torch.no_grad():
        clock.advance(10)
        second = inner.start()
        clock.advance(1)
        inner.stop()
    clock.advance(1000)
    outer.stop()
    assert times(recording) == {"grad": 1100, "no_grad": 11}
    assert times(second) == {"no_grad": 1}


def test_another_recording_that_begins_in_another_thread_moves_no_beginning(clock: FakeClock) -> None:
    outer, inner = Recorder(clock=clock.clock), Recorder(clock=clock.clock)
    recording = outer.start()
    clock.advance(100)

    def record() -> None:
        clock.advance(10)
        inner.start()
        clock.advance(10)
        inner.stop()

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()
    outer.stop()
    assert times(recording) == {"grad": 120 + 20}


def test_threads_of_one_name_and_of_one_identifier_stay_apart(clock: FakeClock) -> None:
    def work() -> None:
        with torch.no_grad():
            clock.advance(5)

    with Recorder(clock=clock.clock) as recording:
        for _ in range(3):
            thread = threading.Thread(target=work, name="worker")
            thread.start()
            thread.join()
    assert list(recording.regions["thread"]) == ["worker", "worker #2", "worker #3"]
    assert recording.regions["parent"].isna().all()
    assert (recording.regions["depth"] == 0).all()
    assert len(recording._tables.processes[0].history.timelines) == 4


def test_the_end_of_a_function_that_was_called_before_the_recording_is_noticed_as_unknown(clock: FakeClock) -> None:
    recorder = Recorder(clock=clock.clock)

    @torch.inference_mode()
    def begins() -> gradprobe.Recording:
        clock.advance(1000)
        recording = recorder.start()
        clock.advance(7)
        return recording

    # A call that is under way keeps the exit that it had at its beginning, which nothing watches.
    recording = begins()
    clock.advance(3)
    recorder.stop()
    assert list(recording.transitions["manager"]) == ["unknown"]
    assert times(recording)["inference_mode"] == 10


def test_merged_recordings_keep_their_parents_and_regions_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = []
    for number, wall in enumerate((9_000, 1_000, 5_000)):
        time = FakeClock()
        paths.append(tmp_path / f"{number}.gradprobe")
        clock = Clock(now=time.clock.now, wall=lambda wall=wall: wall)  # type: ignore[misc]
        with Recorder(paths[-1], clock=clock), torch.no_grad():
            time.advance(10 + number)
            with torch.enable_grad(), torch.inference_mode():
                time.advance(1)
    merged = gradprobe.merge(paths)
    regions, transitions = merged.regions, merged.transitions
    assert list(regions["region"]) == list(range(9))
    assert [None if p is pd.NA else int(p) for p in regions["parent"]] == [None, 0, 1, None, 3, 4, None, 6, 7]
    assert list(regions["start_ns"])[::3] == [8_000, 0, 4_000]
    assert list(regions["duration_ns"])[::3] == [11, 12, 13]
    assert list(transitions["order"]) == list(range(18))
    assert transitions["time_ns"].is_monotonic_increasing
    for _, row in transitions.iterrows():
        region = regions.set_index("region").loc[row["region"]]
        assert (row["manager"], row["line"]) == (region["manager"], region["line"])
        assert region["start_ns"] <= row["time_ns"] <= region["start_ns"] + region["duration_ns"]
    assert list(merged.sites["count"]) == [3, 3, 3]


def test_a_table_without_rows_has_all_its_columns_and_sums_beyond_64_bits_are_kept() -> None:
    table = Table("sums", "One row.", (Column("a", "int64", "A sum."), Column("line", "Int64", "A line.")))
    assert list(make_dataframe(table, []).columns) == ["a", "line"]
    assert make_dataframe(table, [(1, None)])["line"].isna().all()
    assert make_dataframe(table, [(2**64, 2**70)]).values.tolist() == [[2**64, 2**70]]


@pytest.mark.parametrize("level", ["graph", "ops"])
def test_nodes_of_a_thread_before_its_first_change_of_a_mode_are_counted(level: str) -> None:
    weight = torch.ones(2, requires_grad=True)

    def work() -> None:
        weight * 2
        weight * 3
        with torch.no_grad():
            weight * 4

    with gradprobe.record(level=level) as recording:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    nodes = {time.mode: time.nodes for time in sum_by_mode(recording._tables.processes)}
    assert nodes == {"grad": 2, "no_grad": 0}
