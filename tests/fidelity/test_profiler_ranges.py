"""Blocks as named ranges in the trace of ``torch.profiler``, only where requested."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gradprobe
from tests.commands.running import warm_gradprobe as command

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def line_of(mark: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if line.endswith(f"# {mark}"))


def profiled(program: Callable[[], Any], tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    """Return the trace of ``torch.profiler`` for ``program`` during a recording."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler, gradprobe.record(**options):
        program()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events: list[dict[str, Any]] = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


def ranges(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if Path(__file__).name in event["name"]]


def blocks() -> torch.Tensor:
    a = torch.ones(50, 50)
    with torch.no_grad():  # outer
        a.exp()
        with torch.set_grad_enabled(True):  # inner
            a.mm(a)
    decorated(a)
    return a


@torch.inference_mode()  # decorated
def decorated(a: torch.Tensor) -> None:
    a.sin()


@pytest.mark.parametrize("level", ["modes", "graph", "ops"])
def test_a_range_spans_the_operators_of_its_block(tmp_path: Path, level: str) -> None:
    events = profiled(blocks, tmp_path, profiler_ranges=True, level=level)
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in ranges(events)}
    file = Path(__file__).name
    outer, inner = f"no_grad {file}:{line_of('outer')}", f"set_grad_enabled {file}:{line_of('inner')}"
    assert set(spans) == {outer, inner, f"inference_mode {file}:{line_of('decorated')}"}
    within = {
        name: {e["name"] for e in events if start <= e["ts"] and e["ts"] + e["dur"] <= end} - {name}
        for name, (start, end) in spans.items()
    }
    assert {"aten::exp", "aten::mm", inner} <= within[outer]
    assert "aten::mm" in within[inner]
    assert "aten::exp" not in within[inner]
    assert "aten::sin" in within[f"inference_mode {file}:{line_of('decorated')}"]


def test_no_range_by_default(tmp_path: Path) -> None:
    """Ranges exist only if requested."""
    assert ranges(profiled(blocks, tmp_path)) == []
    assert {e["name"] for e in profiled(blocks, tmp_path)} >= {"aten::exp", "aten::mm", "aten::sin"}


def test_modes_of_the_program_see_no_range(tmp_path: Path) -> None:
    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.operators: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operators.append(str(func))
            return func(*args, **(kwargs or {}))

    def program() -> None:
        with seen:
            blocks()

    lists = []
    for asked in (False, True):
        seen = Seen()
        profiled(program, tmp_path, profiler_ranges=asked)
        lists.append(seen.operators)
    assert lists[0] == lists[1]


def test_blocks_exited_in_any_order(tmp_path: Path) -> None:
    """Blocks may be exited in any order and on any thread."""

    def program() -> None:
        one, other, elsewhere, never = torch.no_grad(), torch.enable_grad(), torch.no_grad(), torch.enable_grad()
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        other.__exit__(None, None, None)
        elsewhere.__enter__()
        thread = threading.Thread(target=elsewhere.__exit__, args=(None, None, None))
        thread.start()
        thread.join()
        never.__enter__()
        torch.set_grad_enabled(True)
        with contextlib.suppress(KeyError), torch.no_grad():
            raise KeyError
        torch.ones(2)

    events = profiled(program, tmp_path, profiler_ranges=True)
    assert len(ranges(events)) == 5
    assert len(ranges(profiled(blocks, tmp_path, profiler_ranges=True))) == 3, "and the next is as good as ever"


def test_profiler_starts_inside_block(tmp_path: Path) -> None:
    """A profiler that starts or stops within a block is not disturbed."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with gradprobe.record(profiler_ranges=True) as recording:
        profiler = torch.profiler.profile(activities=activities)
        with torch.no_grad():
            profiler.__enter__()
        with torch.no_grad():
            torch.ones(2)
            profiler.__exit__(None, None, None)
    assert len(recording.regions) == 2
    assert "error inside gradprobe" not in str(recording)


def test_run_names_ranges(tmp_path: Path) -> None:
    """``gradprobe run`` names ranges and writes the requested page."""
    (tmp_path / "s.py").write_text(
        "import torch\n"
        "with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:\n"
        "    with torch.no_grad(): torch.ones(3)\n"
        "print([e.key for e in p.key_averages() if 's.py' in e.key])\n"
        "import os; os.chdir('/'); raise SystemExit(3)\n"
    )
    words = ["run", "-o", "r.gradprobe", "--html", "r.html", "--profiler-ranges", "s.py"]
    ended = command(*words, cwd=tmp_path)
    assert ended.returncode == 3
    assert b"['no_grad s.py:3']" in ended.stdout
    assert b"gradprobe: wrote r.html" in ended.stderr
    assert "s.py:3" in (tmp_path / "r.html").read_text(encoding="utf-8")
    again = command(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert b"exists already" in again.stderr
    assert b"--force" in again.stderr
    other = command("run", "--html", "r.pdf", "s.py", cwd=tmp_path)
    assert other.returncode == 2
    assert b"r.pdf" in other.stderr
