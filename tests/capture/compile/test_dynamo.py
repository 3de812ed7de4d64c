"""Compiled code in a recording: its calls, the modes in its graphs, and reasons for recompilations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.analysis.compiled_functions import explain_recompilation, list_compiled_functions
from gradprobe.recording.notes import Compilation, SourceLocation, TracedModeChange, read_compilations
from tests.capabilities import needs_compiled_calls

WEIGHT = torch.ones(3, requires_grad=True)
LEVELS = ["modes", "graph", "ops"]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def scaled(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x * WEIGHT
    return y + x * WEIGHT


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == text)


@needs_compiled_calls
@pytest.mark.parametrize("level", LEVELS)
def test_compiled_calls_of_regions(level: str) -> None:
    """Regions list the functions that ran compiled in them, with counts."""
    function = torch.compile(scaled, backend="eager")
    model = torch.compile(torch.nn.Sequential(torch.nn.Linear(3, 3)), backend="eager")
    x = torch.ones(3)
    with gradprobe.record(level=level) as recording:
        with torch.no_grad():
            for _ in range(3):
                function(x)
            with torch.enable_grad():
                model(x)
        function(x)
    seen = recording.regions[["manager", "compiled"]].itertuples(index=False, name=None)
    assert [*seen] == [("no_grad", "scaled (3)"), ("enable_grad", "Sequential.forward")]
    calls = {function.name: function.calls for function in list_compiled_functions(recording._tables.processes)}
    assert calls == {"scaled": 4, "Sequential.forward": 1}
    assert "Compiled code" in str(recording)


def test_modes_in_graph() -> None:
    """Mode changes inside a graph are reported with their lines, and are not blocks."""
    with gradprobe.record() as recording:
        torch.compile(scaled, backend="eager")(torch.ones(3))
    (function,) = list_compiled_functions(recording._tables.processes)
    ((made, _),) = function.graphs
    assert made.folded == (
        TracedModeChange("set_grad_enabled", False, __file__, line_of("y = x * WEIGHT")),
        TracedModeChange("set_grad_enabled", True, __file__, line_of("return y + x * WEIGHT")),
    )
    assert made.operators == 3
    assert (function.file, function.line) == (__file__, scaled.__code__.co_firstlineno)
    assert len(recording.regions) == 0
    text = " ".join(str(recording).split())
    assert "set_grad_enabled(False) is part of the graph of scaled, from " in text


def test_recompilation_reason() -> None:
    """The reason for a recompilation is explained, with the call."""
    function = torch.compile(scaled, backend="eager")
    x = torch.ones(3)
    with gradprobe.record(level="modes") as recording:
        function(x)
        with torch.no_grad():
            function(x)
        with torch.inference_mode():
            inference_tensor = torch.ones(3)
            function(inference_tensor)
        function(torch.ones(3, requires_grad=True))
    (found,) = list_compiled_functions(recording._tables.processes)
    why = [
        (made.mode, made.takes_inference, [explain_recompilation(reason) for reason in made.reasons])
        for made, _ in found.graphs
    ]
    switched = "grad mode was different at compilation"
    assert why == [
        ("grad", False, []),
        ("no_grad", False, [switched]),
        ("inference_mode", True, ["x is an inference tensor, but was a normal tensor at compilation", switched]),
        ("grad", False, why[3][2]),
    ]
    assert "x requires grad, but did not at compilation" in why[3][2]
    assert [made.called.line for made, _ in found.graphs if made.called] == sorted(
        made.called.line for made, _ in found.graphs if made.called
    )
    (finding,) = recording.findings[recording.findings["rule"] == "GP301"].to_dict("records")
    assert switched in finding["message"]


def summed(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x.sin()
    torch._dynamo.graph_break()
    with torch.inference_mode():
        z = x.cos()
    return y + z


def compiled_by_dynamo(watched: str | None) -> dict[str, dict[str, int]]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def run() -> None:
        function = torch.compile(summed, backend="eager")
        for x in (torch.ones(2), torch.ones(2), torch.ones(4)):
            function(x)
            with torch.no_grad():
                function(x)

    if watched is None:
        run()
    else:
        with gradprobe.record(level=watched):
            run()
    return {name: dict(counts) for name, counts in torch._dynamo.utils.counters.items()}


@pytest.mark.parametrize("level", LEVELS)
def test_no_break_or_recompilation(level: str) -> None:
    """Recording adds no graph break and no recompilation."""
    alone = compiled_by_dynamo(None)
    assert alone["frames"]["total"] > 2
    assert alone["graph_break"]
    assert compiled_by_dynamo(level) == alone


@pytest.mark.parametrize("level", LEVELS)
def test_no_gradprobe_code_afterwards(level: str) -> None:
    """Functions compiled during a recording run no code of gradprobe afterwards."""
    function = torch.compile(scaled, backend="eager")
    x = torch.ones(3)
    with gradprobe.record(level=level):
        function(x)
    files = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        function(x)
    finally:
        sys.setprofile(None)
    package = str(Path(gradprobe.__file__).parent)
    assert files
    assert not [file for file in files if file.startswith(package)]


def test_dynamo_restored() -> None:
    """Dynamo is left as it was."""
    import torch._dynamo.callback
    import torch._dynamo.convert_frame
    import torch._dynamo.eval_frame
    import torch._dynamo.output_graph

    def state() -> tuple[Any, ...]:
        return (
            dict(vars(torch._dynamo.output_graph.OutputGraph)),
            {name: value for name, value in vars(torch._dynamo.convert_frame).items() if callable(value)},
            {name: value for name, value in vars(torch._dynamo.eval_frame).items() if callable(value)},
            list(torch._dynamo.callback.callback_handler.start_callbacks),
            list(sys.meta_path),
        )

    before = state()
    with gradprobe.record():
        assert state() != before
        torch.compile(scaled, backend="eager")(torch.ones(3))
    assert state() == before


@needs_compiled_calls
def test_import_while_recording() -> None:
    """A Dynamo that is imported while recording is observed from its first graph on."""
    program = """
