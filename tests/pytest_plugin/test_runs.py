"""Fixtures, the summary, reports, baselines; and nothing at all where nothing asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pytest_plugin.conftest import ALONE
from tests.report.reading import Page
from tests.thoroughness import thorough

Run = Callable[..., pytest.RunResult]

TESTS = """
def test_trains(): (weight * 2).sum().backward()
def test_forgets(): (weight * 2).sum()
def test_infers():
    with torch.no_grad(): weight * 2
"""


def test_off_means_off(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_none="import sys\n"
        "def test_it():\n"
        "    assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        "    assert 'gradprobe.pytest_plugin.hooks' not in sys.modules\n"
    )
    before = set(pytester.path.iterdir())
    ran = pytester.runpytest_subprocess(*ALONE)
    ran.assert_outcomes(passed=1)
    assert "gradprobe" not in ran.stdout.str().replace(str(pytester.path), "").split("collected")[1]
    new = {path.name for path in set(pytester.path.iterdir()) - before}
    assert {name for name in new if not name.startswith("runpytest")} <= {"__pycache__", "stdout", "stderr"}
    pytester.runpytest_subprocess("-p", "no:gradprobe").assert_outcomes(passed=1)


def test_the_live_recording_of_a_test(run: Run) -> None:
    run(
        "@pytest.fixture\n"
        "def uses(gradprobe): return gradprobe\n"
        "def test_it(gradprobe, uses):\n"
        "    assert len(gradprobe.transitions) == 0\n"
        "    with torch.no_grad(): pass\n"
        "    assert list(gradprobe.transitions['event']) == ['enter', 'exit']\n"
        "    with torch.no_grad(): pass\n"
        "    assert len(uses.regions) == 2\n"
        "@pytest.fixture\n"
        "def early(gradprobe): assert gradprobe.regions.empty\n"
        "def test_in_setup(early): pass\n"
        "import gradprobe as package\n"
        "def test_under_its_other_name(gradprobe_recording, gradprobe):\n"
        "    assert gradprobe_recording is gradprobe\n"
        "    with package.no_grad(): pass\n"
        "    assert len(gradprobe_recording.regions) == 1\n"
    ).assert_outcomes(passed=3)


def test_a_comparison_can_be_asserted_and_its_failure_shows_the_interval(run: Run) -> None:
    ended = run(
        "def test_fast(grad_compare):\n"
        "    model = torch.nn.Linear(2, 2)\n"
        "    grad_compare(model, torch.ones(1, 2), budget_s=0.5, processes=1).assert_faster('inference_mode', by=0.9)\n"
        "def test_modes(grad_compare):\n"
        "    model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)\n"
        "    compared = grad_compare(model, x, budget_s=0.3, processes=1, modes=('no_grad', 'grad'))\n"
        "    assert set(compared.table['mode']) == {'no_grad', 'grad'}\n"
        "    compared.assert_equivalent('inference_mode')\n"
        "def test_slower(grad_compare):\n"
        "    model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)\n"
        "    grad_compare(model, x, budget_s=0.5, processes=1).assert_equivalent('grad')\n"
    )
    ended.assert_outcomes(failed=3)
    text = ended.stdout.str()
    ended.stdout.re_match_lines(
        # A busy machine may not come to the rounds that an interval takes.
        r".*inference_mode is not faster than no_grad by 90.0%: \d+\.\d{3} of its time \((\d.* to .*|-)\)"
    )
    assert "cannot check 'inference_mode': it was not measured; use one of " in text
    assert "grad is not equivalent to no_grad" in text
    assert "Comparisons" in text


def test_a_narrow_terminal_has_every_column(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that do not fit continue below, and of long names the end is shown."""
    monkeypatch.setenv("COLUMNS", "50")
    name = f"test_with_{'a_long_' * 12}name"
    ended = run(f"def {name}(): (weight * 2).sum().backward()\n", "--gradprobe", "--gradprobe-level=ops")
    text = ended.stdout.str().partition("Most autograd nodes")[2].partition("Most bytes")[0]
    assert max(map(len, text.splitlines())) <= 50
    headings = " ".join(line for line in text.splitlines() if line.startswith("test "))
    assert all(column in headings for column in ("nodes", "most of it at", "by", "saved", "bumps", "backward", "time"))
    assert text.count("a_long_name") == sum(line.startswith("test ") for line in text.splitlines())
    assert "aten.mul" in text
    assert "test_it.py:3" in text


