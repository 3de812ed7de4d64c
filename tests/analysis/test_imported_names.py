"""Which expressions of a file are PyTorch's context managers, for the scanner and for the rules over recordings alike."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.analysis.imported_names import ImportedNames

RESOLVED = [
    ("import torch", "torch.no_grad()", "no_grad"),
    ("import torch", "torch.no_grad", "no_grad"),
    ("import torch as t", "t.inference_mode()", "inference_mode"),
    ("import torch.autograd", "torch.autograd.no_grad()", "no_grad"),
    ("import torch.autograd as ag", "ag.set_grad_enabled(False)", "set_grad_enabled"),
    ("from torch import no_grad as ng", "ng()", "no_grad"),
    ("from torch import autograd", "autograd.grad_mode.enable_grad()", "enable_grad"),
    ("from torch.autograd.grad_mode import inference_mode", "inference_mode(True)", "inference_mode"),
    ("from torch import *", "no_grad()", "no_grad"),
    ("import torch", "torch.no_grad()()", None),
    ("import torch", "torch.nn.no_grad()", None),
    ("import tinygrad as torch", "torch.no_grad()", None),
    ("from tinygrad import *", "no_grad()", None),
    ("from gradprobe import no_grad", "no_grad()", None),
    ("import gradprobe", "gradprobe.no_grad()", None),
    ("from .torch import no_grad", "no_grad()", None),
    ("import torch", "self.no_grad()", None),
    ("import torch", "no_grad()", None),
    ("import torch", "managers['torch'].no_grad()", None),
]


@pytest.mark.parametrize(("imports", "expression", "manager"), RESOLVED)
def test_expressions_are_resolved_through_imports(imports: str, expression: str, manager: str | None) -> None:
    names = ImportedNames(ast.parse(imports).body)  # type: ignore[arg-type]
    assert names.resolve_manager(ast.parse(expression, mode="eval").body) == manager


ALIASED = {
    "GP702": (
        "import asyncio\n"
        "import torch\n"
        "from torch import no_grad as ng\n"
        "w = torch.ones(3, requires_grad=True)\n"
        "@ng()\n"
        "async def endpoint(x): return x * w\n"
        "asyncio.run(endpoint(torch.ones(3)))\n"
    ),
    "GP106": (
        "import torch\n"
        "from torch import inference_mode as serving\n"
        "w = torch.ones(3, requires_grad=True)\n"
        "class Base:\n"
        "    @serving()\n"
        "    def run(self, x): return x * w\n"
        "class Child(Base):\n"
        "    def run(self, x):\n"
        "        return x * w\n"
        "Child().run(torch.ones(3))\n"
    ),
    "GP302": (
        "import warnings\n"
        "import torch as t\n"
        "from torch.jit import script\n"
        "warnings.simplefilter('ignore')\n"
        "def half(x):\n"
        "    with t.no_grad():\n"
        "        y = x * 2\n"
        "    return 2 * x + y\n"
        "script(half)(t.rand(3, requires_grad=True))\n"
    ),
}


@pytest.mark.parametrize("rule", ALIASED)
def test_rules_over_recordings_follow_aliases(rule: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(ALIASED[rule], encoding="utf-8")
    try:
        with gradprobe.record(level="ops") as recording:
            runpy.run_path(str(script))
    finally:
        torch.set_grad_enabled(True)
    assert rule in set(recording.findings["rule"])


def test_a_decorator_of_the_same_name_from_elsewhere_is_not_reported(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio\n"
        "import torch\n"
        "from gradprobe import no_grad as ng\n"
        "w = torch.ones(3, requires_grad=True)\n"
        "@ng()\n"
        "async def endpoint(x): return x * w\n"
        "asyncio.run(endpoint(torch.ones(3)))\n"
    )
    with gradprobe.record(level="ops") as recording:
        runpy.run_path(str(script))
    assert "GP702" not in set(recording.findings["rule"])
