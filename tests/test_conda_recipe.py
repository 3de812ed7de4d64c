"""The recipe for conda says what ``pyproject.toml`` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gradprobe

jinja2 = pytest.importorskip("jinja2")
yaml = pytest.importorskip("yaml")
toml = pytest.importorskip("tomllib", reason="Python 3.11 brings a reader of TOML")

ROOT = Path(gradprobe.__file__).parents[1]
RECIPE = ROOT / "conda" / "meta.yaml"
NAMES_IN_CONDA = {"torch": "pytorch"}
if not RECIPE.exists():
    pytest.skip("there is no recipe beside an installed package", allow_module_level=True)


@pytest.fixture(scope="module")
def recipe() -> Any:
    return yaml.safe_load(jinja2.Template(RECIPE.read_text(encoding="utf-8")).render(PYTHON="python"))


@pytest.fixture(scope="module")
def project() -> Any:
    return toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def conda_requirement(text: str) -> str:
    """Return a requirement as conda writes it, without its condition on the version of Python."""
    found = re.fullmatch(r"([\w-]+)(\S+)", text.partition(";")[0].strip())
    assert found is not None
    return f"{NAMES_IN_CONDA.get(found[1], found[1])} {found[2]}"


def test_version_licence_and_summary(recipe: Any, project: Any) -> None:
    assert recipe["package"] == {"name": project["project"]["name"], "version": gradprobe.__version__}
    assert recipe["about"]["license"] == project["project"]["license"]
    assert [recipe["about"]["license_file"]] == project["project"]["license-files"]
    assert recipe["about"]["summary"] == project["project"]["description"]


def test_dependencies(recipe: Any, project: Any) -> None:
    python = f"python {project['project']['requires-python']}"
    assert recipe["requirements"]["run"] == [python, *map(conda_requirement, project["project"]["dependencies"])]
    build = [conda_requirement(text) for text in project["build-system"]["requires"]]
    assert recipe["requirements"]["host"] == [python, "pip", *build]


def test_entry_points(recipe: Any, project: Any) -> None:
    assert recipe["build"]["entry_points"] == [f"{name} = {at}" for name, at in project["project"]["scripts"].items()]


def test_the_source_is_the_folder_of_the_project(recipe: Any) -> None:
    assert (RECIPE.parent / recipe["source"]["path"] / "pyproject.toml").resolve() == ROOT / "pyproject.toml"
