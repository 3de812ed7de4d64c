"""The parts of the documentation that come from the code are what the code gives today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import generate
from tests.docs.pages import ROOT, read

pytest.importorskip("grimp", reason="the drawings of imports need grimp, which is not installed")


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return generate.generated()


def test_the_committed_pages_are_what_the_generator_writes(made: dict[Path, str]) -> None:
    stale = [path.name for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `make generate` and commit what it writes"
    assert {path.name for path in (ROOT / "docs/api").glob("*.md")} == {
        path.name for path in made if path.parent.name == "api"
    }


def test_the_architecture_names_every_module() -> None:
    folders: dict[str, str] = {}
    for part in read("docs/architecture.md").split("\n### `")[1:]:
        folder, _, text = part.partition("`\n")
        folders[folder] = text
    missing = [path for path in generate.modules() if f"`{Path(path).name}`" not in folders[str(Path(path).parent)]]
    assert not missing


def test_the_api_pages_have_every_public_name(made: dict[Path, str]) -> None:
    import gradprobe

    text = "".join(text for path, text in made.items() if path.parent.name == "api")
    assert {line.removeprefix("::: gradprobe.") for line in text.splitlines() if line.startswith(":::")} == {
        *gradprobe.__all__
    } - {"__version__"}


def test_a_drawing_leaves_out_imports_that_follow_from_others() -> None:
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}
    assert generate.reduced(imports) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}}
    assert [generate._floor(name, imports) for name in "abcd"] == [2, 1, 0, 3]
