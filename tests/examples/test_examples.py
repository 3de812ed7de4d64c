"""The examples: they show what they say, and the programs in them do what they do without gradprobe."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import gradprobe
from tests import warm_python
from tests.thoroughness import thorough

EXAMPLES = Path(__file__).parents[2] / "examples"
TITLE = "gradprobe: gradient and inference modes"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with torch.random.fork_rng(devices=[]):
        spec.loader.exec_module(module)
    return module


def python(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADPROBE")}
    done = warm_python.run(*map(str, words), cwd=cwd, env=environment)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def report_in(text: str) -> str:
    """What ``text`` ends in, from the title of the one report in it."""
    assert text.count(TITLE) == 1
    report = text[text.index(TITLE) :]
    headings = ["Time by mode", "Time by site", "Blind spots"]
    assert [line for line in report.splitlines() if line in headings] == headings
    return report


# handbook.py

GRAD, NO_GRAD, INFERENCE = (True, False), (False, False), (False, True)

# Of each program: what it prints, and its transitions, each with the text of its line.
HANDBOOK: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {
    "no_grad_as_block_and_decorator": (
        ["y.requires_grad = False", "z.requires_grad = False"],
        [
            ("with torch.no_grad():", "no_grad", "with", "enter", GRAD, NO_GRAD),
            ("with torch.no_grad():", "no_grad", "with", "exit", NO_GRAD, GRAD),
            ("@torch.no_grad()", "no_grad", "decorator", "enter", GRAD, NO_GRAD),
            ("@torch.no_grad()", "no_grad", "decorator", "exit", NO_GRAD, GRAD),
        ],
    ),
    "enable_grad_inside_no_grad": (
        ["y.requires_grad = True", "x.grad = tensor([2.])"],
        [
            ("with torch.no_grad():", "no_grad", "with", "enter", GRAD, NO_GRAD),
            ("with torch.enable_grad():", "enable_grad", "with", "enter", NO_GRAD, GRAD),
            ("with torch.enable_grad():", "enable_grad", "with", "exit", GRAD, NO_GRAD),
            ("with torch.no_grad():", "no_grad", "with", "exit", NO_GRAD, GRAD),
        ],
    ),
    "enable_grad_as_decorator": (
        ["z.requires_grad = True"],
        [
            ("with torch.no_grad():", "no_grad", "with", "enter", GRAD, NO_GRAD),
            ("@torch.enable_grad()", "enable_grad", "decorator", "enter", NO_GRAD, GRAD),
            ("@torch.enable_grad()", "enable_grad", "decorator", "exit", GRAD, NO_GRAD),
            ("with torch.no_grad():", "no_grad", "with", "exit", NO_GRAD, GRAD),
        ],
    ),
    "set_grad_enabled_as_block_and_call": (
        ["y.requires_grad = False", "y.requires_grad = True", "y.requires_grad = False"],
        [
            ("with torch.set_grad_enabled(is_train):", "set_grad_enabled", "with", "enter", GRAD, NO_GRAD),
            ("with torch.set_grad_enabled(is_train):", "set_grad_enabled", "with", "exit", NO_GRAD, GRAD),
            ("torch.set_grad_enabled(True)", "set_grad_enabled", "call", "set", GRAD, GRAD),
            (
                "torch.set_grad_enabled(False)",
                "set_grad_enabled",
                "call",
                "set",
                GRAD,
                NO_GRAD,
            ),
        ],
    ),
    "is_grad_enabled_after_those": (
        [f"torch.is_grad_enabled() = {answer}" for answer in (False, True, False, True)],
        [
            ("torch.set_grad_enabled(True)", "set_grad_enabled", "call", "set", NO_GRAD, GRAD),
            ("with torch.no_grad():", "no_grad", "with", "enter", GRAD, NO_GRAD),
            ("with torch.no_grad():", "no_grad", "with", "exit", NO_GRAD, GRAD),
        ],
    ),
    "inference_mode_as_block_and_decorator": (
        [
            "y.requires_grad = False",
            "y._version: RuntimeError: Inference tensors do not track version counter.",
            "out.requires_grad = False",
        ],
        [
            ("with torch.inference_mode():", "inference_mode", "with", "enter", GRAD, INFERENCE),
            ("with torch.inference_mode():", "inference_mode", "with", "exit", INFERENCE, GRAD),
            ("@torch.inference_mode()", "inference_mode", "decorator", "enter", GRAD, INFERENCE),
            ("@torch.inference_mode()", "inference_mode", "decorator", "exit", INFERENCE, GRAD),
        ],
    ),
    "is_inference_mode_enabled_inside_and_outside": (
        [f"torch.is_inference_mode_enabled() = {answer}" for answer in (False, True, False, False)],
        [
            ("with torch.inference_mode():", "inference_mode", "with", "enter", GRAD, INFERENCE),
            ("with torch.inference_mode(False):", "inference_mode", "with", "enter", INFERENCE, GRAD),
            ("with torch.inference_mode(False):", "inference_mode", "with", "exit", GRAD, INFERENCE),
            ("with torch.inference_mode():", "inference_mode", "with", "exit", INFERENCE, GRAD),
        ],
    ),
    "factory_functions_under_no_grad": (
        ["parameter.requires_grad = True", "product.requires_grad = False"],
        [
            ("with torch.no_grad():", "no_grad", "with", "enter", GRAD, NO_GRAD),
            ("with torch.no_grad():", "no_grad", "with", "exit", NO_GRAD, GRAD),
        ],
    ),
}


@pytest.fixture
def handbook() -> Iterator[ModuleType]:
    """The handbook; afterwards the mode is as before, also where a program leaves it changed."""
    before = torch.is_grad_enabled()
    yield example("handbook")
    torch._C._set_grad_enabled(before)


def line_of(program: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(program)
    found = [number for number, line in enumerate(lines, start=first) if line.partition("  #")[0].strip() == text]
    assert len(found) == 1, f"{text!r} stands {len(found)} times in {program.__name__}"
    return found[0]


def expected_transitions(program: Any) -> list[tuple[Any, ...]]:
    return [(line_of(program, text), *rest) for text, *rest in HANDBOOK[program.__name__][1]]


def transitions_of(recording: gradprobe.Recording) -> list[tuple[Any, ...]]:
    return [
        (t.line, t.manager, t.form, t.event, (t.grad_before, t.inference_before), (t.grad_after, t.inference_after))
        for t in recording.transitions.itertuples()
    ]


def test_the_handbook_has_eight_programs_and_prints_the_same_watched_and_unwatched(
    handbook: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [program.__name__ for program in handbook.PROGRAMS] == list(HANDBOOK)
    assert len(HANDBOOK) == 8
    for program in handbook.PROGRAMS:
        program()
    unwatched = capsys.readouterr().out
    with gradprobe.record():
        for program in handbook.PROGRAMS:
            program()
    assert capsys.readouterr().out == unwatched
    assert unwatched.splitlines() == [line for values, _ in HANDBOOK.values() for line in values]


def test_every_transition_of_the_handbook_is_recorded_once_with_its_line_form_and_modes(handbook: ModuleType) -> None:
    with gradprobe.record() as whole:
        for program in handbook.PROGRAMS:
            with gradprobe.record() as seen:
                program()
            assert transitions_of(seen) == expected_transitions(program), program.__name__
            assert set(seen.transitions["file"]) == {str(EXAMPLES / "handbook.py")}
    assert transitions_of(whole) == [row for program in handbook.PROGRAMS for row in expected_transitions(program)]


def test_the_transitions_of_one_handbook_program_do_not_depend_on_the_others(handbook: ModuleType) -> None:
    for program in handbook.PROGRAMS:
        # Program 5 is about the mode that program 4 leaves behind.
        starts_in_grad = program.__name__ != "is_grad_enabled_after_those"
        torch._C._set_grad_enabled(starts_in_grad)
        with gradprobe.record() as seen:
            program()
        assert transitions_of(seen) == expected_transitions(program), program.__name__


@pytest.mark.parametrize("command", [["handbook.py"], ["-m", "gradprobe", "run", "handbook.py"]], ids=["python", "run"])
def test_the_handbook_shows_values_and_transitions_and_ends_in_a_report(
    command: list[str], handbook: ModuleType, tmp_path: Path
) -> None:
    done = python(*command[:-1], EXAMPLES / command[-1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report_in(done.stdout)
    pages = done.stdout[: done.stdout.index(TITLE)]
    position = 0
    modes = {GRAD: "grad", NO_GRAD: "no_grad", INFERENCE: "inference_mode"}
    for number, (program, (values, rows)) in enumerate(zip(handbook.PROGRAMS, HANDBOOK.values(), strict=True), start=1):
        lines = [f"{number}. {program.__name__}", *values]
        for text, manager, form, event, before, after in rows:
            row = (line_of(program, text), text, manager, form, event, modes[before], "->", modes[after])
            lines.append(" ".join(map(str, row)))
        for line in lines:
            position = " ".join(pages.split()).index(line, position) + len(line)
    if "run" in command:
        (file,) = tmp_path.glob("*.gradprobe")
        again = gradprobe.load(file)
        assert transitions_of(again) == [row for p in handbook.PROGRAMS for row in expected_transitions(p)]
        assert done.stderr == f"gradprobe: recorded to {file.name}; see: gradprobe report {file.name}\n"
    else:
        assert done.stderr == ""


# serve.py


def test_the_server_builds_graphs_only_where_the_worker_relies_on_the_mode_of_the_main_thread() -> None:
    serve = example("serve")
    recording, answers = serve.serve()

    calls = recording.calls
    assert calls.groupby("function").size().to_dict() == {"careless": serve.REQUESTS, "careful": serve.REQUESTS}
    assert calls["closed"].all()
    assert (calls["error"] == "").all()
    careless = calls[calls["function"] == "careless"]["nodes"]
    assert careless.min() == careless.max() > 0
    assert (calls[calls["function"] == "careful"]["nodes"] == 0).all()

    workers = set(calls["thread"])
    assert 1 <= len(workers) <= serve.WORKERS
    assert all(name.startswith("worker_") for name in workers)
    regions = recording.regions
    assert regions["closed"].all()
    assert set(regions[regions["manager"] == "no_grad"]["thread"]) == {"MainThread"}
    assert set(regions[regions["manager"] == "inference_mode"]["thread"]) <= workers
    in_workers = recording.transitions[recording.transitions["manager"] == "inference_mode"]
    entered = in_workers[in_workers["event"] == "enter"]
    assert len(entered) == serve.REQUESTS
    assert entered["grad_before"].all(), "the no_grad of the main thread reached a worker"

    assert set(answers) == {"/careless", "/careful"}
    with torch.no_grad():
        expected = serve.model(torch.tensor([0.5] * 8)).tolist()
    assert [answer for path in answers for answer in answers[path]] == [expected] * (2 * serve.REQUESTS)


def test_serve_ends_in_a_report_and_names_the_endpoint_that_builds_graphs(tmp_path: Path) -> None:
    done = python(EXAMPLES / "serve.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = report_in(done.stdout)
    assert "Time by thread" in report
    assert "Probed calls" in report
    careless, careful = report.splitlines()[-2:]
    assert careless.startswith("/careless answered [")
    assert "built graphs: " in careless
    assert careful.startswith("/careful answered [")
    assert "built no graph" in careful


# generate.py


@pytest.fixture(scope="module")
def generation() -> ModuleType:
    """The module of transformers that defines ``generate``."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    pytest.importorskip("transformers", reason="transformers is not installed")
    import transformers.generation.utils

    return transformers.generation.utils


