"""The native core and Python's own come to the same, whatever the program does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.__main__ import main
from gradprobe.capture.ops import dispatcher, thread_registry
from gradprobe.capture.ops.native import builder, loader, mirrored
from gradprobe.capture.ops.native.loader import (
    CORE_VARIABLE,
    EXTENSION_NAME,
    core_status,
    load_core,
    locate_core_folder,
)
from gradprobe.capture.ops.native.mirrored import MIRRORED_CONSTANTS, find_mismatch
from tests import warm_python
from tests.property.test_operators import IMPURE, PURE, no_faults
from tests.thoroughness import examples

native = pytest.mark.skipif(load_core() is None, reason=core_status()[1])

MODES: list[Callable[[], Any]] = [torch.enable_grad, torch.no_grad, torch.inference_mode]
VIEWS: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    lambda x, y: x.reshape(9).reshape(3, 3),
    lambda x, y: x.t().reshape(9).view(3, 3),
    lambda x, y: x.contiguous().unsqueeze(0)[0],
    lambda x, y: x.split(2)[0].repeat(2, 1)[:3],
    lambda x, y: torch.view_as_real(torch.view_as_complex(torch.stack([x, y], -1)) * 1j)[..., 0],
    lambda x, y: x.to(torch.float64).to(torch.float32),
    lambda x, y: torch.nn.functional.layer_norm(x, (3,), weight),
    lambda x, y: torch.einsum("ij,jk->ik", x, y),
    lambda x, y: x.add(torch.tensor(1.0)).clamp_(0, 1),
    lambda x, y: layer(x),
]
INTERRUPTED = """
import signal, torch, gradprobe

class TimeIsUp(Exception):
    pass

def handler(*_):
    global raised
    raised += 1
    raise TimeIsUp

raised = caught = 0
layer = torch.nn.Linear(3, 3)
# Each timer fires once, so none is left to fire outside of the block that catches it; and it counts the time of this
# process, so that it fires among the operators on a machine that runs others too.
signal.signal(signal.SIGVTALRM, handler)
with gradprobe.record(level="ops") as recording:
    for number in range(1, 201):
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.002)
            while raised < number:
                with torch.no_grad():
                    layer(torch.ones(2, 3))
        except TimeIsUp:
            caught += 1
            torch._C._set_grad_enabled(True)
