"""Programs that mean to freeze parameters and do not, and programs that do."""

from __future__ import annotations

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Program, batches, sgd, step


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def train(model: nn.Module) -> None:
    torch.manual_seed(0)
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x).square().mean())


def flag_of_a_module() -> None:
    model = Net()
    model.body.requires_grad = False  # type: ignore[assignment]  # at
    train(model)


def flag_of_each_layer() -> None:
    model = Net()
    for layer in model.body.children():
        layer.requires_grad = False  # type: ignore[assignment]  # at
    train(model)


def misspelt_for_each_parameter() -> None:
    model = Net()
    for parameter in model.body.parameters():
        parameter.require_grad = False  # type: ignore[attr-defined]  # at
    train(model)


def misspelt_beside_an_optimizer_of_the_head() -> None:
    model = Net()
    for _, parameter in model.body.named_parameters():
        parameter.requires_grads = False  # type: ignore[attr-defined]  # at
    optimizer = sgd(model.head)
    for x in batches():
        step(optimizer, model(x).square().mean())


def flag_of_a_teacher() -> None:
    teacher, student = Net(), Net()
    teacher.body.requires_grad = False  # type: ignore[assignment]  # at
    teacher.head.requires_grad_(False)
    optimizer = sgd(student)
    for x in batches():
        step(optimizer, (student(x) - teacher(x)).square().mean())


def flag_of_a_whole_model() -> None:
    teacher = Net()
    teacher.requires_grad = False  # type: ignore[assignment]  # at
    train(teacher)


WRONG: list[Program] = [
    flag_of_a_module,
    flag_of_each_layer,
    misspelt_for_each_parameter,
    misspelt_beside_an_optimizer_of_the_head,
    flag_of_a_teacher,
    flag_of_a_whole_model,
]


def parameters_one_by_one() -> None:
    model = Net()
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    train(model)


def parameters_of_named_ones() -> None:
    model = Net()
    for name, parameter in model.named_parameters():
        if name.startswith("body"):
            parameter.requires_grad = False
    model.head.bias.requires_grad = False
    train(model)


def module_that_remembers_it() -> None:
    model = Net()
    model.body.requires_grad_(False)
    model.body.requires_grad = False  # type: ignore[assignment]
    train(model)


def tensor_with_the_name_of_a_layer() -> None:
    head = torch.ones(4, requires_grad=True)
    head.requires_grad = False
    train(Net())


RIGHT: list[Program] = [
    parameters_one_by_one,
    parameters_of_named_ones,
    module_that_remembers_it,
    tensor_with_the_name_of_a_layer,
]
