"""Suppression of findings by comment, by option and by configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.suppression import Suppression, load_suppression
from gradprobe.errors import GradprobeError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "package" / "program.py"
    path.parent.mkdir()
    path.write_text(
        "used = 1  # gradprobe: ignore[GP401, GP602]\n"
        "entered = 2  #gradprobe:ignore\n"
        "text = '# gradprobe: ignore'\n"
        "other = 4  # gradprobe: ignore[GP7]\n"
    )
    return path


def finding(path: Path, line: int, rule: str = "GP401", *related: int) -> Finding:
    return Finding(
        rule, "", str(path), line, related=tuple(RelatedLine(str(path), at, "entered here") for at in related)
    )


def test_comments_silence_codes_at_their_line_and_at_related_lines(
    program: Path,
) -> None:
    silenced = {
        (line, rule, related): Suppression().find_source(finding(program, line, rule, *related)) is not None
        for line, rule, related in [
            (1, "GP401", ()),
            (1, "GP602", ()),
            (1, "GP101", ()),
            (2, "GP101", ()),
            (3, "GP401", ()),
            (3, "GP401", (2,)),
            (3, "GP401", (1,)),
            (3, "GP101", (1,)),
            (4, "GP701", ()),
            (4, "GP401", ()),
        ]
    }
    assert [key[:2] for key, is_silenced in silenced.items() if is_silenced] == [
        (1, "GP401"),
        (1, "GP602"),
        (2, "GP101"),
        (3, "GP401"),
        (3, "GP401"),
        (4, "GP701"),
    ]
    assert Suppression().find_source(finding(program, 1)) == f"a comment at {program}:1"


def test_a_comment_that_is_added_later_counts(program: Path) -> None:
    assert Suppression().find_source(finding(program, 5)) is None
    program.write_text(program.read_text() + "fifth = 5  # gradprobe: ignore[GP4]\n")
    assert Suppression().find_source(finding(program, 5)) is not None


def test_options_and_configuration_silence_by_the_beginning_of_codes(program: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.gradprobe]\nignore = ["GP8"]\n[tool.gradprobe.per-file-ignores]\n"package/*" = ["GP2", "GP10"]\n'
    )
    known = load_suppression(program.parent, ["GP501"])
    assert known.find_source(finding(program, 3, "GP501")) == "--ignore on the command line"
    assert str(tmp_path / "pyproject.toml") in (known.find_source(finding(program, 3, "GP801")) or "")
    assert "per-file-ignores 'package/*'" in (known.find_source(finding(program, 3, "GP202")) or "")
    assert known.find_source(finding(program, 3, "GP101")) is not None
    assert known.find_source(finding(program, 3, "GP401")) is None
    assert known.find_source(finding(tmp_path / "other.py", 3, "GP202")) is None
    assert known.find_source(finding(tmp_path / "other.py", 3, "GP801")) is not None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('ignore = "GP1"', "ignore in .* must be a list of codes .* got 'GP1'"),
        ("ignore = [1]", r"must be a list of codes .* got \[1\]"),
        ('ignore = ["GP0"]', "unknown rule code 'GP0' in ignore in .*; use one of GP101"),
        ("per-file-ignores = 3", "per-file-ignores in .* must be a table .* got 3"),
        ('per-file-ignores = {"a" = "GP1"}', "per-file-ignores 'a' in .* must be a list of codes .* got 'GP1'"),
        ("ignore = [", "cannot read .*; correct it"),
    ],
)
def test_invalid_configuration_is_refused_with_its_file(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.gradprobe]\n{text}\n")
    with pytest.raises(GradprobeError, match=error) as refused:
        load_suppression(tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(refused.value)


def test_an_option_with_an_unknown_code_is_refused() -> None:
    with pytest.raises(GradprobeError, match="unknown rule code 'E501' in --ignore; use one of GP101"):
        load_suppression(Path(), ["E501"])


def test_comments_silence_in_the_tables_of_a_recording() -> None:
    def leave() -> None:
        torch.set_grad_enabled(False)  # gradprobe: ignore[GP101]

    def leave_too() -> None:
        torch.set_grad_enabled(False)

    weight = torch.ones(2, requires_grad=True)
    found = []
    for leaving in (leave, leave_too):
        with gradprobe.record(level="ops") as recording:
            leaving()
            weight * 2
        torch.set_grad_enabled(True)
        found.append(set(recording.findings["rule"]))
    assert found == [set(), {"GP101"}]
