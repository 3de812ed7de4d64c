"""Other plugins, each of which works as it does without gradprobe, and budgets with each of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

WITHIN, BEYOND = "@pytest.mark.gradprobe(max_nodes=1)\n", "@pytest.mark.gradprobe(max_nodes=0)\n"


def test_asyncio_and_its_coroutines(run: Run) -> None:
    pytest.importorskip("pytest_asyncio")
    ended = run(
        f"@pytest.mark.asyncio\n{WITHIN}async def test_within(): weight * 2\n"
        f"@pytest.mark.asyncio\n{BEYOND}async def test_beyond(): weight * 2\n",
        *("-p", "asyncio", "--gradprobe"),
    )
    ended.assert_outcomes(passed=1, failed=1)
    ended.stdout.fnmatch_lines("*max_nodes=0, but 1 autograd nodes were constructed*")
    ended.stdout.fnmatch_lines("*1 by aten.mul.Tensor at test_it.py:8 in test_beyond*")


def test_anyio_and_its_coroutines(run: Run) -> None:
    pytest.importorskip("anyio")
    ended = run(
        "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
        f"@pytest.mark.anyio\n{WITHIN}async def test_within(): weight * 2\n"
        f"@pytest.mark.anyio\n{BEYOND}async def test_beyond(): weight * 2\n",
        *("-p", "anyio", "--gradprobe"),
    )
    ended.assert_outcomes(passed=1, failed=1)
    ended.stdout.fnmatch_lines("*1 by aten.mul.Tensor at test_it.py:10 in test_beyond*")


def test_reruns_count_the_last_run_of_a_test(run: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    ended = run(
        f"times = []\n{WITHIN}def test_it():\n    times.append(1)\n    [weight * 2 for _ in range(3 - len(times))]\n",
        *("-p", "rerunfailures", "--reruns", "2", "--gradprobe", "--gradprobe-report=json:out.json"),
    )
    ended.assert_outcomes(passed=1)
    assert "1 rerun" in ended.stdout.str()
    plain = json.loads((pytester.path / "out.json").read_text())
    assert [(one["nodes"], one["passed"]) for one in plain["tests"]] == [(1, True)]
    assert plain["broken"] == []


def test_a_random_order_gives_the_same_counts(run: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_randomly")
    source = "".join(f"def test_{n}(): [weight * 2 for _ in range({n})]\n" for n in range(6))
    found = []
    for seed in ("1", "2"):
        words = ("-p", "randomly", f"--randomly-seed={seed}", "--gradprobe-report=json:out.json")
        run(source, *words).assert_outcomes(passed=6)
        tests = json.loads((pytester.path / "out.json").read_text())["tests"]
        found.append([(one["test"], one["nodes"]) for one in tests])
    assert found[0] != found[1]
    assert sorted(found[0]) == sorted(found[1])


def test_benchmarks_and_limits_of_time(run: Run) -> None:
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("pytest_timeout")
    ended = run(
        "import time\n"
        "@pytest.mark.gradprobe(max_nodes=0)\n"
        "def test_timed(benchmark):\n    with torch.no_grad(): benchmark(lambda: weight * 2)\n"
        "@pytest.mark.timeout(0.5)\n"
        "def test_slow():\n    with torch.inference_mode(): time.sleep(30)\n"
        "def test_after(): assert not torch.is_inference_mode_enabled()\n",
        *("-p", "benchmark", "-p", "timeout", "--gradprobe", "--benchmark-max-time=0.1"),
    )
    ended.assert_outcomes(passed=2, failed=1)
    assert "Timeout" in ended.stdout.str()
    assert "INTERNALERROR" not in ended.stdout.str()


def test_coverage_is_the_same_watched_and_not(run: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(
        module="import torch\n"
        "def f(x):\n"
        "    with torch.inference_mode():\n"
        "        kept = torch.ones(3)\n"
        "    if x:\n"
        "        return kept\n"
        "    try:\n"
        "        return kept.add_(1)\n"
        "    except RuntimeError:\n"
        "        return None\n"
    )
    found = []
    for words in ((), ("--gradprobe", "--gradprobe-level=ops")):
        covering = ("-p", "pytest_cov", "--cov=module", "--cov-branch", "--cov-report=json:cov.json")
        run("import module\ndef test_it(): module.f(False)\n", *covering, *words).assert_outcomes(passed=1)
        measured = json.loads((pytester.path / "cov.json").read_text())["files"]["module.py"]
        found.append((measured["executed_lines"], measured["missing_lines"], measured["executed_branches"]))
    assert found[0] == found[1]
    assert 10 in found[0][0]


def test_memory_is_profiled(run: Run) -> None:
    pytest.importorskip("pytest_memray")
    ended = run(
        "@pytest.mark.limit_memory('200 MB')\ndef test_small(): (weight * 2).sum().backward()\n"
        "@pytest.mark.limit_memory('1 MB')\ndef test_large(): torch.ones(1_000_000)\n",
        *("-p", "memray", "--memray", "--gradprobe", "--gradprobe-level=ops"),
    )
    ended.assert_outcomes(passed=1, failed=1)
    assert "MEMORY PROBLEMS" in ended.stdout.str()
