"""A kept inference tensor has the phase that its line shows: an import, or the construction of a module."""

from __future__ import annotations

import runpy
import sys
import textwrap
from pathlib import Path

import pytest

import gradprobe

PROGRAMS = {
    "import": """
        import tables
    """,
    "construction": """
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                with torch.inference_mode():
                    self.table = torch.ones(2) * 2
        model = Model()
    """,
    "construction ": """
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.ones(2) * 2
        with torch.inference_mode():
            model = Model()
    """,
    "": """
        with torch.inference_mode():
            table = torch.ones(2) * 2
    """,
    " ": """
        class Plain:
            def __init__(self):
                with torch.inference_mode():
                    self.table = torch.ones(2) * 2
        plain = Plain()
    """,
    "named": """
        with gradprobe.phase("named"):
            import tables
    """,
}


@pytest.mark.parametrize("phase", PROGRAMS)
def test_the_phase_of_a_kept_tensor(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info < (3, 11) and phase == "construction ":
        pytest.skip("code objects have no qualified name before Python 3.11")
    (tmp_path / "tables.py").write_text("import torch\nwith torch.inference_mode():\n    TABLE = torch.ones(2) * 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    name = "model_program"
    (tmp_path / f"{name}.py").write_text("import torch, gradprobe\n" + textwrap.dedent(PROGRAMS[phase]))
    with gradprobe.record(level="ops") as recording:
        if phase == "construction ":
            __import__(name)
        else:
            alive = runpy.run_path(str(tmp_path / f"{name}.py"))
    created = recording.lifecycle.query("event == 'created'")
    assert set(created["phase"]) == {phase.strip()}
    sys.modules.pop(name, None)
    if phase != "construction ":
        alive.clear()
