"""Leaked modes: reported for the test, fixture or import that leaked them, and restored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

LEAKS = """
kept = []
def test_leaks():
    torch.set_grad_enabled(False)

def test_after(): assert torch.is_grad_enabled()

def test_leaks_inference():
    kept.append(torch.inference_mode())
    kept[0].__enter__()

def test_after_that(): assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()

@pytest.fixture
def plain(): torch.set_grad_enabled(False)

def test_of_a_fixture(plain): assert torch.is_grad_enabled()

@pytest.fixture
def forgets():
    torch.set_grad_enabled(False)
    yield

def test_of_a_fixture_that_ends(forgets): assert not torch.is_grad_enabled()

def test_after_those(): assert torch.is_grad_enabled()

@pytest.fixture(scope="module")
def whole():
    with torch.no_grad():
        yield

def test_with_a_mode_on_purpose(whole): assert not torch.is_grad_enabled()

def test_the_same(whole): assert not torch.is_grad_enabled()
"""


def test_each_is_told_with_its_line_and_put_back(run: Run) -> None:
    ended = run(LEAKS, "--gradprobe")
    ended.assert_outcomes(passed=9)
    text = ended.stdout.str()
    assert "4 modes left changed." in text
    ended.stdout.fnmatch_lines(
        [
            "*::test_leaks *test_it.py:6 *grad *no_grad *test test_*",
            "*::test_leaks_inference *test_it.py:12 *grad *inference_mode*",
            "*::test_of_a_fixture *test_it.py:16 *grad *no_grad *fixture *",
            "*_fixture_that_ends *test_it.py:21 *grad *no_grad *fixture *",
        ]
    )


def test_they_fail_where_asked(run: Run) -> None:
    ended = run(LEAKS, "--gradprobe-fail-on-leak")
    ended.assert_outcomes(passed=6, failed=2, errors=2)
    ended.stdout.fnmatch_lines("*test test_leaks left the mode at no_grad instead of grad at *test_it.py:6*")


@pytest.mark.parametrize("fails", [False, True])
def test_an_import_that_leaves_a_mode_changed_is_told_at_its_module(run: Run, fails: bool) -> None:
    source = "torch.set_grad_enabled(False)\ndef test_it(): assert torch.is_grad_enabled()\n"
    ended = run(source, "--gradprobe-fail-on-leak" if fails else "--gradprobe")
    text = ended.stdout.str()
    if fails:
        assert "collection test_it.py left the mode at no_grad instead of grad" in text
        assert ended.ret == pytest.ExitCode.INTERRUPTED
    else:
        ended.assert_outcomes(passed=1)
        ended.stdout.fnmatch_lines("test_it.py *test_it.py:3 *grad *no_grad *collection test_it.py")


def test_without_being_asked_modes_are_left_alone(run: Run) -> None:
    run(
        "def test_leaks(): torch.set_grad_enabled(False)\n"
        "@pytest.mark.gradprobe(max_nodes=0)\n"
        "def test_after(): assert not torch.is_grad_enabled()\n"
    ).assert_outcomes(passed=2)


def test_the_import_of_a_conftest_is_told_with_its_line_and_put_back(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import torch\nif True:\n    torch.set_grad_enabled(False)\n")
    source = "def test_it(): assert torch.is_grad_enabled()\n"
    ended = run(source, "--gradprobe")
    ended.assert_outcomes(passed=1)
    ended.stdout.fnmatch_lines("conftest.py *conftest.py:3 *grad *no_grad *import conftest.py*")
    ended = run(source, "--gradprobe-fail-on-leak")
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    assert "import conftest.py left the mode at no_grad instead of grad at" in ended.stderr.str()
    run(source).assert_outcomes(failed=1)
