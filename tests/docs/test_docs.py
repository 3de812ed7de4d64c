"""What the documentation tells a reader to type works as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md"))]
RULES = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs/rules").glob("*.md"))
ELSEWHERE = {"make demo", "make test"}  # run by whoever checks the project, and the latter runs this


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


def has_any(page: str) -> bool:
    return bool(fenced(page, "sh") or fenced(page, "python"))


@pytest.mark.parametrize("page", [page for page in PAGES if has_any(page)])
def test_every_command_and_program_of_the_page_runs(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if page == "docs/commands.md":
        pytest.importorskip("torch")
    for number, program in enumerate(fenced(page, "python")):
        script = tmp_path / f"program{number}.py"
        script.write_text(program, encoding="utf-8")
        run([sys.executable, script.name], tmp_path)
    for line in "".join(fenced(page, "sh")).splitlines():
        if line in ELSEWHERE:
            continue
        words = shlex.split(line)
        assert words[0] == "gradprobe", f"{page} has a command that this test does not know how to run: {line}"
        # Those that judge end with 1 where they find something, as the pages show.
        run([sys.executable, "-m", *words], tmp_path, 1 if words[1] in ("check", "scan") else 0)


def run(command: list[str], folder: Path, highest: int = 0) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert 0 <= done.returncode <= highest, f"{shlex.join(map(str, command))}\n{done.stdout}\n{done.stderr}"


def test_every_link_leads_somewhere() -> None:
    for page in (*PAGES, *RULES):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which is not there"


def test_the_columns_that_the_documentation_lists_are_those_of_the_tables() -> None:
    from gradprobe.tables import columns

    text = " ".join((ROOT / "docs/report.md").read_text(encoding="utf-8").split())
    for table in columns.RECORDING_TABLES:
        assert ", ".join(table.names) in text or table is columns.FINDINGS
