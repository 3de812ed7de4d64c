"""A kept inference tensor is foretold to fail where the source shows it, and not where it is kept harmlessly."""

from __future__ import annotations

import runpy
import textwrap
from pathlib import Path

import pytest

import gradprobe

HEAD = "import functools, threading, torch\nfrom torch import nn\nlater = False\n"

FAILING = {
    "attribute": """
        class Engine:
            cache = None
            def put(self, row):
                if self.cache is None:
                    self.cache = {"k": [torch.zeros(4, 2)]}  # created
                self.cache["k"][0][0] = row
            def reset(self):
                for each in self.cache["k"]:
                    each.zero_()  # fails
        engine = Engine()
        def serve():
            with torch.inference_mode():  # entered
                engine.put(torch.ones(2))
        serve()
        if later:
            engine.reset()
    """,
    "alias of an argument": """
        staging = []
        def refresh(buffers, parameters):
            with torch.no_grad():
                for buffer, parameter in zip(buffers, parameters):
                    buffer.copy_(parameter)  # fails
        layer = nn.Linear(2, 2)
        with torch.inference_mode():  # entered
            staging.append(torch.empty(2, 2))  # created
        if later:
            refresh(staging, layer.parameters())
    """,
    "cache": """
        @functools.lru_cache
        def window(n):
            return torch.hann_window(n)  # created
        class Front(nn.Module):
            def __init__(self):
                super().__init__()
                self.gain = nn.Parameter(torch.ones(8))
            def forward(self, x):
                return (x * self.gain) * window(8)  # fails
        front = Front()
        with torch.inference_mode():  # entered
            front(torch.ones(8))
        if later:
            front(torch.ones(8)).sum().backward()
    """,
    "closure": """
        def make_step():
            hidden = None
            def step():
                nonlocal hidden
                if hidden is None:
                    hidden = torch.zeros(2)  # created
                hidden += 1  # fails
            return step
        step = make_step()
        with torch.inference_mode():  # entered
            step()
        if later:
            step()
    """,
    "lazy layer of a library": """
        model = nn.Sequential(nn.LazyLinear(2))  # constructed
        @torch.inference_mode()  # entered
        def dry_run():
            model(torch.ones(1, 3))  # created
        dry_run()
        if later:
            model(torch.ones(1, 3)).sum().backward()  # fails
    """,
    "parameter by name": """
        with torch.inference_mode():  # entered
            server = nn.Linear(2, 2)  # created
        def update(model, named):
            with torch.no_grad():
                for name, value in named:
                    model.get_parameter(name).copy_(value)  # fails
        if later:
            update(server, [("weight", torch.ones(2, 2))])
    """,
    "buffer that is loaded": """
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("scale", torch.ones(2))
            def calibrate(self, x):
                self.scale = x.abs().amax(0)  # created
        model = Scaled()
        with torch.inference_mode():  # entered
            model.calibrate(torch.ones(3, 2))
        if later:
            model.load_state_dict({"scale": torch.ones(2)})  # fails
    """,
    "kept by a hook once": """
        class First:
            value = None
            def keep(self, layer, inputs, output):
                if self.value is None:
                    self.value = output
        layer, scale, first = nn.Linear(2, 2), nn.Linear(2, 2), First()
        layer.register_forward_hook(first.keep)
        def learn():
            scale(first.value).sum().backward()  # fails
        with torch.inference_mode():  # entered
            layer(torch.ones(1, 2))  # created
        if later:
            learn()
    """,
    "input of a module": """
        policy, rollout = nn.Linear(2, 1), []
        with torch.inference_mode():  # entered
            observation = torch.ones(3, 2) + 1  # created
            rollout.append(observation)  # kept
        def update():
            for each in rollout:
                policy(each).sum().backward()  # fails
        if later:
            update()
    """,
}

