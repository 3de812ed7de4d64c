"""The JSON reports are what their schemas say, at every level and in every state of a recording."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.analysis.comparison_outcome import ArmResult, ComparisonOutcome, WorkloadResult
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.report.formats import json_report
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.tables.columns import RECORDING_TABLES
from tests.report import samples

jsonschema = pytest.importorskip("jsonschema")


def schema(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (files("gradprobe.report") / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
    )
    return found


def check(kind: str, text: str) -> Any:
    plain = json.loads(text)
    jsonschema.Draft202012Validator(schema(kind)).validate(plain)
    return plain


@pytest.mark.parametrize("kind", ["recording", "comparison"])
def test_the_schema_is_valid_and_rejects_unknown_keys(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    subject = samples.tables([samples.finding("serve.py", 20)]) if kind == "recording" else samples.outcome()
    plain = check(kind, str(find_format("json").render(subject, RenderOptions()).body))
    for change in ({"extra": 1}, {"schema": 2}):
        with pytest.raises(jsonschema.ValidationError):
            check(kind, json.dumps({**plain, **change}))
    for missing in plain:
        with pytest.raises(jsonschema.ValidationError):
            check(kind, json.dumps({key: value for key, value in plain.items() if key != missing}))


def test_the_schema_has_all_columns_and_fields() -> None:
    named = schema("recording")["properties"]
    for table in RECORDING_TABLES:
        assert named[table.name]["items"]["required"] == table.names
        assert list(named[table.name]["items"]["properties"]) == table.names
    known = schema("comparison")
    for record, plain in (
        (ArmResult, known["$defs"]["arm"]),
        (WorkloadResult, known["$defs"]["workload"]),
        (ComparisonOutcome, known),
    ):
        fields = {field.name for field in dataclasses.fields(record)}
        assert set(plain["properties"]) - {"schema", "kind"} == fields


def work() -> None:
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad(), torch.enable_grad():
        (weight * 2).sum().backward()
    with torch.inference_mode():
        kept.append(torch.ones(4) + 1)
    torch.set_grad_enabled(True)
    try:
        with torch.no_grad():
            raise KeyError
    except KeyError:
        pass


kept: list[torch.Tensor] = []


@pytest.mark.parametrize("level", ["modes", "graph", "ops"])
@pytest.mark.parametrize("limit", [2_000_000, 2])
def test_report_at_every_level_with_and_without_limit(level: str, limit: int) -> None:
    with gradprobe.record(level=level, limit=limit) as recording:
        work()
        probed = gradprobe.probe(level=level)(lambda: torch.ones(2, requires_grad=True) * 2)
        probed()
        unfinished = check("recording", recording.to_json())
    kept.clear()
    assert not unfinished["summary"]["complete"]
    plain = check("recording", recording.to_json())
    assert plain["summary"]["complete"]
    assert (plain["summary"]["operators"] is None) == (level != "ops")
    assert bool(plain["ops"]) == (level == "ops")
    check("recording", probed.recording.to_json())


def test_report_of_unannounced_changes_and_irregular_blocks() -> None:
    with gradprobe.record(level="ops") as recording:
        torch._C._set_grad_enabled(False)
        with torch.enable_grad():
            torch.ones(1)
        torch._C._set_grad_enabled(True)
        outer, inner = torch.no_grad(), torch.inference_mode()
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        torch.set_grad_enabled(True)
    plain = check("recording", recording.to_json())
    assert {"unknown"} < {row["manager"] for row in plain["transitions"]}
    assert any(row["irregular"] for row in plain["regions"])


def test_report_of_a_probed_async_generator() -> None:
    @gradprobe.probe(level="ops")
    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            with torch.no_grad():
                torch.ones(1)
            yield number

    async def take() -> list[int]:
        return [number async for number in numbers()]

    assert asyncio.run(take()) == [0, 1]
    plain = check("recording", numbers.recording.to_json())
    assert [row["steps"] for row in plain["calls"]] == [3]
    assert {row["task"] for row in plain["transitions"]} != {None}


def test_report_that_leaves_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_report, "MAX_ROWS", 1)
    with gradprobe.record(level="ops") as recording:
        for _ in range(2):
            with torch.no_grad():
                torch.ones(1)
    plain = check("recording", recording.to_json())
    assert plain["summary"]["rows_left_out"] == {"transitions": 3, "regions": 1, "ops": 1}


def test_report_of_a_killed_process(tmp_path: Path) -> None:
    file = tmp_path / "killed.gradprobe"
    program = f"""
import os, signal, time, torch, gradprobe
gradprobe.record({str(file)!r}, level="ops").start()
block = torch.inference_mode()
block.__enter__()
kept = torch.addmm(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2))
while b"addmm" not in open({str(file)!r}, "rb").read():  # until the operator is on disk
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], timeout=300)
    plain = check("recording", gradprobe.load(file).to_json())
    assert not plain["summary"]["complete"]
    assert plain["regions"]


@pytest.mark.parametrize("nothing", [lambda: None, lambda: torch.ones(1)])
def test_report_of_an_empty_recording(nothing: Callable[[], Any]) -> None:
    with gradprobe.record() as recording:
        nothing()
    plain = check("recording", recording.to_json())
    assert plain["regions"] == plain["findings"] == []


def test_report_of_several_processes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with gradprobe.record(tmp_path / f"{name}.gradprobe"):
            work()
    kept.clear()
    plain = check("recording", gradprobe.merge([tmp_path / "a.gradprobe", tmp_path / "b.gradprobe"]).to_json())
    assert len(plain["environment"]["processes"]) == 2


def test_a_comparison_read_back_is_the_same(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 3)

    def fails_under_grad(x: torch.Tensor) -> torch.Tensor:
        return model(x) if not torch.is_grad_enabled() else model(x, x)

    comparison = gradprobe.compare(fails_under_grad, torch.ones(2, 3), budget_s=0.5, processes=1)
    plain = check("comparison", comparison.to_json())
    assert set(plain["settings"]) == set(schema("comparison")["properties"]["settings"]["properties"])
    assert "unusable" in {arm["verdict"] for arm in plain["workloads"][0]["arms"]}
    comparison.save(tmp_path / "c.json")
    assert check("comparison", Comparison.load(tmp_path / "c.json").to_json()) == plain
