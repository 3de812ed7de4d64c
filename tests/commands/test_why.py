"""``gradprobe why``: the story on standard output, errors in one line with the nearest names, no need of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from tests.commands.running import python, refused

PROGRAM = """\
import torch

layer = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for _ in range(3):
    loss = torch.nn.functional.mse_loss(
        layer(torch.ones(2, 3)),
        torch.zeros(2, 1),
    )
    loss.backward()
    optimizer.step()
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recording of a program that trains a layer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    with gradprobe.record("r.gradprobe", level="ops"):
        exec(compile(PROGRAM, str(tmp_path / "program.py"), "exec"), {})
    return "r.gradprobe"


@pytest.mark.parametrize(
    ("target", "first", "second"),
    [
        ("weight", "Linear.weight: parameter of shape 1x3, in SGD", "Gradient arrives: 3 backward passes reached it."),
        ("Linear", "Linear: module with 2 parameters", "Gradient arrives at all 2 parameters."),
        ("program.py:7", "program.py:7, module Linear", "Gradient passes here."),
        ("./program.py:10", "program.py:10", "A backward pass starts here."),
        ("program.py:8", "program.py:8", "No gradient is lost here: nothing that this line takes requires grad."),
    ],
)
def test_the_story_is_printed(
    recorded: str, capsys: pytest.CaptureFixture[str], target: str, first: str, second: str
) -> None:
    assert main(["why", recorded, target]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].replace(" in <module>", "") == first
    assert lines[1].strip() == second
    assert 3 <= len(lines) <= 10


def test_any_line_of_a_statement_is_its_recorded_line(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", recorded, "program.py:9"]) == 0
    assert capsys.readouterr().out.startswith("program.py:8 in <module>")


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("wieght", "Linear.weight"),
        ("program.py:2", "program.py:3"),
        ("prog.py:3", "program.py"),
        ("a\nb:3", "program.py"),
    ],
)
def test_a_target_that_is_not_there_is_an_error_with_the_nearest_names(
    recorded: str, capsys: pytest.CaptureFixture[str], target: str, nearest: str
) -> None:
    assert nearest in refused(capsys, "why", recorded, target)


def test_bad_usage_is_an_error_in_one_line(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "TARGET" in refused(capsys, "why", recorded)
    assert "no.gradprobe" in refused(capsys, "why", "no.gradprobe", "weight")


def test_several_recordings_are_asked_at_once(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = torch.nn.Bilinear(2, 2, 1)
    with gradprobe.record("s.gradprobe", level="ops"):
        other(torch.ones(1, 2), torch.ones(1, 2)).sum().backward()
    assert main(["why", recorded, "s.gradprobe", "Bilinear.weight"]) == 0
    assert "1 backward pass reached it" in capsys.readouterr().out


def test_it_works_where_torch_is_not_installed(recorded: str, tmp_path: Path) -> None:
    (tmp_path / "nothing" / "torch").mkdir(parents=True)
    (tmp_path / "nothing" / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('torch')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'nothing')!r});"
        f"from gradprobe.__main__ import main; sys.exit(main(['why', {recorded!r}, 'weight']))"
    )
    done = python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Gradient arrives" in done.stdout
