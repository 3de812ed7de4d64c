"""``gradprobe scan``: findings from source code that is not run."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

import gradprobe
from gradprobe.__main__ import main
from gradprobe.scan.source_files import list_python_files, scan_paths
from tests.commands.running import python, refused


def found(folder: Path, source: str) -> list[tuple[str, int | None]]:
    """Return the rules and lines that a scan of one file reports."""
    (folder / "program.py").write_text(source, encoding="utf-8")
    return sorted((finding.rule, finding.line) for finding in scan_paths([folder / "program.py"]).findings)


WRONG = {
    "a manager as a statement": ("import torch\ntorch.no_grad()\n", "GP104", 2),
    "through an alias": ("import torch as t\nt.inference_mode()\n", "GP104", 2),
    "through a name": ("from torch import no_grad as off\noff()\n", "GP104", 2),
    "through a module": ("from torch.autograd import grad_mode\ngrad_mode.enable_grad()\n", "GP104", 2),
    "through a star": ("from torch import *\nno_grad()\n", "GP104", 2),
    "a decorated async def": ("import torch\n@torch.no_grad()\nasync def f(): pass\n", "GP702", 2),
    "in a class": ("import torch\nclass A:\n    @torch.inference_mode()\n    async def f(self): pass\n", "GP702", 3),
    "yield in a block": ("import torch\ndef f():\n    with torch.no_grad():\n        yield 1\n", "GP703", 3),
    "yield in a loop": (
        "import torch\ndef f(x):\n    with torch.no_grad():\n        for i in x:\n            yield i\n",
        "GP703",
        3,
    ),
    "await in a block": ("import torch\nasync def f(x):\n    with torch.no_grad():\n        await x\n", "GP704", 3),
    "async for": (
        "import torch\nasync def f(x):\n    with torch.no_grad():\n        async for y in x: pass\n",
        "GP704",
        3,
    ),
    "a plain call": ("import torch\ndef f():\n    torch.set_grad_enabled(False)\n", "GP101", 3),
    "through _C": ("import torch\ndef f():\n    torch._C._set_grad_enabled(False)\n", "GP101", 3),
    "enable_grad inside": (
        "import torch\nwith torch.inference_mode():\n    with torch.enable_grad():\n        pass\n",
        "GP103",
        3,
    ),
    "on one line": ("import torch\nwith torch.inference_mode(), torch.enable_grad():\n    pass\n", "GP103", 2),
    "in a decorated function": (
        "import torch\n@torch.no_grad()\ndef f():\n    with torch.set_grad_enabled(False):\n        pass\n",
        "GP801",
        4,
    ),
    "in an except": (
        "import torch\ntry:\n    pass\nexcept ValueError:\n    torch.no_grad()\n",
        "GP104",
        5,
    ),
    "in a case": ("import torch\nmatch 1:\n    case 1:\n        torch.no_grad()\n", "GP104", 4),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_source_is_reported_at_its_line(name: str, tmp_path: Path) -> None:
    source, rule, line = WRONG[name]
    assert found(tmp_path, source) == [(rule, line)]


RIGHT = {
    "entered": "import torch\nwith torch.no_grad():\n    pass\n",
    "kept for later": "import torch\noff = torch.no_grad()\nwith off:\n    pass\n",
    "passed on": "import torch\nimport contextlib\nstack = contextlib.ExitStack()\nstack.enter_context(torch.no_grad())\n",
    "of another library": "import tinygrad as torch\ntorch.no_grad()\n",
    "not imported": "def no_grad(): pass\nno_grad()\n",
    "the drop-in": "import torch, gradprobe\n@gradprobe.no_grad()\nasync def f(): pass\n",
    "a decorated def": "import torch\n@torch.no_grad()\ndef f(): pass\n",
    "a decorated generator": "import torch\n@torch.no_grad()\ndef f():\n    yield 1\n",
    "yield after": "import torch\ndef f():\n    with torch.no_grad():\n        x = 1\n    yield x\n",
    "yield of another": "import torch\ndef f():\n    with torch.no_grad():\n        def g():\n            yield 1\n",
    "a context manager": "import contextlib, torch\n@contextlib.contextmanager\ndef f():\n    with torch.no_grad():\n"
    "        yield\n",
    "a fixture": "import pytest, torch\n@pytest.fixture\ndef f():\n    with torch.no_grad():\n        yield\n",
    "await before": "import torch\nasync def f(x):\n    y = await x\n    with torch.no_grad():\n        return y * 2\n",
    "restored": "import torch\ndef f(g):\n    torch.set_grad_enabled(False)\n    try:\n        g()\n    finally:\n"
    "        torch.set_grad_enabled(True)\n",
    "a program with grad disabled": "import torch\ntorch.set_grad_enabled(False)\n",
    "an own context manager": "import torch\nclass A:\n    def __enter__(self):\n        torch.set_grad_enabled(False)\n",
    "on": "import torch\ndef f():\n    torch.set_grad_enabled(True)\n",
    "as asked": "import torch\ndef f(on):\n    torch.set_grad_enabled(on)\n",
    "enable_grad within no_grad": "import torch\nwith torch.no_grad():\n    with torch.enable_grad():\n        pass\n",
    "out of inference mode first": "import torch\nwith torch.inference_mode():\n    with torch.inference_mode(False):\n"
    "        with torch.enable_grad():\n            pass\n",
    "a function inside": "import torch\nwith torch.no_grad():\n    def f():\n        with torch.no_grad(): pass\n",
    "set by a value between": "import torch\ndef f(on):\n    with torch.no_grad():\n"
    "        with torch.set_grad_enabled(on):\n            with torch.no_grad(): pass\n",
    "set by a value": "import torch\ndef f(on):\n    with torch.inference_mode(on):\n"
    "        with torch.enable_grad(): pass\n",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_source_is_not_reported(name: str, tmp_path: Path) -> None:
    assert found(tmp_path, RIGHT[name]) == []


def test_an_override_is_compared_with_its_base_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "import torch\nclass Base(torch.nn.Module):\n    @torch.no_grad()\n    def generate(self, x): return x\n"
    )
    derived = "from base import Base\nclass Child(Base):\n    def generate(self, x): return x * 2\n"
    (tmp_path / "child.py").write_text(derived)
    (finding,) = scan_paths([tmp_path]).findings
    assert (finding.rule, Path(finding.file or "").name, finding.line) == ("GP106", "child.py", 3)
    assert {(Path(at.file).name, at.line) for at in finding.related} == {("base.py", 3)}
    (tmp_path / "child.py").write_text(derived.replace("x * 2", "super().generate(x)"))
    assert scan_paths([tmp_path]).findings == []


def test_unreadable_files_are_named_and_the_others_are_scanned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("import torch\ntorch.no_grad(\n")
    (tmp_path / "binary.py").write_bytes(b"no_grad\0\xff")
    (tmp_path / "right.py").write_text("import torch\ntorch.no_grad()\n")
    assert main(["scan", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "right.py:2: warning GP104" in out
    assert err.count("not read: ") == 2
    assert "3 files scanned" in err
    assert "nowhere" in refused(capsys, "scan", str(tmp_path / "nowhere"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_sockets_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read from a pipe waits for someone who writes to it."""
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    os.mkfifo("pipe.py")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("bound.py")
        assert main(["scan", "."]) == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if "skipped" in line] == [
        "skipped: bound.py: it is not a regular file",
        "skipped: pipe.py: it is not a regular file",
    ]
    assert "0 files scanned" in err
    assert list(list_python_files([tmp_path])) == []
    assert "pipe.py: it is not a regular file; name Python files" in refused(capsys, "scan", str(tmp_path / "pipe.py"))
    assert "pipe.py: it is not a regular file; name a .gradprobe file" in refused(
        capsys, "check", str(tmp_path / "pipe.py")
    )


