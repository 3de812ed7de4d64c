"""Each message of the table of refusals is explained, thrown and caught, and what resembles it is left alone."""

from __future__ import annotations

import contextlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.recorder import get_session
from gradprobe.recording.notes import NoteKind
from gradprobe.refusals.table import BY_KEY, OTHER, REFUSALS, WORDS, find_refusal
from tests.capabilities import needs_saved
from tests.capture.detectors import refusal_programs
from tests.capture.detectors.refusal_programs import PROGRAMS, Program, leaf, table

HAS_NOTES = sys.version_info >= (3, 11)
SEEN_ONLY_WHEN_THROWN = {
    "no-gradient-edge",
    "no-inputs",
    "tensor-for-parameter",
    "wrapper-misused",
    "forward-gradient-of-function",
    "sent-to-process",
    "function-in-transform",
    "transform-result",
    "no-forward-level",
    "context-misused",
}
"""Rows whose messages Python code of PyTorch raises that nothing observes: a program that catches them hears nothing."""
CASES = [
    pytest.param(key, program, id=program.__name__, marks=needs_saved if key == "saved-modified" else ())
    for key, programs in PROGRAMS.items()
    for program in programs
]


def thrown(program: Program) -> Exception:
    try:
        program()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def marked_lines(program: Program) -> Iterator[tuple[str, int]]:
    """Yield the marks in a program's comments, and those of the function that makes an inference tensor if it is called."""
    for function in (program, table) if "table()" in inspect.getsource(program) else (program,):
        lines, first = inspect.getsourcelines(function)
        for number, line in enumerate(lines, first):
            yield from ((mark, number) for mark in line.partition("  # ")[2].split())


def places_of(finding: dict[str, object]) -> set[int]:
    related = finding["related"]
    assert isinstance(related, list)
    return {int(str(finding["line"])), *(place["line"] for place in related)}


def check(recording: gradprobe.Recording, key: str, program: Program, severity: str) -> None:
    found = [row for row in recording.findings.to_dict("records") if row["rule"] == BY_KEY[key].rule]
    assert [row["severity"] for row in found] == [severity]
    lines = dict(marked_lines(program))
    if "at" in lines:
        assert found[0]["line"] == lines["at"]
        assert set(lines.values()) <= places_of(found[0])
    (process,) = recording._tables.processes
    assert [text for kind, text, _ in process.contents.notes if kind == NoteKind.FAULT] == []


@pytest.mark.parametrize(("key", "program"), CASES)
def test_a_message_that_leaves_the_recording_gets_a_note_and_a_finding(key: str, program: Program) -> None:
    alone = thrown(program)
    assert find_refusal(str(alone)) is BY_KEY[key]
    kept: list[gradprobe.Recording] = []

    def watched() -> None:
        with gradprobe.record(level="ops") as recording:
            kept.append(recording)
            program()

    error = thrown(watched)
    assert (type(error), str(error)) == (type(alone), str(alone))
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)][2:]
    assert [name for name in names if name != "make_grads"] == [
        frame.name for frame in traceback.extract_tb(alone.__traceback__)
    ][1:]
    if HAS_NOTES:
        (note,) = error.__notes__
        assert note.startswith(f"gradprobe: {BY_KEY[key].rule}: ")
    check(kept[0], key, program, BY_KEY[key].severity or "error")


@pytest.mark.parametrize(("key", "program"), CASES)
def test_a_message_that_the_program_catches_is_a_finding_too(key: str, program: Program) -> None:
    if key in SEEN_ONLY_WHEN_THROWN:
        pytest.skip("only Python code of PyTorch, which is not observed, is on the way of this message")
    with gradprobe.record(level="ops") as recording:
        error = thrown(program)
    assert not getattr(error, "__notes__", None)
    check(recording, key, program, BY_KEY[key].caught)


def test_a_message_that_was_written_before_it_leaves_is_one_finding() -> None:
    kept: list[gradprobe.Recording] = []

    def watched() -> None:
        with gradprobe.record(level="ops") as recording:
            kept.append(recording)
            try:
                refusal_programs.inference_saved()
            finally:
                get_session().flush()  # as the writer's thread does at any moment

    assert BY_KEY["inference-saved"].rule in thrown(watched).__notes__[0] if HAS_NOTES else thrown(watched)
    check(kept[0], "inference-saved", refusal_programs.inference_saved, "error")


