"""Comparisons of real calls, as users start them. Assertions do not depend on the speed of the machine."""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.comparison import compare
from gradprobe.comparison.compare import compare_sources
from gradprobe.comparison.measure import mechanisms
from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.call_timer import make_call_timer
from gradprobe.comparison.settings import validate_settings
from gradprobe.comparison.workers.worker_handles import InProcessWorker
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError
from tests.commands.running import refused
from tests.thoroughness import IS_THOROUGH

SHORT_S = 0.5

TARGETS = """
import os, signal, torch

model = torch.nn.Linear(4, 4)
x = torch.ones(2, 4)

def built():
    return lambda: model(x)

def itself():
    model(x)

def only_with_grad():
    model(x).sum().backward()

def only_without():
    model.weight.add_(1.0)

def keeps():
    model.last = model(x)

def changes():
    x.add_(1.0)
    return x

def draws():
    return torch.rand(3)

def unlike():
    return lambda: torch.tensor([float(torch.is_inference_mode_enabled())])

def broken():
    raise ValueError("no data")

def dies():
    return lambda: os.kill(os.getpid(), signal.SIGKILL)

async def waits():
    pass

def needs(data):
    return data

number = 3
"""


MEASURED = (
    "dies",
    "built",
    "itself",
    "only_with_grad",
    "only_without",
    "keeps",
    "changes",
    "draws",
    "unlike",
    "broken",
)


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    path = tmp_path / "targets.py"
    path.write_text(TARGETS)
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> gradprobe.Comparison:
    """One comparison of many targets in two processes, the first of which the first target ends."""
    path = tmp_path_factory.mktemp("compared") / "targets.py"
    path.write_text(TARGETS)
    sources = [WorkloadSource("name", f"{path}:{name}") for name in MEASURED]
    return compare_sources(sources, validate_settings(budget_s=4 * SHORT_S, processes=2, threads=1))


def notes_of(compared: gradprobe.Comparison, name: str) -> str:
    (found,) = (one for one in compared._outcome.workloads if one.workload == name)
    return " ".join(found.notes)


class HereWorker(InProcessWorker):
    """A worker that is no process of its own, where it does not matter which process measures."""

    def __init__(self, number: int, *, modes: Sequence[str], seed: int, **_: object) -> None:
        super().__init__(Bench(modes, seed=seed, number=number, timer=make_call_timer(None)))

    def wait_until_ready(self) -> int:
        return torch.get_num_threads()


@pytest.fixture
def _measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SubprocessWorker", HereWorker)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "targets", None)
    monkeypatch.delitem(sys.modules, "targets")


def test_a_call_is_counted_in_each_mode() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    result = gradprobe.compare(layer, x, budget_s=SHORT_S, processes=2)
    table = result.table.set_index("mode")
    assert list(table.index) == ["grad", "no_grad", "inference_mode"]
    assert table["nodes"].tolist() == [2, 0, 0]
    assert table["counters_created"].tolist() == [1, 1, 0]
    assert table["saved_bytes"].tolist() == [32, 0, 0]
    assert table["inference_tensors"].tolist() == [0, 0, 1]
    assert table["instructions"].isna().all()
    assert (table["median_ns"] > 0).all()
    assert result.environment["processes"] == 2


def test_the_fourth_arm_runs_on_inference_parameters() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    modes = ("inference_mode", "inference_mode+parameters")
    table = gradprobe.compare(layer, x, modes=modes, budget_s=SHORT_S, processes=1).table.set_index("mode")
    assert table["tracked_views"].to_dict() == {"no_grad": 1, "inference_mode": 1, "inference_mode+parameters": 0}
    assert not layer.weight.is_inference()


def test_a_lambda_is_measured_here_and_the_result_says_why() -> None:
    x = torch.ones(3)
    result = gradprobe.compare(lambda: x + 1, budget_s=SHORT_S)
    assert result.environment["processes"] == 1
    assert "one process" in " ".join(result.notes)


def test_inputs_gradients_generators_and_modes_are_as_they_were() -> None:
    x, weight = torch.zeros(3), torch.nn.Parameter(torch.ones(3))

    def call() -> torch.Tensor:
        random.random()
        np.random.rand()
        x.add_(torch.rand(3))
        if torch.is_grad_enabled():
            (weight * 2).sum().backward()
        return x

    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    gradprobe.compare(call, budget_s=SHORT_S)
    assert torch.equal(x, torch.zeros(3))
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]


