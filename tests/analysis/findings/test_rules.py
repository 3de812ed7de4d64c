"""Each rule fires on the wrong program of its page, and not on the right one."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.analysis.findings.catalogue import RULES, SEVERITIES
from gradprobe.scan.source_files import scan_paths
from tests import ranks
from tests.capabilities import needs_saved
from tests.commands.running import warm_gradprobe

PAGES = Path(__file__).parents[3] / "docs" / "rules"
ONLY_IN_SOURCE = {"GP104"}
"""Rules that only a scan reports: a context manager that is never entered has no effect that a run could show."""
FROM_WHAT_IS_SAVED = {"GP601"}
IN_SOURCE_TOO = {"GP101", "GP103", "GP106", "GP702", "GP703", "GP704", "GP801"}


def programs(code: str) -> list[str]:
    """Return the wrong and the right program of a rule's page."""
    return re.findall(r"^```python\n(.*?)^```", (PAGES / f"{code}.md").read_text(encoding="utf-8"), re.S | re.M)


def found_by_run(program: str, folder: Path) -> set[str]:
    script = folder / "program.py"
    script.write_text(program, encoding="utf-8")
    try:
        with gradprobe.record(level="ops") as recording:
            alive = runpy.run_path(str(script), run_name="__main__")
        alive.clear()
    finally:
        torch._C._set_grad_enabled(True)
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
    return set(recording.findings["rule"])


def found_by_run_of_its_own(program: str, folder: Path) -> set[str]:
    """Run a program in a process of its own: it leaves its thread in a mode for good."""
    script = folder / "program.py"
    script.write_text(program, encoding="utf-8")
    done = warm_gradprobe("run", "--level=ops", "--force", "--output=run.gradprobe", script.name, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return set(gradprobe.load(folder / "run.gradprobe").findings["rule"])


def found_with_what_it_starts(program: str, folder: Path) -> set[str]:
    """Run a program that starts processes, and follow them."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    words = ["run", "--follow", "--level=ops", "--force", "--output=run.gradprobe", "program.py"]
    done = warm_gradprobe(*words, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return set(gradprobe.merge(folder.glob("run*.gradprobe")).findings["rule"])


def found_on_ranks(program: str, folder: Path) -> set[str]:
    """Run a program as two ranks."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    words = ["run", "--level=ops", "--force", "--output=run.gradprobe", "program.py"]
    done = ranks.run("-m", "gradprobe", *words, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return set(gradprobe.merge(folder.glob("run*.gradprobe")).findings["rule"])


OTHERWISE: dict[str, Callable[[str, Path], set[str]]] = {
    "GP705": found_by_run_of_its_own,
    "GP706": found_with_what_it_starts,
    "GP901": found_on_ranks,
    "GP902": found_on_ranks,
}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=needs_saved if code in FROM_WHAT_IS_SAVED else ())
        for code in RULES
        if code not in ONLY_IN_SOURCE
    ],
)
def test_rule_reports_the_wrong_program_and_not_the_right_one(code: str, tmp_path: Path) -> None:
    bad, good = programs(code)
    find = OTHERWISE.get(code, found_by_run)
    assert code in find(bad, tmp_path)
    assert code not in find(good, tmp_path)


@pytest.mark.parametrize("code", sorted(ONLY_IN_SOURCE | IN_SOURCE_TOO))
def test_scan_reports_the_wrong_program_and_not_the_right_one(code: str, tmp_path: Path) -> None:
    bad, good = programs(code)
    for program, is_wrong in ((bad, True), (good, False)):
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        assert (code in {finding.rule for finding in scan_paths([tmp_path]).findings}) is is_wrong


def test_right_programs_have_nothing_above_a_note(tmp_path: Path) -> None:
    for code in RULES:
        (tmp_path / f"{code}.py").write_text(programs(code)[1], encoding="utf-8")
    assert [f for f in scan_paths([tmp_path]).findings if f.severity != "note"] == []


def test_pages_and_catalogue_agree() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(RULES)
    for code, rule in RULES.items():
        text = " ".join((PAGES / f"{code}.md").read_text(encoding="utf-8").split())
        assert text.startswith(f"# {code} {rule.name} {rule.severity.capitalize()}. {rule.summary}")
        assert rule.why in text
        assert rule.fix in text
        assert rule.severity in SEVERITIES


SECTIONS = ["What it reports", "Why it matters", "Wrong", "Right", "How to silence it"]


@pytest.mark.parametrize("code", RULES)
def test_pages_have_the_same_sections_and_name_their_own_code(code: str) -> None:
    text = (PAGES / f"{code}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert f"`# gradprobe: ignore[{code}]`" in text
    assert set(re.findall(r"GP\d+", text)) == {code}


def test_the_page_on_findings_lists_all_rules_and_families() -> None:
    text = (PAGES.parent / "findings.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(GP\d+)\]\(rules/(GP\d+)\.md\) \| (\w+) \| (.*) \|$", text, re.M)
    assert listed == [(code, code, rule.severity, rule.summary) for code, rule in RULES.items()]
    families = re.findall(
        r"(?:^|, |: )(\d) \w+", " ".join(text.split()).partition("The first digit is the family: ")[2]
    )
    assert sorted({code[2] for code in RULES}) == families
