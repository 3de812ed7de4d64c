"""The public names are the only ones that users need, and no module hides them."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gradprobe
from tests.conventions.package import members

ROOT = Path(__file__).parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if path.exists()]
EXAMPLES = sorted((ROOT / "examples").glob("**/*.py"))


def test_no_module_of_the_package_hides_a_public_name() -> None:
    for module in pkgutil.walk_packages(gradprobe.__path__, "gradprobe."):
        if not module.name.endswith("__main__") and ".integrations." not in module.name:
            importlib.import_module(module.name)
    for name in gradprobe.__all__:
        assert not isinstance(getattr(gradprobe, name), types.ModuleType), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gradprobe.nothing
    assert set(gradprobe.__all__) <= set(dir(gradprobe))


def imported_modules(program: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_imports_only_the_package_itself(path: Path) -> None:
    internal = [name for name in imported_modules(path.read_text()) if name.startswith("gradprobe.")]
    assert [name for name in internal if not name.startswith("gradprobe.integrations")] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_imports_only_the_package_itself(path: Path) -> None:
    found = re.findall(r"^ *(?:from|import) (gradprobe\.[\w.]+)", path.read_text(), re.MULTILINE)
    assert [name for name in found if not name.startswith("gradprobe.integrations")] == []


def test_what_users_are_given_is_exported() -> None:
    with gradprobe.record() as recording:
        pass
    assert isinstance(recording, gradprobe.Recording)
    assert isinstance(gradprobe.record(), gradprobe.Recorder)
    assert isinstance(gradprobe.probe(level="modes"), gradprobe.Probe)
    assert issubclass(gradprobe.InvalidArgument, ValueError)
    assert {"Problem", "CreationSite", "TensorKind"} <= set(gradprobe.__all__)


def public_methods(owner: type) -> Iterator[tuple[str, Any]]:
    for name, member in members(owner).items():
        function = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{owner.__name__}.{name}", function


DOCUMENTED = [
    "GradprobeError",
    "Inspection",
    "InvalidArgument",
    "Recorder",
    "Recording",
    "RecordingError",
    "TensorKind",
]
DOCUMENTED += ["disable", "enable", "inspect", "load", "merge", "record"]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_docstring_of_a_public_name_has_the_sections_that_apply(name: str) -> None:
    documented = getattr(gradprobe, name)
    methods = dict(public_methods(documented)) if isinstance(documented, type) else {}
    for member, function in {name: documented, **methods}.items():
        text = inspect.getdoc(function) or ""
        assert "Example::" in text, member
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            arguments = [one for one in signature.parameters if one != "self"]
            assert ("Args:" in text) == bool(arguments), member
            assert all(re.search(rf"^    {one} \(", text, re.MULTILINE) for one in arguments), member
            assert ("Returns:" in text) == (signature.return_annotation not in ("None", None)), member
