"""What the documentation tells a reader to type works as it stands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, fenced, read

ELSEWHERE = {"make demo", "make test"}  # run by whoever checks the project, and the latter runs this


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


def test_the_columns_that_the_documentation_lists_are_those_of_the_tables() -> None:
    from gradprobe.tables import columns

    text = " ".join(read("docs/report.md").split())
    for names in (columns.TRANSITIONS, columns.REGIONS, columns.SITES, columns.OPS, columns.BIRTHS, columns.CALLS):
        assert ", ".join(names) in text
