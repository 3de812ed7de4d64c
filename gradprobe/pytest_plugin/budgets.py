"""Budgets of tests: the keywords of ``@pytest.mark.gradprobe`` and the check against them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from gradprobe._levels import LEVELS
from gradprobe.pytest_plugin.options import RegressionLimit
from gradprobe.pytest_plugin.results import CountedPlace, MeasuredTest

if TYPE_CHECKING:
    from gradprobe.tables.recording_tables import RecordingTables

MODE_CHOICES = ("no_grad", "inference_mode", "grad")
_MAX_PLACES = 5
"""Maximum number of lines that a message lists."""


@dataclass(frozen=True)
class Budget:
    """Limits and requirements from the markers of a test; None for a keyword that is not given."""

    max_nodes: int | None = None
    max_saved_bytes: int | None = None
    max_version_bumps: int | None = None
    require_mode: str | None = None
    level: str | None = None

    @property
    def needed_level(self) -> str | None:
        """Level at which to record the test: that of the marker, or the lowest that counts everything."""
        if self.level is not None:
            return self.level
        return "ops" if any(getattr(self, one.name) is not None for one in fields(self)) else None


def read_budget(item: pytest.Item) -> Budget | None:
    """Return the budget of a test, each keyword from its nearest marker; None without a marker.

    Raises ``pytest.UsageError`` for an unknown keyword or an invalid value.
    """
    markers = list(item.iter_markers("gradprobe"))
    if not markers:
        return None
    merged: dict[str, Any] = {}
    for marker in reversed(markers):
        _check(item, marker)
        merged.update(marker.kwargs)
    budget = Budget(**merged)
    needs_ops = [
        name for name in ("max_saved_bytes", "max_version_bumps", "require_mode") if merged.get(name) is not None
    ]
    if budget.level is not None and budget.level != "ops" and needs_ops:
        raise _usage_error(item, f"level must be 'ops' with {needs_ops[0]}, got {budget.level!r}; leave level out")
    if budget.level == "modes" and budget.max_nodes is not None:
        raise _usage_error(item, "level must be 'graph' or 'ops' with max_nodes, got 'modes'; leave level out")
    return budget


def _check(item: pytest.Item, marker: pytest.Mark) -> None:
    known = {field.name for field in fields(Budget)}
    if marker.args:
        raise _usage_error(
            item, f"the marker must have keywords only, got {marker.args[0]!r}; use {', '.join(sorted(known))}"
        )
    for name, value in marker.kwargs.items():
        if name not in known:
            raise _usage_error(item, f"unknown keyword {name!r} of the marker; use one of {', '.join(sorted(known))}")
        if name == "level" and value not in LEVELS:
            raise _usage_error(item, f"level must be one of {', '.join(LEVELS)}, got {value!r}")
        if name == "require_mode" and value not in MODE_CHOICES:
            raise _usage_error(item, f"require_mode must be one of {', '.join(MODE_CHOICES)}, got {value!r}")
        if name.startswith("max_") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise _usage_error(item, f"{name} must be an integer of 0 or more, got {value!r}")


def _usage_error(item: pytest.Item, text: str) -> pytest.UsageError:
    return pytest.UsageError(f"gradprobe: {item.nodeid}: {text}")


def measure_test(tables: RecordingTables, test: str, level: str, duration_ns: int) -> MeasuredTest:
    """Return the counts of a test from its recording."""
    from gradprobe.analysis.time_by_mode import sum_by_mode
    from gradprobe.recording.events import BACKWARD_PASS

    counted = [time.nodes for time in sum_by_mode(tables.processes) if time.nodes is not None]
    is_ops = level == "ops"
    passes = sum(int((process.history.marks.op == BACKWARD_PASS).sum()) for process in tables.processes)
    return MeasuredTest(
        test,
        level,
        duration_ns,
        nodes=sum(counted) if counted and level != "modes" else None,
        saved_bytes=int(tables.ops["saved_bytes"].sum()) if is_ops and _counts_saved(tables) else None,
        version_bumps=int(tables.ops["version_bumps"].sum()) if is_ops else None,
        had_backward=passes > 0,
        places=_find_places(tables, "nodes"),
    )


def find_exceeded(budget: Budget, outcome: MeasuredTest, tables: RecordingTables, base_mode: str) -> Iterator[str]:
    """Yield a message for each limit that a test exceeded, with the count and the lines that caused it."""
    for name, metric, noun in (
        ("max_nodes", "nodes", "autograd nodes were constructed"),
        ("max_saved_bytes", "saved_bytes", "bytes were saved for backward"),
        ("max_version_bumps", "version_bumps", "version counters were bumped"),
    ):
        allowed, actual = getattr(budget, name), getattr(outcome, metric)
        if allowed is not None and actual is not None and actual > allowed:
            yield _format_message(f"{name}={allowed}, but {actual:,} {noun}", _find_places(tables, metric))
    if budget.max_saved_bytes is not None and not _counts_saved(tables):
        yield _format_message(
            f"max_saved_bytes={budget.max_saved_bytes}, but this PyTorch does not expose what its nodes saved", ()
        )
    if budget.require_mode is not None:
        others = _find_ops_outside(tables, budget.require_mode, base_mode)
        if others:
            ran = sum(where.amount for where in others)
            yield _format_message(
                f"require_mode={budget.require_mode!r}, but {ran:,} operators ran in another mode", others
            )


def _counts_saved(tables: RecordingTables) -> bool:
    return all(process.counts_saved for process in tables.processes)


def find_regressions(
    limits: Sequence[RegressionLimit], outcome: MeasuredTest, before: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a message for each count that exceeds the baseline by more than its limit allows."""
    for limit in limits:
        metric = "duration_ns" if limit.metric == "time" else limit.metric
        old, new = before.get(metric), getattr(outcome, metric)
        if old is not None and new is not None and new > limit.allowed(old):
            shown: Callable[[float], str] = _milliseconds if limit.metric == "time" else "{:,}".format
            yield _format_message(
                f"{limit} is exceeded: {shown(old)} in the baseline, {shown(new)} now", outcome.places
            )