def test_a_list_that_the_call_appends_to_is_new_for_each_block() -> None:
    class Seen:  # a type is not part of the state of a call, so this is not restored
        lengths: ClassVar[list[int]] = []

    def call(cache: list[torch.Tensor]) -> None:
        Seen.lengths.append(len(cache))
        cache.append(torch.ones(2))

    mine: list[torch.Tensor] = []
    gradprobe.compare(call, mine, budget_s=SHORT_S)
    assert len(Seen.lengths) > 10
    assert Seen.lengths.count(0) > len(Seen.lengths) - 10
    assert mine == []


@pytest.mark.parametrize("name", ["built", "itself"])
def test_a_function_that_returns_a_call_or_is_one_is_measured(compared: gradprobe.Comparison, name: str) -> None:
    table = compared.table
    assert table[table["workload"] == name]["nodes"].tolist() == [2, 0, 0]


def test_a_mode_that_fails_is_a_result_with_its_error(compared: gradprobe.Comparison) -> None:
    assert compared.verdicts["only_without"]["grad"] == "unusable"
    errors = compared.table.set_index("workload")["error"]
    assert "a leaf Variable that requires grad" in errors["only_without"].iloc[0]
    verdicts = compared.verdicts["only_with_grad"]
    assert (verdicts["no_grad"], verdicts["inference_mode"]) == ("unusable", "unusable")
    assert "no_grad is unusable here" in compared.advice["only_with_grad"]


def test_a_call_that_fails_in_every_mode_says_so(compared: gradprobe.Comparison) -> None:
    assert compared.advice["broken"] == "fails in every mode: ValueError: no data."
    assert "no data" in str(compared)


def test_a_process_that_dies_gives_no_verdict_and_the_others_go_on(compared: gradprobe.Comparison) -> None:
    assert set(compared.verdicts["dies"].values()) == {"unusable"}
    assert "SIGKILL; 1 remained" in " ".join(compared.notes)
    assert "SIGKILL" in str(compared)


def test_outputs_that_differ_between_modes_are_a_result(compared: gradprobe.Comparison) -> None:
    assert "returns different values here" in compared.advice["unlike"]
    assert "returns different values here" not in compared.advice["built"]


def test_inference_tensors_that_stay_behind_are_named_with_their_holder(compared: gradprobe.Comparison) -> None:
    assert "leaves 1 inference tensor behind, referenced by Linear.last" in notes_of(compared, "keeps")
    assert "behind" not in notes_of(compared, "built")


@pytest.mark.parametrize(("name", "note"), [("changes", "changes 1 of its inputs"), ("draws", "draws random numbers")])
def test_what_has_to_be_restored_is_noted(compared: gradprobe.Comparison, name: str, note: str) -> None:
    assert note in notes_of(compared, name)
    assert note not in notes_of(compared, "built")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": 2}, "precision must be between 0 and 1 .*, got 2"),
        ({"precision": float("nan")}, "precision must .* got nan"),
        ({"budget_s": 0}, "budget_s must be a number of seconds above 0, got 0"),
        ({"modes": ("grads",)}, "unknown mode 'grads'"),
        ({"modes": ()}, "modes must not be empty"),
        ({"device": "nowhere"}, "cannot use device 'nowhere'"),
        ({"processes": 0}, "processes must be an integer from 1 to 1000, got 0"),
        ({"seed": "one"}, "seed must be an integer .* got 'one'"),
        ({"seed": 2**64}, "seed must be an integer .* got 18446744073709551616"),
        ({"device": "meta"}, "cannot use device 'meta'"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(GradprobeError, match="^" + expected):
        gradprobe.compare(torch.ones, 3, **settings)  # type: ignore[arg-type]
    with pytest.raises(GradprobeError, match="fn must be callable, got int"):
        gradprobe.compare(3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_measured_here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "one target is needed; name MODULE:FUNCTION"),
        (("a:b", "--suite", "ops"), "one target is needed; name MODULE:FUNCTION"),
        (("nocolon",), "target must be MODULE:FUNCTION"),
        (("nowhere.py:f",), "cannot open nowhere.py: there is no such file"),
        (("no_such_module:f",), "cannot import no_such_module: there is no such module"),
        (("a:b", "-o", "out.xyz"), "unknown report format '.xyz'"),
        (("a:b", "--budget", "-1"), "budget_s must be a number of seconds above 0"),
        (("a:b", "--against", "missing.json"), "cannot read missing.json"),
        (("a:b", "--threads", "9999999999"), "threads must be an integer from 1 to 2147483647, got 9999999999"),
    ],
)
def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str) -> None:
    assert expected in refused(capsys, "compare", *words)


