"""The fixture ``grad_compare``: a comparison in a test, and what a test may ask of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from gradprobe.comparison.compare import compare
from gradprobe.comparison.comparison_result import Comparison

if TYPE_CHECKING:
    from gradprobe.pytest_plugin.hooks import RunPlugin

DEFAULT_BUDGET_S = 5.0


class GradCompare:
    """``grad_compare(fn, *args, **kwargs)`` takes what ``gradprobe.compare`` takes, with a budget of five seconds."""

    def __init__(self, watcher: RunPlugin) -> None:
        self._watcher = watcher

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> AssertableComparison:
        comparison = compare(fn, *args, **{"budget_s": DEFAULT_BUDGET_S, "processes": 1, **kwargs})
        for row in comparison.table.to_dict("records"):
            if row["verdict"] != "baseline":
                self._watcher.compared.append({**_told(row), "workload": row["workload"], "mode": row["mode"]})
        return AssertableComparison(comparison)


class AssertableComparison:
    """A comparison with assertions, whose failures show the intervals. ``comparison`` is the ``Comparison`` itself."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comparison, name)

    def __repr__(self) -> str:
        return repr(self.comparison)

    def assert_faster(self, mode: str = "inference_mode", *, by: float = 0.0) -> None:
        """Fails unless ``mode`` is faster than `no_grad` by at least the share ``by``, and surely faster at all."""
        row = self._row(mode)
        if row["verdict"] != "faster" or row["ratio"] > 1 - by:
            asked = f"faster than no_grad by {by:.1%}" if by else "faster than no_grad"
            self._fail(f"{mode} is not {asked}", row)

    def assert_equivalent(self, mode: str = "inference_mode") -> None:
        """Fails unless there is surely no difference that matters between ``mode`` and `no_grad`."""
        row = self._row(mode)
        if row["verdict"] != "equivalent":
            self._fail(f"{mode} is not equivalent to no_grad", row)

    def _row(self, mode: str) -> dict[Any, Any]:
        rows = [row for row in self.comparison.table.to_dict("records") if row["mode"] == mode]
        if not rows:
            measured = ", ".join(self.comparison.table["mode"])
            pytest.fail(f"grad_compare: {mode} was not measured; choose one of {measured}", pytrace=False)
        return rows[0]

    def _fail(self, text: str, row: dict[Any, Any]) -> None:
        told = _told(row)
        why = f"\n{row['error']}" if row["error"] else ""
        __tracebackhide__ = True
        pytest.fail(
            f"{text}: {told['ratio']} of its time ({told['interval']}), verdict {row['verdict']}{why}\n\n{self.comparison}"
        )


def _told(row: dict[Any, Any]) -> dict[str, str]:
    has_interval = not math.isnan(row["ci_low"])
    return {
        "ratio": "-" if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}",
        "interval": f"{row['ci_low']:.3f} to {row['ci_high']:.3f}" if has_interval else "-",
        "verdict": row["verdict"],
    }