faults = [note for note in recording._tables.contents[0].notes if note[0] == "fault"]
print(f"{raised} raised, {caught} caught,", faults or "no fault")
"""
weight = torch.nn.Parameter(torch.ones(3))
layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Dropout(0.0)).eval()
STEPS = st.lists(
    st.tuples(st.integers(0, len(MODES) - 1), st.integers(0, 200), st.integers(0, 100), st.integers(0, 100)),
    min_size=1,
    max_size=15,
)


def run(steps: list[tuple[int, int, int, int]]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    kinds = [*PURE, *IMPURE, *VIEWS]
    made = [torch.rand(3, 3, requires_grad=True), torch.rand(3, 3)]
    for mode, kind, first, second in steps:
        try:
            with MODES[mode]():
                made.append(kinds[kind % len(kinds)](made[first % len(made)], made[second % len(made)]))
        except (RuntimeError, NotImplementedError):  # an inference tensor where none may be
            made.append(torch.rand(3, 3))
    return made


def recorded(
    steps: list[tuple[int, int, int, int]], core: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[gradprobe.Recording, list[torch.Tensor]]:
    monkeypatch.setenv(CORE_VARIABLE, core)
    with gradprobe.record(level="ops") as recording:
        made = run(steps)
    assert no_faults(recording)
    return recording, made


def told(recording: gradprobe.Recording) -> dict[str, list[tuple[Any, ...]]]:
    """All that a recording says of its operators, in no order and without times."""
    tables = {
        "ops": recording.ops,
        "regions": recording.regions.drop(columns=[name for name in recording.regions if name.endswith("_ns")]),
        "births": recording.births.drop(columns=[name for name in recording.births if name.endswith("_ns")]),
        "findings": recording.findings,
    }
    return {
        name: sorted(map(repr, table.astype(object).where(pd.notna(table), None).itertuples(index=False)))
        for name, table in tables.items()
    }


@native
@given(STEPS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_cores_tell_the_same_of_a_program(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int, int, int]]
) -> None:
    one, made = recorded(steps, "native", monkeypatch)
    other, made_again = recorded(steps, "python", monkeypatch)
    assert told(one) == told(other)
    for tensor, again in zip(made, made_again, strict=True):
        assert torch.equal(tensor, again)
        assert tensor.is_inference() == again.is_inference()


@native
def test_operators_of_an_inference_call_are_watched_without_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORE_VARIABLE, "native")
    through_python: list[str] = []

    def make_dispatcher(*arguments: Any) -> Any:
        watched = dispatcher.make_dispatcher(*arguments)

        def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            through_python.append(str(func))
            return watched.dispatch(self, func, types, args, kwargs)

        return watched._replace(dispatch=dispatch)

    monkeypatch.setattr(thread_registry, "make_dispatcher", make_dispatcher)
    x = torch.rand(2, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with gradprobe.record(level="ops") as recording:
            for _ in range(2):  # what an operator does with views is learned from its first call
                through_python.clear()
                with mode():
                    layer(x).softmax(-1)
        assert through_python == []
        assert recording.ops["count"].sum() >= 8


@pytest.mark.parametrize(("wanted", "said"), [("python", "runs in Python, as"), ("fastest", "must be 'native' or")])
def test_the_environment_chooses_the_core(wanted: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORE_VARIABLE, wanted)
    is_native, why = core_status()
    assert not is_native
    assert said in why


def test_a_core_that_is_demanded_and_not_there_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CORE_VARIABLE, "native")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with pytest.raises(gradprobe.GradprobeError, match="gradprobe build"):
        gradprobe.record(level="ops")


def test_a_core_that_does_not_load_leaves_the_work_to_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CORE_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    locate_core_folder().mkdir()
    (locate_core_folder() / f"{EXTENSION_NAME}.so").write_bytes(b"no library")
    assert "is damaged; rebuild it" in core_status()[1]
    with gradprobe.record(level="ops") as recording:
        torch.ones(2) + 1
    assert recording.ops["count"].sum() == 2


def test_without_a_compiler_building_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["build"]) == 2
    assert capsys.readouterr().err.endswith("no C++ compiler (no-such-compiler); install one, or set CXX\n")


@native
def test_an_operator_that_comes_in_the_place_of_another_is_told_from_it() -> None:
    def defined(schema: str, function: Callable[..., torch.Tensor], kind: str) -> torch.library.Library:
        library = torch.library.Library("aten", "FRAGMENT")
        library.define(schema)
        library.impl("gradprobe_test", function, kind)
        return library

    with gradprobe.record(level="ops") as recording:
        for _ in range(10):
            library = defined(
                "gradprobe_test(Tensor(a) a) -> Tensor(a)", lambda a: a.view(-1), "CompositeImplicitAutograd"
            )
            with torch.inference_mode():
                torch.ops.aten.gradprobe_test.default(torch.ones(2))
            library._destroy()
            vars(torch.ops.aten).pop("gradprobe_test", None)
            library = defined("gradprobe_test() -> Tensor", lambda: torch.ones(2), "CompositeExplicitAutograd")
            torch.ops.aten.gradprobe_test.default()
            library._destroy()
            vars(torch.ops.aten).pop("gradprobe_test", None)
    ops = recording.ops[recording.ops["op"] == "aten.gradprobe_test"]
    assert ops["untracked_views"].sum() == ops["counters_created"].sum() == 10


@native
def test_more_results_than_sixteen_bits_count_are_counted() -> None:
    with gradprobe.record(level="ops") as recording, torch.inference_mode():
        torch.zeros(66_000).unbind()
    assert recording.ops["untracked_views"].sum() == 66_000


@pytest.mark.parametrize("core", [pytest.param("native", marks=native), "python"])
def test_what_a_handler_of_signals_raises_reaches_the_program(core: str, tmp_path: Path) -> None:
    done = warm_python.run("-c", INTERRUPTED, cwd=tmp_path, env={**os.environ, CORE_VARIABLE: core})
    assert done.stdout == b"200 raised, 200 caught, no fault\n", done.stderr.decode()


def test_a_core_that_does_not_compile_is_an_error_with_the_compilers_first_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ninja")
    source = tmp_path / "core.cpp"
    source.write_text('#error "not like this"\n')
    monkeypatch.setattr(builder, "SOURCES", [source])
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert main(["build"]) == 2
    assert "cannot build the native core" in (said := capsys.readouterr().err)
    assert "not like this" in said
    assert "the last build of the native core failed" in core_status()[1]
    assert "not like this" in core_status()[1]


def test_a_core_whose_constants_differ_names_the_first_that_does() -> None:
    assert find_mismatch(SimpleNamespace(CONSTANTS=dict(MIRRORED_CONSTANTS))) is None
    other = {**MIRRORED_CONSTANTS, "PLAIN": 7}
    assert find_mismatch(SimpleNamespace(CONSTANTS=other)) == "it has PLAIN = 7, gradprobe has 1"
    assert str(find_mismatch(SimpleNamespace())).startswith("it has ALL_OPS = None, gradprobe has ")


@native
def test_a_core_that_disagrees_on_a_constant_leaves_the_work_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORE_VARIABLE, raising=False)
    monkeypatch.setitem(mirrored.MIRRORED_CONSTANTS, "PENDING_OP_WRITES", 3)
    loader._load.cache_clear()
    try:
        is_native, why = core_status()
        with gradprobe.record(level="ops") as recording:
            torch.ones(2) + 1
    finally:
        loader._load.cache_clear()
    assert not is_native
    assert "it has PENDING_OP_WRITES = 6, gradprobe has 3; rebuild it" in why
    assert recording.ops["count"].sum() == 2
