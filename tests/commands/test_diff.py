"""``gradprobe diff``: what changed between two recordings, in every format, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from tests.commands.running import python, refused
from tests.report.reading import Page, markdown_table, terminal_table

BEFORE = """\
import torch

def train(layer, optimizer):
    total = 0
    for _ in range(12):
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 3)).pow(2).mean()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total

def evaluate(layer):
    for _ in range(9):
        with torch.no_grad():
            layer(torch.ones(2, 3))

layer = torch.nn.Linear(3, 1)
train(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
evaluate(layer)
"""
AFTER = (
    BEFORE.replace("import torch\n", "import torch\n\n# a comment that moves every line down\n", 1)
    .replace("loss.item()", "loss")
    .replace("no_grad", "inference_mode")
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings of a program before and after a change of it."""
    folder = tmp_path_factory.mktemp("diff")
    for name, text in (("before", BEFORE), ("after", AFTER)):
        (folder / "program.py").write_text(text)
        with gradprobe.record(folder / f"{name}.gradprobe", level="ops"):
            exec(compile(text, str(folder / "program.py"), "exec"), {"__name__": "program"})
    return folder


@pytest.fixture
def folder(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(recorded)
    return recorded


def diff(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["diff", *words]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_new_findings_changed_sites_and_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = diff(capsys, "before.gradprobe", "after.gradprobe", "--all")
    assert "New findings: 1 warning" in out
    assert "warning GP201" in out
    assert "Inference tensors: 0 -> " in out
    (site,) = terminal_table(out, "Sites")
    assert site["site"] == "program.py:17 (was 15)"
    assert (site[""], site["manager"]) == ("changed", "no_grad -> inference_mode")
    lines = {row["site"]: row for row in terminal_table(out, "Operators by line")}
    assert lines["program.py:12 (was 10)"]["nodes"] == "0 -> 12"
    assert "lines unchanged." in out
    assert "Findings that are gone" in diff(capsys, "after.gradprobe", "before.gradprobe")


def test_a_recording_does_not_differ_from_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = diff(capsys, "after.gradprobe", "after.gradprobe", "--fail-on", "note")
    assert "The same findings in both" in out
    assert "1 site unchanged." in out
    assert "changed  " not in out


def test_it_fails_on_new_findings_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "before.gradprobe", "after.gradprobe"
    diff(capsys, *names, "--fail-on", "error")
    diff(capsys, *names, "--fail-on", "warning", code=1)
    diff(capsys, *names, "--fail-on", "warning", "--ignore", "GP2")
    diff(capsys, *reversed(names), "--fail-on", "note")


def test_every_format_has_the_same_numbers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "before.gradprobe", "after.gradprobe"
    found = json.loads(diff(capsys, *names, "--format", "json"))
    assert found["summary"]["findings"]["new"] == len(found["findings"]["new"]) >= 1
    (site,) = found["sites"]
    assert (site["status"], site["before"]["line"], site["after"]["line"]) == ("changed", 15, 17)
    assert site["before"]["source"] == "with torch.no_grad():"
    assert (site["before"]["count"], site["after"]["count"]) == (9, 9)
    assert site["time"]["low"] <= site["time"]["ratio"] <= site["time"]["high"]
    plain = terminal_table(diff(capsys, *names, "--all"), "Sites")
    assert markdown_table(diff(capsys, *names, "--format", "markdown"), "### Sites") == plain
    for suffix in (".md", ".html", ".txt"):
        assert main(["diff", *names, "-o", str(tmp_path / f"d{suffix}")]) == 0
        assert capsys.readouterr().err == f"wrote {tmp_path / f'd{suffix}'}\n"
    rows = Page((tmp_path / "d.html").read_text()).tables["Sites"]
    assert [{name: cell[0] for name, cell in row.items()} for row in rows] == plain


def test_recordings_of_several_processes_are_folders(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.gradprobe").write_bytes((folder / f"{name}.gradprobe").read_bytes())
    assert "New findings: 1 warning" in diff(capsys, str(tmp_path / "before"), str(tmp_path / "after"))


def test_what_one_recording_did_not_measure_is_not_a_change(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gradprobe.record("modes.gradprobe", level="modes", overwrite=True):
        with torch.no_grad():
            pass
    out = diff(capsys, "modes.gradprobe", "before.gradprobe")
    assert "Measured in one recording only, and not compared: autograd nodes" in out
    assert "level" in [row[""] for row in terminal_table(out, "Recorded under other conditions")]


def test_errors_take_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "before.gradprobe", "after.gradprobe"
    assert "missing.gradprobe" in refused(capsys, "diff", "missing.gradprobe", names[1])
    assert "use one of .txt, .md, .html, .json" in refused(capsys, "diff", *names, "-o", "d.csv")
    assert "the folder has no recordings" in refused(capsys, "diff", str(tmp_path), names[1])
    assert "it is a recording to read" in refused(capsys, "diff", *names, "-o", names[0], "--format", "json", "--force")
    assert "--top must be 1 or more" in refused(capsys, "diff", *names, "--top", "0")


def test_it_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gradprobe.__main__ import main\n"
        "sys.exit(main(['diff', 'before.gradprobe', 'after.gradprobe', '--fail-on', 'warning']))"
    )
    done = python("-c", program, cwd=folder)
    assert done.returncode == 1, done.stderr.decode()
    assert b"GP201" in done.stdout
