"""The monitor of long-running services: its counts, its inference paths, its metrics, its memory."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import gradprobe
from gradprobe.monitoring.monitor import Monitor
from gradprobe.recorder import get_session
from tests import warm_python
from tests.conftest import FakeClock

MODEL = torch.nn.Linear(4, 2)
X = torch.randn(3, 4)


def of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_blocks_are_counted_per_manager_and_line_while_it_runs_and_not_after() -> None:
    def work(times: int) -> None:
        for _ in range(times):
            with torch.no_grad():
                MODEL(X)

    with gradprobe.monitor() as monitor:
        work(3)
        threading.Thread(target=work, args=(4,)).start()
        work(5)
        while of(monitor.snapshot()["sites"], manager="no_grad")["count"] < 12:
            pass
    last = monitor.snapshot()
    work(7)
    site = of(monitor.snapshot()["sites"], manager="no_grad")
    assert (site["count"], site["function"].rpartition(".")[2], site["nodes"], site["errors"]) == (12, "work", 0, 0)
    assert site["total_ns"] >= site["longest_ns"] > 0
    assert last["blocks"] == 12
    assert json.loads(json.dumps(last)) == last, "plain values only"


def test_an_inference_path_that_built_a_graph_is_reported_with_its_line_and_nodes() -> None:
    told: list[gradprobe.GraphBuilt] = []
    monitor = gradprobe.monitor(on_graph=told.append)

    @monitor.expect_no_graph
    def predict(x: torch.Tensor, careful: bool) -> torch.Tensor:
        if careful:
            with torch.inference_mode():
                return MODEL(x)
        return MODEL(x).relu()

    predict(X, careful=False)  # not yet
    with monitor:
        for _ in range(5):
            predict(X, careful=True)
        predict(X, careful=False)
        predict(X, careful=False)
    path = of(monitor.snapshot()["inference_paths"])
    assert (path["calls"], path["graphs"], path["nodes"], path["errors"]) == (7, 2, 2 * 3, 0)
    assert [one.nodes for one in told] == [3, 3]
    assert (told[0].function.rpartition(".")[2], told[0].file, told[0].thread) == ("predict", __file__, "MainThread")
    assert told[0].line == predict.__wrapped__.__code__.co_firstlineno


def test_the_node_that_a_custom_function_makes_without_gradients_is_no_graph() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2

    monitor = gradprobe.monitor()
    weight = torch.ones(3, requires_grad=True)

    @monitor.expect_no_graph
    def predict() -> torch.Tensor:
        with torch.no_grad():
            return Double.apply(weight)

    with monitor:
        before = torch.autograd._get_sequence_nr()
        predict()
        assert torch.autograd._get_sequence_nr() == before + 1, "PyTorch constructs one and drops it"
    assert of(monitor.snapshot()["inference_paths"])["graphs"] == 0


def test_generators_and_coroutines_are_one_call_and_count_their_own_steps_only() -> None:
    monitor = gradprobe.monitor()

    @monitor.expect_no_graph
    def stream(x: torch.Tensor) -> Iterator[torch.Tensor]:
        for _ in range(3):
            with torch.no_grad():
                y = MODEL(x)
            yield y

    @monitor.expect_no_graph
    async def endpoint(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = MODEL(x)
        await asyncio.sleep(0)
        return y

    @monitor.expect_no_graph
    async def streaming(x: torch.Tensor) -> AsyncIterator[torch.Tensor]:
        for _ in range(2):
            yield MODEL(x)

    async def serve() -> None:
        async def train() -> None:
            for _ in range(4):
                MODEL(X).sum().backward()
                await asyncio.sleep(0)

        await asyncio.gather(endpoint(X), train(), endpoint(X))
        async for _ in streaming(X):
            pass

    with monitor:
        for _ in stream(X):
            MODEL(X)  # between the steps: none of the path's
        asyncio.run(serve())
    paths = monitor.snapshot()["inference_paths"]
    told = {path["function"].rpartition(".")[2]: (path["calls"], path["graphs"], path["nodes"]) for path in paths}
    assert told == {"stream": (1, 0, 0), "endpoint": (2, 0, 0), "streaming": (1, 1, 4)}


def test_inference_is_another_name_of_expect_no_graph() -> None:
    monitor = gradprobe.monitor()
    predict = monitor.inference(lambda: MODEL(X))
    with monitor:
        predict()
    assert of(monitor.snapshot()["inference_paths"])["graphs"] == 1


def test_errors_of_the_program_and_of_the_callback_stay_what_they_are() -> None:
    def refuse(built: gradprobe.GraphBuilt) -> None:
        raise OSError("the pager is down")

    monitor = gradprobe.monitor(on_graph=refuse)

    @monitor.expect_no_graph
    def predict() -> torch.Tensor:
        MODEL(X)
        raise KeyError("no such model")

    with monitor, pytest.raises(KeyError, match="no such model"):
        predict()
    last = monitor.snapshot()
    assert (of(last["inference_paths"])["errors"], of(last["inference_paths"])["graphs"]) == (1, 1)
    assert last["faults"] == {"on_graph raised OSError: the pager is down": 1}


def test_opentelemetry_gets_the_counts_of_the_snapshot() -> None:
    reader = InMemoryMetricReader()
    monitor = gradprobe.monitor()
    monitor.export(MeterProvider(metric_readers=[reader]))

    @monitor.expect_no_graph
    def predict() -> torch.Tensor:
        with torch.no_grad():
            MODEL(X)
        return MODEL(X)

    with monitor:
        for _ in range(4):
            predict()
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    last = monitor.snapshot()
    site, path = of(last["sites"]), of(last["inference_paths"])
    values = {name: metric.data.data_points[0].value for name, metric in metrics.items()}
    assert values == {
        "gradprobe.blocks": 4,
        "gradprobe.blocks.redundant": 0,
        "gradprobe.blocks.errors": 0,
        "gradprobe.blocks.time": pytest.approx(site["total_ns"] * 1e-9),
        "gradprobe.blocks.nodes": 0,
        "gradprobe.inference.calls": 4,
        "gradprobe.inference.graphs": 4,
        "gradprobe.inference.errors": 0,
        "gradprobe.inference.time": pytest.approx(path["total_ns"] * 1e-9),
        "gradprobe.inference.nodes": 4 * 2,
    }
    assert dict(metrics["gradprobe.blocks"].data.data_points[0].attributes) == {
        "gradprobe.manager": "no_grad",
        "gradprobe.form": "with",
        "code.file.path": __file__,
        "code.line.number": site["line"],
        "code.function.name": site["function"],
    }
    assert metrics["gradprobe.blocks.time"].unit == "s"


def test_threads_and_tasks_that_come_and_go_leave_nothing_behind(clock: FakeClock) -> None:
    session = get_session(clock.clock)  # one of its own: what is probed elsewhere keeps its names

    def request() -> None:
        with torch.no_grad():
            pass

    @gradprobe.no_grad()
    async def handler() -> None:
        await asyncio.sleep(0)

    async def serve() -> None:
        for _ in range(20):
            await asyncio.gather(*(handler() for _ in range(20)))

    monitor = Monitor(level="modes", clock=clock.clock).start()
    for _ in range(100):
        thread = threading.Thread(target=request)
        thread.start()
        thread.join()
    asyncio.run(serve())
    monitor.snapshot()
    left = len(session.tables.threads), len(session.tables.names)
    last = monitor.stop()
    # A decorated coroutine enters its mode for each of its two steps.
    assert sum(site["count"] for site in last["sites"]) == 100 + 2 * 400
    assert left[0] <= threading.active_count() + 1
    assert left[1] == 0


def test_a_recording_beside_a_monitor_keeps_its_names_and_threads() -> None:
    def request() -> None:
        with torch.no_grad():
            pass

    with gradprobe.monitor() as monitor, gradprobe.record() as recording:
        for number in range(3):
            thread = threading.Thread(target=request, name=f"request {number}")
            thread.start()
            thread.join()
            monitor.snapshot()
    assert [*recording.regions["thread"]] == ["request 0", "request 1", "request 2"]


def test_a_forked_process_counts_for_itself(tmp_path: Path) -> None:
    program = """
