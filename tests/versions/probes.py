"""What gradprobe can do with the PyTorch and the Python that run this file:

python tests/versions/probes.py          prints as JSON which versions these are and what is found of PyTorch
python tests/versions/probes.py NAME     runs one of the programs, which ends with an error where something is wrong

The programs expect exact numbers. Each runs in a process of its own, so that one that crashes is a result as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS: dict[str, Callable[[], None]] = {}
NEEDS: dict[str, str] = {}
"""The programs that cannot do without something that a version may lack, as ``gradprobe debug`` calls it."""


def program(name: str, needs: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(function: Callable[[], None]) -> Callable[[], None]:
        PROGRAMS[name] = function
        if needs:
            NEEDS[name] = needs
        return function

    return add


def line_after(marker: str) -> int:
    """The line of this file that follows the comment ``marker``."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return lines.index(next(line for line in lines if line.strip() == f"# {marker}")) + 2


def expect(found: object, expected: object) -> None:
    if found != expected:
        sys.exit(f"{found} instead of {expected}")


def no_faults(recording: Any) -> None:
    expect([note for note in recording._tables.contents[0].notes if note[0] == "fault"], [])


def gradprobe_command(*words: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-m", "gradprobe", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"gradprobe {words[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


@program("level `modes`: every form of every manager, with its line")
def modes() -> None:
    import torch

    import gradprobe

    @torch.no_grad()
    def decorated() -> None: ...

    @torch.enable_grad()
    def generated() -> Iterator[int]:
        yield 1

    def in_thread() -> None:
        # a block in a thread
        with torch.inference_mode():
            pass

    with gradprobe.record(level="modes") as recording:
        decorated()
        list(generated())
        torch.set_grad_enabled(False)
        torch.set_grad_enabled(True)
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
    no_faults(recording)
    told = recording.transitions[["manager", "form", "event"]].itertuples(index=False, name=None)
    expect(
        [*dict.fromkeys(told)],
        [
            ("no_grad", "decorator", "enter"),
            ("no_grad", "decorator", "exit"),
            ("enable_grad", "generator", "enter"),
            ("enable_grad", "generator", "exit"),
            ("set_grad_enabled", "call", "set"),
            ("inference_mode", "with", "enter"),
            ("inference_mode", "with", "exit"),
        ],
    )
    expect(recording.transitions["line"].iloc[-2], line_after("a block in a thread"))


@program("level `graph`: nodes per block")
def graph() -> None:
    import torch

    import gradprobe

    weight = torch.ones(4, requires_grad=True)
    with gradprobe.record(level="graph") as recording:
        with torch.enable_grad():
            kept = (weight * weight).exp().sum()
        with torch.no_grad():
            weight * weight
        kept.backward()
    no_faults(recording)
    told = recording.regions[["manager", "nodes"]].itertuples(index=False, name=None)
    expect([*told], [("enable_grad", 3), ("no_grad", 0)])


@program("level `ops`: nodes, versions and views of each operator, with its line", needs="level ops")
def operators() -> None:
    import torch

    import gradprobe

    weight, x = torch.ones(4, requires_grad=True), torch.zeros(4)
    with gradprobe.record(level="ops") as recording:
        # an operator
        kept = (weight * weight).sum()
        x.add_(1)
        with torch.no_grad():
            x[1:]
        with torch.inference_mode():
            x.clone()
        # backward
        kept.backward()
    no_faults(recording)
    ops = recording.ops
    ops = ops[(ops["file"] == __file__) & (ops["line"] < line_after("backward"))]
    columns = ["op", "nodes", "version_bumps", "tracked_views", "inference_outputs"]
    told = [*ops[columns].itertuples(index=False, name=None)]
    for wanted in (
        ("aten.mul.Tensor", 1, 0, 0, 0),
        ("aten.sum", 1, 0, 0, 0),
        ("aten.add_.Tensor", 0, 1, 0, 0),
        ("aten.slice.Tensor", 0, 0, 1, 0),
        ("aten.clone", 0, 0, 0, 1),
    ):
        expect([one for one in told if one[0] == wanted[0]], [wanted])
    expect([*ops["line"][ops["op"] == "aten.mul.Tensor"]], [line_after("an operator")])
    expect(weight.grad.tolist() if weight.grad is not None else None, [2.0] * 4)


@program("`probe` around functions, coroutines and generators")
def probed() -> None:
    import torch

    import gradprobe

    @gradprobe.probe
    def function() -> None:
        with torch.no_grad():
            pass

    @gradprobe.probe
    async def coroutine() -> None:
        with torch.no_grad():
            await asyncio.sleep(0)

    @gradprobe.probe
    def generator() -> Iterator[int]:
        with torch.no_grad():
            yield 1

    function()
    asyncio.run(coroutine())
    list(generator())
    for probe in (function, coroutine, generator):
        no_faults(probe.recording)  # type: ignore[attr-defined]
        expect([*probe.recording.regions["manager"]], ["no_grad"])  # type: ignore[attr-defined]
        expect([*probe.recording.calls["closed"]], [True])  # type: ignore[attr-defined]


@program("drop-in managers, also around `async def`")
def drop_ins() -> None:
    import torch

    import gradprobe

    @gradprobe.no_grad()
    async def coroutine() -> bool:
        await asyncio.sleep(0)
        return torch.is_grad_enabled()

    expect(asyncio.run(coroutine()), False)
    with gradprobe.record() as recording:
        with gradprobe.inference_mode():
            expect(gradprobe.is_inference_mode_enabled(), True)
    expect([*recording.regions["manager"]], ["inference_mode"])


@program("`monitor`")
def monitor() -> None:
    import torch

    import gradprobe

    weight = torch.ones(4, requires_grad=True)
    told: list[Any] = []
    with gradprobe.monitor(on_graph=told.append) as monitor:

        @monitor.inference
        def predict() -> Any:
            return weight * 2

        predict()
        with torch.no_grad():
            pass
    expect([graph.nodes for graph in told], [1])
    expect(monitor.snapshot()["blocks"], 1)


@program("`inspect`")
def inspected() -> None:
    import torch

    import gradprobe

    with torch.inference_mode():
        born = torch.ones(3)
    expect("inference tensor" in str(gradprobe.inspect(born)), True)
    weight = torch.ones(4, requires_grad=True)
    expect(gradprobe.inspect((weight * weight).exp()).nodes, 2)


@program("bytes saved for backward", needs="level ops")
def saved() -> None:
    import torch

    import gradprobe

    weight = torch.ones(4, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        kept = (weight * weight).exp()
    ops = recording.ops
    expect([*ops["saved_bytes"][ops["nodes"] > 0]], [16, 16])
    told = gradprobe.inspect(kept)
    expect((told.saved_bytes, told.graph_bytes), (32, 0))


@program("findings, and notes on PyTorch's exceptions")
def findings() -> None:
    import torch

    import gradprobe

    layer = torch.nn.Linear(2, 2)
    with gradprobe.record(level="ops") as recording:
        with torch.inference_mode():
            born = torch.ones(1, 2)
        try:
            layer(born)
        except RuntimeError as error:
            expect("Inference tensors cannot be saved" in str(error), True)
    no_faults(recording)
    expect([*recording.findings["rule"]], ["GP401"])


@program("`gradprobe run`, and its reports in every format")
def command() -> None:
    script = "import torch\nwith torch.no_grad():\n    torch.nn.Linear(2, 2)(torch.ones(1, 2))\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(script, encoding="utf-8")
        gradprobe_command("run", "--level", "ops", "-o", "r.gradprobe", "script.py", folder=folder)
        for suffix in ("html", "md", "json", "csv", "trace.json"):
            gradprobe_command("report", "r.gradprobe", "-o", f"report.{suffix}", folder=folder)
        (told,) = json.loads((folder / "report.json").read_text(encoding="utf-8"))["sites"]
        expect((told["manager"], told["line"], told["count"]), ("no_grad", 2, 1))


@program("`gradprobe run --subprocesses`: processes that the program starts")
def followed() -> None:
    script = "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'], check=True)\n"
    child = "import torch\nwith torch.inference_mode():\n    pass\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(script, encoding="utf-8")
        (folder / "child.py").write_text(child, encoding="utf-8")
        gradprobe_command("run", "--follow", "-o", "r.gradprobe", "script.py", folder=folder)
        import gradprobe

        merged = gradprobe.merge(folder.glob("r*.gradprobe"))
        expect([*merged.regions["manager"]], ["inference_mode"])


@program("`compare`, with costs by mechanism")
def compared() -> None:
    import torch

    import gradprobe

    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    table = gradprobe.compare(layer, x, budget_s=4).table.set_index("mode")
    expect(sorted(table.index), ["grad", "inference_mode", "no_grad"])
    expect([int(table["nodes"][mode]) for mode in ("grad", "no_grad")], [2, 0])
    expect(bool((table["median_ns"] > 0).all()), True)


@program("the pytest plugin: budgets and the report")
def plugin() -> None:
    test = (
        "import pytest, torch\n"
        "@pytest.mark.gradprobe(max_nodes=0)\n"
        "def test_builds_a_graph():\n"
        "    torch.ones(2, requires_grad=True) * 2\n"
        "@pytest.mark.gradprobe(max_nodes=0)\n"
        "def test_builds_none():\n"
        "    torch.ones(2) * 2\n"
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "test_budget.py")
        path.write_text(test, encoding="utf-8")
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--gradprobe", str(path)]
        done = subprocess.run([sys.executable, *words], cwd=name, capture_output=True, text=True)
    if "1 failed, 1 passed" not in done.stdout or "gradprobe" not in done.stdout:
        sys.exit(done.stdout + done.stderr)


@program("`torch.compile`: the same graphs, and their names")
def compiled() -> None:
    import torch

    import gradprobe
    from gradprobe.analysis.compiled_functions import list_compiled_functions

    graphs: list[int] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(len(module.graph.nodes))
        return module.forward

    def scaled(x: Any) -> Any:
        with torch.no_grad():
            y = x * 2
        return y + x

    torch.compile(scaled, backend=backend, fullgraph=True)(torch.ones(3))
    torch._dynamo.reset()
    for level in ("modes", "graph", "ops"):
        with gradprobe.record(level=level) as recording:
            torch.compile(scaled, backend=backend, fullgraph=True)(torch.ones(3))
        no_faults(recording)
        (function,) = list_compiled_functions(recording._tables.processes)
        expect(function.name.rpartition(".")[2], "scaled")
        expect([made.operators for made, _ in function.graphs], [2])
        torch._dynamo.reset()
    expect(len({*graphs}), 1)
    expect(len(graphs), 4)


@program("`torch.compile` at level `ops`: no recompilation", needs="level ops")
def compiled_once() -> None:
    import torch

    import gradprobe

    graphs: list[Any] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    function = torch.compile(lambda x: x + 1, backend=backend)
    with gradprobe.record(level="ops"):
        for _ in range(3):
            function(torch.ones(3))
    expect(len(graphs), 1)


@program("calls of compiled functions", needs="calls of compiled code")
def compiled_calls() -> None:
    import torch

    import gradprobe

    function = torch.compile(lambda x: x + 1, backend="eager")
    with gradprobe.record(level="modes") as recording:
        with torch.no_grad():
            for _ in range(3):
                function(torch.ones(3))
    no_faults(recording)
    expect([told.endswith("<lambda> (3)") for told in recording.regions["compiled"]], [True])


def found() -> dict[str, Any]:
    import torch

    from gradprobe.capture.capabilities import list_capabilities
    from gradprobe.capture.ops.native.loader import load_core
    from gradprobe.errors import GradprobeError

    with contextlib.suppress(GradprobeError):  # it is among the capabilities
        load_core()
    return {
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "capabilities": list_capabilities(),
        "programs": list(PROGRAMS),
        "needs": NEEDS,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        PROGRAMS[sys.argv[1]]()
    else:
        print(json.dumps(found()))