def test_the_summary_names_tests_that_built_graphs_for_nothing(run: Run) -> None:
    ended = run(TESTS, "--gradprobe")
    ended.assert_outcomes(passed=3)
    text = ended.stdout.str()
    assert "3 tests recorded: 4 autograd nodes constructed." in text
    assert "1 test built a graph and ran no backward." in text
    ended.stdout.fnmatch_lines(["Graphs that no backward reached", "test *nodes *", "---*", "*::test_forgets * 2 *"])
    assert max(map(len, text[text.index("- gradprobe -") :].splitlines())) <= 80
    quiet = run(TESTS, "--gradprobe", "-q").stdout.str()
    assert "gradprobe: 3 tests recorded: 4 autograd nodes constructed." in quiet
    assert "Graphs that" not in quiet


def test_reports_of_every_type_say_the_same(run: Run, pytester: pytest.Pytester) -> None:
    for name in ("out.md", "steps.md"):
        (pytester.path / name).write_text("before\n")
    reports = ("html:out.html", "json:out.json", "markdown:out.md", "markdown-append:steps.md", "term")
    ended = run(TESTS, *(f"--gradprobe-report={report}" for report in reports))
    ended.assert_outcomes(passed=3)
    plain = json.loads((pytester.path / "out.json").read_text())
    assert {test["test"].rpartition("::")[2]: test["nodes"] for test in plain["tests"]} == {
        "test_trains": 2,
        "test_forgets": 2,
        "test_infers": 0,
    }
    page = Page((pytester.path / "out.html").read_text())
    (row,) = page.tables["Graphs that no backward reached"]
    assert row["nodes"] == ("2", 2.0)
    assert (pytester.path / "out.md").read_text().startswith("## gradprobe")
    assert (pytester.path / "steps.md").read_text() == "before\n\n" + (pytester.path / "out.md").read_text()
    ended = run(TESTS, "--gradprobe-report=html:no-such-folder/a.html")
    ended.assert_outcomes(passed=3)
    assert "cannot write" in ended.stdout.str().lower()


def test_a_baseline_is_saved_and_what_costs_more_fails(run: Run, pytester: pytest.Pytester) -> None:
    run(TESTS, "--gradprobe-save=first").assert_outcomes(passed=3)
    (saved,) = (pytester.path / ".gradprobe").rglob("*.json")
    assert saved.name == "0001_first.json"
    assert (pytester.path / ".gradprobe" / ".gitignore").read_text() == "*\n"
    more = TESTS.replace("(weight * 2).sum()\n", "(weight * 2).sum().exp()\n")
    ended = run(more, "--gradprobe-compare=first", "--gradprobe-compare-fail=nodes:0")
    ended.assert_outcomes(passed=2, failed=1)
    text = ended.stdout.str()
    assert "gradprobe: nodes:0 is exceeded: 2 in the baseline, 3 now" in text
    assert "Compared with the baseline" in text
    ended.stdout.fnmatch_lines("*::test_forgets *nodes * 2 * 3")
    run(more, "--gradprobe-compare", "--gradprobe-compare-fail=nodes:50%").assert_outcomes(passed=3)
    run(more, "--gradprobe-compare-fail=nodes:1").assert_outcomes(passed=3)
    run(TESTS, "--gradprobe-save=second").assert_outcomes(passed=3)
    assert {path.name for path in saved.parent.iterdir()} == {"0001_first.json", "0002_second.json"}


