"""Saving and loading are phases, and nothing of a call shows that gradprobe sees it."""

from __future__ import annotations

import inspect
import io
import pickle
import threading
import traceback
import warnings
from typing import Any

import pytest
import torch

import gradprobe


def make_parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def list_phases(recording: gradprobe.Recording) -> list[tuple[Any, ...]]:
    return list(recording.phases[["phase", "automatic", "closed"]].itertuples(index=False, name=None))


def test_saving_and_loading_are_phases() -> None:
    model, optimizer = make_parts()
    file = io.BytesIO()
    with gradprobe.record(level="ops") as recording:
        torch.save(model.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state)
        optimizer.load_state_dict(optimizer.state_dict())
    assert list_phases(recording) == [(name, True, True) for name in ("save", "load", "load", "load")]


def test_an_override_that_calls_the_original_is_one_phase_and_a_failed_load_ends_its_own() -> None:
    class Model(torch.nn.Linear):
        def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            return super().load_state_dict(*arguments, **named)

    file, model = io.BytesIO(), Model(2, 2)
    torch.save({}, file)
    with gradprobe.record(level="ops") as recording:
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict({})
        with torch.no_grad():
            torch.ones(1)
    assert list_phases(recording) == [("load", True, True)] * 2
    assert list(recording.regions["phase"]) == [""]


def test_what_only_looks_like_it_is_none() -> None:
    model, _ = make_parts()

    def save(value: object) -> bytes:
        return pickle.dumps(value)

    with gradprobe.record(level="ops") as recording:
        save([1])
        inspect.signature(torch.load)
        assert callable(torch.save)
        model.state_dict()
        torch.nn.Module.load_state_dict
    assert recording.phases.empty


def test_phases_belong_to_their_thread_and_a_name_of_the_program_comes_first() -> None:
    model, _ = make_parts()
    state = model.state_dict()

    def load() -> None:
        with gradprobe.phase("update"):
            model.load_state_dict(state)

    with gradprobe.record(level="ops") as recording:
        thread = threading.Thread(target=load, name="loader")
        thread.start()
        thread.join()
    assert list(recording.phases.query("thread == 'loader'")["phase"]) == ["update", "load"]


def run_calls(model: torch.nn.Module) -> list[str]:
    """Return all that a program sees of calls that fail or warn."""
    seen = []
    for call in (lambda: model.load_state_dict({}), lambda: torch.load("/no/such/file")):
        try:
            call()
        except Exception:
            seen.append(traceback.format_exc())

    class Warns(torch.nn.Linear):
        def _load_from_state_dict(self, *_: Any) -> None:
            warnings.warn("here", stacklevel=6)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Warns(2, 2).load_state_dict(torch.nn.Linear(2, 2).state_dict())
    return [*seen, *(f"{each.filename}:{each.lineno}" for each in caught)]


def test_tracebacks_warnings_and_introspection_stay_as_they_are() -> None:
    model, _ = make_parts()
    before, load, method = run_calls(model), torch.load, torch.nn.Module.load_state_dict
    with gradprobe.record(level="ops"):
        assert run_calls(model) == before
        assert load == torch.load
        assert hash(load) == hash(torch.load)
        assert inspect.signature(torch.load) == inspect.signature(load)
        assert torch.load.__name__ == "load"
        assert torch.nn.Module.load_state_dict is method
        assert pickle.loads(pickle.dumps(torch.save)) == torch.save
        held = torch.load
    assert torch.load is load
    with pytest.raises(OSError, match="No such file"):
        held("/no/such/file")


def test_what_stands_for_a_function_describes_itself_as_the_function_does() -> None:
    def describe(function: Any) -> list[Any]:
        kinds = inspect.isfunction(function), inspect.isroutine(function), callable(function)
        names = function.__doc__, function.__module__, function.__name__, function.__qualname__
        return [kinds, names, repr(function), inspect.signature(function)]

    functions = "save", "load"
    before = [describe(getattr(torch, name)) for name in functions]
    with gradprobe.record(level="ops"):
        assert [describe(getattr(torch, name)) for name in functions] == before
