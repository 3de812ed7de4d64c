"""Findings as code hosts read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradprobe.__main__ import main
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.commands.findings_output import FORMATS
from gradprobe.report.formats import code_hosts
from gradprobe.report.formats.findings_text import format_concisely

ROOT = Path(__file__).parents[3]
RELATED = (RelatedLine("b.py", 7, "entered here"),)
ODD = Finding("GP103", "100 % of\x1b it, a: b | c <i>", "a,b: c.py", 3, None, 2, RELATED)


def test_github_reads_the_properties_and_the_message_as_they_were() -> None:
    """The escapes are those that the runner of GitHub Actions undoes: in properties also of ``:`` and ``,``."""
    (line,) = code_hosts.render_github([ODD]).splitlines()
    found = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line)
    assert found is not None
    properties = dict(pair.split("=") for pair in found[2].split(","))
    undone = {name: unescape(value) for name, value in properties.items()}
    assert (found[1], undone) == ("warning", {"title": "gradprobe (GP103)", "file": "a,b: c.py", "line": "3"})
    message = unescape(found[3]).split("\n")
    assert message[:2] == [r"100 % of\x1b it, a: b | c <i> (2 times)", "entered here: b.py:7"]
    assert message[2].startswith("Fix: ")


def unescape(text: str) -> str:
    for escaped, plain in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(escaped, plain)
    return text


def test_gitlab_fingerprints_are_unique_and_do_not_move_with_the_line() -> None:
    moved = Finding(ODD.rule, ODD.message, ODD.file, 30)
    rows = json.loads(code_hosts.render_gitlab([ODD, moved, Finding("GP801", "x", str(Path("a.py").absolute()), 1)]))
    assert len({row["fingerprint"] for row in rows}) == 3
    assert json.loads(code_hosts.render_gitlab([moved]))[0]["fingerprint"] == rows[0]["fingerprint"]
    assert [row["severity"] for row in rows] == ["major", "major", "minor"]
    assert rows[2]["location"] == {"path": "a.py", "lines": {"begin": 1}}


def test_a_cell_of_markdown_cannot_leave_its_cell() -> None:
    *_, row = code_hosts.render_markdown([ODD], ["--max-nodes 3 is exceeded"]).splitlines()
    assert len(re.split(r"(?<!\\)\|", row)) == 7
    assert "&lt;i&gt;" in row


@pytest.mark.parametrize("kind", FORMATS)
def test_standard_output_is_the_format_and_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("import torch\ntorch.no_grad()\n")
    assert main(["scan", "--format", kind, "a.py"]) == 1
    out = capsys.readouterr().out
    if kind in ("json", "sarif", "gitlab"):
        assert "GP104" in json.dumps(json.loads(out))
    else:
        assert "GP104" in out
    assert ("\n1 warning\n" in out) == (kind in ("text", "concise"))
    assert main(["scan", "--format", kind, "--exit-zero", "a.py"]) == 0


def test_the_problem_matcher_reads_what_text_and_concise_print() -> None:
    path = ROOT / ".github" / "problem-matcher.json"
    if not path.exists():
        pytest.skip("there are no files for code hosts beside an installed package")
    (matcher,) = json.loads(path.read_text())["problemMatcher"]
    (pattern,) = matcher["pattern"]
    found = re.search(pattern["regexp"], format_concisely(ODD))
    assert found is not None
    assert [found[pattern[name]] for name in ("file", "line", "severity", "code")] == [
        "a,b: c.py",
        "3",
        "warning",
        "GP103",
    ]