HARMLESS = {
    "only read": """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.shift = nn.Linear(2, 2), None
            def forward(self, x):
                if self.shift is None:
                    self.shift = torch.linspace(0, 1, 2)
                return self.layer(x) + self.shift
        model = Model()
        with torch.inference_mode():
            model(torch.ones(1, 2))
        if later:
            model(torch.ones(1, 2)).sum().backward()
    """,
    "written inside inference mode alone": """
        class Server:
            page = None
            @torch.inference_mode()
            def serve(self, x):
                if self.page is None:
                    self.page = torch.zeros(2)
                self.page.copy_(x)
        server = Server()
        server.serve(torch.ones(2))
        if later:
            server.serve(torch.ones(2))
    """,
    "rebuilt when stale": """
        class Rotary(nn.Module):
            def __init__(self):
                super().__init__()
                self.gain, self.table = nn.Parameter(torch.ones(2)), None
            def forward(self):
                stale = self.table is not None and self.table.is_inference() and not torch.is_inference_mode_enabled()
                if self.table is None or stale:
                    self.table = torch.arange(2.0).cos()
                return self.gain * self.table
        rotary = Rotary()
        with torch.inference_mode():
            rotary()
        if later:
            rotary().sum().backward()
    """,
    "cloned at the border": """
        rollout, weight = [], nn.Parameter(torch.ones(2))
        with torch.inference_mode():
            rollout.append(torch.ones(2) * 2)
        if later:
            (weight * rollout[0].clone()).sum().backward()
    """,
    "renewed by a hook": """
        class Tap:
            def __init__(self, layer):
                layer.register_forward_hook(self)
            def __call__(self, layer, inputs, output):
                self.value = output
        layer, scale = nn.Linear(2, 2), nn.Linear(2, 2)
        tap = Tap(layer)
        def learn(x):
            layer(x)
            scale(tap.value).sum().backward()
        with torch.inference_mode():
            layer(torch.ones(1, 2))
        if later:
            learn(torch.ones(1, 2))
    """,
    "ran outside since": """
        weight = nn.Parameter(torch.ones(2))
        with torch.inference_mode():
            table = torch.ones(2) * 2
        def scaled(x):
            return x * table
        scaled(torch.ones(2))
        if later:
            scaled(weight).sum().backward()
    """,
}


def findings(program: str, folder: Path) -> tuple[str, gradprobe.Recording]:
    text = HEAD + textwrap.dedent(program)
    script = folder / "program.py"
    script.write_text(text, encoding="utf-8")
    with gradprobe.record(level="ops") as recording:
        alive = runpy.run_path(str(script), run_name="__main__")
    alive.clear()
    return text, recording


@pytest.mark.parametrize("name", FAILING)
def test_the_failure_of_a_kept_tensor_is_foretold(name: str, tmp_path: Path) -> None:
    text, recording = findings(FAILING[name], tmp_path)
    found = recording.findings.query("rule == 'GP404'").to_dict("records")
    lines = {number for number, line in enumerate(text.splitlines(), 1) if "# " in line}
    named = [{each["line"], *(place["line"] for place in each["related"])} for each in found]
    assert any(lines <= each for each in named), (lines, named)
    foretold = recording.lifecycle.query("status == 'foretold'")
    assert set(foretold["event_line"]) == {n for n, line in enumerate(text.splitlines(), 1) if "# fails" in line}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_tensor_that_is_kept_harmlessly_is_not_reported(name: str, tmp_path: Path) -> None:
    _, recording = findings(HARMLESS[name], tmp_path)
    assert "GP404" not in set(recording.findings["rule"])
    assert list(recording.lifecycle.query("event == 'created'")["status"]) == ["seen"], "it is still in the table"


def test_what_another_recording_of_the_process_ran_is_not_read(tmp_path: Path) -> None:
    other = """
        class Queue:
            def put(self, item):
                with torch.no_grad():
                    return item + 1
        for each in [Queue()]:
            each.put(torch.ones(2))
    """
    findings(other, tmp_path)
    (tmp_path / "later").mkdir()
    text, recording = findings(FAILING["attribute"], tmp_path / "later")
    foretold = recording.lifecycle.query("status == 'foretold'")
    assert set(foretold["event_line"]) == {n for n, line in enumerate(text.splitlines(), 1) if "# fails" in line}


def test_the_refused_tensor_is_named_by_its_own_key(tmp_path: Path) -> None:
    program = """
        class Engine:
            def __init__(self):
                self.cache = {}
            def get(self, key):
                if key not in self.cache:
                    self.cache[key] = torch.zeros(4)
                return self.cache[key]
        engine = Engine()
        with torch.inference_mode():
            for key in ("a", "b", "c"):
                engine.get(key)
        try:
            engine.get("b").add_(1)
        except RuntimeError:
            pass
    """
    _, recording = findings(program, tmp_path)
    rows = recording.lifecycle[["holder", "status"]].drop_duplicates().to_dict("records")
    assert rows == [
        {"holder": "engine.cache[...]", "status": "seen"},
        {"holder": "engine.cache[...]", "status": "source"},
        {"holder": "engine.cache['b']", "status": "refused"},
    ]
