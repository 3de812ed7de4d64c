"""Programs that write to memory which a graph has saved, unseen by its version counter, and programs that may do so."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.analysis.findings.flow.parts import Program, batches, sgd, step


def activation_clipped_through_data() -> None:
    hidden = torch.ones(4, requires_grad=True).exp()  # with
    loss = hidden.square().sum()  # with
    hidden.data.clamp_(max=1.0)  # at
    loss.backward()  # with


def weights_scaled_through_numpy() -> None:
    layer = nn.Linear(4, 2)
    arrays = [p.detach().numpy() for p in layer.parameters()]  # with
    (x,) = batches(1)
    loss = layer(x.requires_grad_()).mean()  # with
    for array in arrays:
        array *= 0.5  # at
    loss.backward()  # with


def batch_refilled_behind_tensor() -> None:
    memory = np.ones((2, 4), np.float32)
    layer = nn.Linear(4, 1)
    loss = layer(torch.from_numpy(memory)).mean()  # with
    np.copyto(memory, 2.0)  # at
    loss.backward()  # with


def memory_given_by_dlpack() -> None:
    weight = torch.ones(3, requires_grad=True)
    x = torch.full((3,), 2.0)
    loss = (x * weight).sum()  # with
    shared = x.numpy()  # with
    shared.fill(0)  # at
    torch.autograd.grad(loss, weight)  # with


def column_scaled_between_others() -> None:
    table = torch.ones(6, 4)
    weight = torch.ones(6, 2, requires_grad=True)
    loss = (table[:, 1:3] * weight).sum()  # with
    table.data[:, 2:4] *= 3  # at
    loss.backward()  # with


WRITTEN: list[Program] = [
    column_scaled_between_others,
    activation_clipped_through_data,
    weights_scaled_through_numpy,
    batch_refilled_behind_tensor,
    memory_given_by_dlpack,
]


def weights_clipped_after_step() -> None:
    layer = nn.Linear(4, 1)
    arrays = [p.detach().numpy() for p in layer.parameters()]
    optimizer = sgd(layer)
    for x in batches():
        step(optimizer, layer(x).mean())
        for array in arrays:
            np.clip(array, -0.1, 0.1, out=array)
        layer.weight.data.mul_(0.9)


def batch_refilled_after_backward() -> None:
    memory = np.zeros((2, 4), np.float32)
    batch, layer = torch.from_numpy(memory), nn.Linear(4, 1)
    optimizer = sgd(layer)
    for number, _ in enumerate(batches()):
        memory[...] = number
        step(optimizer, layer(batch).mean())


def arrays_read_and_copied() -> None:
    layer = nn.Linear(4, 4)
    for x in batches():
        out = layer(x).sigmoid()
        copy = out.detach().numpy().copy()
        copy *= 0
        layer.zero_grad()
        out.mean().backward()


def derivative_checked_by_differences() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return torch.from_numpy(x.detach().numpy() ** 3)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return grads[0] * 3 * x**2

    assert torch.autograd.gradcheck(Cube.apply, (torch.ones(4, dtype=torch.double, requires_grad=True),))


def value_moved_and_put_back() -> None:
    layer = nn.Linear(4, 2)
    (x,) = batches(1)
    loss = layer(x.requires_grad_()).square().mean()
    original = layer.weight.detach().clone()
    layer.weight.data.add_(0.1)
    print(layer(x).square().mean().item() - loss.item())
    layer.weight.data.copy_(original)
    loss.backward()


def columns_filled_beside_those_saved() -> None:
    steps = torch.zeros(6, 5)
    x = torch.ones(6, requires_grad=True)
    loss = x.sum()
    for number in range(5):
        steps.data[:, number] = loss.detach() + number
        loss = loss + (steps[:, number] * x).sum()
    loss.backward()


def copied_before_its_statistics_move() -> None:
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    momentum = copy.deepcopy(encoder).requires_grad_(False)
    for x in batches():
        loss = (encoder(x) - encoder(x + 1)).square().mean() + (encoder(x) - momentum(x)).square().mean()
        encoder.zero_grad()
        loss.backward()


RIGHT: list[Program] = [
    value_moved_and_put_back,
    columns_filled_beside_those_saved,
    copied_before_its_statistics_move,
    weights_clipped_after_step,
    batch_refilled_after_backward,
    arrays_read_and_copied,
    derivative_checked_by_differences,
]
