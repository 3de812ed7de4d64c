"""Lines of a story that only the source shows: where a tensor was kept, and where values left autograd."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gradprobe.analysis.findings.frozen_parameters import locate_freezes
from gradprobe.analysis.findings.story_lines import find_carried, locate_keeping, locate_values

KEPT = {
    "an attribute, not its empty value": (
        "Model.bias",
        """
        class Model:
            def __init__(self):
                self.bias = None
            def build(self, torch):
                made = torch.ones(3)  # created
                self.bias = made  # kept
        """,
    ),
    "an item of a global dict": (
        "CACHE[...]",
        """
        CACHE = {}  # container
        def build(torch, key):
            made = torch.ones(3)  # created
            CACHE[key] = made  # kept
        """,
    ),
    "a default argument": (
        "rope.memo[...]",
        """
        def rope(torch, n, memo={}):  # container
            made = torch.ones(n)  # created
            memo[n] = made  # kept
        """,
    ),
    "a field of a record": (
        "state.hidden",
        """
        def act(torch, State):
            made = torch.ones(3)  # created
            return State(hidden=made, steps=1)  # kept
        """,
    ),
    "a buffer": (
        "Model.table",
        """
        def build(self, torch):
            made = torch.ones(3)  # created
            self.register_buffer("table", made)  # kept
        """,
    ),
    "a variable of the function around": (
        "closure.prediction",
        """
        def fit(torch, model, optimizer, x):
            hidden = model(x)  # created
            prediction = hidden.exp()  # kept
            def closure():
                loss = prediction.mean()
                loss.backward()
                return loss
            optimizer.step(closure)
        """,
    ),
    "a variable of the module around": (
        "evaluate.weights",
        """
        import torch
        weights = torch.ones(3).softmax(0)  # kept
        def evaluate(x):
            return (weights * x).sum()
        made = weights * 2  # created
        """,
    ),
    "nothing: a variable of the function itself": (
        "closure.prediction",
        """
        def fit(torch, model, x):
            hidden = model(x)  # created
            def closure():
                prediction = hidden.exp()
                return prediction.mean()
            return closure
        """,
    ),
    "nothing: another function's variable": (
        "closure.prediction",
        """
        def show(model, x):
            prediction = model(x)
            print(prediction)
        def fit(torch, model, x):
            made = model(x)  # created
            def closure():
                return made.mean()
            return closure
        """,
    ),
    "nothing: another name": (
        "Model.other",
        """
        def build(self, torch):
            self.table = torch.ones(3)  # created
        """,
    ),
}

FROZEN = {
    "a loop over the parameters": """
        def prepare(model):
            for p in model.parameters():
                p.requires_grad = False  # found
            return model
    """,
    "a method of the module": """
        def prepare(model):
            model.backbone.eval().requires_grad_(False)  # found
            model.head.requires_grad_(requires_grad=False)  # found
    """,
    "a call of a function that sets the flag to its argument": """
        def set_requires_grad(nets, requires_grad=False):
            for net in nets:
                for p in net.parameters():
                    p.requires_grad = requires_grad
        def step(self):
            set_requires_grad([self.critic])  # found
            set_requires_grad([self.critic], True)
    """,
    "a call of a method that sets the flag to its argument": """
        class Stage:
            def train_encoder(self, mode):
                self.encoder.requires_grad_(mode)
        def warm_up(stage):
            stage.train_encoder(False)  # found
            stage.train_encoder(mode=False)  # found
            stage.train_encoder(mode=True)
    """,
    "nothing: set to True, or read": """
        def prepare(model, x):
            x.requires_grad_()
            model.head.requires_grad_(True)
            model.weight.requires_grad = True
            return [p for p in model.parameters() if p.requires_grad is False]
    """,
    "nothing: another flag": """
        def prepare(model):
            model.is_trainable = False
            model.train(False)
    """,
}
VALUES = {
    "a function behind the line": """
        def post(torch, y):
            array = y.detach().numpy()  # found
            return torch.from_numpy(array)  # found
        def loss(torch, y):
            return post(torch, y).mean()  # created
    """,
    "an assignment before the line": """
        def loss(torch, y):
            value = y.item()  # found
            scaled = value * 2
            return torch.ones(1) * scaled  # created
    """,
    "nothing: tensors all the way": """
        def loss(torch, y):
            value = y * 2
            return value.mean()  # created
    """,
}


def _write(tmp_path: Path, source: str) -> tuple[str, dict[str, list[int]]]:
    """Write a program and return its name, and the lines by the comment at their end."""
    file = tmp_path / "program.py"
    text = textwrap.dedent(source)
    file.write_text(text)
    lines: dict[str, list[int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if "# " in line:
            lines.setdefault(line.rpartition("# ")[2], []).append(number)
    return str(file), lines


@pytest.mark.parametrize(("holder", "source"), KEPT.values(), ids=KEPT)
def test_line_that_keeps_a_tensor(holder: str, source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source)
    found = locate_keeping(holder, [(file, lines["created"][0])])
    assert [at.line for at in found] == [*lines.get("kept", []), *lines.get("container", [])]


@pytest.mark.parametrize("source", VALUES.values(), ids=VALUES)
def test_lines_where_values_leave_autograd(source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source)
    assert sorted(at.line for at in locate_values(file, lines["created"][0])) == lines.get("found", [])


@pytest.mark.parametrize("source", FROZEN.values(), ids=FROZEN)
def test_lines_that_freeze_parameters(source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source)
    assert [at.line for at in locate_freezes([file])] == lines.get("found", [])


CARRIED = {
    "an attribute that a method computes from itself": (
        "self.state",
        """
        class Net:
            def forward(self, x):
                if self.state is None:
                    self.state = x.new_zeros(3)
                y, self.state = self.rnn(x, self.state)  # built found
                return y
        def train(net, data):
            for x in data:
                net(x).sum().backward()  # backward
        """,
    ),
    "a variable of the loop around the pass": (
        "state",
        """
        def forward(x, state):
            x = x.relu()
            return x @ state  # built
        def train(net, data):
            state = None
            for x in data:
                x = x.float()
                y, state = net(x, state)  # found
                loss = y.sum()
                loss = loss + 1
                loss.backward()  # backward
        """,
    ),
    "nothing: what each iteration begins anew": (
        "",
        """
        class Net:
            def forward(self, x):
                self.hidden = self.embed(x)
                self.hidden = self.layer(self.hidden)  # built
                return self.hidden
        def train(net, data):
            for x in data:
                loss = net(x).sum()
                loss = loss + 1
                loss.backward()  # backward
        """,
    ),
    "an attribute of the function with the backward pass": (
        "self.state",
        """
        class Learner:
            def learn(self, x):
                self.count = self.count + 1
                y, state = unroll(x, self.state)  # built
                self.state = state  # found
                y.sum().backward()  # backward
        """,
    ),
    "nothing: the attribute is not what the loss depends on": (
        "",
        """
        class Learner:
            def learn(self, x):
                y = self.net(x)  # built
                self.mean = 0.9 * self.mean + y.sum()
                y.sum().backward()  # backward
        """,
    ),
    "nothing: it is detached": (
        "",
        """
        def train(net, data):
            state = None
            for x in data:
                y, state = net(x, state.detach())  # built
                y.sum().backward()  # backward
        """,
    ),
}


@pytest.mark.parametrize(("name", "source"), CARRIED.values(), ids=CARRIED)
def test_what_carries_a_graph_on(name: str, source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source.replace("# built found", "# built"))
    built = [(file, line) for line in lines["built"]]
    found = find_carried(built, (file, lines["backward"][0]))
    assert ("" if found is None else found[0]) == name
    if found is not None:
        assert [found[1].line] == lines.get("found", lines["built"])