import os, json, torch, gradprobe

def work(times):
    for _ in range(times):
        with torch.no_grad(): pass

monitor = gradprobe.monitor().start()
work(3)
pid = os.fork()
if pid == 0:
    work(2)
    print(json.dumps(["child", monitor.snapshot()["blocks"]]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
work(4)
print(json.dumps(["parent", monitor.stop()["blocks"]]))
"""
    done = warm_python.run("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["child", 2], ["parent", 7]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"level": "ops"}, "must be 'modes' or 'graph'"),
        ({"level": "modes", "on_graph": print}, "use level='graph'"),
    ],
)
def test_what_cannot_be_monitored_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(gradprobe.GradprobeError, match=says):
        gradprobe.monitor(**arguments)


def test_a_monitor_that_runs_is_not_started_again_and_one_switched_off_counts_nothing() -> None:
    with gradprobe.monitor() as monitor, pytest.raises(gradprobe.GradprobeError, match="running already"):
        monitor.start()
    gradprobe.disable()
    try:
        with gradprobe.monitor() as off, torch.no_grad():
            pass
        assert off.snapshot()["blocks"] == 0
    finally:
        gradprobe.enable()


def test_without_opentelemetry_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(gradprobe.GradprobeError, match=r"gradprobe\[otel\]"):
        gradprobe.monitor().export()


def test_a_monitor_says_what_it_is() -> None:
    monitor = gradprobe.monitor(level="modes")
    assert repr(monitor) == "<gradprobe.Monitor: level modes, stopped; snapshot() has its counts>"
    with monitor:
        assert ": level modes, running;" in repr(monitor)
