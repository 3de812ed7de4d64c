"""The action and the hooks that code hosts read: their programs run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gradprobe
from gradprobe.__main__ import main

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml")
if not (ROOT / "action.yml").exists():
    pytest.skip("there are no files for code hosts beside an installed package", allow_module_level=True)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


REAL = f'exec {shlex.quote(sys.executable)} -m gradprobe "$@"'


def run_action(folder: Path, program: str = REAL, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step of the action that runs gradprobe, or ``program`` in its place, as the runner would."""
    installed = folder / "temp" / "gradprobe" / "bin" / "gradprobe"
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(f"#!/bin/sh\n{program}\n")
    installed.chmod(0o755)
    action = read("action.yml")
    (step,) = (step for step in action["runs"]["steps"] if step.get("id") == "run")
    values = {name: str(each["default"]) for name, each in action["inputs"].items()} | inputs
    given = {name: values[re.sub(r"\$\{\{ inputs\.|\}\}| ", "", text)] for name, text in step["env"].items()}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            **os.environ,
            **given,
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        },
        capture_output=True,
        text=True,
    )


def test_the_action_scans_checks_and_summarizes(tmp_path: Path) -> None:
    source = tmp_path / "src" / "a.py"
    source.parent.mkdir()
    source.write_text("import torch\ndef f(m, x):\n    torch.no_grad()\n    return m(x)\n")
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops"):
        code = "import torch\nw = torch.ones(2, requires_grad=True)\n"
        code += "with torch.inference_mode(), torch.enable_grad():\n    w * 2\n"
        exec(compile(code, str(tmp_path / "src" / "b.py"), "exec"), {})
    done = run_action(tmp_path, scan="src", check="*.gradprobe")
    assert done.returncode == 1, done.stderr
    assert "::warning title=gradprobe (GP104),file=src/a.py,line=3::" in done.stdout
    assert "::warning title=gradprobe (GP103),file=src/b.py,line=3::" in done.stdout
    summary = (tmp_path / "summary.md").read_text()
    assert "## gradprobe scan\n\n| place |" in summary
    assert "## gradprobe check\n\n| place |" in summary
    folder = Path((tmp_path / "output").read_text().strip().removeprefix("sarif="))
    rules = {each.name: json.loads(each.read_text())["runs"][0]["results"][0]["ruleId"] for each in folder.iterdir()}
    assert rules == {"scan.sarif": "GP104", "check.sarif": "GP103"}


@pytest.mark.parametrize(("scan", "check", "code"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_the_exit_code_of_the_action_is_that_of_the_worst_command(
    scan: int, check: int, code: int, tmp_path: Path
) -> None:
    program = f'echo "$@"; [ "$1" = scan ] && exit {scan}; exit {check}'
    done = run_action(tmp_path, program, scan="src lib", check="r.gradprobe", **{"fail-on": "error"})
    assert done.returncode == code
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["scan", "check"]
    assert done.stdout.splitlines()[0].endswith(".md src lib")
    assert "--fail-on error" in done.stdout


def test_the_action_installs_what_checking_needs() -> None:
    toml = pytest.importorskip("tomllib", reason="Python 3.11 brings a reader of TOML")
    needed = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[>;<=]", each)[0] for each in needed} - {"torch"}
    (step,) = (step for step in read("action.yml")["runs"]["steps"] if step["name"] == "Install gradprobe")
    assert names <= set(step["run"].split())


@pytest.mark.parametrize("number", [0, 1])
def test_a_hook_finds_what_is_in_the_files_that_it_is_given(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(read(".pre-commit-hooks.yaml")[number]["entry"])
    assert program == "gradprobe"
    (tmp_path / "a.py").write_text("import torch\ntorch.no_grad()\n")
    assert main([*words, str(tmp_path / "a.py")]) == 1
    assert f"{tmp_path / 'a.py'}:2: warning GP104" in capsys.readouterr().out
