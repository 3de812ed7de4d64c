"""What the documentation tells a reader to type works as it stands, and shows what it says that it shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import warm_python
from tests.docs import generate
from tests.docs.pages import PAGES, ROOT, fenced, read
from tests.thoroughness import IS_THOROUGH

ELSEWHERE = {"make demo", "make test"}  # run by whoever checks the project, and the latter runs this


def has_any(page: str) -> bool:
    return bool(fenced(page, "sh") or fenced(page, "python"))


def is_not_the_one_on_comparisons(page: str) -> bool:
    return page != "docs/compare.md"  # what it writes to files, other pages print


@pytest.mark.parametrize("page", sorted(filter(has_any, PAGES), key=is_not_the_one_on_comparisons))
def test_every_command_and_program_of_the_page_runs(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shown = []
    for number, program in enumerate(fenced(page, "python")):
        script = f"program{number}.py"
        (tmp_path / script).write_text(program, encoding="utf-8")
        shown.append(run([script], tmp_path))
    for line in "".join(fenced(page, "sh")).splitlines():
        if line in ELSEWHERE:
            continue
        words = [word for pattern in shlex.split(line) for word in expanded(pattern, tmp_path)]
        assert words[0] == "gradprobe", f"{page} has a command that this test does not know how to run: {line}"
        # Those that judge end with 1 where they find something, as the pages show.
        shown.append(run_once(["-m", *words], tmp_path, 1 if words[1] in ("check", "scan") else 0))
    lines = {masked(line) for output in shown for line in output.splitlines()}
    for claimed in "".join(fenced(page, "text")).splitlines():
        assert masked(claimed) in lines, f"{page} shows a line that no command of it prints: {claimed}"
    if page == "docs/flow.md":
        assert (tmp_path / "flow.svg").read_text("utf-8") == read("docs/flow.svg"), (
            "copy the picture that the page's commands write"
        )
    if page == "README.md":
        whole = masked(" ".join(shown).replace(f"{os.path.realpath(tmp_path)}/", ""))
        picture = masked(generate.pictured(read("docs/finding.svg")))
        assert picture in whole, "docs/finding.svg shows what no command prints: run `make generate`"


def expanded(pattern: str, folder: Path) -> list[str]:
    """Return a word as a shell expands it."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern)) if "*" in pattern else []
    return found or [pattern]


_COMPARED: dict[tuple[str, ...], str] = {}
"""What comparisons printed, by their words without those that name files to write."""


def run_once(words: list[str], folder: Path, highest: int = 0) -> str:
    """Run a command, but a comparison that only prints, which takes seconds, once for all pages that have it."""
    if words[2] != "compare" or IS_THOROUGH:
        return run(words, folder, highest)
    # Each process that measures imports torch, which takes longer than it measures.
    words = ["1" if before == "--processes" else word for before, word in zip(["", *words], words, strict=False)]
    key = tuple(word for place, word in enumerate(words) if "-o" not in (word, words[place - 1]))
    if len(key) < len(words) or key not in _COMPARED:
        _COMPARED[key] = run(words, folder, highest)
    return _COMPARED[key]


def run(words: list[str], folder: Path, highest: int = 0) -> str:
    done = warm_python.run(*words, cwd=folder)
    output = done.stdout.decode() + done.stderr.decode()
    assert 0 <= done.returncode <= highest, f"{shlex.join(words)} ended with {done.returncode}\n{output}"
    return output


def masked(line: str) -> str:
    """Return a line without what differs from run to run: times, counts, process numbers and the widths of columns."""
    line = re.sub(r" \(\d+ times\)", "", line)
    return " ".join(re.sub(r"\d+(\.\d+)?( (?:ns|us|ms|s)\b)?", "#", line).split())


def test_pages_name_files_that_are_there() -> None:
    shorthand = ROOT / "gradprobe"
    for page in PAGES:
        for name in re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", read(page)):
            if name.split("/")[0] in {path.name for folder in (ROOT, shorthand) for path in folder.iterdir()}:
                assert (ROOT / name).exists() or (shorthand / name).exists() or "nnn" in name, f"{page} names {name}"


def test_recipes_touch_at_most_three_files() -> None:
    recipes = read("CONTRIBUTING.md").split("\n## Recipes\n")[1].split("\n## ")[0].split("\n### ")[1:]
    assert len(recipes) >= 7
    for recipe in recipes:
        assert len(re.findall(r"^\d+\. ", recipe, re.M)) <= 3, recipe
