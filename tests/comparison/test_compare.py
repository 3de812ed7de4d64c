"""Comparisons of real calls, as users start them. Asserted is what does not depend on how fast the machine is."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.comparison.compare import compare_sources
from gradprobe.comparison.settings import validate_settings
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError
from tests.commands.running import gradprobe as command
from tests.commands.running import refused

SHORT_S = 1.0

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


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    path = tmp_path / "targets.py"
    path.write_text(TARGETS)
    return path


def compared(targets: Path, name: str, **settings: object) -> gradprobe.Comparison:
    asked = validate_settings(**{"budget_s": SHORT_S, "processes": 1, **settings})
    return compare_sources([WorkloadSource("name", f"{targets}:{name}")], asked)


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
    assert "one process" in " ".join(result.outcome.notes)


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
    class Seen:  # a type is no state of a call, so this is not put back
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
def test_a_function_that_returns_a_call_or_is_one_is_measured(targets: Path, name: str) -> None:
    table = compared(targets, name).table.set_index("mode")
    assert table["nodes"].tolist() == [2, 0, 0]


def test_a_mode_that_fails_is_a_result_with_its_error(targets: Path) -> None:
    result = compared(targets, "only_without")
    assert result.verdicts["only_without"]["grad"] == "unusable"
    assert "a leaf Variable that requires grad" in result.table["error"][0]
    result = compared(targets, "only_with_grad")
    verdicts = next(iter(result.verdicts.values()))
    assert (verdicts["no_grad"], verdicts["inference_mode"]) == ("unusable", "unusable")
    assert "no_grad is not usable here" in next(iter(result.advice.values()))


def test_what_fails_in_every_mode_says_so(targets: Path) -> None:
    result = compared(targets, "broken")
    assert next(iter(result.advice.values())) == "fails in every mode: ValueError: no data."
    assert "no data" in str(result)


def test_a_process_that_dies_gives_no_verdict(targets: Path) -> None:
    result = compared(targets, "dies", processes=2)
    assert set(next(iter(result.verdicts.values())).values()) == {"unusable"}
    assert "SIGKILL" in str(result)


def test_outputs_that_differ_between_modes_are_a_result(targets: Path) -> None:
    result = compared(targets, "unlike")
    assert "returns something else here" in next(iter(result.advice.values()))


def test_inference_tensors_that_stay_behind_are_named_with_their_holder(targets: Path) -> None:
    result = compared(targets, "keeps")
    assert "leaves 1 inference tensor behind, held by Linear.last" in " ".join(result.outcome.workloads[0].notes)


@pytest.mark.parametrize(("name", "note"), [("changes", "changes 1 of its inputs"), ("draws", "draws random numbers")])
def test_what_has_to_be_put_back_is_told(targets: Path, name: str, note: str) -> None:
    assert note in " ".join(compared(targets, name).outcome.workloads[0].notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": 2}, "precision=2"),
        ({"precision": float("nan")}, "precision=nan"),
        ({"budget_s": 0}, "budget_s=0"),
        ({"modes": ("grads",)}, "'grads' is no mode"),
        ({"modes": ()}, "no mode was named"),
        ({"device": "nowhere"}, "device 'nowhere'"),
        ({"processes": 0}, "processes=0"),
        ({"seed": "one"}, "seed='one'"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"device": "meta"}, "device 'meta'"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(GradprobeError, match="^" + said):
        gradprobe.compare(torch.ones, 3, **settings)  # type: ignore[arg-type]
    with pytest.raises(GradprobeError, match="something to call, not a int"):
        gradprobe.compare(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name MODULE:FUNCTION"),
        (("a:b", "--suite", "ops"), "name MODULE:FUNCTION"),
        (("nocolon",), "names no function"),
        (("nowhere.py:f",), "there is no file nowhere.py"),
        (("no_such_module:f",), "there is no module no_such_module"),
        (("a:b", "-o", "out.xyz"), "unknown report format '.xyz'"),
        (("a:b", "--budget", "-1"), "leaves no time"),
        (("a:b", "--against", "missing.json"), "cannot read missing.json"),
        (("a:b", "--threads", "9999999999"), "threads=9999999999 cannot be"),
    ],
)
def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert said in refused(capsys, "compare", *words)


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone", "there is no gone"), ("number", "not a function"), ("needs", "without"), ("waits", "coroutine")],
)
def test_a_target_that_cannot_be_measured_is_one_line(
    capsys: pytest.CaptureFixture[str], targets: Path, name: str, said: str
) -> None:
    assert said in refused(capsys, "compare", f"{targets}:{name}", "--processes", "1", "--budget", "1")


def test_the_command_writes_what_a_later_run_is_compared_with(targets: Path) -> None:
    words = ("compare", f"{targets.name}:built", "--budget", "1", "--processes", "1", "--threads", "1")
    first = command(*words, "-o", "first.json", "-o", "first.md", cwd=targets.parent)
    assert first.returncode == 0, first.stderr.decode()
    assert json.loads((targets.parent / "first.json").read_text())["kind"] == "comparison"
    assert (targets.parent / "first.md").read_text().startswith("## gradprobe")
    second = command(*words, "--against", "first.json", cwd=targets.parent)
    assert second.returncode == 0, second.stderr.decode()
    assert b"ratio_before" in second.stdout
    apart = command(*words[:-1], "2", "--against", "first.json", cwd=targets.parent)
    assert apart.returncode == 2
    assert b"threads of torch 1 then, 2 now" in apart.stderr


def test_the_suite_of_models_is_measured_whole() -> None:
    result = compare_sources(
        [WorkloadSource("suite", "models")], validate_settings(budget_s=4.0, processes=1, threads=1)
    )
    assert {"MLP", "encoder layer, fast path", "GPT decode with a key-value cache"} <= set(result.verdicts)
    assert not result.table["error"].any()
    nodes = result.table.pivot(index="workload", columns="mode", values="nodes")
    assert (nodes["grad"] > 0).all(), [(c.workload, c.notes) for c in result.outcome.workloads]
    assert (nodes[["no_grad", "inference_mode"]] == 0).all(axis=None)


def test_a_mode_that_takes_another_path_is_named_with_what_it_leaves_out() -> None:
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).eval()
    linear = torch.nn.Linear(2, 2)
    notes = gradprobe.compare(encoder, torch.ones(1, 2, 8), budget_s=4, processes=1).outcome.workloads[0].notes
    assert any("another path under grad, without aten._transformer_encoder_layer_fwd" in note for note in notes)
    notes = gradprobe.compare(linear, torch.ones(1, 2), budget_s=4, processes=1).outcome.workloads[0].notes
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
        (with_gradients, "gradients are not sent"),
        (with_inference_tensors, "inference"),
        (with_shared_memory, "share"),
    ],
)
def test_what_would_be_something_else_in_another_process_is_measured_here(made: Callable[[], Any], reason: str) -> None:
    result = gradprobe.compare(**made(), budget_s=0.1, processes=2)
    assert reason in " ".join(result.outcome.notes)


def test_what_fails_only_where_it_is_imported_anew_is_measured_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filled.py").write_text("model = None\ndef call(x): return model(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    filled = importlib.import_module("filled")
    filled.model = torch.nn.Linear(2, 2)
    result = gradprobe.compare(filled.call, torch.ones(1, 2), budget_s=0.5, processes=2)
    assert not result.table["error"].any()
    assert "imports it anew" in " ".join(result.outcome.notes)


def test_files_are_written_though_nobody_reads_the_report(targets: Path) -> None:
    words = [sys.executable, "-m", "gradprobe", "compare", "targets.py:itself", "--budget", "0.1", "--processes", "1"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run([*words, "-o", "it.json"], cwd=targets.parent, stdout=closed, check=False)
    assert done.returncode == 0
    assert (targets.parent / "it.json").exists()


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
    ],
)
def test_a_damaged_file_is_refused_when_it_is_loaded(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    plain = json.loads(gradprobe.compare(lambda: 1, budget_s=0.05).to_json())
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "damaged.json").write_text(json.dumps(plain))
    with pytest.raises(GradprobeError, match="damaged"):
        gradprobe.Comparison.load(tmp_path / "damaged.json")


def test_the_command_needs_no_standard_error(
    targets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["compare", f"{targets}:itself", "--budget", "0.1", "--processes", "1"]) == 0
    assert "How it was measured" in capsys.readouterr().out