def test_each_row_has_a_program_or_a_reason_why_it_has_none() -> None:
    without = {refusal.key for refusal in REFUSALS if not refusal.needs} - set(PROGRAMS)
    assert without == {"view-modified"}  # the general text of other rows, for other versions of PyTorch


def test_each_text_has_one_of_the_words_by_which_messages_are_chosen() -> None:
    for programs in PROGRAMS.values():
        for program in programs:
            text = str(thrown(program))
            assert any(word in text for word in WORDS)


def test_keys_are_unique_and_rules_known() -> None:
    from gradprobe.analysis.findings.catalogue import RULES

    assert len(BY_KEY) == len(REFUSALS) + 1
    assert {refusal.rule for refusal in BY_KEY.values()} <= set(RULES)


# What resembles a refusal and is not a fault of the program.


def expected_by_a_block() -> None:
    with pytest.raises(RuntimeError):
        leaf().add_(1)


def suppressed() -> None:
    with contextlib.suppress(RuntimeError):
        leaf().numpy()


def of_another_kind() -> None:
    for fails in (lambda: torch.ones(3) @ torch.ones(4), lambda: torch.ones(3)[5], lambda: torch.ones(6).view(4)):
        try:
            fails()
        except (RuntimeError, IndexError):
            continue


def raised_by_the_program() -> None:
    for _ in range(2):
        try:
            raise RuntimeError("my loss does not require grad, see autograd")
        except RuntimeError:
            continue


def gradient_that_ends_before_a_modification() -> None:
    hidden = torch.relu(leaf())
    hidden += 1
    torch.autograd.grad((hidden * 2).sum(), hidden)


def graph_retained() -> None:
    loss = leaf().square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


@pytest.mark.parametrize(
    "program",
    [
        expected_by_a_block,
        suppressed,
        of_another_kind,
        raised_by_the_program,
        gradient_that_ends_before_a_modification,
        graph_retained,
    ],
)
def test_nothing_is_found_where_nothing_is_wrong(program: Program) -> None:
    with gradprobe.record(level="ops") as recording:
        program()
    assert [row for row in recording.findings["rule"] if row.startswith(("GP4", "GP6"))] == []


def test_a_backward_pass_that_fails_unseen_is_reported() -> None:
    with gradprobe.record(level="ops") as recording:
        weight = leaf()
        with contextlib.suppress(RuntimeError):
            (weight.detach() * 2).sum().backward()
        with contextlib.suppress(KeyError), pytest.raises(RuntimeError):
            (weight.detach() * 2).sum().backward()
    found = recording.findings.query("rule == 'GP612'")
    assert list(found["severity"]) == ["warning"]


def test_what_a_library_raises_and_catches_itself_is_not_reported(tmp_path: object) -> None:
    source = (
        "def probe(x):\n    try:\n        x.add_(1)\n    except RuntimeError:\n        return False\n    return True\n"
    )
    namespace: dict[str, Callable[[torch.Tensor], bool]] = {}
    import linecache

    file = "/usr/lib/python3/site-packages/library/probing.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), namespace)
    with gradprobe.record(level="ops") as recording:
        assert namespace["probe"](leaf()) is False
    assert "GP603" not in set(recording.findings["rule"])


def test_a_message_that_no_row_knows_is_a_note_if_an_operator_raises_it() -> None:
    assert find_refusal("this has nothing to do with it") is None
    library = torch.library.Library("gradprobe_test", "DEF")
    library.define("refuse(Tensor x) -> Tensor")

    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a new thing: requires_grad is refused by autograd")

    library.impl("refuse", refuse, "CompositeImplicitAutograd")
    with gradprobe.record(level="ops") as recording:
        weight = leaf()
        error = thrown(lambda: torch.ops.gradprobe_test.refuse(weight))
    assert find_refusal(str(error)) is OTHER
    (finding,) = (row for row in recording.findings.to_dict("records") if row["rule"] == "GP690")
    assert finding["severity"] == "note"


def recorded(program: Program) -> list[dict[str, object]]:
    with gradprobe.record(level="ops") as recording:
        thrown(program)
    rows: list[dict[str, object]] = recording.findings.to_dict("records")
    return [row for row in rows if row["severity"] != "note"]


