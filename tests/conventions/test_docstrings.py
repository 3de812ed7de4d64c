"""Docstrings begin as the style sheet in CONTRIBUTING.md asks, and public callables say what they take and return."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gradprobe
from tests.conventions.package import docstrings, members

FRAGMENTS = """
As An-attribute Are At Before Behind Below Beside Between By Can Does For From Has Have Having How If In Into
Is It Its Like None Not Of On Out Ours Over Some Such Than That Their Them They Those Through To Under Until
What When Where Whether Which While Who Whom Whose With Within Without
"""
"""Words that begin a relative clause or a fragment."""

THIRD_PERSON = """
Adds Asks Calls Counts Does Emits Gives Holds Keeps Lets Looks Makes Marks Notes Opens Puts Queues Reads
Returns Runs Says Sees Shows Stops Takes Tells Turns Watches Writes
"""
"""Verbs that begin a description where an instruction is asked for."""

WRONG_WORDS = frozenset((FRAGMENTS + THIRD_PERSON).split())


def test_fewer_than_one_docstring_in_a_hundred_begins_with_a_fragment() -> None:
    known = list(docstrings())
    wrong = [f"{one.file}:{one.line}: {one.text[:80]!r}" for one in known if one.first_word in WRONG_WORDS]
    assert len(wrong) < len(known) / 100, "\n".join([f"{len(wrong)} of {len(known)}", *wrong])


def test_the_first_line_of_a_docstring_is_a_sentence() -> None:
    for one in docstrings():
        summary = re.split(r"\n\s*\n", one.text)[0]
        assert summary.rstrip().endswith((".", ":", "?", "```", "::", ")")), f"{one.file}:{one.line}: {summary!r}"


def public() -> Iterator[tuple[str, Any]]:
    """Yield every function and class of ``gradprobe.__all__``, and every public method and property of the classes."""
    for name in gradprobe.__all__:
        value = getattr(gradprobe, name)
        if inspect.isclass(value):
            yield name, value
            if value.__module__.partition(".")[0] == "gradprobe" and not issubclass(value, BaseException):
                for attribute, member in members(value).items():
                    if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                        yield f"{name}.{attribute}", member
        elif callable(value):
            yield name, value


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isfunction(value)])
def test_a_public_function_documents_its_parameters_result_and_errors(name: str) -> None:
    function = PUBLIC[name]
    text = inspect.getdoc(function) or ""
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self" and not parameter.name.startswith("_")
    ]
    if parameters:
        section = _section(text, "Args")
        for parameter in parameters:
            assert re.search(rf"^\s*\**{parameter.name}\b.*:", section, re.MULTILINE), f"Args lacks {parameter.name}"
    if _returns_something(function):
        is_said = not parameters and text.startswith("Return ")
        assert is_said or _section(text, "Returns") or _section(text, "Yields")
    if _raises(function):
        assert _section(text, "Raises")


@pytest.mark.parametrize("name", [name for name in gradprobe.__all__ if name in PUBLIC])
def test_each_public_name_has_an_example(name: str) -> None:
    if inspect.isclass(PUBLIC[name]) and issubclass(PUBLIC[name], BaseException):
        pytest.skip("errors are raised by gradprobe, not by its users")
    if not (PUBLIC[name].__module__ or "").startswith("gradprobe"):
        pytest.skip("PyTorch's own function")
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert re.search(r"^Example(s)?:", text, re.MULTILINE) or ">>>" in text


def _section(text: str, title: str) -> str:
    """Return the body of a section of a docstring in Google's style, or an empty string."""
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    return found[1] if found else ""


def _returns_something(function: Callable[..., Any]) -> bool:
    return inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)


def _raises(function: Callable[..., Any]) -> bool:
    """Return whether the function's own body raises an error of gradprobe."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))
