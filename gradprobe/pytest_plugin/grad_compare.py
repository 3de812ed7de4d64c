"""The fixture ``grad_compare``: a comparison of modes in a test, added to the report of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradprobe.comparison.compare import compare
from gradprobe.comparison.comparison_result import Comparison

if TYPE_CHECKING:
    from gradprobe.pytest_plugin.hooks import RunPlugin

DEFAULT_BUDGET_S = 5.0


class GradCompare:
    """Callable that runs ``gradprobe.compare`` in one process with a budget of five seconds."""

    def __init__(self, plugin: RunPlugin) -> None:
        self._plugin = plugin

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Comparison:
        """Compare ``fn(*args)`` under several modes, and add the result to the report of the run.

        Args:
            fn: function or module to call.
            *args: its arguments.
            **kwargs: arguments of ``gradprobe.compare``; ``budget_s`` is 5 seconds and ``processes`` is 1 by default.

        Returns:
            the comparison, whose ``assert_faster`` and ``assert_equivalent`` fail the test with the intervals.
        """
        comparison = compare(fn, *args, **{"budget_s": DEFAULT_BUDGET_S, "processes": 1, **kwargs})
        for row in comparison.table.to_dict("records"):
            if row["verdict"] != "baseline":
                self._plugin.compared.append(_summarize_row(row))
        return comparison


def _summarize_row(row: dict[Any, Any]) -> dict[str, str]:
    """Return the cells of one mode as they are shown in the report of the run."""
    return {
        "ratio": "-" if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}",
        "interval": "-" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
        **{name: str(row[name]) for name in ("verdict", "workload", "mode")},
    }
