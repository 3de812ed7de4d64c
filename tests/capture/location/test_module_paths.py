"""Paths of modules as a recording has them."""

from __future__ import annotations

import torch
from torch import nn

import gradprobe
from gradprobe.capture.location.root_names import MAX_MODULES


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.blocks = [nn.Linear(3, 3), nn.Linear(3, 3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = nn.ReLU()(block(x))
        return self.fc(x)


class Whole(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x) * 2


INPUT = torch.ones(2, 3)


def modules(recording: gradprobe.Recording) -> set[str]:
    return set(recording.ops["module"]) - {""}


def below(root: str) -> set[str]:
    return {f"{root}.{name}" for name in ("fc", "blocks[0]", "blocks[1]", "(ReLU)")}


def test_the_only_module_of_a_class_has_its_name() -> None:
    model = Net()
    with gradprobe.record(level="ops") as recording:
        model(INPUT)
    assert modules(recording) == below("Net")


def test_two_modules_of_a_class_have_the_names_of_their_variables() -> None:
    student, teacher = Net(), Net()
    with gradprobe.record(level="ops") as recording:
        (student(INPUT) - teacher(INPUT)).sum().backward()
    assert modules(recording) == below("student") | below("teacher")
    names = set(recording.parameters["name"])
    assert {"student.fc.weight", "teacher.fc.weight", "teacher.blocks[1].bias"} <= names
    assert set(recording.flow["target_module"]) - {""} == modules(recording)


def test_modules_under_one_variable_at_once_are_numbered_and_one_after_the_other_are_not() -> None:
    with gradprobe.record(level="ops") as recording:
        for ensemble in [Net() for _ in range(3)]:
            ensemble(INPUT)
        for _ in range(4):
            whole = Whole(nn.Linear(3, 3))
            whole(INPUT)
            del whole
    assert modules(recording) == below("Net#1") | below("Net#2") | below("Net#3") | {"Whole", "Whole.part"}


def test_a_part_that_was_called_by_itself_before_has_the_path_in_the_whole() -> None:
    part = Net()
    whole = Whole(part)
    with gradprobe.record(level="ops") as recording:
        part(INPUT)
        whole(INPUT).sum().backward()
    assert modules(recording) == {"Whole", *below("Whole.part")}
    assert "Whole.part.fc.weight" in set(recording.parameters["name"])


def test_a_part_of_two_modules_keeps_its_path_in_the_first() -> None:
    part = Net()
    actor, critic = Whole(part), Whole(part)
    with gradprobe.record(level="ops") as recording:
        for _ in range(2):
            (actor(INPUT) + critic(INPUT)).sum().backward()
    assert modules(recording) == {"actor", "critic", *below("actor.part")}


def test_a_module_in_no_list_of_its_caller_is_a_model_if_it_has_parameters() -> None:
    holders = {"far": {"away": [Net()]}}

    class Caller(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.Softmax(1)(holders["far"]["away"][0](x))

    caller = Caller()
    with gradprobe.record(level="ops") as recording:
        caller(INPUT)
    assert modules(recording) == {"Caller.(Softmax)", *below("Net")}


def test_models_beyond_the_limit_share_a_name() -> None:
    models = [nn.Linear(1, 1) for _ in range(70)]
    with gradprobe.record(level="ops") as recording:
        for model in models:
            model(torch.ones(1, 1))
    assert len(modules(recording)) == 64


def test_hundreds_of_models_that_one_variable_calls_have_numbers() -> None:
    """Only the first of them are looked for in the variables of the program."""
    ensemble = [nn.Linear(3, 3) for _ in range(200)]
    with gradprobe.record(level="ops") as recording:
        for member in ensemble:
            member(INPUT)

    assert len(modules(recording)) == MAX_MODULES
