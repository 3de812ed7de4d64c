"""Differences between two runs of a program: exit code, exception, output, results of tests, and the state left."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gradprobe.advice.run_request import Outcome


def find_differences(first: Outcome, second: Outcome) -> list[str]:
    """Return what differs between two runs, in words."""
    return [name_difference(each) for each in list_differences(first, second, frozenset())]


def list_differences(first: Outcome, second: Outcome, known: frozenset[str]) -> Iterable[str]:
    """Yield the names of what differs between two runs, but for what is known to differ."""
    found: list[str] = []
    if first.code != second.code:
        found.append("the exit code")
    if first.error != second.error:
        found.append("the exception")
    tests = sorted(first.tests.keys() | second.tests.keys())
    found += [f"test:{test}" for test in tests if first.tests.get(test) != second.tests.get(test)]
    if not first.tests:
        lines = itertools.zip_longest(first.stdout.splitlines(), second.stdout.splitlines())
        found += [f"stdout:{number}" for number, (one, other) in enumerate(lines, 1) if one != other]
    for name in sorted(first.state.keys() | second.state.keys()):
        (tensors, plain), (other_tensors, other_plain) = (
            first.state.get(name, ("", "")),
            second.state.get(name, ("", "")),
        )
        if tensors != other_tensors:
            found.append(f"tensors:{name}")
        if plain != other_plain:
            found.append(f"plain:{name}")
    found += [f"process:{name}" for name, value in first.process.items() if second.process.get(name) != value]
    return [each for each in found if each not in known]


def list_new_failures(first: Outcome, second: Outcome) -> list[str]:
    """Return the messages of the tests that have another result in the second run."""
    return [text for test, text in second.tests.items() if first.tests.get(test) != text]


def name_difference(difference: str) -> str:
    """Return what differs, in words."""
    kind, _, name = difference.partition(":")
    words = {
        "test": f"the result of test {name}",
        "stdout": f"line {name} of the output",
        "tensors": f"the tensors of {name}",
        "plain": f"the values of {name}",
        "process": name,
    }
    return words.get(kind, difference)
