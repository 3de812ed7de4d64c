"""The fixture ``grad_compare``: a comparison of modes in a test, with assertions on its verdict."""

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
    """Callable that runs ``gradprobe.compare`` in one process with a budget of five seconds."""

    def __init__(self, plugin: RunPlugin) -> None:
        self._plugin = plugin

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> AssertableComparison:
        """Compare ``fn(*args)`` under several modes, and add the result to the report of the run.

        Args:
            fn: function or module to call.
            *args: its arguments.
            **kwargs: arguments of ``gradprobe.compare``; ``budget_s`` is 5 seconds and ``processes`` is 1 by default.

        Returns:
            the comparison, with ``assert_faster`` and ``assert_equivalent``.
        """
        comparison = compare(fn, *args, **{"budget_s": DEFAULT_BUDGET_S, "processes": 1, **kwargs})
        for row in comparison.table.to_dict("records"):
            if row["verdict"] != "baseline":
                self._plugin.compared.append({**_format_row(row), "workload": row["workload"], "mode": row["mode"]})
        return AssertableComparison(comparison)


class AssertableComparison:
    """Comparison with assertions, whose failures show the intervals; ``comparison`` is the original."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comparison, name)

    def __repr__(self) -> str:
        return repr(self.comparison)

    def assert_faster(self, mode: str = "inference_mode", *, by: float = 0.0) -> None:
        """Fail unless ``mode`` is found faster than `no_grad`, by at least the share ``by``."""
        row = self._row(mode)
        if row["verdict"] != "faster" or row["ratio"] > 1 - by:
            claim = f"faster than no_grad by {by:.1%}" if by else "faster than no_grad"
            self._fail(f"{mode} is not {claim}", row)

    def assert_equivalent(self, mode: str = "inference_mode") -> None:
        """Fail unless ``mode`` is found to make no relevant difference to `no_grad`."""
        row = self._row(mode)
        if row["verdict"] != "equivalent":
            self._fail(f"{mode} is not equivalent to no_grad", row)

    def _row(self, mode: str) -> dict[Any, Any]:
        rows = [row for row in self.comparison.table.to_dict("records") if row["mode"] == mode]
        if not rows:
            measured = ", ".join(self.comparison.table["mode"])
            pytest.fail(f"cannot check {mode!r}: it was not measured; use one of {measured}", pytrace=False)
        return rows[0]

    def _fail(self, text: str, row: dict[Any, Any]) -> None:
        shown = _format_row(row)
        why = f"\n{row['error']}" if row["error"] else ""
        __tracebackhide__ = True
        pytest.fail(
            f"{text}: {shown['ratio']} of its time ({shown['interval']}), verdict {row['verdict']}{why}\n\n"
            f"{self.comparison}"
        )


def _format_row(row: dict[Any, Any]) -> dict[str, str]:
    has_interval = not math.isnan(row["ci_low"])
    return {
        "ratio": "-" if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}",
        "interval": f"{row['ci_low']:.3f} to {row['ci_high']:.3f}" if has_interval else "-",
        "verdict": row["verdict"],
    }