def test_generate_gives_the_same_tokens_watched_and_unwatched_and_its_decorator_is_a_site(
    generation: ModuleType,
) -> None:
    generate = example("generate")
    with torch.random.fork_rng(devices=[]):
        model = generate.tiny_gpt2()
        unwatched = generate.generate(model)
        with gradprobe.record() as recording:
            watched = generate.generate(model)
    assert watched == unwatched
    assert len(watched) == 3 + 16
    assert len(set(watched)) > 3

    file = inspect.getsourcefile(generation)
    _, line = inspect.getsourcelines(inspect.unwrap(generation.GenerationMixin.generate))
    sites = recording.sites
    site = sites[(sites["file"] == file) & (sites["line"] == line)]
    assert site[["manager", "form", "function", "count"]].values.tolist() == [
        ["no_grad", "decorator", "GenerationMixin.generate", 1]
    ]
    assert site["nodes"].item() == 0
    assert set(recording.transitions["file"]) == set(sites["file"])
    assert str(EXAMPLES / "generate.py") not in set(sites["file"])


def test_generate_ends_in_a_report_and_a_sentence_that_names_the_decorator(
    generation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng(devices=[]):
        assert example("generate").main() == 0
    lines = report_in(capsys.readouterr().out).splitlines()
    _, line = inspect.getsourcelines(inspect.unwrap(generation.GenerationMixin.generate))
    place = f"{inspect.getsourcefile(generation)}:{line}"
    assert f"GenerationMixin.generate ran under the no_grad that decorates it at {place}." in lines[-3:]


@thorough
@pytest.mark.usefixtures("generation")
def test_generate_is_a_program(tmp_path: Path) -> None:
    done = python(EXAMPLES / "generate.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report_in(done.stdout)


def test_generate_without_transformers_says_so_in_one_line_and_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = example("generate")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert generate.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "generate.py needs transformers, which is not installed: pip install transformers\n"
