"""The brief report: what fits into 2,000 bytes, and what is said of the rest."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gradprobe.__main__ import build_parser, main
from gradprobe.analysis.findings.catalogue import RULES
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.report.formats import brief
from gradprobe.report.formats.registry import find_format, render_text
from tests.report.samples import tables

LONG = "a very long path/" * 40
RELATED = tuple(RelatedLine(f"{LONG}b{number}.py", number + 1, "entered \x1b here") for number in range(20))


@pytest.mark.parametrize("number", [1, 3, 400])
@pytest.mark.parametrize("text", ["short", "long sentence, " * 300, "\N{SNOWMAN}" * 3000])
def test_the_limit_holds_and_every_finding_is_counted(number: int, text: str) -> None:
    findings = [
        Finding("GP103", text, f"{LONG}{text[:50]}.py", at + 1, count=3, related=RELATED, fix=text, evidence=text)
        for at in range(number)
    ]
    shown = brief.render_findings(findings, ["--max-nodes 3 is exceeded"])
    assert len(shown.encode()) <= brief.MAX_BYTES
    assert shown.isprintable() is False  # newlines
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.startswith(f"gradprobe: {number} warning")
    described = len(re.findall(r"^  cause: ", shown, re.M))
    assert described >= 1
    left_out = re.search(r"^(\d+) more: ", shown, re.M)
    assert described + (int(left_out[1]) if left_out else 0) == number
    assert text != "short" or "--max-nodes" in shown


def test_a_recording_has_its_findings_in_their_order_and_says_what_it_lacks() -> None:
    rows = [
        Finding(rule, f"about {rule}", "a.py", line, "f", 1, (), "", "3 nodes").make_row()
        for line, rule in enumerate(("GP512", "GP401", "GP201", "GP801"), start=1)
    ]
    shown = render_text(tables(rows), find_format("brief"))
    order = re.findall(r"^a\.py:\d+: (\w+) (GP\d+)$", shown, re.M)
    assert [rule for _, rule in order] == ["GP512", "GP401", "GP201", "GP801"]
    assert [severity for severity, _ in order] == [RULES[rule].severity for _, rule in order]
    assert shown.count("evidence: 3 nodes") == 4
    assert "recorded at level graph; most rules need --level ops\n" in shown


def test_nothing_found_is_said() -> None:
    assert render_text(tables(), find_format("brief")).startswith("gradprobe: nothing found\n")


def test_the_instructions_for_language_models_have_commands_that_the_parser_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--llms"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    commands = re.findall(r"^    gradprobe (.+)$", text, re.M)
    assert len(commands) >= 8
    for command in commands:
        build_parser().parse_args(shlex.split(command))
    assert {code for code in re.findall(r"GP\d+", text) if code not in RULES} == set()
    assert Path(brief.__file__).parents[2].joinpath("llms.txt").is_file()
