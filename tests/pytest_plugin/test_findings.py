"""Findings in tests, reported at the end of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

Run = Callable[..., pytest.RunResult]

TESTS = """
def scale():
    with torch.inference_mode():
        return torch.ones(3)

def test_caught():
    try:
        (weight * scale()).sum().backward()
    except RuntimeError:
        pass

def test_caught_too(): test_caught()

def test_right(): (weight * scale().clone()).sum().backward()
"""


def test_findings_are_told_once_with_their_tests_and_the_lines_that_belong_to_them(
    run: Run, pytester: pytest.Pytester
) -> None:
    ended = run(TESTS, "--gradprobe", "--gradprobe-level=ops", "--gradprobe-report=json:out.json")
    ended.assert_outcomes(passed=3)
    text = ended.stdout.str()
    assert "1 finding: 1 error." in text
    ended.stdout.fnmatch_lines(
        ["Findings", "* error GP401: *", "*test_it.py::test_caught and 1 other test*", "  created here: *test_it.py:6"]
    )
    plain = json.loads((pytester.path / "out.json").read_text())
    assert [(one["test"].rpartition("::")[2], one["rule"], one["line"]) for one in plain["findings"]] == [
        ("test_caught", "GP401", 10),
        ("test_caught_too", "GP401", 10),
    ]


def test_errors_are_shown_with_q_too_and_are_properties_of_their_tests(run: Run, pytester: pytest.Pytester) -> None:
    warned = "def test_warned():\n    with torch.inference_mode(), torch.enable_grad(): weight * 2\n"
    ended = run(TESTS + warned, "-q", "--gradprobe", "--gradprobe-level=ops", "--junit-xml=out.xml")
    ended.stdout.fnmatch_lines("*test_it.py:10: error GP401: * In test_it.py::test_caught.")
    assert "GP103" not in ended.stdout.str()
    cases = {each.attrib["name"]: each for each in ElementTree.parse(pytester.path / "out.xml").iter("testcase")}
    found = {
        name: [one.attrib["value"] for one in case.iter("property") if one.attrib["name"] == "gradprobe_finding"]
        for name, case in cases.items()
    }
    assert ["GP401" in one for one in found["test_caught"]] == [True]
    assert ["GP103" in one for one in found["test_warned"]] == [True]
    assert found["test_right"] == []


def test_findings_of_workers_arrive_and_those_that_the_project_silences_are_not_told(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytest.importorskip("xdist")
    silenced = "def test_silenced():\n    with torch.inference_mode(), torch.enable_grad(): weight * 2\n"
    words = ("--gradprobe", "--gradprobe-level=ops")
    assert "GP103" in run(TESTS + silenced, *words).stdout.str()
    pytester.makepyprojecttoml('[tool.gradprobe]\nignore = ["GP1"]\n')
    told = run(TESTS + silenced, *words, "-n", "1").stdout.str()
    assert "1 finding: 1 error." in told
    assert "GP103" not in told
    pytester.makepyprojecttoml('[tool.gradprobe]\nignore = ["GP0"]\n')
    ended = run(TESTS, "--gradprobe")
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown rule code 'GP0'" in ended.stderr.str()


def test_an_error_of_ours_fails_no_test_but_one_that_has_a_budget(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from gradprobe.pytest_plugin import budgets\n"
        "def measure_test(*words): raise ValueError('internal')\n"
        "budgets.measure_test = measure_test\n"
    )
    marked = "@pytest.mark.gradprobe(max_nodes=0)\ndef test_marked(): pass\n"
    ended = run(f"def test_it(): weight * 2\n{marked}", "--gradprobe")
    ended.assert_outcomes(passed=1, failed=1)
    ended.stdout.fnmatch_lines("*annot examine *test_it: ValueError: internal*")