@pytest.mark.usefixtures("_measured_here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("gone", "has no attribute gone"), ("number", "not a function"), ("needs", "without"), ("waits", "coroutine")],
)
def test_a_target_that_cannot_be_measured_is_one_line(
    capsys: pytest.CaptureFixture[str], targets: Path, name: str, expected: str
) -> None:
    assert expected in refused(capsys, "compare", f"{targets}:{name}", "--processes", "1", "--budget", "1")


def test_what_a_process_refuses_is_one_line(capsys: pytest.CaptureFixture[str], targets: Path) -> None:
    said = refused(capsys, "compare", f"{targets}:gone", "--processes", "1", "--budget", "1")
    assert "has no attribute gone" in said


@pytest.mark.usefixtures("_measured_here")
def test_the_command_writes_what_a_later_run_is_compared_with(
    targets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(targets.parent)
    words = ("compare", f"{targets.name}:built", "--budget", "1", "--processes", "1")
    assert main([*words, "-o", "first.json", "-o", "first.md"]) == 0
    assert json.loads(Path("first.json").read_text())["kind"] == "comparison"
    assert Path("first.md").read_text().startswith("## gradprobe")
    capsys.readouterr()
    assert main([*words, "--against", "first.json"]) == 0
    assert "ratio_before" in capsys.readouterr().out
    threads = torch.get_num_threads()
    monkeypatch.setattr(HereWorker, "wait_until_ready", lambda self: threads + 1)
    assert main([*words, "--against", "first.json"]) == 2
    assert f"torch threads {threads} then, {threads + 1} now" in capsys.readouterr().err


def with_enough_time(measure: Callable[[float], gradprobe.Comparison], missing: str) -> gradprobe.Comparison:
    """Return what is measured within a short time, or a longer one if a note says that something is missing."""
    for budget in (2.0, 10.0, 60.0):  # a busy machine needs more than an idle one
        result = measure(budget)
        if not any(missing in note for note in result.notes):
            break
    return result


@pytest.mark.usefixtures("_measured_here")
def test_the_suite_of_models_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_THOROUGH:
        monkeypatch.setitem(sys.modules, "transformers", None)  # its import takes as long as all the rest
    suite = [WorkloadSource("suite", "models")]
    result = with_enough_time(
        lambda budget: compare_sources(suite, validate_settings(budget_s=budget, processes=1, threads=1)),
        "the budget ended before",
    )
    assert {"MLP", "encoder layer, fast path", "GPT decode with a key-value cache"} <= set(result.verdicts)
    assert not result.table["error"].any()
    nodes = result.table.pivot(index="workload", columns="mode", values="nodes")
    assert (nodes["grad"] > 0).all(), result.notes
    assert (nodes[["no_grad", "inference_mode"]] == 0).all(axis=None)


def test_a_mode_that_takes_another_path_is_named_with_what_it_leaves_out() -> None:
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).eval()
    linear = torch.nn.Linear(2, 2)
    notes = with_enough_time(
        lambda budget: gradprobe.compare(encoder, torch.ones(1, 2, 8), budget_s=budget, processes=1),
        "no counting pass",
    ).notes
    assert any("another path under grad, without aten._transformer_encoder_layer_fwd" in note for note in notes)
    notes = with_enough_time(
        lambda budget: gradprobe.compare(linear, torch.ones(1, 2), budget_s=budget, processes=1),
        "no counting pass",
    ).notes
    assert not any("another path" in note for note in notes)


def test_settings_of_other_libraries_are_taken_and_saved() -> None:
    given = {"device": torch.device("cpu"), "precision": np.float32(0.02), "budget_s": np.float32(0.1)}
    result = gradprobe.compare(lambda: torch.ones(1), **given)  # type: ignore[arg-type]
    assert json.loads(result.to_json())["settings"]["device"] == "cpu"


def with_gradients() -> dict[str, object]:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    return {"fn": torch.optim.SGD([weight]).step}


def with_inference_tensors() -> dict[str, object]:
    with torch.inference_mode():
        return {"fn": torch.nn.Linear(2, 2).requires_grad_(), "input": torch.ones(1, 2)}


def with_shared_memory() -> dict[str, object]:
    x = torch.ones(4)
    return {"fn": torch.add, "input": x, "other": x.view(4, 1)}


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (with_gradients, "gradients are not pickled"),
        (with_inference_tensors, "inference"),
        (with_shared_memory, "share"),
    ],
)
def test_a_call_that_would_change_in_another_process_is_measured_here(made: Callable[[], Any], reason: str) -> None:
    result = gradprobe.compare(**made(), budget_s=0.1, processes=2)
    assert reason in " ".join(result.notes)


