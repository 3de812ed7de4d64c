"""Reentrant checkpoints whose inputs do not require grad, and those that look alike and are right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def first_layer_in_checkpoint() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = checkpoint(model.body, x, use_reentrant=True)  # at
        step(optimizer, model.head(hidden).mean())


def closure_over_layer() -> None:
    def make(layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: layer(x).relu()  # with

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = checkpoint(make(model.body), x, use_reentrant=True)  # at
        step(optimizer, model.head(hidden).mean())


def method_of_model_after_frozen_embedding() -> None:
    embedding, model = nn.Linear(4, 4).requires_grad_(False), Net()
    optimizer = sgd(model)
    for x in batches():
        loss = checkpoint(model.embed, embedding(x), use_reentrant=True).mean()  # at
        step(optimizer, loss + model.head(x).mean())
    with torch.no_grad():  # with
        checkpoint(model.embed, embedding(x), use_reentrant=True)  # with


WRONG: list[Program] = [first_layer_in_checkpoint, closure_over_layer, method_of_model_after_frozen_embedding]


def input_that_requires_grad() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = checkpoint(model.body, x.requires_grad_(), use_reentrant=True)
        step(optimizer, model.head(hidden).mean())


def not_reentrant() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model.head(checkpoint(model.body, x, use_reentrant=False)).mean())


def frozen_layer() -> None:
    frozen, model = nn.Linear(4, 4).requires_grad_(False), Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(checkpoint(frozen, x, use_reentrant=True)))


def evaluation_under_no_grad() -> None:
    model = Net()
    with torch.no_grad():
        for x in batches():
            checkpoint(model.body, x, use_reentrant=True)


RIGHT: list[Program] = [input_that_requires_grad, not_reentrant, frozen_layer, evaluation_under_no_grad]
