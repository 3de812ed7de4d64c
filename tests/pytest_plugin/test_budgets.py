"""Budgets as markers, and the messages of the tests that exceed them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

BUDGETS = """
@pytest.mark.gradprobe(max_nodes=0)
def test_no_graph():
    with torch.no_grad():
        (weight * 2).sum()

@pytest.mark.gradprobe(max_nodes=1)
def test_graph():
    loss = (weight * 2).sum()

@pytest.mark.gradprobe(max_saved_bytes=11)
def test_saves():
    kept = weight.exp()
    torch.ones(1)

@pytest.mark.gradprobe(max_version_bumps=1)
def test_bumps():
    torch.ones(2).add_(1).add_(1).add_(1)

@pytest.mark.gradprobe(require_mode="inference_mode")
def test_mode():
    with torch.inference_mode():
        torch.ones(2)
    torch.zeros(2)

@pytest.mark.gradprobe(require_mode="inference_mode")
@torch.inference_mode()
def test_right_mode():
    torch.ones(2) * 2
"""


def line(source: str) -> int:
    return ("import pytest, torch\nweight = torch.ones(3, requires_grad=True)\n" + BUDGETS).splitlines().index(
        source
    ) + 1


def test_a_broken_budget_fails_its_test_with_what_was_expected_what_came_and_where_from(run: Run) -> None:
    ended = run(BUDGETS, "-v")
    ended.assert_outcomes(passed=2, failed=4)
    text = ended.stdout.str()
    graph = line("    loss = (weight * 2).sum()")
    assert "gradprobe: max_nodes=1, but 2 autograd nodes were constructed" in text
    assert f"1 by aten.mul.Tensor at test_it.py:{graph} in test_graph" in text
    assert f"1 by aten.sum at test_it.py:{graph} in test_graph" in text
    assert "gradprobe: max_saved_bytes=11, but 12 bytes were saved for backward" in text
    assert f"12 by aten.exp at test_it.py:{line('    kept = weight.exp()')} in test_saves" in text
    assert "gradprobe: max_version_bumps=1, but 3 version counters were bumped" in text
    assert "gradprobe: require_mode='inference_mode', but 1 operators ran in another mode" in text
    assert f"1 by aten.zeros at test_it.py:{line('    torch.zeros(2)')} in test_mode" in text
    assert "hooks.py" not in text, "frames of the plugin are hidden from the user"
    assert "tests recorded" not in text, "without --gradprobe there is no summary"


def test_junit_last_failed_and_exit_first_see_the_failure(run: Run, pytester: pytest.Pytester) -> None:
    run(BUDGETS, "--junit-xml=junit.xml", "-p", "cacheprovider").assert_outcomes(passed=2, failed=4)
    assert 'failures="4"' in (pytester.path / "junit.xml").read_text()
    assert "max_nodes=1, but 2" in (pytester.path / "junit.xml").read_text()
    run(BUDGETS, "-p", "cacheprovider", "--lf").assert_outcomes(failed=4)
    run(BUDGETS, "-x").assert_outcomes(passed=1, failed=1)


def test_in_a_worker_budgets_and_wrong_markers_fail_the_tests_that_have_them(run: Run) -> None:
    pytest.importorskip("xdist")
    ended = run(f"{BUDGETS}\n@pytest.mark.gradprobe(max_node=0)\ndef test_wrong(): pass\n", "-n", "1")
    ended.assert_outcomes(passed=2, failed=4, errors=1)
    assert "by aten.mul.Tensor at test_it.py" in ended.stdout.str()
    assert "unknown keyword 'max_node' of the marker" in ended.stdout.str()


def test_markers_of_classes_modules_parameters_and_async_tests(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import asyncio, inspect, pytest\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_pyfunc_call(pyfuncitem):\n"
        "    if inspect.iscoroutinefunction(pyfuncitem.obj):\n"
        "        asyncio.run(pyfuncitem.obj())\n"
        "        return True\n"
    )
    ended = run(
        "pytestmark = pytest.mark.gradprobe(max_nodes=0)\n"
        "class TestAll:\n"
        "    def test_of_module(self): weight * 2\n"
        "    @pytest.mark.gradprobe(max_nodes=1)\n"
        "    def test_nearest_wins(self): weight * 2\n"
        "@pytest.mark.parametrize('nodes', [0, pytest.param(2, marks=pytest.mark.gradprobe(max_nodes=2)), 3])\n"
        "def test_parameters(nodes): [weight * 2 for _ in range(nodes)]\n"
        "async def test_async(): weight * 2\n",
        "-v",
    )
    ended.assert_outcomes(passed=3, failed=3)
    for name in ("test_of_module", "test_parameters[3]", "test_async"):
        ended.stdout.fnmatch_lines(f"*{name.replace('[', '[[]')} FAILED*")


def test_a_test_that_fails_by_itself_tells_its_own_failure_only(run: Run) -> None:
    ended = run("@pytest.mark.gradprobe(max_nodes=0)\ndef test_it():\n    weight * 2\n    assert 1 == 2\n")
    ended.assert_outcomes(failed=1)
    assert "assert 1 == 2" in ended.stdout.str()
    assert "max_nodes" not in ended.stdout.str().replace("@pytest.mark.gradprobe(max_nodes=0)", "")


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("max_node=0", "unknown keyword 'max_node' of the marker; use one of level, max_nodes"),
        ("max_nodes=-1", "max_nodes must be an integer of 0 or more, got -1"),
        ("max_nodes=True", "max_nodes must be an integer of 0 or more, got True"),
        ("max_nodes='3'", "max_nodes must be an integer of 0 or more, got '3'"),
        ("require_mode='none'", "require_mode must be one of no_grad, inference_mode, grad, got 'none'"),
        ("level='all'", "level must be one of modes, graph, ops, got 'all'"),
        ("max_saved_bytes=1, level='graph'", "level must be 'ops' with max_saved_bytes, got 'graph'"),
        ("max_nodes=1, level='modes'", "level must be 'graph' or 'ops' with max_nodes, got 'modes'"),
        ("3", "the marker must have keywords only, got 3"),
    ],
)
def test_a_marker_that_says_nothing_sensible_is_refused(configure: Run, marker: str, said: str) -> None:
    ended = configure(f"@pytest.mark.gradprobe({marker})\ndef test_it(): pass\n")
    assert f"ERROR: gradprobe: test_it.py::test_it: {said}" in ended.stderr.str()
    assert ended.ret == pytest.ExitCode.USAGE_ERROR


def test_a_lower_level_counts_nodes_without_naming_operators(run: Run) -> None:
    ended = run(
        "@pytest.mark.gradprobe(max_nodes=0, level='graph')\n"
        "def test_it():\n    with torch.enable_grad():\n        weight * 2\n"
    )
    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines("*1 by enable_grad at test_it.py:5 in test_it")
