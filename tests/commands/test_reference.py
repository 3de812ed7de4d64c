"""``docs/commands.md`` names every verb, option and suffix that the command line knows, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradprobe.__main__ import build_parser
from gradprobe.report.formats.registry import COMPARISON_FORMATS, RECORDING_FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
if not PAGE.exists():
    pytest.skip("there is no documentation beside an installed package", allow_module_level=True)


def verbs() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(subparsers.choices)


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            yield from action.option_strings


def test_every_verb_and_alias_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in verbs() if f"`{name}`" not in text and f"## {name}\n" not in text] == []


def test_the_table_at_the_top_and_the_readme_list_every_verb() -> None:
    own = {parser.prog.split()[-1] for parser in verbs().values()}
    top = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    assert set(re.findall(r"^\| \[`([a-z-]+)`\]\(#\1\) \|", top, re.M)) == own
    (row,) = re.findall(r"^\| \[Commands\].*$", (PAGE.parents[1] / "README.md").read_text(encoding="utf-8"), re.M)
    assert {name.removeprefix("gradprobe ") for name in re.findall(r"`([a-z -]+)`", row)} == own


@pytest.mark.parametrize("verb", sorted({parser.prog.split()[-1] for parser in verbs().values()}))
def test_the_table_of_a_verb_lists_its_options(verb: str) -> None:
    table = "\n".join(line for line in sections()[verb].splitlines() if line.startswith("| `-"))
    listed = re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", table)
    assert sorted(set(listed)) == sorted(options(verbs()[verb]))


@pytest.mark.parametrize(("verb", "formats"), [("report", RECORDING_FORMATS), ("compare", COMPARISON_FORMATS)])
def test_every_suffix_of_a_report_is_named(verb: str, formats: object) -> None:
    text = sections()[verb]
    assert isinstance(formats, tuple)
    assert [suffix for one in formats for suffix in one.suffixes if f"`{suffix}`" not in text] == []


def test_help_is_imperative_and_every_option_has_one() -> None:
    for name, parser in verbs().items():
        for action in parser._actions:
            assert action.help, f"{name} {action.option_strings or action.dest}"
        assert parser.description
        assert not parser.description.split()[0].endswith("s"), parser.description


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["run", "--follow", "x.py"], "follow", True),
        (["run", "--subprocesses", "x.py"], "follow", True),
        (["report", "a", "--merge", "t.json"], "torch_trace", Path("t.json")),
        (["report", "a", "--torch-trace", "t.json"], "torch_trace", Path("t.json")),
        (["scan", "a", "--with", "b"], "recordings", [Path("b")]),
        (["scan", "a", "--recording", "b"], "recordings", [Path("b")]),
        (["compare", "a:b", "--budget", "3"], "budget", 3.0),
        (["compare", "a:b", "--max-time", "3"], "budget", 3.0),
        (["build", "--force"], "force", True),
        (["build-core", "--force"], "force", True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_both_names_of_an_option_work(words: list[str], name: str, value: object) -> None:
    assert getattr(build_parser().parse_args(words), name) == value
