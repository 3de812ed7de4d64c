"""Runs pytest in processes of their own, as users do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

PRELUDE = "import pytest, torch\nweight = torch.ones(3, requires_grad=True)\n"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """``run(source, *words)``: the end of a run of a test file with torch and a parameter in it."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source: str, *words: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=PRELUDE + source if source else "")
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *words, timeout=120)

    return run
