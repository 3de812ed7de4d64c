"""The library that observes operators: it is built at first use and refused where it is damaged, and it survives programs
that replace operators or raise within it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.ops.native import builder, loader, mirrored
from gradprobe.capture.ops.native.library_file import LIBRARY_NAME, is_intact, locate_core_folder
from gradprobe.capture.ops.native.loader import core_status
from gradprobe.capture.ops.native.mirrored import MIRRORED_CONSTANTS, find_mismatch
from gradprobe.capture.ops.native.observer import ObservedThread
from tests import warm_python

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


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for libraries with none in it."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path


def test_what_a_handler_of_signals_raises_reaches_the_program(tmp_path: Path) -> None:
    done = warm_python.run("-c", INTERRUPTED, cwd=tmp_path, env=os.environ)
    assert done.stdout == b"200 raised, 200 caught, no fault\n", done.stderr.decode()


def test_what_a_handler_raises_while_the_library_calls_python_reaches_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TimeIsUp(Exception):  # noqa: N818
        pass

    def on_signal(*_: object) -> None:
        raise TimeIsUp

    def program() -> None:
        torch.ones(1) * 2

    def learn(self: FrameClassifier, code: CodeType) -> int:
        if code is program.__code__:
            signal.raise_signal(signal.SIGUSR1)
        return original(self, code)

    original = FrameClassifier.learn_with_questions
    monkeypatch.setattr(FrameClassifier, "learn_with_questions", learn)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with gradprobe.record(level="ops") as recording, pytest.raises(TimeIsUp):
            program()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "TimeIsUp" not in str(recording)


def test_the_first_use_builds_the_library_and_a_failure_is_told_each_time(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = empty_cache / "core.cpp"
    source.write_text('#error "not like this"\n')
    monkeypatch.setattr(builder, "SOURCE", source)
    for _ in range(2):
        with pytest.raises(gradprobe.GradprobeError, match=r"not like this.*use level 'graph'"):
            gradprobe.record(level="ops")
    said = capsys.readouterr().err
    assert said.count("building the observer of operators") == 1
    assert "not like this" in said
    assert "the last build of the observer failed" in core_status()[1]


def test_a_program_that_includes_headers_of_pytorch_compiles_at_the_first_use(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is right for this PyTorch; the library itself takes a minute to compile."""
    source = empty_cache / "core.cpp"
    source.write_text(
        "#include <Python.h>\n#include <c10/core/DispatchKey.h>\nint here = int(c10::DispatchKey::CPU);\n"
    )
    monkeypatch.setattr(builder, "SOURCE", source)
    built = builder.build_core()
    assert is_intact(built)
    assert builder.build_core() == built
    assert not list(built.parent.glob("tmp*"))


def test_without_a_compiler_building_says_what_is_missing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["build"]) == 2
    assert capsys.readouterr().err.endswith("no C++ compiler (no-such-compiler); install one, or set CXX\n")


def test_a_damaged_library_is_refused_with_what_to_do(empty_cache: Path) -> None:
    locate_core_folder().mkdir()
    (locate_core_folder() / f"{LIBRARY_NAME}.so").write_bytes(b"no library")
    assert "is damaged; rebuild it" in core_status()[1]
    with pytest.raises(gradprobe.GradprobeError, match=r"is damaged; rebuild it.*use level 'graph'"):
        gradprobe.record(level="ops")


def test_a_library_whose_constants_differ_is_refused_with_the_first_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_mismatch(SimpleNamespace(CONSTANTS=dict(MIRRORED_CONSTANTS))) is None
    assert (
        find_mismatch(SimpleNamespace(CONSTANTS={**MIRRORED_CONSTANTS, "USER": 7}))
        == "it has USER = 7, gradprobe has 1"
    )
    assert str(find_mismatch(SimpleNamespace())).startswith("it has ACTION_MASK = None, gradprobe has ")
    monkeypatch.setitem(mirrored.MIRRORED_CONSTANTS, "USER", 7)
    loader._load.cache_clear()
    try:
        with pytest.raises(gradprobe.GradprobeError, match="it has USER = 1, gradprobe has 7; rebuild it"):
            gradprobe.record(level="ops")
    finally:
        loader._load.cache_clear()


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


def test_more_results_than_sixteen_bits_count_are_counted() -> None:
    with gradprobe.record(level="ops") as recording, torch.inference_mode():
        torch.zeros(66_000).unbind()
    assert recording.ops["untracked_views"].sum() == 66_000


def test_nothing_of_a_thread_stays_after_its_recording() -> None:
    """The library refers to what refers to it, and no garbage collector sees that."""

    def count_threads() -> int:
        gc.collect()
        return sum(type(one) is ObservedThread for one in gc.get_objects())

    before = count_threads()
    for _ in range(3):
        with gradprobe.record(level="ops"):
            torch.ones(2).exp()
    assert count_threads() == before
