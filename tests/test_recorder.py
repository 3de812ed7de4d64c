"""Recordings of unusual programs, with their numbers to the nanosecond, and the methods of ``Recording``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import gradprobe
from gradprobe.recorder import Recorder, get_session
from gradprobe.recording.sqlite_file import read_file
from gradprobe.recording.writer import Writer
from gradprobe.tables.call_columns import CALLS
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.ledger_columns import CUSTODY, FLOW, GRAPH_MEMORY, GRAPHS, MODULES, PARAMETERS
from gradprobe.tables.mode_columns import TRANSITIONS
from gradprobe.tables.operator_columns import BIRTHS, OPS
from gradprobe.tables.region_columns import REGIONS, SITES
from tests.conftest import FakeClock


def events(recording: gradprobe.Recording) -> list[tuple[Any, ...]]:
    table = recording.transitions[["manager", "form", "event", "grad_before", "grad_after"]]
    return list(table.itertuples(index=False, name=None))


def line_of(function: Callable[..., Any], text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_blocks_that_close_out_of_order_are_two_regions_and_the_state_is_what_pytorch_left() -> None:
    with gradprobe.record() as recording:
        first, second = torch.no_grad(), torch.enable_grad()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
    left = torch.is_grad_enabled()
    torch._C._set_grad_enabled(True)
    assert left is False
    assert list(recording.regions["irregular"]) == ["left out of order", ""]
    assert list(recording.transitions["grad_after"]) == [False, True, True, False]
    assert list(recording.regions["closed"]) == [True, True]


def test_a_block_left_on_another_thread_says_so() -> None:
    block = torch.no_grad()
    with gradprobe.record() as recording:
        block.__enter__()
        thread = threading.Thread(target=block.__exit__, args=(None, None, None), name="closer")
        thread.start()
        thread.join()
        torch._C._set_grad_enabled(True)
    assert list(recording.transitions["thread"])[:2] == ["MainThread", "closer"]
    assert recording.regions.iloc[0]["irregular"] == "left on another thread"


def test_a_block_that_is_never_left_ends_with_its_thread_or_the_recording(clock: FakeClock) -> None:
    def forgets() -> None:
        torch.no_grad().__enter__()
        clock.advance(100)

    recorder = Recorder(clock=clock.clock)
    recording = recorder.start()
    thread = threading.Thread(target=forgets)
    thread.start()
    thread.join()
    torch.enable_grad().__enter__()
    clock.advance(1000)
    recorder.stop()
    regions = recording.regions
    assert list(regions["irregular"]) == ["never left", "never left"]
    assert list(regions["closed"]) == [False, False]
    assert list(regions["duration_ns"]) == [100, 1000]


def test_a_block_entered_before_the_recording_spans_what_was_seen_of_it(clock: FakeClock) -> None:
    recorder = Recorder(clock=clock.clock)
    block = torch.inference_mode()
    block.__enter__()
    recording = recorder.start()
    clock.advance(40)
    with torch.enable_grad():
        clock.advance(2)
    block.__exit__(None, None, None)
    recorder.stop()
    outer, inner = recording.regions.to_dict("records")
    assert (outer["irregular"], outer["duration_ns"], outer["self_ns"]) == ("entered before the recording", 42, 40)
    assert inner["parent"] == outer["region"]
    assert list(recording.transitions["inference_before"]) == [True, True, True]
    assert not recording.transitions.iloc[-1]["inference_after"]


def test_a_with_statement_that_is_older_than_the_recording_ends_unannounced() -> None:
    recorder = Recorder()
    with torch.inference_mode():  # the statement has its exit in hand from here on
        recording = recorder.start()
    with torch.no_grad():
        pass
    recorder.stop()
    assert [row[0] for row in events(recording)] == ["unknown", "no_grad", "no_grad"]
    assert recording.transitions.iloc[0]["inference_before"]


def test_a_change_before_a_kept_object_is_entered_again_is_told_where_it_is_entered() -> None:
    def program() -> None:
        kept = torch.set_grad_enabled(False)
        torch._C._set_grad_enabled(True)
        with kept:
            pass

    with gradprobe.record() as recording:
        program()
    assert events(recording) == [
        ("set_grad_enabled", "call", "set", True, False),
        ("unknown", "call", "set", False, True),
        ("set_grad_enabled", "with", "enter", True, False),
        ("set_grad_enabled", "with", "exit", False, True),
    ]
    assert list(recording.transitions["line"])[1:] == [line_of(program, "with kept")] * 3


def test_a_kept_object_entered_in_a_task_is_in_the_task() -> None:
    async def work() -> None:
        with kept:
            await asyncio.sleep(0)

    kept = torch.set_grad_enabled(True)
    with gradprobe.record() as recording:
        asyncio.run(work())
    assert recording.regions["task"].notna().all()


def test_a_kept_set_grad_enabled_that_decorates_is_told_alike_of_pytorch_and_of_the_drop_in() -> None:
    def program(manager: Any) -> None:
        kept = manager(False)

        @kept
        def function() -> None: ...

        function()

    def rows(manager: Any) -> list[dict[str, Any]]:
        with gradprobe.record() as recording:
            program(manager)
        return recording.transitions.drop(columns="time_ns").to_dict("records")

    assert rows(gradprobe.set_grad_enabled) == rows(torch.set_grad_enabled)
    assert [row["event"] for row in rows(torch.set_grad_enabled)] == ["set", "set", "enter", "exit"]


def test_an_exception_is_named_and_goes_on() -> None:
    with gradprobe.record() as recording, pytest.raises(KeyError), torch.no_grad(), torch.inference_mode():
        raise KeyError("lost")
    assert list(recording.regions["error"]) == ["KeyError", "KeyError"]
    assert list(recording.sites["errors"]) == [1, 1]


class Switches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def test_a_mode_that_only_cpp_switched_is_unknown() -> None:
    with gradprobe.record() as recording:
        Switches.apply(torch.ones(2, requires_grad=True))
        with torch.no_grad():
            pass
    assert events(recording)[:3] == [
        ("unknown", "call", "set", True, False),
        ("enable_grad", "with", "enter", False, True),
        ("enable_grad", "with", "exit", True, False),
    ]
    assert events(recording)[3] == ("unknown", "call", "set", False, True)


def test_blocks_of_pytorchs_own_code_are_hidden_until_asked_for(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        with torch.no_grad():
            pass
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        return loss

    with gradprobe.record(tmp_path / "r.gradprobe") as recording:
        str(model.weight)
        optimizer.step(closure)
    assert [row[0] for row in events(recording)] == ["no_grad", "no_grad"]
    assert recording.regions.iloc[0]["depth"] == 0
    assert "PyTorch's own code are hidden" in str(recording)
    shown = gradprobe.load(tmp_path / "r.gradprobe", include_torch=True)
    assert len(shown.transitions) > 4
    assert shown.transitions["file"].str.contains("optim").any()


def test_the_line_is_the_users_through_stacks_several_lines_and_decorators() -> None:
    @torch.no_grad()
    def decorated() -> None:
        pass

    def program() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())  # by stack
            stack.enter_context(
                torch.set_grad_enabled(True)  # in a stack's call
            )
        with (
            torch.enable_grad(),
            torch.set_grad_enabled(  # over lines
                False
            ),
        ):
            decorated()

    with gradprobe.record() as recording:
        program()
    sites = recording.transitions[recording.transitions["event"] == "enter"]
    assert [(m, f) for m, f in zip(sites["manager"], sites["form"], strict=True)] == [
        ("no_grad", "with"),
        ("set_grad_enabled", "with"),
        ("enable_grad", "with"),
        ("set_grad_enabled", "with"),
        ("no_grad", "decorator"),
    ]
    by_stack, in_call, *statement, of_function = list(sites["line"])
    assert by_stack == line_of(program, "# by stack")
    assert in_call == line_of(program, "# in a stack's call")
    # Which line of a statement over several lines an interpreter names has changed between its versions.
    assert all(line_of(program, "with (") <= line <= line_of(program, "# over lines") for line in statement)
    assert of_function == inspect.unwrap(decorated).__code__.co_firstlineno
    assert set(sites["file"]) == {__file__}


def test_set_grad_enabled_kept_in_a_variable_is_a_call_and_then_a_block() -> None:
    with gradprobe.record() as recording:
        kept = torch.set_grad_enabled(False)
        with kept:
            pass
        with kept:
            pass
        with torch.set_grad_enabled(False):
            pass
    assert [row[1:] for row in events(recording)] == [
        ("call", "set", True, False),
        ("with", "enter", False, False),
        ("with", "exit", False, True),
        ("with", "enter", True, False),
        ("with", "exit", False, True),
        ("with", "enter", True, False),
        ("with", "exit", False, True),
    ]
    lines = list(recording.transitions["line"])
    assert lines[1] == lines[0] + 1
    assert lines[3] == lines[1] + 2


def test_an_inference_mode_object_entered_while_open_is_recorded_as_pytorch_leaves_it() -> None:
    inside: list[bool] = []

    def program() -> None:
        kept = torch.inference_mode()
        with kept:
            with kept:
                inside.append(torch.is_inference_mode_enabled())
            inside.append(torch.is_inference_mode_enabled())
        inside.append(torch.is_inference_mode_enabled())
        with torch.inference_mode(False):
            pass

    with gradprobe.record() as recording:
        # In a thread of its own: PyTorch leaves it in inference mode for good.
        thread = threading.Thread(target=program)
        thread.start()
        thread.join()
    after = recording.transitions["inference_after"]
    assert inside == [bool(after[1]), bool(after[2]), bool(after[3])] == [False, True, True]
    assert recording.regions["irregular"].tolist()[:2] == ["", "entered again while open"]


def test_tasks_have_trees_of_their_own_and_the_thread_one_state() -> None:
    async def work(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                await asyncio.sleep(0)
            with torch.enable_grad():
                pass

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(work(n), name=f"task {n}") for n in (3, 1, 2)))

    with gradprobe.record() as recording:
        asyncio.run(main())
    regions = recording.regions.set_index("region")
    assert sorted(regions["task"].unique()) == ["task 1", "task 2", "task 3"]
    inner = regions[regions["manager"] == "enable_grad"]
    assert (inner["depth"] == 1).all()
    assert [regions.loc[parent, "task"] for parent in inner["parent"]] == list(inner["task"])
    outer = recording.transitions[recording.transitions["manager"] == "no_grad"]
    assert list(outer["grad_before"])[:3] == [True, False, False], "a mode held across an await acts on the other tasks"


def test_overlapping_recordings_have_each_what_happened_between_their_start_and_stop() -> None:
    first, second = gradprobe.record(), gradprobe.record(level="modes")
    one = first.start()
    with torch.no_grad():
        two = second.start()
        with torch.enable_grad():
            first.stop()
        with torch.inference_mode():
            pass
        second.stop()
    assert [row[0] for row in events(one)] == ["no_grad", "enable_grad"]
    assert [row[0] for row in events(two)] == ["enable_grad", "enable_grad", "inference_mode", "inference_mode"]


def test_a_recording_has_the_places_that_it_refers_to_and_not_those_of_the_one_before(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with gradprobe.record(tmp_path / f"{name}.gradprobe", level="ops"):
            exec(compile("with torch.no_grad():\n    torch.ones(1)\n", f"{name}.py", "exec"), {"torch": torch})
    contents = read_file(tmp_path / "second.gradprobe")
    files = {site.file for site in contents.sites.values() if not site.internal}
    assert "second.py" in files
    assert "first.py" not in f"{files} {contents.notes}"


def test_every_number_of_the_tables_with_a_clock_of_our_own(clock: FakeClock, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.gradprobe", clock=clock.clock)
    recording = recorder.start()
    clock.advance(10)
    for _ in range(3):
        with torch.no_grad():
            clock.advance(100)
            with torch.enable_grad():
                (torch.ones(2, requires_grad=True) * 2).sum()
                clock.advance(7)
    clock.advance(1)
    recorder.stop()
    assert list(recording.transitions["time_ns"])[:4] == [10, 110, 117, 117]
    assert list(recording.regions["duration_ns"]) == [107, 7] * 3
    assert list(recording.regions["self_ns"]) == [100, 7] * 3
    assert list(recording.regions["nodes"]) == [2, 2] * 3
    assert list(recording.regions["self_nodes"]) == [0, 2] * 3
    assert recording.regions["saved_bytes"].isna().all()
    outer, inner = recording.sites.to_dict("records")
    assert (outer["count"], outer["total_ns"], outer["self_ns"], outer["median_ns"]) == (3, 321, 300, 107)
    assert (inner["count"], inner["total_ns"], inner["self_nodes"]) == (3, 21, 6)
    assert "Of 332 ns: 90.4 % no_grad, 9.6 % grad." in str(recording)
    again = gradprobe.load(tmp_path / "r.gradprobe")
    for name in ("transitions", "regions", "sites"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(recording, name))


def test_merged_recordings_share_one_axis_and_number_their_regions_through(tmp_path: Path) -> None:
    paths = [tmp_path / "early.gradprobe", tmp_path / "late.gradprobe"]
    for path, wall in zip(paths, (1_000, 5_000), strict=True):
        time = FakeClock()
        made = type(time.clock)(now=time.clock.now, wall=lambda wall=wall: wall)
        with Recorder(path, clock=made), torch.no_grad():
            time.advance(3)
            with torch.enable_grad():
                pass
    merged = gradprobe.merge([paths[1], paths[0]])
    regions = merged.regions
    assert sorted(regions["start_ns"]) == [0, 3, 4000, 4003]
    assert list(regions["region"]) == [0, 1, 2, 3]
    assert [None if p is pd.NA else int(p) for p in regions["parent"].tolist()] == [None, 0, None, 2]
    assert list(merged.transitions["time_ns"]) == sorted(merged.transitions["time_ns"])
    with pytest.raises(gradprobe.GradprobeError, match="cannot save a merged recording"):
        merged.save(tmp_path / "both.gradprobe")


def test_an_empty_recording_has_all_tables_and_a_report() -> None:
    with gradprobe.record() as recording:
        pass
    for name, expected in (
        ("transitions", TRANSITIONS),
        ("regions", REGIONS),
        ("sites", SITES),
        ("ops", OPS),
        ("findings", FINDINGS),
        ("calls", CALLS),
        ("births", BIRTHS),
        *((table.name, table) for table in (FLOW, PARAMETERS, MODULES, GRAPHS, GRAPH_MEMORY, CUSTODY)),
    ):
        table = getattr(recording, name)
        assert list(table.columns) == expected.names
        assert table.empty
    assert "changed no mode" in str(recording)
    assert recording.to_markdown()
    assert recording.to_json()


def test_a_recording_has_its_own_names_though_the_idle_session_forgets_as_it_starts(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = get_session(clock.clock)

    def raise_and_record(error: Exception) -> str:
        with contextlib.suppress(type(error)), Recorder(clock=clock.clock) as recording, torch.no_grad():
            raise error
        return str(recording.regions["error"].item())

    def forget() -> None:
        with session.lock:
            if session.is_idle:
                session.drain()

    def flush_and_meet(writer: Writer) -> bool:
        done = flush(writer)
        thread = threading.Thread(target=forget)
        thread.start()
        thread.join(0.1)  # it may have to wait until the recording has started
        return done

    assert raise_and_record(KeyError()) == "KeyError"
    flush = Writer.flush
    monkeypatch.setattr(Writer, "flush", flush_and_meet)
    assert raise_and_record(ValueError()) == "ValueError"


def test_past_the_limit_a_recording_stops_if_told_so() -> None:
    with gradprobe.record(limit=4, on_full="stop") as recording:
        for _ in range(10):
            with torch.no_grad():
                pass
            assert recording.transitions is not None  # empties the queue
    assert len(recording.transitions) <= 4
    assert "the limit of 4 events was reached" in str(recording)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"level": "deep"}, "level must be 'modes', 'graph' or 'ops', got 'deep'"),
        ({"on_full": "panic"}, "on_full must be 'aggregate' or 'stop', got 'panic'"),
        ({"max_events": -1}, "max_events must be 0 or more, got -1"),
        ({"limit": -1}, "max_events must be 0 or more, got -1"),
    ],
)
def test_an_invalid_argument_is_refused_with_what_is_allowed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(gradprobe.InvalidArgument) as caught:
        gradprobe.record(**wrong)
    assert str(caught.value) == said
    assert isinstance(caught.value, gradprobe.GradprobeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("paths", ["one.gradprobe", []])
def test_merge_refuses_what_is_not_several_paths(paths: Any) -> None:
    with pytest.raises(gradprobe.InvalidArgument):
        gradprobe.merge(paths)


def test_an_existing_file_is_replaced_only_if_asked_under_either_name(tmp_path: Path) -> None:
    path = tmp_path / "r.gradprobe"
    for words in ({}, {"overwrite": True}, {"force": True}):
        with gradprobe.record(path, **words) as recording:
            pass
    with pytest.raises(gradprobe.GradprobeError, match="exists already"):
        gradprobe.record(path).start()
    with pytest.raises(gradprobe.GradprobeError, match="exists already"):
        recording.save(path)
    recording.save(path, overwrite=True)


@pytest.mark.parametrize("name", ["markdown", "json", "html", "trace"])
def test_a_writer_returns_its_text_or_writes_it(name: str, tmp_path: Path) -> None:
    with gradprobe.record() as recording, torch.no_grad():
        pass
    write, path = getattr(recording, f"to_{name}"), tmp_path / "report"
    text = write()
    assert write(path) is None
    assert path.read_text() == text
    with pytest.raises(gradprobe.GradprobeError, match="exists already"):
        write(path)
    write(path, overwrite=True)
    write(path, force=True)


def test_csv_is_returned_by_table_or_written_beside_one_another(tmp_path: Path) -> None:
    with gradprobe.record() as recording, torch.no_grad():
        pass
    texts = recording.to_csv()
    assert set(texts) == {table.name for table in RECORDING_TABLES}
    recording.to_csv(tmp_path / "a.csv")
    recording.to_csv(tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / "a.csv").read_bytes().decode() == texts["sites"]
    assert (tmp_path / "a.regions.csv").read_bytes().decode() == texts["regions"]


def test_a_thread_that_takes_the_identifier_of_one_that_ended_unrecorded_has_its_own_name() -> None:
    def start(name: str) -> tuple[threading.Thread, threading.Event, threading.Event, threading.Event]:
        go, done, end = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            go.wait()
            with torch.no_grad():
                pass
            done.set()
            end.wait()

        thread = threading.Thread(target=work, name=name)
        thread.start()
        return thread, go, done, end

    first, go, done, end = start("first")
    with gradprobe.record() as recording:
        go.set()
        done.wait()
    assert set(recording.regions["thread"]) == {"first"}
    end.set()
    first.join()
    for _ in range(100):
        second, go, done, end = start("second")
        if second.ident == first.ident:
            break
        go.set()
        end.set()
        second.join()
    else:
        pytest.skip("this system gives no identifier a second time")
    with gradprobe.record() as recording:
        go.set()
        done.wait()
    end.set()
    second.join()
    assert set(recording.regions["thread"]) == {"second"}
