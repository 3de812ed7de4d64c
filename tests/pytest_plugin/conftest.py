"""Run pytest as users do: in processes of their own, except for what is decided before any test runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests import warm_python

PRELUDE = "import pytest, torch\nweight = torch.ones(3, requires_grad=True)\n"
# Other plugins of this environment take most of the time of such a short run.
NEIGHBOURS = (
    "anyio",
    "asyncio",
    "benchmark",
    "cacheprovider",
    "hypothesispytest",
    "memray",
    "pytest_cov",
    "randomly",
)
NEIGHBOURS += ("rerunfailures", "timeout")
ALONE = [f"-pno:{name}" for name in NEIGHBOURS]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """``run(source, *words)``: the end of a run of a test file with torch and a parameter in it."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source: str, *words: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=PRELUDE + source if source else "")
        return _run_warm(pytester, *ALONE, *words)

    return run


def _run_warm(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    surroundings = {**os.environ, "PYTHONPATH": path, "HOME": str(pytester.path), "USERPROFILE": str(pytester.path)}
    begun = time.perf_counter()
    done = warm_python.run("-m", "pytest", *words, cwd=pytester.path, env=surroundings)
    out, err = (text.decode(errors="replace").splitlines() for text in (done.stdout, done.stderr))
    print(*out, *err, sep="\n")
    return pytest.RunResult(done.returncode, out, err, time.perf_counter() - begun)


@pytest.fixture
def configure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """``configure(source, *words)``: as ``run``, but in this process, which is quicker, where no test comes to run."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def configure(source: str, *words: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=PRELUDE + source if source else "")
        return pytester.runpytest_inprocess(*ALONE, *words)

    return configure