def test_a_call_that_fails_only_in_a_fresh_process_is_measured_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filled.py").write_text("model = None\ndef call(x): return model(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    filled = importlib.import_module("filled")
    filled.model = torch.nn.Linear(2, 2)
    result = gradprobe.compare(filled.call, torch.ones(1, 2), budget_s=0.5, processes=2)
    assert not result.table["error"].any()
    assert "imports it again" in " ".join(result.notes)


@pytest.mark.usefixtures("_measured_here")
def test_files_are_written_though_nobody_reads_the_report(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = targets.with_name("it.json")
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["compare", f"{targets}:itself", "--budget", "0.1", "--processes", "1", "-o", str(output)]) == 0
    assert output.exists()


@pytest.fixture(scope="module")
def saved() -> str:
    return gradprobe.compare(lambda: 1, budget_s=0.05).to_json()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("environment",), None),
        (("settings",), [1]),
        (("workloads", 0, "arms", 0, "ratio"), "1"),
        (("workloads", 0, "arms", 1, "ratio"), 0),
        (("workloads", 0, "arms", 1, "ci_low"), -1.0),
        (("workloads", 0, "notes"), None),
        (("workloads",), {"a": 1}),
        (("workloads", 0, "arms", 0, "process_ratios"), ["a"]),
        (("workloads", 0, "arms", 0, "explained_ns"), [1]),
        (("workloads", 0, "arms", 0, "median_ns"), 1e300),
        (("workloads", 0, "arms", 0, "verdict"), None),
        (("workloads", 0, "calls"), True),
        (("settings", "modes"), "grad"),
        (("settings", "budget_s"), None),
        (("environment", "processes"), None),
        (("costs_ns",), {"node": "1"}),
    ],
)
def test_a_damaged_file_is_refused_when_it_is_loaded(
    saved: str, tmp_path: Path, path: tuple[Any, ...], value: object
) -> None:
    plain = json.loads(saved)
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "damaged.json").write_text(json.dumps(plain))
    with pytest.raises(GradprobeError, match="damaged"):
        gradprobe.Comparison.load(tmp_path / "damaged.json")


def test_a_file_is_loaded_without_rendering_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradprobe.compare(lambda: 1, budget_s=0.05).save(tmp_path / "sound.json")
    monkeypatch.setattr(gradprobe.Comparison, "_render", None)
    assert len(gradprobe.Comparison.load(tmp_path / "sound.json").table) == 3


def scale(x: torch.Tensor, seed: int = 1, modes: object = None) -> torch.Tensor:
    """Scale ``x``, under names that compare takes for itself."""
    return x * seed


def test_a_keyword_that_the_function_accepts_too_is_refused_with_the_way_to_pass_it() -> None:
    with pytest.raises(GradprobeError, match=r"'seed'.*pass arguments of scale as kwargs=\{'seed': \.\.\.\}"):
        gradprobe.compare(scale, torch.ones(2), seed=3)
    for kwargs, seed in (({"seed": 3}, 0), ({}, 3)):
        result = gradprobe.compare(scale, torch.ones(2), seed=seed, kwargs=kwargs, budget_s=0.1, processes=1)
        assert result.settings["seed"] == seed
    bound = functools.partial(scale, seed=3)
    assert gradprobe.compare(bound, torch.ones(2), seed=2, budget_s=0.1, processes=1).settings["seed"] == 2


def test_keyword_arguments_reach_the_function() -> None:
    class Seen:  # a type is not part of the state of a call, so this is not restored
        arguments: ClassVar[list[object]] = []

    def call(*args: object, **keywords: object) -> None:
        Seen.arguments.append((args, keywords))

    gradprobe.compare(call, 1, other=2, kwargs={"device": "x"}, budget_s=0.05)
    assert Seen.arguments[0] == ((1,), {"device": "x", "other": 2})
    with pytest.raises(GradprobeError, match="kwargs must be a mapping"):
        gradprobe.compare(call, kwargs=[1])  # type: ignore[arg-type]
    with pytest.raises(GradprobeError, match="cannot pass 'other' to fn twice"):
        gradprobe.compare(call, other=2, kwargs={"other": 1})


def test_a_failed_counting_pass_is_noted_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(call: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(mechanisms, "count_mechanisms", fail)
    result = gradprobe.compare(lambda: torch.ones(2), budget_s=0.1)
    assert "has no counts of mechanisms under no_grad: ValueError: no such operator" in " ".join(result.notes)
    assert result.table["nodes"].isna().all()


@pytest.mark.usefixtures("_measured_here")
def test_the_command_needs_no_standard_error(
    targets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["compare", f"{targets}:itself", "--budget", "0.1", "--processes", "1"]) == 0
    assert "How it was measured" in capsys.readouterr().out
