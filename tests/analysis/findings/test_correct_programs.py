"""Correct programs: no rule reports them above a note."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradprobe
from gradprobe.comparison.workloads.suites import models_suite
from gradprobe.comparison.workloads.workload import Workload
from tests.capabilities import transformers_with_models
from tests.examples.test_examples import example
from tests.thoroughness import IS_THOROUGH, thorough


def find_above_note(program: Callable[[], object]) -> list[Any]:
    """Return what the rules find above a note while ``program`` runs."""
    with gradprobe.record(level="ops") as recording:
        program()
    found = recording.findings
    return found[found["severity"] != "note"][["rule", "message", "file", "line", "related"]].to_dict("records")


def training() -> None:
    """Train two epochs as trainers do: accumulation, clipping, a schedule, averaged weights, evaluation."""
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    history, total, best = [], 0.0, None
    loader = torch.utils.data.DataLoader([(torch.randn(8), i % 4) for i in range(32)], batch_size=8)
    for _ in range(2):
        model.train()
        for step, (x, y) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(x), y) / 2
            loss.backward()
            total += loss.item()
            history.append(loss.detach())
            if step % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
                        mine.lerp_(theirs, 0.1)
        schedule.step()
        model.eval()
        with torch.inference_mode():
            seen = [model(x).argmax(-1) for x, _ in loader]
        best = copy.deepcopy(model.state_dict()) if best is None else best
        assert len(torch.cat(seen)) == 32
    model.load_state_dict(best)


def second_order() -> None:
    """Run a gradient penalty by ``autograd.grad``, checkpointing, ``torch.func`` and a custom Function."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 2 * ctx.saved_tensors[0] * grad

    layer = nn.Linear(4, 4)
    x = torch.randn(2, 4, requires_grad=True)
    out = Square.apply(checkpoint(layer, x, use_reentrant=False)).sum()
    (slope,) = torch.autograd.grad(out, x, create_graph=True)
    (out + slope.pow(2).sum()).backward()
    torch.func.grad(lambda w: (w * w).sum())(torch.randn(3))
    torch.func.jvp(torch.sin, (torch.randn(3),), (torch.ones(3),))
    torch.autograd.functional.jacobian(torch.sin, torch.randn(3))


def serving() -> None:
    """Serve with modes entered where the work is done, cloned caches, and tasks that hold no mode."""
    model = nn.Linear(4, 4).eval()

    @torch.inference_mode()
    def predict(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(predict, [torch.randn(2, 4) for _ in range(4)]))
    kept = torch.stack(answers).clone()

    @gradprobe.no_grad()
    async def endpoint(x: torch.Tensor) -> torch.Tensor:
        await asyncio.sleep(0)
        return model(x)

    async def all_of_them() -> None:
        await asyncio.gather(*(endpoint(torch.randn(1, 4)) for _ in range(3)))

    asyncio.run(all_of_them())
    head = nn.Linear(4, 2)
    head(kept[0]).sum().backward()


def modes_by_hand() -> None:
    """Use own context managers, restored settings, and views modified under the mode they were created in."""

    @contextlib.contextmanager
    def frozen(module: nn.Module) -> Iterator[None]:
        with torch.no_grad():
            yield

    layer = nn.Linear(3, 3)
    with frozen(layer):
        layer.weight[0].zero_()
        layer.bias.view(3, 1)[1:].add_(1)
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        layer(torch.ones(1, 3))
    finally:
        torch.set_grad_enabled(before)
    base = torch.zeros(4, 3)
    base[1].add_(layer(torch.ones(3)))
    base.sum().backward()


def checked_gradients() -> None:
    """PyTorch's own checks call a function many times, and keep no graph of it."""

    def normalized(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (x @ weight).softmax(-1).sum(0)

    x = torch.rand(2, 3, dtype=torch.double, requires_grad=True)
    weight = torch.rand(3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(normalized, (x, weight), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(normalized, (x, weight))


CORRECT = [training, second_order, serving, modes_by_hand, checked_gradients]


@pytest.mark.parametrize("program", CORRECT, ids=lambda one: one.__name__)
def test_correct_program(program: Callable[[], None]) -> None:
    assert find_above_note(program) == []


OF_TRANSFORMERS = "GPT-2 of transformers, forward"
MODELS = [
    "MLP",
    "convnet with batch norm",
    "encoder layer, fast path",
    "encoder layer, slow path",
    "GPT decode with a key-value cache",
]


@pytest.fixture(scope="module")
def workloads() -> dict[str, Workload]:
    """The models of the suite by name, those of transformers only where tests are thorough: importing it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if not IS_THOROUGH:
            patch.setitem(sys.modules, "transformers", None)
        return {one.name: one for one in models_suite.build_workloads()}


def test_every_model_of_the_suite_is_tried(workloads: dict[str, Workload]) -> None:
    assert {*workloads} - {OF_TRANSFORMERS} == {*MODELS}


@pytest.mark.parametrize("name", [*MODELS, pytest.param(OF_TRANSFORMERS, marks=thorough)])
def test_model_suite(name: str, workloads: dict[str, Workload]) -> None:
    if name == OF_TRANSFORMERS:
        transformers_with_models()
    call = workloads[name].build()

    def program() -> None:
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                call()

    assert find_above_note(program) == []
    with_grad = find_above_note(torch.enable_grad()(call))
    runs_its_model_often = name == "GPT decode with a key-value cache"
    assert [finding["rule"] for finding in with_grad] == ["GP204"] * runs_its_model_often


@thorough
def test_generate_and_training_step_of_transformers() -> None:
    transformers_with_models()
    generating = example("generate")
    model = generating.tiny_gpt2()

    def program() -> None:
        generating.generate(model)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            tokens = torch.randint(64, (2, 8))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        generating.generate(model.eval())

    assert find_above_note(program) == []


def test_handbook(capsys: pytest.CaptureFixture[str]) -> None:
    handbook = example("handbook")
    try:
        assert find_above_note(handbook.main) == []
    finally:
        torch.set_grad_enabled(True)
    assert "y._version: RuntimeError" in capsys.readouterr().out