def save_baseline_of_a_nanosecond(run: Run, pytester: pytest.Pytester) -> tuple[Path, dict[str, Any]]:
    """Return the file and the content of a baseline in which every test took a nanosecond."""
    run(TESTS, "--gradprobe-save=first")
    (saved,) = (pytester.path / ".gradprobe").rglob("*.json")
    plain = json.loads(saved.read_text())
    for known in plain["tests"].values():
        known["duration_ns"] = 1
    saved.write_text(json.dumps(plain))
    return saved, plain


def test_times_of_another_machine_are_not_compared(run: Run, pytester: pytest.Pytester) -> None:
    saved, plain = save_baseline_of_a_nanosecond(run, pytester)
    words = (f"--gradprobe-compare={saved}", "--gradprobe-compare-fail=time:10%")
    run(TESTS, *words).assert_outcomes(failed=3)
    saved.write_text(json.dumps({**plain, "machine": "another"}))
    ended = run(TESTS, *words)
    ended.assert_outcomes(passed=3)
    assert "Times were not compared: the baseline was made on another" in ended.stdout.str()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read the baseline"),
        ("hello", "it is not JSON"),
        ("[]", "it is not a baseline"),
        ('{"kind": "baseline", "schema": 1, "tests": {"a": {"nodes": "3"}}}', "it is not a baseline"),
        ('{"kind": "baseline", "schema": 9, "tests": {}}', "has schema 9"),
    ],
)
def test_a_baseline_that_is_none_is_refused(
    configure: Run, pytester: pytest.Pytester, content: str | None, said: str
) -> None:
    if content is not None:
        (pytester.path / "b.json").write_text(content)
    ended = configure(TESTS, "--gradprobe-compare=b.json")
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    assert said in ended.stderr.str()
    assert "b.json" in ended.stderr.str()
    ended = configure(TESTS, "--gradprobe-compare=nothing")
    assert "unknown baseline 'nothing' from the command line (--gradprobe-compare)" in ended.stderr.str()


@thorough
def test_the_results_of_workers_arrive_even_if_one_crashes_and_their_times_are_not_compared(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytest.importorskip("xdist")
    saved, _ = save_baseline_of_a_nanosecond(run, pytester)
    ended = run(
        TESTS + "def test_crashes():\n    import os; os._exit(1)\n",
        *("-n", "1", "--gradprobe-report=json:out.json"),
        *(f"--gradprobe-compare={saved}", "--gradprobe-compare-fail=time:10%"),
    )
    ended.assert_outcomes(passed=3, failed=1)
    assert len(json.loads((pytester.path / "out.json").read_text())["tests"]) == 3
    assert "Times were not compared: tests ran in parallel" in ended.stdout.str()


def test_warnings_as_errors_interrupts_and_exits_leave_no_trace_of_ours(run: Run) -> None:
    run(TESTS, "--gradprobe", "-W", "error").assert_outcomes(passed=3)
    for leaving in ("pytest.exit('enough')", "raise KeyboardInterrupt"):
        ended = run(f"def test_it():\n    weight * 2\n    {leaving}\n", "--gradprobe")
        assert ended.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.OK)
        assert "INTERNALERROR" not in ended.stdout.str() + ended.stderr.str()
    run(TESTS, "--gradprobe", "--collect-only").assert_outcomes()
    skipped = "@pytest.mark.skip\ndef test_it(): pass\n@pytest.mark.xfail\n@pytest.mark.gradprobe(max_nodes=0)\n"
    run(f"{skipped}def test_other(): weight * 2\n", "--gradprobe").assert_outcomes(skipped=1, xfailed=1)


def test_switched_off_by_the_environment_nothing_is_watched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADPROBE", "0")
    run("@pytest.mark.gradprobe(max_nodes=0)\ndef test_it(): weight * 2\n").assert_outcomes(passed=1)
