"""Modules are named by nouns of the field, each by its own, and only downwards do they import."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import grimp
import pytest

from tests.conventions.package import ROOT, module_name, source_files

NOUNS = {
    "finding": "a problem that the rules report",
    "lightning": "a framework",
    "patching": "the replacement of attributes",
    "routing": "the step from events to the sinks",
    "recording": "the file, and the package's subject",
    "encoding": "the step from tuples to columns",
    "folding": "the sums of finished blocks",
    "monitoring": "the field's noun for counters of a running service",
    "probing": "probe.py would hide gradprobe.probe once it is imported",
}
"""Base names in ``-ing`` that are nouns, and why they stay."""


def test_no_module_is_named_by_a_verb_form() -> None:
    names = {module_name(path).rpartition(".")[2] for path in source_files()}
    assert {name for name in names if name.endswith("ing")} <= set(NOUNS)


def test_each_base_name_occurs_once() -> None:
    """Commands are named by their verbs, which are words of the user's and may name a package too."""
    names = Counter(
        module_name(path).rpartition(".")[2]
        for path in source_files()
        if path.parent.name != "commands" or path.stem == "__init__"
    )
    assert {name: number for name, number in names.items() if number > 1} == {}


def test_every_package_says_in_one_sentence_what_it_holds() -> None:
    for path in ROOT.rglob("__init__.py"):
        first = path.read_text(encoding="utf-8").partition('"""')[2].partition("\n")[0]
        assert first.rstrip('"').endswith((".", ":")), path


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count too: a lazy import hides a circle and does not break it."""
    graph = grimp.build_graph("gradprobe")
    below: dict[str, set[str]] = {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}
    below["gradprobe"] = set()  # its public names are imported at their first use
    while free := [name for name, imported in below.items() if not imported & below.keys()]:
        for name in free:
            del below[name]
    assert sorted(below) == []


def test_layers_of_contracts_name_modules_that_exist() -> None:
    toml = pytest.importorskip("tomllib", reason="Python 3.11 brings a reader of TOML")
    settings = toml.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    known = {module_name(path) for path in source_files()}
    for contract in settings["tool"]["importlinter"]["contracts"]:
        layers = [name.strip(" ()") for layer in contract.get("layers", ()) for name in layer.split("|")]
        for container in contract.get("containers", [""]):
            names = [f"{container}.{layer}".lstrip(".") for layer in layers]
            assert set(names) <= known, contract["name"]
            assert all(one != other for one, other in pairwise(names))