def test_many_files_are_scanned_by_several_processes(tmp_path: Path) -> None:
    source = "import torch\ntorch.no_grad()\n"
    for number in range(250):
        (tmp_path / f"f{number}.py").write_text(
            source if number % 50 == 0 else "import torch\nwith torch.no_grad(): pass\n"
        )
    seen = scan_paths([tmp_path])
    assert sorted(Path(finding.file or "").name for finding in seen.findings) == [
        f"f{n}.py" for n in (0, 100, 150, 200, 50)
    ]
    assert (seen.files, len(seen.manager_uses)) == (250, 245)


def test_a_scan_is_merged_with_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import torch\n"
        "def used():\n"
        "    with torch.inference_mode():\n"
        "        with torch.enable_grad():\n"
        "            torch.ones(2, requires_grad=True) * 2\n"
        "def unused():\n"
        "    with torch.no_grad():\n"
        "        yield 1\n"
        "used()\n"
    )
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops"):
        exec(compile(script.read_text(), str(script), "exec"), {})
    out_file = tmp_path / "out.json"
    words = ["scan", str(script), "--with", str(tmp_path / "r.gradprobe"), "-o", str(out_file)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert f"{script}:7: no_grad never ran" in out
    assert "inference_mode never ran" not in out
    rows = [(one["rule"], one["line"]) for one in json.loads(out_file.read_text())["findings"]]
    assert sorted(rows) == [("GP103", 4), ("GP703", 7)]
    assert "(in the source and in the run)" in out


def test_a_scan_runs_nothing_and_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import torch\ntorch.no_grad()\nraise SystemExit('ran')\n")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gradprobe.__main__ import main\n"
        "sys.exit(main(['scan', 'program.py']))\n"
    )
    ran = python("-c", program, cwd=tmp_path)
    assert (ran.returncode, b"GP104" in ran.stdout) == (1, True), ran.stderr.decode()