import sys, torch, gradprobe
assert "torch._dynamo" not in sys.modules
before = list(sys.meta_path)
with gradprobe.record() as recording:
    torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2))
assert sys.meta_path == before
from gradprobe.analysis.compiled_functions import list_compiled_functions
(found,) = list_compiled_functions(recording._tables.processes)
assert (found.calls, len(found.graphs), found.graphs[0][0].operators) == (1, 1, 1), found
with gradprobe.record():
    pass
assert sys.meta_path == before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_model_not_kept_alive() -> None:
    """Observing the calls of a compiled model does not keep it alive."""
    import gc
    import weakref

    with gradprobe.record(level="ops"):
        model = torch.nn.Sequential(torch.nn.Linear(3, 3))
        compiled = torch.compile(model, backend="eager")
        compiled(torch.ones(3))
        torch._dynamo.reset()
        ghost = weakref.ref(model)
        del model, compiled
        gc.collect()
        assert ghost() is None


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("0/0: GLOBAL_STATE changed: grad_mode ", "grad mode was different at compilation"),
        ("0/0: GLOBAL_STATE changed: num_threads ", None),
        (
            "1/2: tensor 'x' dispatch key set mismatch. expected DispatchKeySet(CPU, ADInplaceOrView, AutogradCPU), "
            "actual DispatchKeySet(CPU, ADInplaceOrView)",
            "x is used inside inference mode, but was used outside it at compilation",
        ),
        (
            "0/0: tensor 'L[\\'x\\']' dispatch key set mismatch. expected DispatchKeySet(CPU), "
            "actual DispatchKeySet(CPU, ADInplaceOrView)",
            "L[\\'x\\'] is a normal tensor, but was an inference tensor at compilation",
        ),
        ("0/0: tensor 'x' size mismatch at index 0. expected 2, actual 4", None),
        ("", None),
    ],
)
def test_reason_texts(reason: str, says: str | None) -> None:
    """Reasons about modes are reworded, and others are left."""
    assert explain_recompilation(reason) == says


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1,2,3,4,5,6,7]", '[["a","b",1,"c"],null,"m","x",[],[],0]'])
def test_edited_note_ignored(text: str) -> None:
    """Edited notes of compilations are ignored."""
    real = Compilation(
        SourceLocation("a", "b", 1, "c"), None, "grad", 3, (TracedModeChange("m", True, "f", 2),), ("r",)
    )
    assert [*read_compilations([("compiled", text, 1), ("compiled", real.text(), 2)])] == [(real, 2)]


def test_failed_compilation_with_inference_mode_inside() -> None:
    def backend(*_: Any) -> Any:
        raise ValueError("no such kernel")

    @torch.compile(backend=backend)
    def halve(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return x * 0.5

    with gradprobe.record(level="ops") as recording, pytest.raises(Exception, match="no such kernel"):
        halve(torch.ones(2))
    found = recording.findings
    (finding,) = found[found["rule"] == "GP304"].to_dict("records")
    roles = {place["role"]: place["line"] for place in finding["related"]}
    assert roles["inference mode entered here"] == finding["line"] - 1
    assert roles["compiled for this call"] == finding["line"] + 3
    assert "ValueError: no such kernel" in finding["message"]


@needs_compiled_calls
def test_a_loss_of_a_compiled_function_without_graph_is_explained_by_the_mode_of_its_call() -> None:
    function = torch.compile(lambda x: (x * WEIGHT).sum(), backend="eager")
    with gradprobe.record(level="ops") as recording:
        with torch.no_grad():  # the mode of the call
            result = function(torch.ones(3))
        with pytest.raises(RuntimeError, match="does not require grad"):
            result.neg().backward()
        try:
            result.neg().backward()
        except RuntimeError as error:
            refused = error
    assert refused is not None
    (finding,) = recording.findings.query("rule == 'GP612'").to_dict("records")
    entered = line_of("with torch.no_grad():  # the mode of the call")
    assert {place["line"] for place in finding["related"]} >= {entered, entered + 1}
    assert "It was computed with grad disabled." in finding["message"]