def _milliseconds(ns: float) -> str:
    return f"{ns / 1e6:.3g} ms"


def _format_message(text: str, places: Sequence[CountedPlace]) -> str:
    lines = [f"gradprobe: {text}"]
    for where in places[:_MAX_PLACES]:
        at = "(unknown)" if where.file is None else f"{_relative_path(where.file)}:{where.line}"
        within = f" in {where.function}" if where.function else ""
        lines.append(f"  {where.amount:,} by {where.op} at {at}{within}")
    if len(places) > _MAX_PLACES:
        lines.append(f"  and {len(places) - _MAX_PLACES:,} more places")
    return "\n".join(lines)


def _relative_path(file: str) -> str:
    relative = os.path.relpath(file)
    return relative if len(relative) < len(file) else file


def _find_places(tables: RecordingTables, metric: str) -> tuple[CountedPlace, ...]:
    """Return the lines with the largest counts: of operators, or of blocks below level ops."""
    if not tables.ops.empty:
        rows = tables.ops[tables.ops[metric] > 0]
        groups = rows.groupby(["file", "line", "function", "op"], dropna=False, sort=False)[metric].sum()
        found = [
            CountedPlace(_as_text(f), _as_number(n), _as_text(w), str(op), int(amount))
            for (f, n, w, op), amount in groups.items()
        ]
    elif metric == "nodes" and "self_nodes" in tables.sites:
        rows = tables.sites[tables.sites["self_nodes"].fillna(0) > 0]
        found = [
            CountedPlace(
                _as_text(row["file"]),
                _as_number(row["line"]),
                _as_text(row["function"]),
                row["manager"],
                int(row["self_nodes"]),
            )
            for row in rows.to_dict("records")
        ]
    else:
        found = []
    return tuple(sorted(found, key=lambda where: -where.amount))


def _find_ops_outside(tables: RecordingTables, mode: str, base_mode: str) -> tuple[CountedPlace, ...]:
    """Return the operators that did not run in ``mode``, by line; the body itself runs in ``base_mode``."""
    from gradprobe.recording.events import mode_name

    sums: dict[tuple[Any, ...], int] = {}
    for process in tables.processes:
        for key, known in process.op_totals.ops.items():
            within = base_mode if key.region is None else mode_name(*key.region.inside)
            if within != mode:
                place = (*process.place(key.site), key.op)
                sums[place] = sums.get(place, 0) + known.account.calls
    found = [CountedPlace(file, line, function, op, amount) for (file, line, function, op), amount in sums.items()]
    return tuple(sorted(found, key=lambda where: -where.amount))


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _as_number(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