def line_of(program: Callable[..., object], mark: str) -> int:
    return dict(marked_lines(program))[mark]


def test_a_version_that_a_function_reads_without_a_handler_is_reported() -> None:
    def read(tensor: torch.Tensor) -> int:
        return int(tensor._version)  # at

    def program() -> None:
        read(table())

    (finding,) = recorded(program)
    assert (finding["rule"], finding["line"]) == ("GP401", line_of(read, "at"))
    assert {line_of(table, "created"), line_of(table, "mode")} <= places_of(finding)


def test_a_version_that_is_read_to_find_out_whether_there_is_one_is_not_reported() -> None:
    def asked() -> None:
        cached = table()
        try:
            cached._version
        except RuntimeError:
            return

    with gradprobe.record(level="ops") as recording:
        asked()
    assert "GP401" not in set(recording.findings["rule"])


def test_a_view_that_the_failing_line_takes_of_another_leads_to_that_one() -> None:
    def program() -> None:
        image = torch.zeros(4)  # base
        with torch.no_grad():  # mode
            pixels = image.view(2, 2)  # view
        pixels[0] = leaf(2) * 2  # at

    (finding,) = recorded(program)
    assert set(dict(marked_lines(program)).values()) <= places_of(finding)


def test_parameters_that_a_mode_keeps_from_ddp_are_named_with_the_mode() -> None:
    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> object:
            with torch.no_grad():  # mode
                hidden = self.first(x)  # lost
            return self.second(hidden)

    def program() -> None:
        with refusal_programs.one_rank():
            model = torch.nn.parallel.DistributedDataParallel(Frozen())
            model(torch.ones(2)).sum().backward()
            model(torch.ones(2))  # at

    (finding,) = recorded(program)
    assert finding["line"] == line_of(program, "at")
    assert "`first.weight`, `first.bias`" in str(finding["message"])
    assert {line_of(Frozen.forward, "mode"), line_of(Frozen.forward, "lost")} <= places_of(finding)


def test_each_iteration_that_fails_is_counted() -> None:
    weight = leaf()
    with gradprobe.record(level="ops") as recording:
        for _ in range(3):
            try:
                weight.add_(1)
            except RuntimeError:
                continue
    (finding,) = (row for row in recording.findings.to_dict("records") if row["rule"] == "GP603")
    assert finding["count"] == 3


def test_methods_read_on_the_class_are_pytorchs_own() -> None:
    before = {name: getattr(torch.Tensor, name) for name in ("numpy", "requires_grad_", "data", "grad")}
    with gradprobe.record(level="ops"):
        assert {name: getattr(torch.Tensor, name) for name in before} == before
        assert torch.ones(3).numpy().tolist() == [1, 1, 1]
        weight = leaf()
        weight.grad = torch.ones(3)
        assert weight.grad is not None
    assert refusal_programs.PROGRAMS


METRICS = """
import torch

class Mean:
    def __init__(self):
        self.total = torch.zeros(())

    def update(self, value):
        with torch.no_grad():
            self.total = self.total + value

class Running(Mean):
    @torch.no_grad()
    def update(self, value):
        self.total = torch.lerp(self.total, value, 0.5)
"""


@pytest.mark.parametrize("kind", ["Mean", "Running"])
def test_a_loss_that_a_library_computes_without_grad_shows_the_calls_of_the_program(kind: str) -> None:
    library: dict[str, Callable[..., object]] = {}
    exec(compile(METRICS, "/usr/lib/python3/site-packages/metrics/mean.py", "exec"), library)

    class Objective:
        def __init__(self) -> None:
            self.metric: Any = library[kind]()

        def __call__(self, value: torch.Tensor) -> torch.Tensor:
            self.metric.update(value)
            total: torch.Tensor = self.metric.total
            return total

    objective = Objective()

    def train() -> None:
        loss = objective(leaf().square().sum())
        loss.backward()

    (finding,) = recorded(train)
    lines, first = inspect.getsourcelines(Objective)
    related = finding["related"]
    assert isinstance(related, list)
    called = {at["line"] for at in related if at["role"] == "library called here"}
    assert called == {first + number for number, line in enumerate(lines) if "self.metric.update" in line}
    assert "library" in str(finding["fix"])
