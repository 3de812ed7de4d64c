"""``gradprobe check``: exit codes, budgets, and findings as files."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from tests.capabilities import needs_saved
from tests.commands.running import python, refused


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording with a warning, a note, four nodes and 24 saved bytes, of a program in a folder with a space."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "a b" / "program.py"
    script.parent.mkdir()
    script.write_text(
        "import torch\n"
        "weight = torch.ones(3, requires_grad=True)\n"
        "(weight * weight).sum()\n"
        "(weight * weight).sum()\n"
        "with torch.inference_mode():\n"
        "    with torch.enable_grad():\n"
        "        weight * 2\n"
    )
    with gradprobe.record("r.gradprobe", level="ops"):
        exec(compile(script.read_text(), str(script), "exec"), {})
    return "r.gradprobe"


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["check", *words])
    return int(code or 0), capsys.readouterr().out


def test_fail_on_decides_the_exit_code(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = ended(capsys, recorded)
    assert code == 1
    assert f"{Path('a b/program.py').absolute()}:6: warning GP103: " in out
    assert ": note GP204: " in out
    assert "    fix: Use `torch.no_grad()` instead of `torch.inference_mode()`" in out
    assert out.splitlines()[-1] == "1 warning, 1 note"
    assert ended(capsys, recorded, "--fail-on", "error")[0] == 0
    assert ended(capsys, recorded, "--ignore", "GP1")[0] == 0
    assert ended(capsys, recorded, "--ignore", "GP1", "--fail-on", "note")[0] == 1
    assert ended(capsys, recorded, "--ignore", "GP1,GP204", "--fail-on", "note")[0] == 0


def test_suppressed_findings_are_counted_and_listed_on_request(
    recorded: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = ended(capsys, recorded, "--ignore", "GP1")
    assert out.splitlines()[-1] == "1 note; 1 finding suppressed"
    assert "GP103" not in out
    _, out = ended(capsys, recorded, "--ignore", "GP1", "--show-suppressed")
    assert "program.py:6: GP103 suppressed by --ignore on the command line" in out


@pytest.mark.parametrize(
    ("option", "exact", "said"),
    [
        ("--max-nodes", 4, "--max-nodes 3 is exceeded: 4 autograd nodes"),
        pytest.param("--max-saved-bytes", 12, "--max-saved-bytes 11 is exceeded: 12 bytes", marks=needs_saved),
    ],
)
def test_an_exceeded_budget_fails_and_names_the_lines(
    recorded: str, capsys: pytest.CaptureFixture[str], option: str, exact: int, said: str
) -> None:
    words = (recorded, "--fail-on", "error")
    assert ended(capsys, *words, option, str(exact))[0] == 0
    code, out = ended(capsys, *words, option, str(exact - 1))
    assert code == 1
    assert said in out
    assert "program.py:3" in out


def test_uncounted_budgets_and_bad_input_are_rejected(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    for level in ("modes", "graph"):
        with gradprobe.record(f"{level}.gradprobe", level=level), torch.no_grad():
            pass
    assert "record again with --level graph" in refused(capsys, "check", "modes.gradprobe", "--max-nodes", "1")
    assert "record again with --level ops" in refused(capsys, "check", "graph.gradprobe", "--max-saved-bytes", "1")
    assert "nowhere.gradprobe" in refused(capsys, "check", "nowhere.gradprobe")
    assert "unknown rule code 'GP0' in --ignore" in refused(capsys, "check", recorded, "--ignore", "GP0")
    assert "out.txt: findings are written as .sarif, .json or .md" in refused(
        capsys, "check", recorded, "-o", "out.txt"
    )
    Path("out.json").write_text("mine")
    assert "out.json" in refused(capsys, "check", recorded, "-o", "out.json")
    assert Path("out.json").read_text() == "mine"


def test_sarif_has_rules_locations_and_related_locations(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, recorded, "--ignore", "GP2", "-o", "out.sarif")
    log = json.loads(Path("out.sarif").read_text())
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    by_rule = {result["ruleId"]: result for result in run["results"]}
    assert set(by_rule) == {"GP103", "GP204"} == {rule["id"] for rule in rules}
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "a%20b/program.py"
        base = run["originalUriBaseIds"][place["artifactLocation"]["uriBaseId"]]["uri"]
        assert Path(unquote(base.removeprefix("file://")), "a b/program.py").is_file()
    defaults = {rule["id"]: rule["defaultConfiguration"]["level"] for rule in rules}
    assert defaults == {"GP103": "warning", "GP204": "warning"}
    assert {rule: result["level"] for rule, result in by_rule.items()} == {"GP103": "warning", "GP204": "note"}
    assert by_rule["GP103"]["locations"][0]["physicalLocation"]["region"] == {"startLine": 6}
    roles = [at["message"]["text"] for at in by_rule["GP103"]["relatedLocations"]]
    assert roles == ["inference mode entered here", "records nothing"]
    assert "suppressions" not in by_rule["GP103"]
    assert by_rule["GP204"]["suppressions"][0]["kind"] == "external"


def test_json_has_the_rows_of_the_table_and_the_suppressions(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, recorded, "--ignore", "GP2", "-o", "out.json")
    plain = json.loads(Path("out.json").read_text())
    table = gradprobe.load(recorded).findings
    assert plain["findings"] == table[table["rule"] == "GP103"].to_dict("records")
    assert {one["suppressed_by"] for one in plain["suppressed"]} == {"--ignore on the command line"}


def test_check_works_without_torch(recorded: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gradprobe.__main__ import main\n"
        f"sys.exit(main(['check', {recorded!r}]))\n"
    )
    ran = python("-c", program, cwd=tmp_path)
    assert ran.returncode == 1, ran.stderr.decode()
    assert b"GP103" in ran.stdout
