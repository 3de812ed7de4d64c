"""Leaked modes: reported for the test, fixture or import that leaked them, and restored."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

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
            "*_leaks_inference *test_it.py:12 *grad *inference_mode*",
            "*est_of_a_fixture *test_it.py:16 *grad *no_grad *fixture *",
            "*ixture_that_ends *test_it.py:21 *grad *no_grad *fixture *",
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


STATE = """
@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

def test_with_a_fixture_that_restores(double):
    torch.set_default_dtype(torch.float16)  # the fixture restores this too

@pytest.mark.parametrize("number", [1, 2])
def test_dtype(number):
    torch.set_default_dtype(torch.float64)

def test_others():
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")

def test_hooks():
    torch.nn.modules.module.register_module_forward_hook(print)

def test_draws():
    torch.rand(1, device="cpu")

def test_right():
    with torch.device("meta"), torch.autocast("cpu"), torch.autograd.detect_anomaly(check_nan=False):
        pass

def test_modes():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    for kind in (TorchFunctionMode, TorchDispatchMode):
        class Mine(kind): pass
        Mine().__enter__()
    torch.autocast("cpu").__enter__()
"""


def test_other_state_is_named_at_the_test_that_left_it_changed(run: Run) -> None:
    """Nothing is restored: the second run of a test that leaves what it found is right."""
    ended = run(STATE, "--gradprobe", "--gradprobe-leaks=all", "--gradprobe-top=20")
    ended.assert_outcomes(passed=8)
    assert "11 global settings left changed." in ended.stdout.str()
    ended.stdout.fnmatch_lines_random(
        [
            "test test_dtype[[]1] left the default dtype at torch.float64 instead of torch.float32: test_it.py:16",
            "test test_others left the default device at meta instead of cpu: test_it.py:19",
            "test test_others left deterministic algorithms at warn only instead of off: test_it.py:20",
            "test test_others left the number of threads at *: test_it.py:21",
            "test test_others left anomaly mode at on instead of off: test_it.py:22",
            "test test_others left the precision of float32 products at medium instead of highest: test_it.py:23",
            "test test_modes left the function modes at *Mine instead of none: test_it.py:*",
            "test test_modes left the dispatch modes at *Mine instead of none: test_it.py:*",
            "test test_modes left autocast at cpu (torch.bfloat16) instead of off: test_it.py:*",
            "test test_hooks left the global hooks at 1 forward instead of none: test_it.py:26",
            "test test_draws left the state of the random number generators at *: test_it.py:29",
        ]
    )


def test_each_kind_can_be_switched_off_and_junit_has_what_leaked(run: Run, pytester: pytest.Pytester) -> None:
    source = (
        "def test_it():\n    torch.set_default_dtype(torch.float64)\n    torch.autograd.set_detect_anomaly(True)\n"
        "    weight * 2\n"
    )
    ended = run(source, "--gradprobe-fail-on-leak", "--gradprobe-leaks=-anomaly", "--junit-xml=out.xml", "-q")
    ended.assert_outcomes(passed=1, errors=1)
    ended.stdout.fnmatch_lines("*test test_it left the default dtype at torch.float64 instead of torch.float32 at *:4")
    assert "anomaly" not in ended.stdout.str()
    properties = {
        each.attrib["name"]: each.attrib["value"]
        for each in ElementTree.parse(pytester.path / "out.xml").iter("property")
    }
    assert properties["gradprobe_nodes"] == "1"
    assert properties["gradprobe_leak"].startswith("test test_it left the default dtype at torch.float64")
